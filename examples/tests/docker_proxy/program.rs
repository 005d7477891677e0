//! The program itself
