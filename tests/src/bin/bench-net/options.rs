//! The command line.

use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::traffic::Role;

/// Measures nestling's virtual network beside veth, passt and slirp4netns.
#[derive(Debug, Parser)]
#[command(
    name = "bench-net",
    max_term_width = 100,
    args_conflicts_with_subcommands = true
)]
#[command(
    after_help = "Exit codes: 0 every bound is met, 1 one is missed or the run failed, 2 usage."
)]
pub(crate) struct Options {
    /// How the table is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,

    /// Measure only the cells (row/contender) whose name contains this; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Vec<String>,

    /// Name the cells that would be measured, and measure nothing
    #[arg(long)]
    pub(crate) list: bool,

    /// How long one cell is measured in one round
    #[arg(long, default_value_t = 3, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) seconds: u32,

    /// How often each cell is measured, in turn with the others; the median counts
    #[arg(long, default_value_t = 3, value_name = "COUNT")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,

    /// How many idle flows are held open
    #[arg(long, default_value_t = 10_000, value_name = "COUNT")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(crate) flows: u32,

    /// How long one flow runs in which no retransmission may time out
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) sustained: u32,

    /// How long the soak runs
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub(crate) soak: u32,

    /// What the soak's choices are drawn from
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub(crate) seed: u64,

    /// A minute or two for all of it: one round of a second, short soaks
    #[arg(long)]
    pub(crate) quick: bool,

    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

/// How the table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs: one object with a version.
    Json,
}

impl Options {
    /// How long one cell is measured in one round.
    pub(crate) fn cell(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { self.seconds.into() })
    }

    /// How often each cell is measured.
    pub(crate) fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    /// How long the flow without time-outs runs.
    pub(crate) fn sustained(&self) -> Duration {
        Duration::from_secs(if self.quick { 5 } else { self.sustained.into() })
    }

    /// How long the soak runs.
    pub(crate) fn soak(&self) -> Duration {
        Duration::from_secs(if self.quick { 10 } else { self.soak.into() })
    }

    /// Whether the cell `row/contender` is to be measured.
    pub(crate) fn wants(&self, cell: &str) -> bool {
        self.filter.is_empty() || self.filter.iter().any(|text| cell.contains(text.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_filter_selects_and_none_selects_all() {
        let options = |words: &[&str]| Options::parse_from([&["bench-net"], words].concat());
        assert!(options(&[]).wants("request/veth"));
        let two = options(&["--filter", "veth", "--filter", "soak"]);
        assert!(two.wants("request/veth"));
        assert!(two.wants("soak/nestling"));
        assert!(!two.wants("request/pasta"));
    }

    #[test]
    fn a_quick_run_is_one_round() {
        let options = Options::parse_from(["bench-net", "--quick", "--rounds", "7"]);
        assert_eq!(options.rounds(), 1);
        assert_eq!(options.cell(), Duration::from_secs(1));
    }
}
