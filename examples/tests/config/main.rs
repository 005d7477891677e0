//! The configuration as an operator meets it: files, the environment, mistakes, what is printed

mod buckets;
mod environment;
mod files;
mod mistakes;
mod own;
mod printed;
