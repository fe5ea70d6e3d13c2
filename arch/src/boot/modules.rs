//! Modules: files that a kernel finds in memory besides itself, each with a
//! command line of its own. Multiboot and PVH carry them.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress};

use super::params::check_text;
use super::{Error, LoadedKernel, PAGE, Protocol, index, len_u64, room};
use crate::GuestMemory;
use crate::layout::{MODULES, MODULES_ROOM, PCI_HOLE_START};

/// A module in guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its bytes, from a page's start on.
    pub range: Range<u64>,
    /// Its command line: ASCII without NUL, perhaps empty.
    pub cmdline: String,
}

/// Where modules may be: after the kernel, where boot loaders put them, and
/// before the initrd.
#[must_use]
pub fn module_room(
    mem: &GuestMemory,
    kernel: &LoadedKernel,
    initrd: Option<&Range<u64>>,
) -> Range<u64> {
    let limit = initrd.map_or(PCI_HOLE_START, |initrd| initrd.start);
    room(mem, kernel, limit)
}

/// Copies a module to the first page in `room`, and takes that place out of it.
///
/// # Errors
/// If the kernel's boot protocol carries no modules, there is no place for this
/// one, or its command line can't be.
pub fn load_module(
    mem: &GuestMemory,
    kernel: &LoadedKernel,
    room: &mut Range<u64>,
    image: &[u8],
    cmdline: &str,
) -> Result<Module, Error> {
    if kernel.protocol == Protocol::Linux64 {
        return Err(Error::NoModules);
    }
    check_text(cmdline)?;
    let size = len_u64(image.len());
    let start = room.start.next_multiple_of(PAGE);
    let end = start.saturating_add(size);
    if end > room.end {
        return Err(Error::ModuleTooLarge {
            size,
            room: room.clone(),
        });
    }
    mem.write_slice(image, GuestAddress(start))
        .map_err(|source| Error::Write {
            what: "a module",
            source,
        })?;
    room.start = end;
    Ok(Module {
        range: start..end,
        cmdline: cmdline.to_owned(),
    })
}

/// Writes a list of modules, with their command lines behind it. `entry` makes an
/// entry of it from the module's place and the address of its command line, which
/// is 0 where that is empty.
pub(super) fn write_list<const N: usize>(
    mem: &GuestMemory,
    modules: &[Module],
    entry: impl Fn(&Range<u64>, u64) -> [u8; N],
) -> Result<(), Error> {
    let mut list = Vec::new();
    let mut texts = Vec::new();
    for Module { range, cmdline } in modules {
        if cmdline.is_empty() {
            list.extend(entry(range, 0));
        } else {
            let address = MODULES.0 + len_u64(modules.len() * N + texts.len());
            list.extend(entry(range, address));
            texts.extend(cmdline.bytes());
            texts.push(0);
        }
    }
    list.extend(texts);
    if list.len() > index(MODULES_ROOM) {
        return Err(Error::ModuleListTooLong {
            length: list.len(),
            max: index(MODULES_ROOM),
        });
    }
    mem.write_slice(&list, MODULES)
        .map_err(|source| Error::Write {
            what: "the list of modules",
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::super::Unpacked;
    use super::super::synthetic::{memory, read};
    use super::*;

    fn kernel() -> LoadedKernel {
        LoadedKernel {
            entry: GuestAddress(1 << 20),
            protocol: Protocol::Pvh,
            end: GuestAddress(0x10_0801),
            setup_header: None,
            max_cmdline: 2047,
            unpacked: Unpacked::Plain,
        }
    }

    #[test]
    fn modules_follow_the_kernel_page_by_page() {
        let mem = memory(4 << 20);
        let kernel = kernel();
        let mut room = module_room(&mem, &kernel, None);
        assert_eq!(room, 0x10_0801..0x40_0000);
        let first = load_module(&mem, &kernel, &mut room, &[1; 0x1001], "a=1,b c").unwrap();
        assert_eq!(first.range, 0x10_1000..0x10_2001);
        assert_eq!(first.cmdline, "a=1,b c");
        let second = load_module(&mem, &kernel, &mut room, &[2; 3], "").unwrap();
        assert_eq!(second.range, 0x10_3000..0x10_3003);
        assert_eq!(read(&mem, 0x10_2000, 2), [1, 0]);
        assert_eq!(read(&mem, 0x10_3000, 4), [2, 2, 2, 0]);
    }

    #[test]
    fn modules_end_before_the_initrd_and_the_ram() {
        let mem = memory(4 << 20);
        let initrd = 0x10_4000..0x40_0000;
        let kernel = kernel();
        let mut room = module_room(&mem, &kernel, Some(&initrd));
        let error = load_module(&mem, &kernel, &mut room, &[1; 0x3001], "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the module of 12289 bytes does not fit between 0x100801 and 0x104000; \
             give the machine more memory"
        );
        load_module(&mem, &kernel, &mut room, &[1; 0x3000], "").unwrap();
        load_module(&mem, &kernel, &mut room, &[1; 1], "").unwrap_err();
        // There is no RAM after the kernel at all.
        let high = LoadedKernel {
            end: GuestAddress(4 << 20),
            ..kernel.clone()
        };
        let mut room = module_room(&mem, &high, None);
        load_module(&mem, &kernel, &mut room, &[1; 1], "").unwrap_err();
    }

    #[test]
    fn linux_takes_no_modules() {
        let kernel = LoadedKernel {
            protocol: Protocol::Linux64,
            ..kernel()
        };
        let mut room = 0x10_0000..0x40_0000;
        let error = load_module(&memory(4 << 20), &kernel, &mut room, &[1], "").unwrap_err();
        assert!(matches!(error, Error::NoModules));
    }

    #[test]
    fn a_module_with_an_impossible_command_line_is_not_loaded() {
        let mem = memory(4 << 20);
        let kernel = kernel();
        let mut room = 0x10_0000..0x40_0000;
        let error = load_module(&mem, &kernel, &mut room, &[1; 1], "a\0b").unwrap_err();
        assert!(matches!(error, Error::CommandLineByte { position: 1, .. }));
        assert_eq!(room.start, 0x10_0000);
    }

    fn module(cmdline: &str) -> Module {
        Module {
            range: 0x10_0000..0x10_0001,
            cmdline: cmdline.to_owned(),
        }
    }

    #[test]
    fn a_list_has_its_command_lines_behind_it() {
        let mem = memory(4 << 20);
        let modules = ["one", "", "three"].map(module);
        write_list(&mem, &modules, |_, address| address.to_le_bytes()).unwrap();
        let at =
            |number: u64| -> u64 { mem.read_obj(GuestAddress(MODULES.0 + number * 8)).unwrap() };
        assert_eq!(read(&mem, at(0), 4), b"one\0");
        assert_eq!(at(1), 0);
        assert_eq!(read(&mem, at(2), 6), b"three\0");
    }

    #[test]
    fn a_list_that_is_too_long_is_refused() {
        let mem = memory(4 << 20);
        let most = index(MODULES_ROOM);
        let one = |length| [module(&"x".repeat(length))];
        write_list(&mem, &one(most - 9), |_, _| [0; 8]).unwrap();
        let error = write_list(&mem, &one(most - 8), |_, _| [0; 8]).unwrap_err();
        assert!(
            matches!(error, Error::ModuleListTooLong { length, max } if length == max + 1),
            "{error}"
        );
    }
}
