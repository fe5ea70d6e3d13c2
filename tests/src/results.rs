//! Folders of results as `nestling bench run` leaves them, made up.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// What is to be made up: one exposure, one monitor, L0 to L2.
#[derive(Debug, Clone)]
pub struct Run {
    /// What L0 runs on; all but `host` are emulated.
    pub metal: &'static str,
    /// How many boots.
    pub boots: u64,
    /// How many samples a phase has.
    pub samples: u64,
    /// How many times as long everything takes, but the control.
    pub slowness: f64,
    /// Selects what is random.
    pub seed: u64,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            metal: "host",
            boots: 10,
            samples: 15,
            slowness: 1.0,
            seed: 1,
        }
    }
}

impl Run {
    /// Writes the results into `folder`.
    ///
    /// # Panics
    /// If they can't be written.
    pub fn write(&self, folder: &Path) {
        fs::create_dir_all(folder).expect("a folder of tests");
        let manifest = json!({
            "version": 1,
            "nestling": "0.1.0",
            "began_s": 1_800_000_000,
            "plan": {
                "metal": self.metal,
                "emulated": self.metal != "host",
                "levels": [0, 1, 2],
                "rows": ["syscall", "cpuid"],
                "boots": self.boots,
                "exposures": ["svm"],
                "monitors": [{ "name": "nestling" }],
                "seed": 1,
            },
        });
        write(&folder.join("manifest.json"), &manifest);
        let mut random = self.seed;
        for number in 0..self.boots {
            let fate = 1.0 + 0.02 * unit(&mut random);
            let levels: Vec<Value> = (0..3)
                .map(|level| self.level(level, fate, &mut random))
                .collect();
            let boot = json!({
                "version": 1,
                "number": number,
                "exposure": "svm",
                "monitor": "nestling",
                "began_s": 1_800_000_000,
                "levels": levels,
            });
            write(&folder.join(format!("boot-{number:04}.json")), &boot);
        }
    }

    fn level(&self, level: usize, fate: f64, random: &mut u64) -> Value {
        let cpuid = [100.0, 1600.0, 37_000.0][level] * self.slowness;
        let phases = [
            ("syscall", 0, 70.0),
            ("cpuid", 0, cpuid),
            ("syscall", 1, 70.0),
        ];
        let phases: Vec<Value> = phases
            .into_iter()
            .map(|(row, pass, ns)| {
                let exits = |machine| match (row, level, machine) {
                    ("cpuid", 1, 1) | ("cpuid", 2, 2) => 1000,
                    ("cpuid", 2, 1) => 21_000,
                    _ => 0,
                };
                let counts: Value = (1..=level)
                    .map(|machine| (machine.to_string(), json!({ "exits": exits(machine) })))
                    .collect::<serde_json::Map<_, _>>()
                    .into();
                // Picoseconds, so that hardly two are alike.
                let samples: Vec<u64> = (0..self.samples)
                    .map(|_| whole(1e3 * ns * fate * (1.0 + 0.1 * unit(random))))
                    .collect();
                json!({
                    "row": row,
                    "pass": pass,
                    "outcome": { "measured": {
                        "clock": { "kind": "tsc", "khz": 1_000_000_000 },
                        "timer_cost": 1,
                        "work": 1,
                        "samples": samples,
                        "operations": 1000,
                        "counts": counts,
                    } },
                })
            })
            .collect();
        let environment = json!({ "kernel": "6.12.0", "processor": "EPYC", "cpus": 2 });
        json!({ "level": level, "environment": environment, "phases": phases })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a time is positive and small"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

/// From 0 to 1, by SplitMix64.
fn unit(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

fn write(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).expect("a file of tests");
}
