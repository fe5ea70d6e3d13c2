//! What kind of NAT it is, as RFC 5780 finds out: coturn's probe in the guest,
//! its server outside, with two addresses.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::time::Duration;

use super::stage::Stage;
use super::{
    NAT_FILTERING, NAT_FILTERING_CHOSEN, NAT_HAIRPINNING, NAT_MAPPING, NAT_OVERLOADING, NAT_PORT,
    PROCESSES,
};
use crate::Failure;
use crate::contender::{Contender, Filtering, INTERFACE, Settings, await_that};
use crate::lab::{Lab, OUTSIDE, Place, Process, find};
use crate::plan::Bench;
use crate::table::Cell;

/// Mapping or filtering looks at nothing but the inner endpoint (RFC 4787).
pub(super) const INDEPENDENT: &str = "independent";
const BY_ADDRESS: &str = "by address";
pub(super) const BY_PORT: &str = "by port";
pub(super) const YES: &str = "yes";
pub(super) const NO: &str = "no";

/// The port that STUN servers listen on (RFC 8489, 18.6), as /proc shows it.
const STUN: &str = ":0D96";
/// The inner port of the probes that name one, by its distance from the site's
/// first: contenders that keep it must not meet on the host.
const LOCAL_PORT: u16 = 1000;
/// How long a probe may take: it waits three seconds for each answer.
const PROBE: Duration = Duration::from_secs(30);

pub(super) fn measure(bench: &mut Bench<'_>) -> Result<(), Failure> {
    let rows = [
        NAT_MAPPING,
        NAT_FILTERING,
        NAT_HAIRPINNING,
        NAT_PORT,
        NAT_OVERLOADING,
    ];
    let chosen = [NAT_FILTERING_CHOSEN];
    if bench.wanted(&[&rows[..], &chosen].concat()).is_empty() {
        return Ok(());
    }
    let server = serve(bench.lab);
    if let Err(error) = &server {
        for contender in PROCESSES {
            bench.give_up(&[&rows[..], &chosen].concat(), contender, error)?;
        }
        return Ok(());
    }
    if let Some(mut stage) = Stage::start(bench, &rows, Settings::PLAIN)? {
        by_itself(bench, &mut stage)?;
    }
    let strict = Settings {
        filtering: Filtering::ByPort,
        ..Settings::PLAIN
    };
    if let Some(mut stage) = Stage::start(bench, &chosen, strict)? {
        for contender in stage.contenders() {
            bench.cell(NAT_FILTERING_CHOSEN, contender, || {
                kind(&probe(&mut stage, contender, &["-f"])?, "Filtering")
            })?;
        }
    }
    Ok(())
}

/// What each does unless it is told otherwise.
fn by_itself(bench: &mut Bench<'_>, stage: &mut Stage<'_>) -> Result<(), Failure> {
    for contender in stage.contenders() {
        let inner = stage.site(contender)?.inner;
        let other = Ipv4Addr::from_bits(inner.to_bits() + 1);
        let local = inner.to_string();
        let port = (stage.site(contender)?.first + LOCAL_PORT).to_string();
        let bound = ["-L", &local, "-l", &port];
        bench.cell(NAT_MAPPING, contender, || {
            kind(&probe(stage, contender, &["-m"])?, "Mapping")
        })?;
        bench.cell(NAT_FILTERING, contender, || {
            kind(&probe(stage, contender, &["-f"])?, "Filtering")
        })?;
        bench.cell(NAT_HAIRPINNING, contender, || {
            let said = probe(stage, contender, &["-H"])?;
            hairpinning(&said)
        })?;
        bench.cell(NAT_PORT, contender, || {
            let said = probe(stage, contender, &[&["-m"], &bound[..]].concat())?;
            port_preserved(&said)
        })?;
        bench.cell(NAT_OVERLOADING, contender, || {
            let guest = &stage.site(contender)?.guest;
            guest.ip(&format!("address add {other}/24 dev {INTERFACE}"))?;
            let second = ["-A", &other.to_string()];
            let words = [&["-c"], &bound[..], &second].concat();
            overloading(&probe(stage, contender, &words)?)
        })?;
    }
    Ok(())
}

/// Starts the server outside.
fn serve(lab: &Lab) -> Result<Process, Failure> {
    find("turnutils_natdiscovery")?;
    let mut command = Command::new(find("turnserver")?);
    // Without its configuration file, and without anything but STUN over UDP.
    command.args(["-n", "--no-auth", "--no-cli", "--no-tls", "--no-dtls"]);
    for address in OUTSIDE {
        command.args(["--listening-ip", &address.to_string()]);
    }
    command.args(["--simple-log", "--log-file", "stdout"]);
    for (option, file) in [("--pidfile", "turn.pid"), ("--userdb", "turn.db")] {
        command.arg(option).arg(lab.folder().join(file));
    }
    let place = Place {
        namespace: Some(&lab.outside),
        cpu: None,
    };
    let mut server = Process::start("turnserver", command, &place)?;
    await_that("turnserver listens", &mut server, || {
        let read = || fs::read_to_string("/proc/thread-self/net/udp");
        Ok(lab.outside.within(read)??.contains(STUN))
    })?;
    Ok(server)
}

