//! The program: a monitor on a host, and PID 1 inside the nest image.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        nestling::guest::run()
    }
    nestling::cli::main()
}
