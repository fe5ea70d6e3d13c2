use nestling_arch::{GuestMemory, boot};
use vm_memory::{GuestAddress, Bytes};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let image = std::fs::read(&a[1]).unwrap();
    let size: usize = a.get(2).map_or(512, |s| s.parse().unwrap());
    let mem = GuestMemory::from_ranges(&[(GuestAddress(0), size << 20)]).unwrap();
    let t = std::time::Instant::now();
    let k = match boot::load_kernel(&mem, &image) { Ok(k) => k, Err(e) => { println!("{e} {:?}", std::error::Error::source(&e)); return } };
    println!("{:?} entry {:#x} end {:#x} {:?} {:?} max {}", t.elapsed(), k.entry.0, k.end.0, k.protocol, k.unpacked, k.max_cmdline);
    let initrd = vec![1u8; 20 << 20];
    let r = boot::load_initrd(&mem, &k, &mut &initrd[..], initrd.len() as u64).unwrap();
    println!("initrd {:x?}", r);
    boot::write_boot_data(&mem, &k, &boot::BootParams { cmdline: "console=ttyS0", initrd: Some(r), rsdp: GuestAddress(0xe0000) }).unwrap();
    if let Some(elf) = a.get(3) {
        let f = std::fs::read(elf).unwrap();
        let n = u16::from_le_bytes(f[56..58].try_into().unwrap()) as usize;
        for i in 0..n {
            let p = &f[64 + 56 * i..];
            let q = |o: usize| u64::from_le_bytes(p[o..o + 8].try_into().unwrap());
            if p[0] != 1 { continue }
            let (o, pa, fs, ms) = (q(8) as usize, q(24), q(32) as usize, q(40) as usize);
            let mut b = vec![0; ms];
            mem.read_slice(&mut b, GuestAddress(pa)).unwrap();
            println!("seg {pa:#x} same {} zero {}", b[..fs] == f[o..o + fs], b[fs..].iter().all(|x| *x == 0));
        }
    }
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    for l in s.lines().filter(|l| l.starts_with("Rss") || l.starts_with("VmHWM")) { println!("{l}"); }
}
