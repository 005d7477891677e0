#![doc = include_str!("rows.md")]
