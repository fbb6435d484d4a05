//! The `extentfsd` program: parses the command line, runs the daemon, reports how it ended.

fn main() {}
