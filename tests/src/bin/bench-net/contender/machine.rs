//! A guest of QEMU, emulated on any host, with one contender behind its NIC.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Contender, await_that, nestling};
use crate::Failure;
use crate::lab::{HOST, Lab, Place, Process, find};
use crate::traffic::{Client, PATIENCE, PORTS, READY, Request, answer};

/// How long a guest may take to boot.
const BOOT: Duration = Duration::from_secs(120);

/// What all guests boot: nestling's image, with this program in it.
#[derive(Debug)]
pub(crate) struct Image {
    kernel: PathBuf,
    /// Its initramfs.
    pub(crate) initrd: PathBuf,
}

impl Image {
    /// Builds the image for a guest in which this program plays a role, or finds it
    /// in the cache.
    pub(crate) fn build(folder: &Path, role: &str) -> Result<Self, Failure> {
        let order = folder.join("order.json");
        let step = json!({
            "step": "workload", "kind": "program", "argv": ["/bench/bench-net", role],
        });
        let modules = ["virtio_pci", "virtio_net"];
        let text = json!({"version": 1, "level": 0, "modules": modules, "steps": [step]});
        std::fs::write(&order, text.to_string())?;
        let own = std::env::current_exe()?;
        let output = Command::new(nestling::binary()?)
            .args(["--format", "json", "image", "build", "--order"])
            .arg(&order)
            .arg("--add")
            .arg(format!("{}:/bin/busybox", find("busybox")?.display()))
            .arg("--add")
            .arg(format!("{}:/bench/bench-net", own.display()))
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().into());
        }
        let built: Value = serde_json::from_slice(&output.stdout)?;
        let path = |name: &str| -> Result<PathBuf, Failure> {
            let path = built[name].as_str().ok_or("no path of the image")?;
            Ok(path.into())
        };
        Ok(Self {
            kernel: path("kernel")?,
            initrd: path("initramfs")?,
        })
    }
}

/// A guest that runs. It ends with what is behind its NIC.
#[derive(Debug)]
pub(crate) struct Machine {
    qemu: Process,
    backend: Option<Process>,
    /// The first of the ports of the guest's servers, at the host's address.
    pub(crate) first: u16,
}

/// What stands behind a NIC.
struct Backend {
    process: Option<Process>,
    /// QEMU's arguments.
    netdev: Vec<String>,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
    /// The largest that the contender takes.
    mtu: u32,
    first: u16,
}

impl Machine {
    /// Boots a guest with a contender behind its NIC.
    pub(crate) fn boot(contender: Contender, lab: &Lab, image: &Image) -> Result<Self, Failure> {
        let place = Place {
            namespace: Some(&lab.host),
            cpu: None,
        };
        let backend = match contender {
            Contender::Veth => return Err("QEMU has no veth".into()),
            Contender::Passt => passt(lab, &place)?,
            Contender::Slirp => slirp(),
            Contender::Nestling => switch(lab, &place)?,
        };
        let mut command = Command::new(find("qemu-system-x86_64")?);
        command
            .args(["-machine", "q35,memory-backend=memory", "-accel", "tcg"])
            .args(["-cpu", "max", "-smp", "1", "-m", "512"])
            // What is behind a vhost-user port sees the guest's memory.
            .args([
                "-object",
                "memory-backend-memfd,id=memory,size=512M,share=on",
            ])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initrd)
            .args(["-append", "console=ttyS0 quiet panic=-1"])
            .args(["-serial", "null", "-serial", "stdio"])
            .args(&backend.netdev)
            // QEMU 7.2 crashes under TCG where MSI-X meets vhost-user.
            .args([
                "-device",
                &format!("virtio-net-pci,netdev=net0,mac={MAC},vectors=0"),
            ]);
        let qemu = Process::start("QEMU", command, &place)?;
        let mut machine = Self {
            qemu,
            backend: backend.process,
            first: backend.first,
        };
        let said = machine.qemu.line(BOOT)?;
        if said != READY {
            return Err(format!("the guest says {said:?}").into());
        }
        let configure = Request::Configure {
            address: backend.address,
            gateway: backend.gateway,
            mtu: backend.mtu,
            first: backend.first,
        };
        machine.ask(&configure, PATIENCE)?;
        Ok(machine)
    }

    /// Runs a client in the guest and reads what it measured.
    pub(crate) fn run<T: DeserializeOwned>(&mut self, client: Client) -> Result<T, Failure> {
        let within = client.duration() + 3 * PATIENCE;
        let said = self.ask(&Request::Client(client), within)?;
        Ok(serde_json::from_str(&said)?)
    }

    /// Fails if the guest or what is behind its NIC has died.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        self.qemu.check()?;
        self.backend.as_mut().map_or(Ok(()), Process::check)
    }

    fn ask(&mut self, request: &Request, within: Duration) -> Result<String, Failure> {
        self.qemu.tell(&request.line())?;
        let said = self.qemu.line(within)?;
        answer(&said).map(str::to_owned)
    }
}

