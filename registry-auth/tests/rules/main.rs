//! The rule list: case by case, and against a model of it
//!
//! `cases.txt` is the table. The model in `naive.rs` looks at every rule and matches recursively.

mod large;
mod naive;
mod properties;
mod table;
