//! How long a monitor takes from its start to its guest's init, and what it
//! costs meanwhile: nestling and QEMU side by side, in one run, on emulated
//! AMD-V whose clock counts instructions.
//!
//! The program is three things in turn. On the host it builds an image, boots
//! it and prints the table. In L0 and in L1 it starts the monitors and
//! measures them. As the guests' init it says that it has been reached and
//! powers off.

mod guest;
mod host;
mod measure;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        guest::init();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["measure", rounds, ref monitors @ ..] => {
            measure::run(rounds.parse().unwrap_or(1), monitors)
        }
        [] => host::run(),
        _ => {
            report("usage: bench-boot (by `make bench-boot`)");
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stderr, reason = "the program's one place for messages")]
fn report(message: &str) {
    eprintln!("bench-boot: {message}");
}
