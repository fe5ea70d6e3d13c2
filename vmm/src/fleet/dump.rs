//! A dump: all that a template needs to know of a host, in a file.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kvm_ioctls::Kvm;
use nestling_arch::cpuid::{Cpuid, Register, Vendor, names};
use nestling_arch::msr::MsrSet;
use nestling_arch::nested::{CAPABILITY_MSRS, HostFacts};
use nestling_arch::template::{self, Profile};
use serde::{Deserialize, Serialize};

use crate::facts;
use crate::guest::facts::Processor;
use crate::kvm::KvmError;

/// The version of the form; docs/json.md describes it.
const VERSION: u32 = 1;

/// What a host's KVM gives to guests, and where that was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dump {
    version: u32,
    /// What it is called in /proc/cpuinfo.
    pub processor: String,
    /// Whose it is.
    pub vendor: Vendor,
    /// The microcode's revision, as /proc/cpuinfo has it.
    pub microcode: Option<String>,
    /// The kernel's release.
    pub kernel: String,
    /// KVM_GET_SUPPORTED_CPUID.
    pub cpuid: Cpuid,
    /// The feature MSRs that a template can decide about.
    pub msrs: MsrSet,
}

/// Why a dump can't be had.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The file can't be read.
    #[error("can't read the dump {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It isn't of the form.
    #[error("{path}: {source}; make one by `nestling cpu dump -o FILE`")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong there.
        source: serde_json::Error,
    },
    /// It is of another form.
    #[error("{path}: version {found} isn't known; this nestling reads version {VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it names.
        found: u32,
    },
    /// What it holds can't be a host's.
    #[error("{path}: {source}")]
    Cpuid {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: nestling_arch::cpuid::Error,
    },
    /// This host's KVM can't be asked.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

impl Dump {
    /// This host's.
    ///
    /// # Errors
    /// When KVM can't be asked.
    pub fn of_host(kvm: &Kvm) -> Result<Self, DumpError> {
        let mut facts = facts::gather(kvm)?;
        facts.supported.remove_zeros();
        let processor = Processor::current();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let vmx = CAPABILITY_MSRS.filter_map(|msr| Some((msr, facts.vmx.get(msr)?)));
        let known = |(msr, _): &(u32, u64)| template::feature_msrs().any(|known| known == *msr);
        Ok(Self {
            version: VERSION,
            processor: processor.model,
            vendor: facts.vendor(),
            microcode: processor.microcode,
            kernel: release.trim().to_owned(),
            msrs: vmx.chain(facts.msrs.iter()).filter(known).collect(),
            cpuid: facts.supported,
        })
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it can't be read, or holds no dump.
    pub fn read(path: &Path) -> Result<Self, DumpError> {
        // The version is looked at first: a later form may have other fields.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let path_buf = || path.to_path_buf();
        let text = fs::read_to_string(path).map_err(|source| DumpError::Read {
            path: path_buf(),
            source,
        })?;
        let parse = |source| DumpError::Parse {
            path: path_buf(),
            source,
        };
        let Versioned { version } = serde_json::from_str(&text).map_err(parse)?;
        if version != VERSION {
            return Err(DumpError::Version {
                path: path_buf(),
                found: version,
            });
        }
        let dump: Self = serde_json::from_str(&text).map_err(parse)?;
        // So that whatever uses it later needs no error for it.
        match dump.profile() {
            Ok(_) => Ok(dump),
            Err(source) => Err(DumpError::Cpuid {
                path: path_buf(),
                source,
            }),
        }
    }

    /// What this host can show its guests.
    ///
    /// # Errors
    /// When the dump lacks a leaf that every x86 machine has.
    pub fn profile(&self) -> Result<Profile, nestling_arch::cpuid::Error> {
        Profile::of(&self.cpuid, &self.msrs)
    }

    /// The facts that a template is applied to.
    pub fn facts(&self) -> HostFacts {
        let (vmx, msrs) = self
            .msrs
            .iter()
            .partition::<Vec<_>, _>(|(msr, _)| CAPABILITY_MSRS.contains(msr));
        HostFacts {
            processor: true,
            module: true,
            nested_parameter: None,
            nested_state: 0,
            vmx: vmx.into_iter().collect(),
            msrs: msrs.into_iter().collect(),
            supported: self.cpuid.clone(),
        }
    }

    /// The dump for people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "processor  {}\nvendor     {}\nmicrocode  {}\nkernel     {}\n\nfeatures\n",
            self.processor,
            self.vendor,
            self.microcode.as_deref().unwrap_or("unknown"),
            self.kernel,
        );
        let has = |name: &&str| names::find(name).is_some_and(|feature| self.cpuid.has(feature));
        let features: Vec<&str> = names::all().filter(has).collect();
        for line in features.chunks(8) {
            writeln!(text, "  {}", line.join(" ")).expect("a string takes all");
        }
        text.push_str("\nCPUID                  EAX      EBX      ECX      EDX\n");
        for ((leaf, subleaf), registers) in self.cpuid.iter() {
            let subleaf = subleaf.map_or(String::new(), |subleaf| format!(".{subleaf}"));
            let values = Register::ALL.map(|register| format!("{:08x}", registers.get(register)));
            let place = format!("{leaf:#010x}{subleaf}");
            writeln!(text, "  {place:<18} {}", values.join(" ")).expect("a string takes all");
        }
        if !self.msrs.is_empty() {
            text.push_str("\nMSRs\n");
        }
        for (msr, value) in self.msrs.iter() {
            let name = template::msr_name(msr);
            writeln!(text, "  {name:<30} {value:#018x}").expect("a string takes all");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = r#"{ "version": 1, "processor": "a", "vendor": "amd", "microcode": null,
        "kernel": "6.12", "cpuid": { "0x0": "d 68747541 444d4163 69746e65", "0x1": "1 2 3 4" },
        "msrs": { "0xc0011029": "0x2" } }"#;

    #[test]
    fn a_dump_survives_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.json");
        fs::write(&path, DUMP).expect("a file");
        let dump = Dump::read(&path).expect("a dump");
        let text = serde_json::to_string(&dump).expect("it can be written");
        assert_eq!(serde_json::from_str::<Dump>(&text).expect("a dump"), dump);
        assert_eq!(dump.facts().msrs.get(0xC001_1029), Some(2));
        assert!(
            dump.text()
                .contains("  0x00000001         00000001 00000002 00000003 00000004\n")
        );
        assert!(
            dump.text()
                .contains("  MSR_AMD64_DE_CFG               0x0000000000000002\n")
        );
    }

    #[test]
    fn what_is_no_dump_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.json");
        for (text, said) in [
            ("[]", "make one by `nestling cpu dump -o FILE`"),
            (
                r#"{ "version": 2 }"#,
                "version 2 isn't known; this nestling reads version 1",
            ),
            (r#"{ "version": 1 }"#, "missing field `processor`"),
            (
                &DUMP.replace("\"0x1\"", "\"0x2\""),
                "KVM_GET_SUPPORTED_CPUID lacks leaf 0x1",
            ),
            (
                &DUMP.replace("1 2 3 4", "1 2 3"),
                "is not four hexadecimal numbers",
            ),
        ] {
            fs::write(&path, text).expect("a file");
            let error = Dump::read(&path).expect_err(text).to_string();
            assert!(error.contains(said), "{error}");
        }
        let error = Dump::read(Path::new("absent"))
            .expect_err("no file")
            .to_string();
        assert!(error.starts_with("can't read the dump absent: "), "{error}");
    }
}
