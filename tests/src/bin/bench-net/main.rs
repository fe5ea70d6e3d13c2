//! The virtual network against its peers: throughput, latency, idle flows, a
//! soak, NAT behaviour and guests, in one run, in network namespaces that the
//! program makes for itself and that end with it.
//!
//! The program is two things. Started by a person it makes the namespaces,
//! starts the contenders, measures, and prints the table. Started by itself,
//! inside a namespace or a guest, it is one end of the traffic.

mod contender;
mod lab;
mod options;
mod plan;
mod progress;
mod rows;
mod signals;
mod table;
mod traffic;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use options::{Format, Options};
use table::Table;

/// What stops a measurement, in words for the person who waits for it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(role) = &options.role {
        return match traffic::play(role) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&error.to_string());
                ExitCode::FAILURE
            }
        };
    }
    if plan::list(&options).is_empty() {
        say("no cell is named so: --list names all");
        return ExitCode::from(2);
    }
    match measure(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&error.to_string());
            signals::exit_code()
        }
    }
}

/// Measures what the options select and prints it; whether every bound is met.
fn measure(options: &Options) -> Result<bool, Failure> {
    if options.list {
        print(&plan::list(options))?;
        return Ok(true);
    }
    signals::catch()?;
    let mut table = Table::new(&rows::ROWS);
    let outcome = plan::run(options, &mut table);
    if outcome.is_ok() || !table.is_empty() {
        print(&match options.format {
            Format::Text => table.text(),
            Format::Json => table.json().to_string() + "\n",
        })?;
    }
    outcome.map(|()| table.met())
}

/// Prints on standard output. A reader that has seen enough is no failure.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[expect(clippy::print_stderr, reason = "the program's one place for messages")]
fn say(message: &str) {
    eprintln!("bench-net: {message}");
}
