//! Loading a kernel as a machine does, up to the vCPU's registers.

use nestling_arch::GuestMemory;
use nestling_arch::boot::{self, BootParams};
use vm_memory::{Bytes, GuestAddress};

/// RAM of the machine: enough for a kernel at 16 MiB.
const RAM: usize = 32 << 20;

/// Where kernels may begin; below are the machine's own tables.
const HIGH_RAM: u64 = 1 << 20;

/// Low memory is looked at in such steps: all of it would take most of a run.
const STEP: usize = 512;

/// Loads `image` and, if it is a kernel, all that belongs to its boot.
///
/// # Panics
/// If the loader wrote below 1 MiB, or an error is not one line.
pub fn load(image: &[u8]) {
    let mem = GuestMemory::from_ranges(&[(GuestAddress(0), RAM)]).expect("32 MiB can be mapped");
    let loaded = boot::load_kernel(&mem, image);
    for at in (0..HIGH_RAM).step_by(STEP) {
        let low: u64 = mem.read_obj(GuestAddress(at)).expect("it is RAM");
        assert_eq!(low, 0, "written at {at:#x}");
    }
    let kernel = match loaded {
        Ok(kernel) => kernel,
        Err(error) => {
            let text = error.to_string();
            assert_eq!(text.lines().count(), 1, "{text}");
            return;
        }
    };
    let size = image.len().min(4096);
    let initrd = boot::load_initrd(&mem, &kernel, &mut &image[..size], size as u64).ok();
    let cmdline = String::from_utf8_lossy(&image[..size]);
    let mut room = boot::module_room(&mem, &kernel, initrd.as_ref());
    let module = boot::load_module(&mem, &kernel, &mut room, &image[..size], &cmdline).ok();
    let params = BootParams {
        cmdline: if image.len() % 2 == 0 {
            "console=ttyS0"
        } else {
            &cmdline
        },
        initrd,
        modules: module.as_slice(),
        rsdp: GuestAddress(0xe_0000),
    };
    let _ = boot::write_boot_data(&mem, &kernel, &params);
    let _ = boot::boot_registers(&kernel);
}
