//! A password from standard input

use std::io::{self, IsTerminal, Read};

use registry_auth::Password;

/// Reads the password of a user: one line of standard input
///
/// # Errors
///
/// What to tell whoever typed it.
pub fn read(user: &str) -> Result<Password, String> {
    let mut input = io::stdin().lock();
    if input.is_terminal() {
        // What is typed is seen: turning that off takes more than a password is worth here.
        eprintln!("password of {user} (it is shown; or send it by a pipe):");
    }
    let mut bytes = Vec::new();
    // One line, and a little more than the longest that is taken.
    for byte in input.by_ref().take(4096).bytes() {
        match byte.map_err(|error| format!("cannot read the password: {error}"))? {
            b'\n' => break,
            byte => bytes.push(byte),
        }
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes)
        .map(Password::new)
        .map_err(|_| "expected a password in UTF-8 on standard input".to_owned())
}