/// Runs the probe in the guest.
fn probe(
    stage: &mut Stage<'_>,
    contender: Contender,
    arguments: &[&str],
) -> Result<String, Failure> {
    let mut command = Command::new(find("turnutils_natdiscovery")?);
    command.args(arguments).arg(OUTSIDE[0].to_string());
    let place = Place {
        namespace: Some(&stage.site(contender)?.guest),
        cpu: None,
    };
    Process::start("turnutils_natdiscovery", command, &place)?.finish(PROBE)
}

/// What the probe concludes of a mapping or a filtering.
fn kind(said: &str, what: &str) -> Result<Cell, Failure> {
    let kinds = [
        ("NAT with Endpoint Independent", INDEPENDENT),
        ("NAT with Address Dependent", BY_ADDRESS),
        ("NAT with Address and Port Dependent", BY_PORT),
    ];
    said.lines()
        .find_map(|line| {
            let named = line.strip_suffix(&format!(" {what}!"))?;
            kinds.iter().find(|(words, _)| *words == named)
        })
        .map(|(_, kind)| Cell::Words((*kind).into()))
        .ok_or_else(|| no_conclusion(said))
}

/// Whether the guest reaches its own outer endpoint. The probe says nothing where
/// it doesn't, so that its first answer has to be there.
fn hairpinning(said: &str) -> Result<Cell, Failure> {
    if endpoints(said, "UDP reflexive addr").is_empty() {
        return Err(no_conclusion(said));
    }
    Ok(yes(said.contains("successful hairpinning")))
}

/// Whether the outer port is the inner one.
fn port_preserved(said: &str) -> Result<Cell, Failure> {
    let outer = endpoints(said, "UDP reflexive addr");
    let inner = endpoints(said, "Local addr");
    match (outer.first(), inner.first()) {
        (Some(outer), Some(inner)) => Ok(yes(outer.port() == inner.port())),
        _ => Err(no_conclusion(said)),
    }
}

/// Whether two inner endpoints are given the same outer one.
fn overloading(said: &str) -> Result<Cell, Failure> {
    match endpoints(said, "UDP reflexive addr")[..] {
        [first, second, ..] => Ok(yes(first == second)),
        _ => Err(no_conclusion(said)),
    }
}

fn yes(yes: bool) -> Cell {
    Cell::Words(if yes { YES } else { NO }.into())
}

/// The endpoints on lines of this name.
fn endpoints(said: &str, name: &str) -> Vec<SocketAddrV4> {
    let values = said.lines().filter_map(|line| line.split_once(name));
    values
        .filter_map(|(_, value)| value.trim_start_matches([':', ' ']).trim_end().parse().ok())
        .collect()
}

fn no_conclusion(said: &str) -> Failure {
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    format!(
        "the probe comes to no conclusion: {}",
        last.unwrap_or("it says nothing")
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer as turnutils_natdiscovery 4.6.1 prints it.
    fn answer(outer: &str, inner: &str) -> String {
        format!(
            "========================================\nRFC 5780 response 1\n\
             No ALG: Mapped == XOR-Mapped\n0: : IPv4. Response origin: : 192.0.2.1:3478\n\
             0: : IPv4. Other addr: : 192.0.2.2:3479\n\
             0: : IPv4. UDP reflexive addr: {outer}\n0: : IPv4. Local addr: : {inner}\n"
        )
    }

    fn words(outcome: Result<Cell, Failure>) -> String {
        match outcome {
            Ok(Cell::Words(words)) => words,
            Ok(other) => panic!("{other:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn kinds_are_told_apart() {
        for (conclusion, what, expected) in [
            (
                "NAT with Endpoint Independent Mapping!",
                "Mapping",
                INDEPENDENT,
            ),
            (
                "NAT with Address Dependent Filtering!",
                "Filtering",
                BY_ADDRESS,
            ),
            (
                "NAT with Address and Port Dependent Filtering!",
                "Filtering",
                BY_PORT,
            ),
        ] {
            let rule = "=".repeat(40);
            let said = format!("\n-= Discovery =-\n\n{rule}\n{conclusion}\n{rule}\n");
            assert_eq!(words(kind(&said, what)), expected);
        }
        let silent = "\n-= Mapping Behavior Discovery =-\nSTUN receive timeout..\n";
        assert_eq!(
            words(kind(silent, "Mapping")),
            "the probe comes to no conclusion: STUN receive timeout.."
        );
        assert!(kind("No NAT! (Endpoint Independent Mapping)\n", "Mapping").is_err());
    }

    #[test]
    fn a_hairpin_is_told_from_silence() {
        let first = answer("192.0.2.10:40535", "0.0.0.0:40535");
        let both = format!("{first}Received a request (maybe a successful hairpinning)\n");
        assert_eq!(words(hairpinning(&both)), YES);
        assert_eq!(
            words(hairpinning(&format!("{first}STUN receive timeout..\n"))),
            NO
        );
        assert!(hairpinning("STUN receive timeout..\n").is_err());
    }

    #[test]
    fn ports_are_compared() {
        let kept = answer("192.0.2.10:4242", "10.0.2.100:4242");
        let moved = answer("192.0.2.10:41613", "10.0.2.100:4242");
        assert_eq!(words(port_preserved(&kept)), YES);
        assert_eq!(words(port_preserved(&moved)), NO);
        assert_eq!(words(overloading(&format!("{kept}{kept}"))), YES);
        assert_eq!(words(overloading(&format!("{kept}{moved}"))), NO);
        assert!(overloading(&kept).is_err());
    }
}
