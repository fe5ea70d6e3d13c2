//! A KVM virtual machine: its memory slots, interrupt controllers, and what
//! its devices need of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use kvm_bindings::{
    KVM_CAP_PMU_CAPABILITY, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC,
    KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MEM_READONLY, KVM_PIT_SPEAKER_DUMMY,
    KVM_PMU_CAP_DISABLE, KvmIrqRouting, kvm_enable_cap, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
    kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VmFd};
use nestling_arch::{GuestMemory, layout};
use nestling_devices::bus::lock;
use nestling_devices::host::{Host, MsiMessage};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MmapRegion};
use vmm_sys_util::eventfd::EventFd;

/// GSIs below this are the IOAPIC's pins; MSIs come after them.
const FIRST_MSI: u32 = layout::IOAPIC_PINS;

/// MSIs end here: with the pins' routes they stay below KVM_MAX_IRQ_ROUTES.
const GSI_LIMIT: u32 = FIRST_MSI + 2048;

/// Memory slots from here on are of memory that the guest can only read; RAM has
/// those below, one for each of its two ranges at the most.
const FIRST_SHOWN_SLOT: u32 = 2;

/// An ioctl that KVM refused.
#[derive(Debug, thiserror::Error)]
#[error("{call} failed: {source}")]
pub struct VmError {
    /// The ioctl's name.
    pub call: &'static str,
    /// What the kernel said.
    pub source: kvm_ioctls::Error,
}

/// Names the ioctl that failed.
pub(crate) fn ioctl<T>(
    call: &'static str,
    result: Result<T, kvm_ioctls::Error>,
) -> Result<T, VmError> {
    result.map_err(|source| VmError { call, source })
}

/// A virtual machine without vCPUs yet.
///
/// Lock order: `routes` and `shown` are taken alone.
pub struct Vm {
    fd: VmFd,
    routes: Mutex<Routes>,
    /// Memory that the guest can only read, by address, with its slot.
    shown: Mutex<BTreeMap<u64, (u32, Arc<MmapRegion>)>>,
    // Guest memory must stay mapped for as long as KVM may reach into it.
    memory: Arc<GuestMemory>,
}

impl Vm {
    /// Creates a machine over `memory`, with PIC, IOAPIC, PIT and room for
    /// local APICs in the kernel.
    pub fn new(kvm: &Kvm, memory: Arc<GuestMemory>) -> Result<Arc<Self>, VmError> {
        let fd = ioctl("KVM_CREATE_VM", kvm.create_vm())?;
        // Intel processors without unrestricted guest need both, outside RAM.
        ioctl(
            "KVM_SET_IDENTITY_MAP_ADDR",
            fd.set_identity_map_address(layout::KVM_IDENTITY_MAP),
        )?;
        let tss = usize::try_from(layout::KVM_TSS).expect("an address below 4 GiB fits");
        ioctl("KVM_SET_TSS_ADDR", fd.set_tss_address(tss))?;
        ioctl("KVM_CREATE_IRQCHIP", fd.create_irq_chip())?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        ioctl("KVM_CREATE_PIT2", fd.create_pit2(pit))?;
        let vm = Self {
            fd,
            routes: Mutex::new(Routes::new()),
            shown: Mutex::default(),
            memory,
        };
        vm.disable_pmu()?;
        vm.map_memory()?;
        let table = vm.routes().table();
        ioctl("KVM_SET_GSI_ROUTING", vm.fd.set_gsi_routing(&table))?;
        Ok(Arc::new(vm))
    }

    /// Takes the performance counters away where KVM can (KVM API, 8.35). CPUID
    /// doesn't show them, but AMD's four oldest have no bit there, and a kernel
    /// that finds them by their MSRs starts its watchdog on one.
    fn disable_pmu(&self) -> Result<(), VmError> {
        let offered = self.fd.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into());
        // Negative where the call itself failed: not offered either.
        if offered <= 0 || offered.cast_unsigned() & KVM_PMU_CAP_DISABLE == 0 {
            return Ok(());
        }
        let disable = kvm_enable_cap {
            cap: KVM_CAP_PMU_CAPABILITY,
            args: [KVM_PMU_CAP_DISABLE.into(), 0, 0, 0],
            ..Default::default()
        };
        ioctl("KVM_ENABLE_CAP(PMU)", self.fd.enable_cap(&disable))
    }

    #[expect(unsafe_code, reason = "KVM maps the monitor's memory into the guest")]
    fn map_memory(&self) -> Result<(), VmError> {
        for (slot, region) in (0u32..).zip(self.memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
                flags: 0,
            };
            // SAFETY: the region is mapped, is as large as said, overlaps no other slot since
            // guest regions don't, and lives as long as `self` does.
            let mapped = unsafe { self.fd.set_user_memory_region(region) };
            ioctl("KVM_SET_USER_MEMORY_REGION", mapped)?;
        }
        Ok(())
    }

    /// KVM's descriptor of the machine.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// The guest's memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Ties `fd` to a pin of the IOAPIC: each signal is one edge.
    pub fn connect_irq(&self, fd: &EventFd, pin: u32) -> Result<(), VmError> {
        ioctl("KVM_IRQFD", self.fd.register_irqfd(fd, pin))
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        lock(&self.routes)
    }

    fn publish(&self, routes: &Routes) -> io::Result<()> {
        self.fd.set_gsi_routing(&routes.table()).map_err(os_error)
    }
}

