//! What must be shown of nestling, and whether it is.

use super::{Cell, Row, Table};
use crate::contender::{Contender, PEERS};

/// What must be shown of nestling's figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// At least so many times as good as veth's.
    OfVeth(f64),
    /// Better than each peer's.
    AheadOfPeers,
    /// At least so many times as good as the better peer's.
    OfPeers(f64),
    /// Not above this.
    AtMost(f64),
    /// Below this.
    Below(f64),
    /// This finding.
    Is(&'static str),
}

/// How a bound was judged.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Judgement {
    /// The ratio to whom the bound speaks of, if it speaks of anybody.
    pub(super) ratio: Option<f64>,
    /// To whom.
    pub(super) reference: Option<Contender>,
    pub(super) met: bool,
}

impl Bound {
    /// What is asked for, in a few words.
    pub(super) fn words(&self) -> String {
        match self {
            Self::OfVeth(ratio) => format!(">= {ratio:.2} of veth"),
            Self::AheadOfPeers => "> 1.00 of the better peer".into(),
            Self::OfPeers(ratio) => format!(">= {ratio:.2} of the better peer"),
            Self::AtMost(limit) => format!("<= {limit}"),
            Self::Below(limit) => format!("< {limit}"),
            Self::Is(finding) => (*finding).into(),
        }
    }
}

impl Table {
    /// Judges a bound; nothing, if what it takes was not asked for.
    pub(super) fn judge(&self, row: &Row, bound: &Bound) -> Option<Judgement> {
        let own = self.cell(row, Contender::Nestling)?;
        let plain = |met| {
            Some(Judgement {
                ratio: None,
                reference: None,
                met,
            })
        };
        let figure = own.figure();
        match *bound {
            Bound::OfVeth(least) => self.compare(row, &[Contender::Veth], |ratio| ratio >= least),
            Bound::AheadOfPeers => self.compare(row, &PEERS, |ratio| ratio > 1.0),
            Bound::OfPeers(least) => self.compare(row, &PEERS, |ratio| ratio >= least),
            Bound::AtMost(limit) => plain(figure.is_some_and(|figure| figure <= limit)),
            Bound::Below(limit) => plain(figure.is_some_and(|figure| figure < limit)),
            Bound::Is(finding) => plain(*own == Cell::Words(finding.into())),
        }
    }

    /// Compares with the best of the others. One that failed has shown nothing.
    fn compare(
        &self,
        row: &Row,
        others: &[Contender],
        enough: impl Fn(f64) -> bool,
    ) -> Option<Judgement> {
        let own = self.cell(row, Contender::Nestling)?.figure();
        let mut worst: Option<(f64, Contender)> = None;
        let mut failed = own.is_none();
        for &other in others {
            match (own, self.cell(row, other)?.figure()) {
                (Some(own), Some(figure)) => {
                    let ratio = row.better.ratio(own, figure);
                    if worst.is_none_or(|(least, _)| ratio < least) {
                        worst = Some((ratio, other));
                    }
                }
                _ => failed = true,
            }
        }
        Some(Judgement {
            ratio: worst.map(|(ratio, _)| ratio),
            reference: worst.map(|(_, other)| other),
            met: !failed && worst.is_some_and(|(ratio, _)| enough(ratio)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Better;
    use super::*;
    use crate::contender::ALL;

    const fn row(better: Better, bounds: &'static [Bound]) -> Row {
        Row {
            id: "row",
            title: "a row",
            unit: "",
            better,
            contenders: &ALL,
            bounds,
            every_round: true,
        }
    }

    static ROWS: [Row; 1] = [row(Better::More, &[])];

    fn table(cells: &[(Contender, f64)]) -> Table {
        let mut table = Table::new(&ROWS);
        for (contender, figure) in cells {
            table.record("row", *contender, Ok(Cell::Figures(vec![*figure])));
        }
        table
    }

    #[test]
    fn the_better_peer_is_the_one_to_beat() {
        use Contender::{Nestling, Passt, Slirp};
        for (better, own, passt, slirp, met, reference) in [
            (Better::More, 10.0, 4.0, 9.0, true, Slirp),
            (Better::More, 10.0, 10.0, 9.0, false, Passt),
            (Better::Less, 20.0, 30.0, 21.0, true, Slirp),
            (Better::Less, 20.0, 19.0, 21.0, false, Passt),
        ] {
            let table = table(&[(Nestling, own), (Passt, passt), (Slirp, slirp)]);
            let judgement = table.judge(&row(better, &[]), &Bound::AheadOfPeers);
            let judgement = judgement.expect("all cells are there");
            assert_eq!((judgement.met, judgement.reference), (met, Some(reference)));
        }
    }

    #[test]
    fn limits_hold_up_to_where_they_say() {
        let table = table(&[(Contender::Nestling, 10.0), (Contender::Veth, 20.0)]);
        let row = row(Better::More, &[]);
        for (bound, met) in [
            (Bound::OfVeth(0.5), true),
            (Bound::OfVeth(0.51), false),
            (Bound::AtMost(10.0), true),
            (Bound::AtMost(9.9), false),
            (Bound::Below(10.0), false),
            (Bound::Below(10.1), true),
        ] {
            let judgement = table.judge(&row, &bound).expect("the cells are there");
            assert_eq!(judgement.met, met, "{bound:?}");
        }
    }

    #[test]
    fn what_was_not_asked_for_is_not_judged() {
        let row = row(Better::More, &[]);
        let alone = table(&[(Contender::Nestling, 10.0)]);
        assert_eq!(alone.judge(&row, &Bound::OfVeth(0.5)), None);
        let peers = table(&[(Contender::Passt, 1.0), (Contender::Slirp, 1.0)]);
        assert_eq!(peers.judge(&row, &Bound::AheadOfPeers), None);
    }

    #[test]
    fn a_peer_that_failed_is_not_beaten() {
        let mut table = table(&[(Contender::Nestling, 10.0), (Contender::Slirp, 1.0)]);
        table.record("row", Contender::Passt, Err("it stalls".into()));
        let judgement = table.judge(&row(Better::More, &[]), &Bound::AheadOfPeers);
        assert!(!judgement.expect("all cells are there").met);
    }

    #[test]
    fn findings_are_compared_as_words() {
        let mut table = Table::new(&ROWS);
        table.record("row", Contender::Nestling, Ok(Cell::Words("yes".into())));
        let judge = |bound| table.judge(&row(Better::More, &[]), &bound);
        assert!(judge(Bound::Is("yes")).is_some_and(|judgement| judgement.met));
        assert!(judge(Bound::Is("no")).is_some_and(|judgement| !judgement.met));
    }
}