/// passt, with a socket that carries frames.
fn passt(lab: &Lab, place: &Place<'_>) -> Result<Backend, Failure> {
    let (first, address, gateway) = (5200, super::pasta::GUEST, super::pasta::GATEWAY);
    let socket = lab.folder().join("passt.sock");
    let mtu = 65520;
    let mut command = Command::new(find("passt")?);
    command
        .args(["--foreground", "--quiet", "--runas", "0"])
        .args(super::pasta::network(mtu, first))
        .arg("--socket")
        .arg(&socket);
    let mut process = Process::start("passt", command, place)?;
    await_that("passt makes its socket", &mut process, || {
        Ok(socket.exists())
    })?;
    let path = socket.display();
    let netdev = format!("stream,id=net0,server=off,addr.type=unix,addr.path={path}");
    Ok(Backend {
        process: Some(process),
        netdev: vec!["-netdev".into(), netdev],
        address,
        gateway,
        mtu,
        first,
    })
}

/// libslirp, which is a part of QEMU.
fn slirp() -> Backend {
    let (first, address) = (5300, Ipv4Addr::new(10, 0, 2, 15));
    let mut netdev = "user,id=net0".to_owned();
    for port in first..first + PORTS {
        for protocol in ["tcp", "udp"] {
            netdev.push_str(&format!(
                ",hostfwd={protocol}:{HOST}:{port}-{address}:{port}"
            ));
        }
    }
    Backend {
        process: None,
        netdev: vec!["-netdev".into(), netdev],
        address,
        gateway: Ipv4Addr::new(10, 0, 2, 2),
        mtu: 1500,
        first,
    }
}

/// The address of the guest's NIC: the first that QEMU itself would give.
const MAC: &str = "52:54:00:12:34:56";

/// nestling's switch, by a vhost-user port.
fn switch(lab: &Lab, place: &Place<'_>) -> Result<Backend, Failure> {
    let first = 5400;
    let socket = lab.folder().join("vhost.sock");
    let mtu = 65520;
    let mut command = Command::new(nestling::binary()?);
    command
        .args(["net", "switch"])
        .args(nestling::network(mtu, first))
        .arg("--socket")
        .arg(format!("{},mac={MAC}", socket.display()));
    let mut process = Process::start("nestling", command, place)?;
    await_that("nestling makes its socket", &mut process, || {
        Ok(socket.exists())
    })?;
    let chardev = format!("socket,id=switch,path={}", socket.display());
    let netdev = "vhost-user,id=net0,chardev=switch";
    Ok(Backend {
        process: Some(process),
        netdev: ["-chardev", &chardev, "-netdev", netdev]
            .map(str::to_owned)
            .into(),
        address: nestling::GUEST,
        gateway: nestling::GATEWAY,
        mtu,
        first,
    })
}
