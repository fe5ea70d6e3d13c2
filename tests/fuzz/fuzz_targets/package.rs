//! The data of a Debian package: a tar archive, unpacked below a directory.
#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nestling::image::package;
use vmm_sys_util::tempdir::TempDir;

fuzz_target!(|data: &[u8]| {
    let root = TempDir::new_in(Path::new("/dev/shm")).expect("a temporary directory");
    let (package, target) = (root.as_path().join("a.deb"), root.as_path().join("out"));
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, data) in [("debian-binary", b"2.0\n".as_slice()), ("data.tar", data)] {
        let size = data.len();
        bytes.extend(
            format!(
                "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n",
                0, 0, 0, 100_644
            )
            .bytes(),
        );
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    }
    fs::write(&package, bytes).expect("room for it");
    let _ = package::unpack(&package, &target);
    let outside = fs::read_dir(root.as_path()).expect("it is there").count();
    assert!(outside <= 2, "written outside the target");
});
