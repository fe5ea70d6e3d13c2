//! Counts in Prometheus's text exposition format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::live::Hypervisor;
use super::look::Look;
use super::{Counts, EXIT, NESTED_EXIT, REFLECTED};
use crate::api::message::What;

/// A metric whose samples are counts: its name and meaning, and each count's
/// name with the value of the label `kind`, which is empty where there is none.
struct Family {
    name: &'static str,
    help: &'static str,
    counts: &'static [(&'static str, &'static str)],
}

const FAMILIES: [Family; 7] = [
    Family {
        name: "nestling_exits_total",
        help: "VM exits, of the machine and of its guests, that the level below took.",
        counts: &[("exits", "")],
    },
    Family {
        name: "nestling_exits_by_kind_total",
        help: "VM exits by what KVM did about them; one exit may be of several kinds or of none.",
        counts: &[
            ("io_exits", "io"),
            ("mmio_exits", "mmio"),
            ("halt_exits", "halt"),
            ("irq_exits", "irq"),
            ("irq_window_exits", "irq_window"),
            ("nmi_window_exits", "nmi_window"),
            ("signal_exits", "signal"),
            ("hypercalls", "hypercall"),
            ("insn_emulation", "emulation"),
            ("request_irq_exits", "request_irq"),
        ],
    },
    Family {
        name: "nestling_user_exits_total",
        help: "Exits that reached the monitor.",
        counts: &[
            ("user_port_reads", "port_read"),
            ("user_port_writes", "port_write"),
            ("user_mmio_reads", "mmio_read"),
            ("user_mmio_writes", "mmio_write"),
            ("user_other", "other"),
        ],
    },
    Family {
        name: "nestling_nested_runs_total",
        help: "Entries into guests of the guest that its hypervisor asked for and that succeeded.",
        counts: &[("nested_run", "")],
    },
    Family {
        name: "nestling_page_faults_total",
        help: "Page faults that KVM saw, by what became of them.",
        counts: &[
            ("pf_taken", "taken"),
            ("pf_fixed", "fixed"),
            ("pf_emulate", "emulated"),
            ("pf_spurious", "spurious"),
            ("pf_fast", "fast"),
            ("pf_guest", "guest"),
            ("pf_mmio_spte_created", "mmio"),
        ],
    },
    Family {
        name: "nestling_interrupts_total",
        help: "Interrupts that KVM injected.",
        counts: &[("irq_injections", "irq"), ("nmi_injections", "nmi")],
    },
    Family {
        name: "nestling_tlb_flushes_total",
        help: "TLB flushes.",
        counts: &[("tlb_flush", "local"), ("remote_tlb_flush", "remote")],
    },
];

/// The families of exits by reason, and how their counts begin.
const REASONS: [(&str, &str, &str); 3] = [
    (
        "nestling_exits_by_reason_total",
        "VM exits by reason, from the tracepoint kvm_exit.",
        EXIT,
    ),
    (
        "nestling_nested_exits_by_reason_total",
        "VM exits taken while a guest of the guest ran, from kvm_nested_vmexit.",
        NESTED_EXIT,
    ),
    (
        "nestling_reflected_exits_by_reason_total",
        "VM exits reflected to the guest's hypervisor, from kvm_nested_vmexit_inject.",
        REFLECTED,
    ),
];

/// What a sample belongs to.
struct Series<'a> {
    labels: String,
    counts: &'a Counts,
}

/// What the looks have, as one exposition.
#[must_use]
pub fn exposition(looks: &[Look]) -> String {
    let mut text = String::new();
    let series: Vec<Series<'_>> = looks.iter().flat_map(series_of).collect();
    for Family { name, help, counts } in &FAMILIES {
        let mut family = Samples::default();
        for Series { labels, counts: of } in &series {
            for (count, kind) in counts.iter() {
                if let Some(value) = of.get(*count) {
                    family.add(labels, &[("kind", kind)], *value);
                }
            }
        }
        family.write(&mut text, name, "counter", help);
    }
    for (name, help, prefix) in REASONS {
        let mut family = Samples::default();
        for Series { labels, counts } in &series {
            for (count, value) in counts.iter() {
                if let Some(reason) = count.strip_prefix(prefix) {
                    family.add(labels, &[("kind", reason)], *value);
                }
            }
        }
        family.write(&mut text, name, "counter", help);
    }
    states(looks, &mut text);
    text
}

