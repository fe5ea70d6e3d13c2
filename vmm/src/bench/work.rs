//! What one level is to measure: a part of its order.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::row::Row;

/// The name of the phases with nothing in them.
pub const BASELINE: &str = "baseline";

/// The name of the phase that begins with a machine's start, and ends when its init is
/// about to follow its order.
pub const BOOT: &str = "boot";

/// What a level measures in one go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// The rows, in the order in which they are measured.
    pub turns: Vec<Turn>,
    /// How many samples of each; a row to which each is dear takes fewer.
    pub samples: usize,
    /// Whether the samples are told. Where the processor is emulated their times mean
    /// nothing.
    pub tell_samples: bool,
    /// A disk whose content may be overwritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<PathBuf>,
    /// The processors that measure, in order; the first ones, where none are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processors: Vec<u32>,
    /// Where the benchmark's peer on L0 listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<SocketAddr>,
}

/// One measurement of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Which row.
    pub row: Row,
    /// 0; 1 where the A/A control measures the row a second time.
    #[serde(default)]
    pub pass: u8,
}

impl Turn {
    /// The name of the phase between its marks.
    #[must_use]
    pub fn phase(self) -> String {
        format!("{}/{}", self.row, self.pass)
    }
}
