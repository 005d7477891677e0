//! Who is let in and who is not, and what those are told who are not

mod detail;
mod hidden;
mod limits;
mod sessions;
mod support;
