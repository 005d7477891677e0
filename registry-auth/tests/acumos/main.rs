//! The rules of the Acumos platform: case by case, and against a model of them
//!
//! `cases.txt` is the decision table. The model in `world.rs` answers the same questions from
//! everything that is true, without asking for facts one by one; both must always agree.

mod authorizer;
mod embedded;
mod file;
mod large;
mod passwords;
mod properties;
mod table;
mod world;
