//! A registry and its token service, side by side: what a client meets on its way

mod clients;
mod forms;
mod limits;
mod support;
