//! The controls of VMX or SVM, one by one: what this host has, and what a guest
//! would find of it.

use std::fmt::Write as _;

use nestling_arch::nested::{self, Exposure, HostFacts, Obstacle, Request};
use serde::Serialize;

use super::VERSION;

/// What a guest would be shown by a request.
#[derive(Clone, Debug, Serialize)]
pub struct Controls {
    version: u32,
    /// The request, as `--nested` takes it.
    pub request: Request,
    /// What it comes to, in words.
    pub shown: &'static str,
    /// How many address space identifiers the guest would find; SVM's.
    pub asids: Option<u32>,
    /// Every control of the vendor's extension.
    pub controls: Vec<Row>,
}

/// One control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name.
    pub control: &'static str,
    /// The bit that shows it.
    pub place: String,
    /// Whether this host has it for guests.
    pub host: bool,
    /// Whether the guest would find it.
    pub guest: bool,
    /// Why not, where the host has it.
    pub reason: Option<String>,
}

impl Controls {
    /// What `request` comes to on a host.
    ///
    /// # Errors
    /// When the host can't nest, or can't meet the request.
    pub fn of(request: Request, facts: &HostFacts) -> Result<Self, Obstacle> {
        let rows = nested::table(&request, facts)?;
        let exposure = nested::resolve(&request, facts)?;
        Ok(Self {
            version: VERSION,
            request,
            shown: exposure.describe(),
            asids: match exposure {
                Exposure::Svm(capabilities) => Some(capabilities.asids),
                Exposure::Vmx(_) | Exposure::Off => None,
            },
            controls: rows
                .into_iter()
                .map(|shown| Row {
                    control: shown.control.name,
                    place: shown.control.place.to_string(),
                    host: shown.host,
                    guest: shown.guest,
                    reason: shown.reason.map(|reason| reason.to_string()),
                })
                .collect(),
        })
    }

    /// The same as an aligned table, with the verdict below it.
    pub fn text(&self) -> String {
        let width = |of: fn(&Row) -> usize| self.controls.iter().map(of).max().unwrap_or(0);
        let (names, places) = (width(|row| row.control.len()), width(|row| row.place.len()));
        let yes = |has| if has { "yes" } else { "-" };
        let mut out = String::new();
        let mut line = |cells: [&str; 5]| {
            let [control, place, host, guest, reason] = cells;
            let line = format!("{control:names$}  {place:places$}  {host:4}  {guest:5}  {reason}");
            writeln!(out, "{}", line.trim_end()).expect("a string takes all");
        };
        line(["control", "where", "host", "guest", ""]);
        for row in &self.controls {
            let reason = row.reason.as_deref().unwrap_or_default();
            line([
                row.control,
                &row.place,
                yes(row.host),
                yes(row.guest),
                reason,
            ]);
        }
        let asids = self
            .asids
            .map(|asids| format!(", {asids} address space identifiers"));
        let asids = asids.unwrap_or_default();
        let Self { request, shown, .. } = self;
        writeln!(out, "\n--nested {request} shows a guest {shown}{asids}")
            .expect("a string takes all");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(dump: &str) -> HostFacts {
        let dump: serde_json::Value = serde_json::from_str(dump).unwrap();
        serde_json::from_value(dump["facts"].clone()).unwrap()
    }

    fn haswell() -> HostFacts {
        facts(include_str!(
            "../../../arch/src/cpuid/dumps/intel-bochs-haswell.json"
        ))
    }

    #[test]
    fn the_table_tells_host_and_guest_apart() {
        let controls = Controls::of("vmx,-ept".parse().unwrap(), &haswell()).unwrap();
        let text = controls.text();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        for line in [
            "ept IA32_VMX_PROCBASED_CTLS2[33] yes - hidden by the request",
            "unrestricted_guest IA32_VMX_PROCBASED_CTLS2[39] yes - needs ept",
            "vpid IA32_VMX_PROCBASED_CTLS2[37] yes yes",
            "tsc_scaling IA32_VMX_PROCBASED_CTLS2[57] - -",
        ] {
            let cells: Vec<&str> = line.split_whitespace().collect();
            assert!(lines.contains(&cells), "{line}\n{text}");
        }
        assert!(text.ends_with("\n\n--nested vmx,-ept shows a guest VMX, no EPT\n"));
        assert!(text.lines().all(|line| line.trim_end() == line));
    }

    #[test]
    fn the_json_form_has_what_the_table_has() {
        let tcg = facts(include_str!(
            "../../../arch/src/cpuid/dumps/amd-qemu-tcg.json"
        ));
        let controls = Controls::of("svm,-npt,asids=4".parse().unwrap(), &tcg).unwrap();
        let json = serde_json::to_value(&controls).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(json["request"], "svm,-npt,asids=4");
        assert_eq!(json["shown"], "SVM, no NPT");
        assert_eq!(json["asids"], 4);
        let npt = &json["controls"][0];
        assert_eq!(npt["control"], "npt");
        assert_eq!(npt["place"], "CPUID.8000000AH:EDX[0]");
        assert_eq!((&npt["host"], &npt["guest"]), (&true.into(), &false.into()));
        assert_eq!(npt["reason"], "hidden by the request");
        assert!(
            controls
                .text()
                .ends_with("SVM, no NPT, 4 address space identifiers\n")
        );
    }

    #[test]
    fn what_can_not_be_is_an_obstacle() {
        for request in ["svm", "vmx,+pml,+tsc_scaling"] {
            assert!(
                Controls::of(request.parse().unwrap(), &haswell()).is_err(),
                "{request}"
            );
        }
        let mut off = haswell();
        off.supported.clear(nestling_arch::cpuid::feature::VMX);
        assert!(Controls::of(Request::default(), &off).is_err());
    }
}
