//! Plans for `nestling nest --plan`, built on what `--print-plan` prints.

use serde_json::{Value, json};

use crate::binary;

/// One machine of a plan: what an order's `nest` step boots.
#[derive(Debug, Clone)]
pub struct Machine(Value);

/// A machine with another system than the image: what an order's `run` step boots.
#[derive(Debug, Clone)]
pub struct System(Value);

/// The machines of a chain as nestling itself plans them, without work to do.
#[derive(Debug)]
pub struct Template(Vec<Machine>);

impl Template {
    /// What `nest` plans for `arguments`, which name the metal and the depth.
    ///
    /// # Panics
    /// If it plans nothing, or nothing that can be read.
    #[must_use]
    pub fn of(arguments: &[&str]) -> Self {
        let output = binary::command()
            // The first run of all obtains the kernel and builds the image.
            .timeout(std::time::Duration::from_secs(600))
            .args(["nest", "--print-plan"])
            .args(arguments)
            .output()
            .expect("the binary can be run");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "nest --print-plan: {text}");
        let mut nest: Value = serde_json::from_slice(&output.stdout).expect("a plan is JSON");
        let mut machines = Vec::new();
        loop {
            let steps = nest["order"]["steps"].take();
            nest["order"]["steps"] = json!([]);
            machines.push(Machine(nest));
            let inner = steps.as_array().and_then(|steps| steps.first()).cloned();
            match inner {
                Some(step) if step["step"] == "nest" => {
                    nest = step;
                    nest.as_object_mut()
                        .expect("a step is an object")
                        .remove("step");
                }
                _ => return Self(machines),
            }
        }
    }

    /// The machine of the chain's `place`, 0 being the lowest, under a name.
    #[must_use]
    pub fn machine(&self, place: usize, name: &str) -> Machine {
        let mut machine = self.0[place].clone();
        machine.0["name"] = json!(name);
        machine
    }
}

impl Machine {
    /// With this many vCPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.0["machine"]["cpus"] = json!(cpus);
        self
    }

    /// With this value of `--nested`.
    #[must_use]
    pub fn nested(mut self, nested: &str) -> Self {
        self.0["machine"]["nested"] = json!(nested);
        self
    }

    /// Under this template: a name, or a template as JSON.
    #[must_use]
    pub fn cpu_template(mut self, template: &Value) -> Self {
        self.0["machine"]["cpu_template"] = template.clone();
        self
    }

    /// With this value of `--hyperv`.
    #[must_use]
    pub fn hyperv(mut self, hyperv: &str) -> Self {
        self.0["machine"]["hyperv"] = json!(hyperv);
        self
    }

    /// Booted by another monitor: an object with `name` and, unless that is in
    /// nestling's list, `command`. Its network is what that gives it.
    #[must_use]
    pub fn monitor(mut self, monitor: Value) -> Self {
        self.0["monitor"] = monitor;
        self.0["order"]["network"] = json!({ "dhcp": true });
        self.0["order"]["modules"]
            .as_array_mut()
            .expect("modules are a list")
            .push(json!("virtio_mmio"));
        if let Some(plan) = self.0.as_object_mut() {
            plan.remove("fetch");
        }
        self
    }

    /// With `mib` more of memory.
    #[must_use]
    pub fn more_memory(mut self, mib: u64) -> Self {
        let memory = &mut self.0["machine"]["memory_mib"];
        *memory = json!(memory.as_u64().expect("memory is a number") + mib);
        self
    }

    /// Declared hung after this many seconds without a sign of life.
    #[must_use]
    pub fn silence(mut self, seconds: u32) -> Self {
        self.0["limits"]["silence_s"] = json!(seconds);
        self
    }

    /// Its exits counted by reason, and its state told every two seconds.
    #[must_use]
    pub fn watched(mut self) -> Self {
        self.0["trace"] = json!(true);
        self.0["sample_s"] = json!(2);
        self
    }

    /// With a disk: an object with `path`, `readonly`, `create_mib`.
    #[must_use]
    pub fn disk(mut self, disk: Value) -> Self {
        self.0["machine"]["disks"]
            .as_array_mut()
            .expect("disks are a list")
            .push(disk);
        self
    }

    /// Then runs this workload: a kind, or an object with `kind` and its fields.
    #[must_use]
    pub fn runs(self, workload: impl Into<Value>) -> Self {
        let mut step = match workload.into() {
            Value::String(kind) => json!({ "kind": kind }),
            object => object,
        };
        step["step"] = json!("workload");
        self.step(step)
    }

    /// Then boots this machine, loading KVM for it.
    #[must_use]
    pub fn boots(mut self, inner: Self) -> Self {
        let mut step = inner.0;
        step["step"] = json!("nest");
        self = self.with_kvm();
        self.step(step)
    }

    /// Then boots this system, loading KVM for it.
    #[must_use]
    pub fn boots_system(self, system: System) -> Self {
        self.with_kvm().step(system.0)
    }

    /// Loads KVM where the processor shows what it takes.
    #[must_use]
    pub fn with_kvm(mut self) -> Self {
        let kvm = &mut self.0["order"]["kvm"];
        if kvm.is_null() {
            *kvm = json!({ "intel": "", "amd": "" });
        }
        self
    }

    fn step(mut self, step: Value) -> Self {
        self.0["order"]["steps"]
            .as_array_mut()
            .expect("steps are a list")
            .push(step);
        self
    }

    /// The plan's JSON.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.0
    }
}

impl System {
    /// `kernel`, a file of the level below, on `machine` and under its name, with so
    /// many seconds from its start to its end.
    #[must_use]
    pub fn new(machine: Machine, kernel: &str, seconds: u32) -> Self {
        let Machine(mut nest) = machine;
        Self(json!({
            "step": "run",
            "name": nest["name"].take(),
            "kernel": kernel,
            "machine": nest["machine"].take(),
            "total_s": seconds,
        }))
    }

    /// With this command line instead of the plan's.
    #[must_use]
    pub fn cmdline(mut self, text: &str) -> Self {
        self.0["machine"]["cmdline"] = json!(text);
        self
    }

    /// Ends its work by a debug exit with this status.
    #[must_use]
    pub fn ends_with(mut self, status: u8) -> Self {
        self.0["status"] = json!(status);
        self
    }

    /// With these modules, each a value of `--module`.
    #[must_use]
    pub fn modules(mut self, modules: &[&str]) -> Self {
        self.0["modules"] = json!(modules);
        self
    }
}

/// Writes `length` bytes of the pattern of `seed` to `device`.
#[must_use]
pub fn disk_write(device: &str, length: usize, seed: u64) -> Value {
    json!({ "kind": "disk-write", "device": device, "length": length, "seed": seed })
}

/// Executes CPUID so many times.
#[must_use]
pub fn cpuid(count: u64) -> Value {
    json!({ "kind": "cpuid", "count": count })
}

/// Reports the digest of the first `length` bytes of `device`.
#[must_use]
pub fn disk_digest(device: &str, length: usize) -> Value {
    json!({ "kind": "disk-digest", "device": device, "length": length })
}