fn os_error(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

impl Host for Vm {
    fn add_doorbell(&self, address: u64, fd: &EventFd) -> io::Result<()> {
        self.fd
            .register_ioevent(fd, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(os_error)
    }

    fn remove_doorbell(&self, address: u64, fd: &EventFd) -> io::Result<()> {
        self.fd
            .unregister_ioevent(fd, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(os_error)
    }

    fn allocate_msi(&self, fd: &EventFd) -> io::Result<u32> {
        let gsi = self.routes().allocate()?;
        self.fd.register_irqfd(fd, gsi).map_err(|error| {
            self.routes().free(gsi);
            os_error(error)
        })?;
        Ok(gsi)
    }

    fn route_msi(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
        let mut routes = self.routes();
        // Publishing waits for a grace period in the kernel: only when it must be.
        if routes.set(gsi, message)? {
            self.publish(&routes)
        } else {
            Ok(())
        }
    }

    fn free_msi(&self, gsi: u32, fd: &EventFd) -> io::Result<()> {
        self.fd.unregister_irqfd(fd, gsi).map_err(os_error)?;
        // The stale route is harmless without its irqfd, and goes with the next publication.
        self.routes().free(gsi);
        Ok(())
    }

    #[expect(unsafe_code, reason = "KVM maps the monitor's memory into the guest")]
    fn show(&self, address: u64, memory: &Arc<MmapRegion>) -> io::Result<()> {
        let mut shown = lock(&self.shown);
        let free = |slot: &u32| shown.values().all(|(taken, _)| taken != slot);
        let slot = (FIRST_SHOWN_SLOT..)
            .find(free)
            .expect("memory runs out before slots do");
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: address,
            memory_size: memory.size() as u64,
            userspace_addr: memory.as_ptr() as u64,
            flags: KVM_MEM_READONLY,
        };
        // SAFETY: the region is mapped, is as large as said, and is kept until KVM has
        // forgotten it; KVM refuses what overlaps another slot.
        unsafe { self.fd.set_user_memory_region(region) }.map_err(os_error)?;
        shown.insert(address, (slot, Arc::clone(memory)));
        Ok(())
    }

    #[expect(unsafe_code, reason = "KVM unmaps the monitor's memory from the guest")]
    fn hide(&self, address: u64) -> io::Result<()> {
        let mut shown = lock(&self.shown);
        let Some((slot, _)) = shown.get(&address) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let nothing = kvm_userspace_memory_region {
            slot: *slot,
            guest_phys_addr: address,
            ..Default::default()
        };
        // SAFETY: a slot of no size is taken away; nothing is mapped.
        unsafe { self.fd.set_user_memory_region(nothing) }.map_err(os_error)?;
        shown.remove(&address);
        Ok(())
    }
}

/// Which GSIs are in use, and the message each raises.
struct Routes(Vec<Slot>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Free,
    Silent,
    Routed(MsiMessage),
}

impl Routes {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn allocate(&mut self) -> io::Result<u32> {
        let index = match self.0.iter().position(|slot| *slot == Slot::Free) {
            Some(index) => index,
            None => {
                self.0.push(Slot::Free);
                self.0.len() - 1
            }
        };
        let gsi = u32::try_from(index)
            .unwrap_or(u32::MAX)
            .saturating_add(FIRST_MSI);
        if gsi >= GSI_LIMIT {
            return Err(io::Error::other("no interrupt line is left"));
        }
        self.0[index] = Slot::Silent;
        Ok(gsi)
    }

    fn slot(&mut self, gsi: u32) -> Option<&mut Slot> {
        self.0.get_mut(gsi.checked_sub(FIRST_MSI)? as usize)
    }

    fn free(&mut self, gsi: u32) {
        if let Some(slot) = self.slot(gsi) {
            *slot = Slot::Free;
        }
    }

    /// Whether the route is another than before.
    fn set(&mut self, gsi: u32, message: MsiMessage) -> io::Result<bool> {
        match self.slot(gsi) {
            None | Some(Slot::Free) => Err(io::Error::other("the interrupt line isn't allocated")),
            Some(slot) => {
                let changed = *slot != Slot::Routed(message);
                *slot = Slot::Routed(message);
                Ok(changed)
            }
        }
    }

    fn table(&self) -> KvmIrqRouting {
        KvmIrqRouting::from_entries(&self.entries()).expect("GSI_LIMIT bounds the entries")
    }

    /// The whole table: the controllers' pins, then the messages. The PIT's
    /// line is pin 2 of the IOAPIC, as on every PC and as the MADT says; line
    /// 2 is the PICs' cascade and leads nowhere else.
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let pins = (0..layout::IOAPIC_PINS).flat_map(|line| {
            let pic = match line {
                0..8 => Some((KVM_IRQCHIP_PIC_MASTER, line)),
                8..16 => Some((KVM_IRQCHIP_PIC_SLAVE, line - 8)),
                _ => None,
            };
            let ioapic = match line {
                0 => Some((KVM_IRQCHIP_IOAPIC, layout::PIT_IOAPIC_PIN)),
                layout::PIT_IOAPIC_PIN => None,
                _ => Some((KVM_IRQCHIP_IOAPIC, line)),
            };
            pic.into_iter()
                .chain(ioapic)
                .map(move |(chip, pin)| irqchip_route(line, chip, pin))
        });
        let messages = (FIRST_MSI..)
            .zip(&self.0)
            .filter_map(|(gsi, slot)| match slot {
                Slot::Routed(message) => Some(msi_route(gsi, *message)),
                Slot::Free | Slot::Silent => None,
            });
        pins.chain(messages).collect()
    }
}

fn irqchip_route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 {
            irqchip: kvm_irq_routing_irqchip { irqchip, pin },
        },
        ..Default::default()
    }
}

