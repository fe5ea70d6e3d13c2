//! `nestling net switch`, joined by a guest of QEMU by vhost-user. The guest is
//! emulated, so that it runs without KVM.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nestling_tests::{binary, or_skip, skip};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const QEMU: &str = "qemu-system-x86_64";
const MAC: &str = "02:00:00:00:00:0a";

/// The page that guests fetch: more than fits any buffer on the way.
const PAGE: usize = 8 << 20;

/// What the guest does; `%PORT%` is where the page is.
const SCRIPT: &str = r#"
bb=/usr/bin/busybox
$bb cat > /lease <<'END'
#!/usr/bin/busybox sh
bb=/usr/bin/busybox
if [ "$1" = bound ]; then
    $bb ip address add $ip/$mask dev $interface
    $bb ip route add default via $router
    echo "LEASE $ip $router"
fi
END
$bb chmod +x /lease
$bb ip link set eth0 up
$bb udhcpc -i eth0 -s /lease -n -q || exit 1
$bb ping -c 2 192.168.100.1 || exit 2
echo PONG
$bb wget -q -O - http://192.168.100.1:%PORT%/page | $bb sha256sum || exit 3
"#;

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Ends it as a user would, who presses Control-C.
    #[expect(unsafe_code, reason = "the standard library has no kill(2)")]
    fn interrupt(&mut self) {
        let pid = libc::pid_t::try_from(self.0.id()).unwrap();
        // SAFETY: the child is not reaped yet, so that the number is its own.
        unsafe { libc::kill(pid, libc::SIGINT) };
        assert!(self.0.wait().unwrap().success());
    }
}

/// A switch with one port, and what a guest boots from.
struct Setup {
    folder: TempDir,
    switch: Running,
    page: Vec<u8>,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let page: Vec<u8> = (0u32..).flat_map(u32::to_le_bytes).take(PAGE).collect();
        let port = serve(page.clone());
        image(folder.path(), port);
        let at = |name: &str| folder.path().join(name).display().to_string();
        let switch = Command::new(binary::path())
            .args(["net", "switch", "--host-loopback", "on"])
            .args(["--control", &at("control")])
            .arg("--socket")
            .arg(format!(
                "{},mac={MAC},pcap={}",
                at("nic.sock"),
                at("nic.pcapng")
            ))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut switch = Running(switch);
        let said = BufReader::new(switch.0.stderr.take().unwrap())
            .lines()
            .next();
        assert!(
            said.unwrap().unwrap().contains(MAC),
            "the port is announced"
        );
        Self {
            folder,
            switch,
            page,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Boots the guest, and returns what it said.
    fn boot(&self) -> String {
        let socket = self.at("nic.sock");
        let socket = socket.display();
        let output = assert_cmd::Command::new(QEMU)
            .timeout(Duration::from_secs(300))
            .args([
                "-nodefaults",
                "-display",
                "none",
                "-serial",
                "stdio",
                "-no-reboot",
            ])
            .args(["-accel", "tcg", "-cpu", "max", "-m", "512M"])
            .args(["-machine", "q35,memory-backend=memory"])
            .args(["-object", "memory-backend-memfd,id=memory,size=512M"])
            .arg("-kernel")
            .arg(self.at("vmlinuz"))
            .arg("-initrd")
            .arg(self.at("initrd"))
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .arg("-chardev")
            .arg(format!("socket,id=switch,path={socket}"))
            .args(["-netdev", "vhost-user,id=net,chardev=switch"])
            .arg("-device")
            // Without MSI-X: QEMU 7.2 crashes when an emulated guest uses it
            // with vhost-user, whatever the back end.
            .arg(format!(
                "virtio-net-pci,netdev=net,mac={MAC},romfile=,vectors=0"
            ))
            .output()
            .unwrap();
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        let _ = write!(said, "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}");
        said
    }

    /// What the switch is doing.
    fn status(&self) -> Value {
        let output = binary::command()
            .args(["--format", "json", "net", "list", "--control"])
            .arg(self.at("control"))
            .output()
            .unwrap();
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Serves the page over HTTP to whoever asks; returns the port.
fn serve(page: Vec<u8>) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            if lines.any(|line| line.is_empty()) {
                let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", page.len());
                // A guest that breaks off fails by itself.
                let _ = (&stream).write_all(head.as_bytes());
                let _ = (&stream).write_all(&page);
            }
        }
    });
    port
}

/// Makes the kernel and the initramfs of a guest that runs the script.
fn image(folder: &Path, port: u16) {
    let script = SCRIPT.replace("%PORT%", &port.to_string());
    fs::write(folder.join("script"), script).unwrap();
    let argv = ["/usr/bin/busybox", "sh", "/script"];
    let order = json!({
        "version": 1,
        "level": 1,
        "modules": ["virtio_net"],
        "steps": [
            { "step": "workload", "kind": "program", "argv": argv },
            { "step": "workload", "kind": "power-off" },
        ],
    });
    fs::write(folder.join("order"), order.to_string()).unwrap();
    let script = folder.join("script");
    let output = binary::command()
        // The first build of all obtains the kernel.
        .timeout(Duration::from_secs(600))
        .args(["image", "build", "--program", "/bin/busybox"])
        .arg("--add")
        .arg(format!("{}:/script", script.display()))
        .arg("--order")
        .arg(folder.join("order"))
        .arg("--output")
        .arg(folder.join("initrd"))
        .arg("--kernel-output")
        .arg(folder.join("vmlinuz"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_guest_of_qemu_joins_the_switch_and_may_come_again() {
    or_skip!(skip::needs(QEMU));
    or_skip!(skip::needs("busybox"));
    let mut setup = Setup::new();
    let digest: String = Sha256::digest(&setup.page)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for _ in 0..2 {
        let said = setup.boot();
        for expected in ["LEASE 192.168.100.10 192.168.100.1", "PONG", &digest] {
            assert!(said.contains(expected), "no {expected} in:\n{said}");
        }
    }
    let status = setup.status();
    let status = status.get("network").unwrap_or(&status);
    let port = &status["ports"][1];
    assert_eq!(port["macs"], json!([MAC]), "{status}");
    let sent = port["sent_bytes"].as_u64().unwrap();
    assert!(sent > 2 * u64::try_from(PAGE).unwrap(), "{status}");
    let sent = port["sent_frames"].as_u64().unwrap();
    // Whole bursts: packets would be six thousand for each page.
    assert!(sent < 3000, "{status}");
    setup.switch.interrupt();
    assert!(!setup.at("nic.sock").exists());
    let mut magic = [0; 4];
    let mut recorded = File::open(setup.at("nic.pcapng")).unwrap();
    recorded.read_exact(&mut magic).unwrap();
    assert_eq!(magic, [0x0A, 0x0D, 0x0D, 0x0A]);
    let recorded = recorded.metadata().unwrap().len();
    assert!(recorded > u64::try_from(PAGE).unwrap(), "{recorded} bytes");
}
