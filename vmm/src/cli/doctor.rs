//! temporary
use super::{Failure, Format, Verdict};
/// Doctor.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {}
impl Doctor {
    /// x
    pub(super) fn execute(self, _f: Format) -> Result<Verdict, Failure> {
        Ok(Verdict::Done)
    }
}