fn msi_route(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let msi = kvm_irq_routing_msi {
        // The halves of the address.
        #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
        address_lo: message.address as u32,
        address_hi: (message.address >> 32) as u32,
        data: message.data,
        ..Default::default()
    };
    kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: MsiMessage = MsiMessage {
        address: 0xFEE0_0000,
        data: 0x31,
    };

    #[test]
    fn lines_are_numbered_after_the_ioapic_and_reused() {
        let mut routes = Routes::new();
        assert_eq!(routes.allocate().expect("room"), 24);
        assert_eq!(routes.allocate().expect("room"), 25);
        routes.free(24);
        assert_eq!(routes.allocate().expect("room"), 24);
    }

    #[test]
    fn the_same_message_again_changes_nothing() {
        let mut routes = Routes::new();
        let gsi = routes.allocate().expect("room");
        assert!(routes.set(gsi, MESSAGE).expect("allocated"));
        assert!(!routes.set(gsi, MESSAGE).expect("allocated"));
        assert!(
            routes
                .set(
                    gsi,
                    MsiMessage {
                        data: 0x32,
                        ..MESSAGE
                    }
                )
                .expect("allocated")
        );
    }

    #[test]
    fn a_line_that_was_never_given_cannot_be_routed() {
        let mut routes = Routes::new();
        assert!(routes.set(24, MESSAGE).is_err());
        assert!(routes.set(3, MESSAGE).is_err());
        let gsi = routes.allocate().expect("room");
        routes.free(gsi);
        assert!(routes.set(gsi, MESSAGE).is_err());
    }

    #[test]
    fn lines_run_out_before_kvm_does() {
        let mut routes = Routes::new();
        let given = std::iter::from_fn(|| routes.allocate().ok()).count();
        assert_eq!(given, 2048);
        assert_eq!(routes.table().as_slice().len(), 39);
    }

    #[test]
    fn the_table_keeps_the_pins_and_adds_the_messages() {
        let mut routes = Routes::new();
        let gsi = routes.allocate().expect("room");
        routes.allocate().expect("room");
        assert_eq!(routes.entries().len(), 39);
        routes.set(gsi, MESSAGE).expect("allocated");
        let entries = routes.entries();
        assert_eq!(entries.len(), 40);
        assert_eq!(entries[39].gsi, 24);
        assert_eq!(entries[39].type_, KVM_IRQ_ROUTING_MSI);
    }
}