/// The values of the moment.
fn states(looks: &[Look], text: &mut String) {
    let (mut modes, mut hypervisors, mut machines) =
        (Samples::default(), Samples::default(), Samples::default());
    for look in looks {
        let machine = label("machine", &look.info.name);
        let (kind, exposure) = match &look.info.what {
            What::Machine(info) => {
                let on = info.hypervisor != Hypervisor::None;
                hypervisors.add(&machine, &[], u64::from(on));
                ("machine", info.exposure.as_str())
            }
            What::Nest(_) => ("nest", ""),
        };
        let pid = look.info.pid.to_string();
        let about = [
            ("pid", pid.as_str()),
            ("kind", kind),
            ("exposure", exposure),
        ];
        machines.add(&machine, &about, 1);
        for level in &look.stat.machines {
            for (index, vcpu) in level.vcpus.iter().enumerate() {
                if let Some(mode) = vcpu.instants.get("guest_mode") {
                    let labels = labels(&look.info.name, &index.to_string(), level.level);
                    modes.add(&labels, &[], *mode);
                }
            }
        }
    }
    modes.write(
        text,
        "nestling_guest_mode",
        "gauge",
        "Whether the vCPU is in a guest of its guest now.",
    );
    hypervisors.write(
        text,
        "nestling_hypervisor_on",
        "gauge",
        "Whether the guest has turned VMX or SVM on.",
    );
    machines.write(
        text,
        "nestling_machine_info",
        "gauge",
        "The machines and nests that run.",
    );
}

/// Each vCPU of a machine, or each level of a nest.
fn series_of(look: &Look) -> Vec<Series<'_>> {
    let name = &look.info.name;
    let mut all = Vec::new();
    for machine in &look.stat.machines {
        for (index, vcpu) in machine.vcpus.iter().enumerate() {
            all.push(Series {
                labels: labels(name, &index.to_string(), machine.level),
                counts: &vcpu.counts,
            });
        }
        // A level's counts are of all its vCPUs; those of a machine as a whole, and
        // its reasons, of none.
        let whole = if machine.vcpus.is_empty() {
            &machine.total
        } else {
            &machine.vm
        };
        all.push(Series {
            labels: labels(name, "", machine.level),
            counts: whole,
        });
    }
    all
}

fn labels(machine: &str, vcpu: &str, level: u8) -> String {
    let level = level.to_string();
    [("machine", machine), ("vcpu", vcpu), ("level", &level)]
        .map(|(name, value)| label(name, value))
        .join(",")
}

/// A label, its value escaped as the format wants it.
fn label(name: &str, value: &str) -> String {
    let value = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

/// The samples of one metric by their labels.
#[derive(Default)]
struct Samples(BTreeMap<String, u64>);

impl Samples {
    /// Adds a sample. A label without a value is left out.
    fn add(&mut self, labels: &str, further: &[(&str, &str)], value: u64) {
        let mut labels = labels.to_owned();
        for (name, value) in further.iter().filter(|(_, value)| !value.is_empty()) {
            labels.push(',');
            labels.push_str(&label(name, value));
        }
        self.0.insert(labels, value);
    }

    /// Writes them under their heads; nothing where there are none.
    fn write(&self, text: &mut String, name: &str, kind: &str, help: &str) {
        if self.0.is_empty() {
            return;
        }
        let mut line = |line: String| writeln!(text, "{line}").expect("a string takes all");
        line(format!("# HELP {name} {help}"));
        line(format!("# TYPE {name} {kind}"));
        for (labels, value) in &self.0 {
            line(format!("{name}{{{labels}}} {value}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::look::tests::{machine, nest};
    use super::*;

    #[test]
    fn every_metric_has_its_heads_once_and_its_samples_below() {
        let text = exposition(&[machine(1, 1, 50), nest(1, 10)]);
        let mut metric = "";
        let mut seen = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                metric = rest.split(' ').next().unwrap();
                assert!(!seen.contains(&metric), "{metric} twice");
                seen.push(metric);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let counter = metric.ends_with("_total");
                let kind = if counter { "counter" } else { "gauge" };
                assert_eq!(rest, format!("{metric} {kind}"));
            } else {
                assert!(line.starts_with(&format!("{metric}{{")), "{line}");
            }
        }
        assert_eq!(seen.first(), Some(&"nestling_exits_total"));
        for line in [
            r#"nestling_exits_total{machine="lab",vcpu="0",level="1"} 50"#,
            r#"nestling_exits_total{machine="lab",vcpu="",level="2"} 10"#,
            r#"nestling_interrupts_total{machine="lab",vcpu="1",level="1",kind="nmi"} 1"#,
            r#"nestling_guest_mode{machine="lab",vcpu="0",level="1"} 1"#,
            r#"nestling_hypervisor_on{machine="lab"} 1"#,
            r#"nestling_machine_info{machine="lab",pid="12",kind="machine",exposure="svm"} 1"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
    }

    #[test]
    fn reasons_are_kinds_and_values_are_escaped() {
        let mut look = machine(1, 1, 50);
        look.info.name = "a\"b\\c".into();
        let vm = &mut look.stat.machines[0].vm;
        vm.insert("reflected:CPUID".into(), 7);
        let text = exposition(&[look]);
        let line = r#"nestling_reflected_exits_by_reason_total{machine="a\"b\\c",vcpu="",level="1",kind="CPUID"} 7"#;
        assert!(text.lines().any(|other| other == line), "{text}");
        assert_eq!(exposition(&[]), "");
    }
}
