//! Two processors of an emulated metal, and a template for guests on either.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::binary;
use crate::cpu::{self, View};
use crate::nest::Nest;
use crate::plan::{Machine, Template};

/// What the L1 under the template is called.
const NAME: &str = "templated";

/// The other processor of a metal, besides its usual one.
fn other(metal: &str) -> &'static str {
    match metal {
        "svm" => "EPYC",
        _ => "corei7_ivy_bridge_3770k",
    }
}

/// What guests on either processor can see, by the dumps of both.
fn common(metal: &str) -> Value {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    let output = folder.path().join("fleet.json");
    let dumps = Path::new(env!("CARGO_MANIFEST_DIR")).join("dumps");
    binary::command()
        .args(["cpu", "intersect", "--output"])
        .arg(&output)
        .args(["usual", "other"].map(|which| dumps.join(format!("{metal}-{which}.json"))))
        .assert()
        .success();
    let template = fs::read(&output).expect("a template");
    serde_json::from_slice(&template).expect("a template is JSON")
}

/// An L1 that sees what both processors have, and says what that is.
#[must_use]
pub fn machine(template: &Template, metal: &str) -> Machine {
    let l1 = template.machine(1, NAME).cpu_template(&common(metal));
    l1.cpus(1).with_kvm().runs("cpu-dump")
}

/// What that L1 reads in `usual`, on the metal's usual processor, and in a nest of
/// its own on the other one.
///
/// # Panics
/// If the two differ, or either isn't what its monitor has set.
#[must_use]
pub fn same_on_both(usual: &Nest, metal: &str) -> View {
    let template = Template::of(&["--metal", metal, "--l2-net", "off"]);
    let plan = template.machine(0, "L0").boots(machine(&template, metal));
    let arguments = ["--metal", metal, "--metal-cpu", other(metal)];
    let other = Nest::boot(&plan, &arguments, Duration::from_secs(1200));
    let [usual, other] = [usual, &other].map(|nest| {
        let views = cpu::read_as_set(&nest.machine(NAME));
        views.into_iter().next().expect("it has one processor")
    });
    assert_eq!(usual, other);
    usual
}
