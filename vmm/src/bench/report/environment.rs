//! The environments of all levels, side by side.

use std::collections::{BTreeMap, BTreeSet};

use super::LevelEnvironment;
use crate::bench::results::Environment;

/// One line for each fact that any level has: what it is, and its value at each.
pub(super) fn table(found: &[LevelEnvironment]) -> Vec<(String, Vec<Option<String>>)> {
    let facts: Vec<Vec<(String, String)>> = found
        .iter()
        .map(|found| {
            let mut facts = facts(&found.environment);
            if found.others > 0 {
                let others = format!("{} boots", found.others);
                facts.push(("differs in".to_owned(), others));
            }
            facts
        })
        .collect();
    // In the order of the level that has most to say, and what others add behind.
    let mut names: Vec<&String> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut longest_first: Vec<&Vec<(String, String)>> = facts.iter().collect();
    longest_first.sort_by_key(|facts| std::cmp::Reverse(facts.len()));
    for (name, _) in longest_first.into_iter().flatten() {
        if seen.insert(name) {
            names.push(name);
        }
    }
    let values: Vec<BTreeMap<&String, &String>> = facts
        .iter()
        .map(|facts| facts.iter().map(|(name, value)| (name, value)).collect())
        .collect();
    names
        .into_iter()
        .map(|name| {
            let values = values
                .iter()
                .map(|known| known.get(name).map(ToString::to_string));
            (name.clone(), values.collect())
        })
        .collect()
}

/// What is known of an environment, in the order in which it is shown.
pub(in crate::bench) fn facts(environment: &Environment) -> Vec<(String, String)> {
    let on = |switch: Option<bool>| switch.map(|on| if on { "on" } else { "off" }.to_owned());
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let e = environment;
    let huge_pages: Vec<String> = e
        .huge_pages
        .iter()
        .map(|pool| {
            format!(
                "{} of {} × {} KiB free",
                pool.free, pool.total, pool.size_kib
            )
        })
        .collect();
    let pinning: Vec<String> = e.pinning.iter().map(ToString::to_string).collect();
    let fixed = [
        ("nestling", known(&e.nestling)),
        ("shown of VMX or SVM", known(&e.exposure)),
        ("vendor", known(&e.vendor)),
        ("processor", known(&e.processor)),
        ("microcode", e.microcode.clone()),
        ("processors", Some(e.cpus.to_string())),
        ("memory", Some(format!("{} MiB", e.memory_mib))),
        ("kernel", known(&e.kernel)),
        ("command line", known(&e.cmdline)),
        ("clock source", e.clock_source.clone()),
        ("governor", e.governor.clone()),
        ("turbo", on(e.turbo)),
        ("SMT", on(e.smt)),
        ("pinned to", known(&pinning.join(", "))),
        ("transparent huge pages", e.transparent_huge_pages.clone()),
        ("huge pages", known(&huge_pages.join(", "))),
    ];
    let fixed = fixed
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let parameters = e
        .parameters
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()));
    let mitigations = e.mitigations.iter();
    let mitigations =
        mitigations.map(|(name, value)| (format!("mitigation: {name}"), value.clone()));
    fixed.chain(parameters).chain(mitigations).collect()
}
