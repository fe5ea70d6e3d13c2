//! The command line: one file a subcommand.

mod bench;
mod completions;
mod cpu;
mod doctor;
mod image;
mod man;
mod nest;
mod net;
mod run;
mod stat;
mod top;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::console::terminal;

/// A minimal virtual machine monitor for nested virtualization on Linux KVM.
#[derive(Debug, Parser)]
#[command(
    name = "nestling",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 it failed, 2 usage.";

#[derive(Debug, Args)]
struct Global {
    /// How results are printed
    #[arg(long, global = true, value_enum, default_value_t = Form::Text, value_name = "FORMAT")]
    format: Form,

    /// What is logged to standard error, as in `debug` or `nestling_devices=trace`
    #[arg(
        long,
        global = true,
        env = "NESTLING_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    log: String,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one JSON object with a version.
    Json,
}

/// How results are printed, as a person asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Text,
    /// For programs: one JSON object with a version.
    Json,
    /// For Prometheus, of `nestling stat` alone.
    Prometheus,
}

impl TryFrom<Form> for Format {
    type Error = Failure;

    fn try_from(form: Form) -> Result<Self, Failure> {
        match form {
            Form::Text => Ok(Self::Text),
            Form::Json => Ok(Self::Json),
            Form::Prometheus => Err(Failure::usage(
                "--format prometheus: only `nestling stat` has this form; write text or json",
            )),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot one machine from a kernel
    Run(Box<run::Run>),
    /// Boot a chain of levels, each by the one below it
    Nest(Box<nest::Nest>),
    /// Say what machines and nests that run have counted
    Stat(stat::Stat),
    /// Watch machines and nests that run
    Top(top::Top),
    /// Serve a virtual network without a machine, or ask one that runs
    #[command(subcommand)]
    Net(Box<net::Net>),
    /// Measure what a level costs
    #[command(subcommand)]
    Bench(Box<bench::Bench>),
    /// Dump this host's processor as guests see it, and make templates of processors
    #[command(subcommand)]
    Cpu(cpu::Cpu),
    /// Say what this host can do, and what to do about the rest
    Doctor(doctor::Doctor),
    /// Build the image that every level of a nest boots
    #[command(subcommand)]
    Image(Box<image::Image>),
    /// Print a shell's completion script
    Completions(completions::Completions),
    /// Write the manual pages into a folder
    Man(man::Man),
}

/// What a command came to, when nothing went wrong on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All that was asked for is done.
    Done,
    /// It ended as it shouldn't; the reason is already printed.
    Failed,
    /// The guest chose the exit code.
    Guest(u8),
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or a configuration can't be: exit code 2.
    #[error(transparent)]
    Usage(Box<dyn Error + Send + Sync>),
    /// It was tried and failed: exit code 1.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
}

impl Failure {
    /// A usage error.
    pub fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Usage(error.into())
    }

    /// An error of the work itself.
    pub fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(error.into())
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and the version, asked for or not: as clap prints them.
        Err(answer)
            if !answer.use_stderr()
                || answer.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand =>
        {
            answer.exit()
        }
        Err(error) => return report(&Failure::usage(one_line(&error.render().to_string()))),
    };
    if let Err(failure) = start_log(&cli.global.log) {
        return report(&failure);
    }
    match execute(cli.command, cli.global.format) {
        Ok(Verdict::Done) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(1),
        Ok(Verdict::Guest(code)) => ExitCode::from(code),
        Err(failure) => report(&failure),
    }
}

fn execute(command: Command, form: Form) -> Result<Verdict, Failure> {
    let format = Format::try_from(form);
    match command {
        Command::Run(run) => run.execute(format?),
        Command::Nest(nest) => nest.execute(format?),
        Command::Stat(stat) => stat.execute(form),
        Command::Top(top) => top.execute(),
        Command::Net(net) => net.execute(format?),
        Command::Bench(bench) => bench.execute(format?),
        Command::Cpu(cpu) => cpu.execute(format?),
        Command::Doctor(doctor) => doctor.execute(format?),
        Command::Image(image) => image.execute(format?),
        Command::Completions(completions) => completions.execute(),
        Command::Man(man) => man.execute(),
    }
}

fn start_log(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Failure::usage(format!("--log `{filter}`: {error}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(terminal::colour(&io::stderr()))
        .with_target(false)
        .without_time()
        // It would be told where the log is, by a call that panics if nobody
        // reads there any longer.
        .log_internal_errors(false)
        .init();
    Ok(())
}

/// What clap says of a command line that can't be, without the usage it repeats.
fn one_line(message: &str) -> String {
    let said: Vec<&str> = message
        .strip_prefix("error: ")
        .unwrap_or(message)
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    format!("{}; --help says what there is", said.join(" "))
}

/// Prints the chain of causes in one line.
fn report(failure: &Failure) -> ExitCode {
    let (code, error) = match failure {
        Failure::Usage(error) => (2, error),
        Failure::Failed(error) => (1, error),
    };
    let mut line = format!("nestling: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.ends_with(&cause_text) {
            line.push_str(": ");
            line.push_str(&cause_text);
        }
        source = cause.source();
    }
    print_error(&line.replace('\n', " "));
    ExitCode::from(code)
}

#[expect(clippy::print_stderr, reason = "the program's one place for errors")]
fn print_error(line: &str) {
    eprintln!("{line}");
}

/// Prints a result on standard output. A reader that has seen enough, as `head`
/// has, is no failure.
fn print_result(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::failed(format!(
            "can't write to standard output: {error}"
        ))),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clap_refuses_is_said_in_one_line() {
        for (arguments, said) in [
            (
                &["nestling", "run", "--cpus", "x"][..],
                "invalid value 'x' for '--cpus <N>': invalid digit found in string; \
                 --help says what there is",
            ),
            (
                &["nestling", "frob"],
                "unrecognized subcommand 'frob'; --help says what there is",
            ),
        ] {
            let error = Cli::try_parse_from(arguments).unwrap_err();
            assert_eq!(one_line(&error.render().to_string()), said);
        }
    }
}
