//! The program: a monitor on a host, and PID 1 inside the nest image.

use std::env;
use std::process::ExitCode;

use nestling::bench::workloads;

fn main() -> ExitCode {
    // A program that does nothing is what some rows measure, as PID 1 of a container too.
    if env::args_os()
        .nth(1)
        .is_some_and(|first| first == workloads::EXIT)
    {
        return ExitCode::SUCCESS;
    }
    if std::process::id() == 1 {
        nestling::guest::run()
    }
    nestling::cli::main()
}
