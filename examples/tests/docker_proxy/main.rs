//! `docker-proxy` as an operator meets it: its configuration, what it prints, and the program

mod configuration;
mod deploy;
mod environment;
mod printed;
mod program;
