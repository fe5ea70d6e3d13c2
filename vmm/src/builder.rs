//! The recipe: from a configuration to a machine, read top to bottom.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use kvm_ioctls::{Cap, Kvm};
use nestling_arch::acpi::{self, AcpiConfig};
use nestling_arch::boot::{self, BootParams, LoadedKernel, Module, Protocol};
use nestling_arch::cpuid::{self, CpuidContext, Vendor};
use nestling_arch::hyperv::Enlightenments;
use nestling_arch::nested::{self, Exposure, Extension, HostFacts, Obstacle, Request};
use nestling_arch::{GuestMemory, hyperv, layout, msr, template};
use nestling_devices::bus;
use nestling_devices::pci::bus::Access;
use nestling_devices::virtio::block;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::config::{ConsoleMode, VmConfig};
use crate::console::streams::{StreamError, Streams};
use crate::cpu::CpuView;
use crate::facts;
use crate::kernels;
use crate::kvm::{self, KvmError};
use crate::machine::Machine;
use crate::mapping::{Mapping, MappingError};
use crate::memory::{self, MemoryError};
use crate::network::Places;
use crate::platform::Platform;
use crate::session::EventLog;
use crate::vcpu::{Ends, Vcpu, VcpuError};
use crate::vm::{Vm, VmError};

/// Why a machine can't be built.
#[derive(Debug, thiserror::Error)]
#[expect(
    missing_docs,
    reason = "each names the step that failed, and its source says why"
)]
pub enum BuildError {
    #[error(transparent)]
    Kvm(#[from] KvmError),
    #[error("--nested {request}: {source}")]
    Nested { request: Request, source: Obstacle },
    #[error("--hyperv {request}: {source}")]
    Hyperv {
        request: hyperv::Request,
        source: hyperv::Unsupported,
    },
    #[error("--cpu-template: {0}")]
    Template(#[from] template::Refusal),
    #[error(
        "--nested {request}: the template {template} hides the extension, which this host has: \
         take another template, or --nested off"
    )]
    TemplateHidesNesting { request: Request, template: String },
    #[error(transparent)]
    Mapping(#[from] MappingError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error("the kernel {path}: {source}")]
    Kernel { path: String, source: boot::Error },
    #[error("the initrd {path}: {source}")]
    Initrd { path: String, source: boot::Error },
    #[error("the module {path}: {source}")]
    Module { path: String, source: boot::Error },
    #[error("{0}")]
    BootData(boot::Error),
    #[error("the ACPI tables: {0}")]
    Acpi(acpi::Error),
    #[error("CPUID of vCPU {vcpu}: {source}")]
    Cpuid { vcpu: u32, source: cpuid::Error },
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    #[error(transparent)]
    Disk(#[from] block::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Bus(#[from] bus::Error),
    #[error(transparent)]
    Pci(#[from] nestling_devices::pci::bus::Error),
    #[error(transparent)]
    Tap(#[from] nestling_devices::net::ports::tap::Error),
    #[error(transparent)]
    Virtio(#[from] nestling_devices::virtio::pci::Error),
    #[error("can't create {what}: {source}")]
    Host {
        what: &'static str,
        source: io::Error,
    },
    #[error("the host's KVM runs {most} vCPUs at the most, and --cpus asks for {wanted}")]
    TooManyVcpus { wanted: u32, most: usize },
    #[error("--memory {wanted}: the processor addresses {bits} bits, room for {most} of memory")]
    TooMuchMemory {
        wanted: crate::size::Size,
        bits: u8,
        most: crate::size::Size,
    },
}

/// Whether the user's keys reach the guest at all.
pub fn takes_keys(config: &VmConfig) -> bool {
    config.serial == ConsoleMode::Tty || config.console == ConsoleMode::Tty
}

/// By what the kernel is to reach PCI's configuration spaces.
///
/// Linux takes the ports where it finds them, two exits for each of about a
/// thousand accesses, and the ECAM where it doesn't; so a bzImage is shown the ECAM
/// alone, unless its command line says that it will need the ports. Other
/// kernels may know nothing else.
fn configuration_access(bzimage: bool, cmdline: &str) -> Access {
    let needs_ports = |word: &str| match word.split_once('=') {
        Some(("acpi", "off")) => true,
        Some(("pci", options)) => options
            .split(',')
            .any(|option| matches!(option, "conf1" | "nommconf")),
        _ => false,
    };
    if bzimage && !cmdline.split_whitespace().any(needs_ports) {
        Access::Ecam
    } else {
        Access::EcamAndPorts
    }
}

/// All that is the same for every boot of a machine, found and checked once.
pub struct Prepared<'a> {
    config: &'a VmConfig,
    kvm: Kvm,
    facts: HostFacts,
    exposure: Exposure,
    enlightenments: Enlightenments,
    /// The kernel as configured, or as it was kept unpacked.
    kernel: PathBuf,
}

impl<'a> Prepared<'a> {
    /// Opens and checks what `config` names, before anything starts.
    pub fn new(config: &'a VmConfig) -> Result<Self, BuildError> {
        // All are read in place when they are loaded; here only whether they can be.
        Mapping::open(&config.kernel, "kernel")?;
        if let Some(initrd) = &config.initrd {
            Mapping::open(initrd, "initrd")?;
        }
        for module in &config.modules {
            Mapping::open(&module.path, "module")?;
        }
        let kvm = kvm::open()?;
        let most = kvm.get_max_vcpus();
        if usize::try_from(config.cpus).is_ok_and(|wanted| wanted > most) {
            return Err(BuildError::TooManyVcpus {
                wanted: config.cpus,
                most,
            });
        }
        let host = facts::gather(&kvm)?;
        let facts = match &config.cpu_template {
            Some(template) => template.facts(&host)?,
            None => host.clone(),
        };
        let exposure = nested::resolve(&config.nested, &facts).map_err(|source| {
            let request = config.nested.clone();
            match &config.cpu_template {
                Some(template) if nested::available(&facts) != nested::available(&host) => {
                    let template = template.name.clone();
                    BuildError::TemplateHidesNesting { request, template }
                }
                _ => BuildError::Nested { request, source },
            }
        })?;
        let enlightenments = match &config.hyperv {
            hyperv::Request::Off => Enlightenments::default(),
            request => {
                let supported = crate::hyperv::supported(&kvm)?;
                let vmx = exposure.extension() == Some(Extension::Vmx);
                hyperv::resolve(request, &supported, vmx).map_err(|source| BuildError::Hyperv {
                    request: request.clone(),
                    source,
                })?
            }
        };
        let kernel = if config.kernel_cache {
            kernels::find(&config.kernel)
        } else {
            config.kernel.clone()
        };
        Ok(Self {
            config,
            kvm,
            facts,
            exposure,
            enlightenments,
            kernel,
        })
    }

    /// The virtualization extension that the guest is shown.
    pub fn extension(&self) -> Option<Extension> {
        self.exposure.extension()
    }

    /// Builds the machine, ready to enter its kernel.
    pub fn build(
        &self,
        streams: &Streams,
        places: &Places,
        events: &EventLog,
    ) -> Result<Machine, BuildError> {
        let config = self.config;
        let physical_bits = facts::physical_address_bits(&self.facts.supported);
        let memory = Arc::new(self.allocate(physical_bits)?);
        tracing::debug!("memory is allocated");
        let kernel = self.load_kernel(&memory)?;
        tracing::debug!("the kernel is loaded: {:?}", kernel.unpacked);
        let initrd = self.load_initrd(&memory, &kernel)?;
        tracing::debug!("the initrd is loaded");
        let modules = self.load_modules(&memory, &kernel, initrd.as_ref())?;

        let vm = Vm::new(&self.kvm, Arc::clone(&memory))?;
        let pci_high = layout::mmio64_window(config.memory.size.bytes(), physical_bits);
        let cmdline = boot::command_line(&kernel, &config.kernel, &config.cmdline);
        let access = configuration_access(kernel.setup_header.is_some(), &cmdline);
        let mmio64 = pci_high.clone();
        let platform = Platform::new(config, &vm, streams, places, events, mmio64, access)?;

        let tables = AcpiConfig {
            cpus: config.cpus,
            // Linux has kvmclock; what else is booted may know no better timer.
            pm_timer: kernel.protocol != Protocol::Linux64,
            pci_ports: access == Access::EcamAndPorts,
            mmio32: layout::PCI_MMIO32,
            mmio64: pci_high,
        };
        let rsdp = acpi::build(&memory, &tables).map_err(BuildError::Acpi)?;
        let params = BootParams {
            cmdline: &cmdline,
            initrd,
            modules: &modules,
            rsdp,
        };
        boot::write_boot_data(&memory, &kernel, &params).map_err(BuildError::BootData)?;

        tracing::debug!("the devices are in place");
        let (vcpus, views) = self.create_vcpus(&vm, &kernel)?;
        tracing::debug!("the vCPUs are ready");
        let wake = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(|source| BuildError::Host {
            what: "an event descriptor",
            source,
        })?;
        let (sender, receiver) = mpsc::channel();
        let ends = Ends {
            sender,
            wake: Arc::new(wake),
        };
        Ok(Machine {
            vm,
            vcpus,
            views,
            ends: (ends, receiver),
            platform,
            extension: self.extension(),
        })
    }

    fn allocate(&self, physical_bits: u8) -> Result<GuestMemory, BuildError> {
        let (wanted, most) = (
            self.config.memory.size,
            crate::size::Size(layout::max_ram_size(physical_bits)),
        );
        if wanted > most {
            return Err(BuildError::TooMuchMemory {
                wanted,
                bits: physical_bits,
                most,
            });
        }
        Ok(memory::allocate(&self.config.memory)?)
    }

    fn load_kernel(&self, memory: &GuestMemory) -> Result<LoadedKernel, BuildError> {
        // Mapped only meanwhile: what is mapped counts as the monitor's memory.
        let image = Mapping::open(&self.kernel, "kernel")?;
        boot::load_kernel(memory, &image).map_err(|source| BuildError::Kernel {
            path: self.kernel.display().to_string(),
            source,
        })
    }

    fn load_initrd(
        &self,
        memory: &GuestMemory,
        kernel: &LoadedKernel,
    ) -> Result<Option<std::ops::Range<u64>>, BuildError> {
        let Some(path) = &self.config.initrd else {
            return Ok(None);
        };
        let initrd = Mapping::open(path, "initrd")?;
        let mut bytes: &[u8] = &initrd;
        let size = bytes.len() as u64;
        boot::load_initrd(memory, kernel, &mut bytes, size)
            .map(Some)
            .map_err(|source| BuildError::Initrd {
                path: path.display().to_string(),
                source,
            })
    }

    fn load_modules(
        &self,
        memory: &GuestMemory,
        kernel: &LoadedKernel,
        initrd: Option<&std::ops::Range<u64>>,
    ) -> Result<Vec<Module>, BuildError> {
        let mut room = boot::module_room(memory, kernel, initrd);
        let modules = self.config.modules.iter().map(|module| {
            let file = Mapping::open(&module.path, "module")?;
            let line = boot::command_line(kernel, &module.path, &module.cmdline);
            boot::load_module(memory, kernel, &mut room, &file, &line).map_err(|source| {
                BuildError::Module {
                    path: module.path.display().to_string(),
                    source,
                }
            })
        });
        modules.collect()
    }

    fn create_vcpus(
        &self,
        vm: &Vm,
        kernel: &LoadedKernel,
    ) -> Result<(Vec<Vcpu>, Vec<CpuView>), BuildError> {
        let tsc_deadline = self.kvm.check_extension(Cap::TscDeadlineTimer);
        let vendor = Vendor::of(&self.facts.supported);
        (0..self.config.cpus)
            .map(|index| {
                let context = CpuidContext {
                    vcpu: index,
                    vcpus: self.config.cpus,
                    exposure: self.exposure.clone(),
                    tsc_deadline,
                };
                let mut cpuid =
                    cpuid::guest_cpuid(&self.facts.supported, &context).map_err(|source| {
                        BuildError::Cpuid {
                            vcpu: index,
                            source,
                        }
                    })?;
                let exposure = self.exposure.within(&cpuid);
                let mut msrs = msr::boot_msrs(vendor, &exposure);
                if self.config.cpu_template.is_some() {
                    msrs.extend(self.facts.msrs.iter());
                }
                let mut vcpu = Vcpu::new(vm, index)?;
                let place = usize::try_from(index).unwrap_or(usize::MAX);
                if let Some(&processor) = self.config.cpu_affinity.get(place) {
                    vcpu.pin(processor);
                }
                if !self.enlightenments.is_empty() {
                    self.enlightenments.show(&mut cpuid);
                    vcpu.enable_hyperv(&self.kvm, &self.enlightenments)?;
                }
                vcpu.set_cpuid(&cpuid)?;
                if self.config.cpu_template.is_some() {
                    vcpu.verify_cpuid(&cpuid)?;
                }
                vcpu.set_msrs(&msrs)?;
                vcpu.set_lint()?;
                if index == 0 {
                    vcpu.set_entry(&boot::boot_registers(kernel))?;
                }
                let view = CpuView {
                    index,
                    msrs: msr::guest_msrs(&msrs, &cpuid, &exposure),
                    cpuid,
                    xcr0: None,
                };
                Ok((vcpu, view))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_is_shown_the_ecam_alone_unless_it_asks_for_the_ports() {
        for (cmdline, access) in [
            ("", Access::Ecam),
            (
                "console=ttyS0 pci=noearly,pcie_bus_safe acpi=force",
                Access::Ecam,
            ),
            ("panic=1 pci=conf1", Access::EcamAndPorts),
            ("pci=noacpi,nommconf", Access::EcamAndPorts),
            ("acpi=off quiet", Access::EcamAndPorts),
        ] {
            let chosen = configuration_access(true, cmdline);
            assert_eq!(chosen, access, "{cmdline:?}");
        }
        assert_eq!(configuration_access(false, ""), Access::EcamAndPorts);
    }
}
