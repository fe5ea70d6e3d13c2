//! DHCP clients, and what they say of their leases.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use super::{Lab, command, eventually, namespace};

/// What a client told its script: the variables of one event, by their names.
pub type Event = BTreeMap<String, String>;

/// A client at work in the guest. Dropping it ends it, without a release.
pub struct Client {
    child: Child,
    /// Where its script writes what it is told.
    told: PathBuf,
    said: PathBuf,
    /// How many events of each name were waited for.
    seen: BTreeMap<String, usize>,
}

impl Client {
    /// busybox's udhcpc on `interface`, which stays until it is ended.
    #[must_use]
    pub fn udhcpc(lab: &Lab, interface: &str, arguments: &[&str]) -> Self {
        let script = r#"[ -z "$ip" ] || ip address replace "$ip/$mask" dev "$interface""#;
        let start = ["udhcpc", "-f", "-i", interface, "-t", "8", "-T", "1"];
        Self::start(lab, "busybox", interface, script, "-s", |command| {
            command.args(start).args(arguments);
        })
    }

    /// ISC's dhclient on `interface`, for `family` "-4" or "-6".
    #[must_use]
    pub fn dhclient(lab: &Lab, interface: &str, family: &str) -> Self {
        let script = r#"case $reason in
            PREINIT*) ip link set "$interface" up ;;
            BOUND | REBOOT) ip address replace "$new_ip_address/24" dev "$interface" ;;
            BOUND6) ip address replace "$new_ip6_address/128" dev "$interface" ;;
        esac"#;
        Self::start(lab, "dhclient", interface, script, "-sf", |command| {
            command
                .args([family, "-d"])
                .args(dhclient_files(lab, family))
                .arg(interface);
        })
    }

    /// Has dhclient give its lease back; the one at work ends.
    pub fn release_dhclient(lab: &Lab, interface: &str, family: &str) {
        lab.guest.enter(|| {
            let output = command("dhclient", &[family, "-r", "-sf", "/bin/true"])
                .args(dhclient_files(lab, family))
                .arg(interface)
                .output()
                .expect("dhclient can be run");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "dhclient -r: {said}");
        });
    }

    /// dhcpcd on `interface`, with the lines of `settings`, for both families.
    #[must_use]
    pub fn dhcpcd(lab: &Lab, interface: &str, settings: &str) -> Self {
        let file = lab.path("dhcpcd.conf");
        fs::write(&file, settings).expect("the lab's folder is writable");
        // It has helpers, which would outlive it where it has no time to end
        // them: in a process namespace they can't.
        Self::start(lab, "unshare", interface, "", "-c", |command| {
            command
                .args(["--pid", "--fork", "--kill-child", "dhcpcd", "-B", "-f"])
                .arg(file)
                .arg(interface);
        })
    }

    fn start(
        lab: &Lab,
        program: &str,
        interface: &str,
        reaction: &str,
        script_flag: &str,
        arguments: impl FnOnce(&mut std::process::Command) + Send,
    ) -> Self {
        let file = |kind: &str| lab.path(&format!("{program}-{interface}.{kind}"));
        let [script, told, said] = ["sh", "told", "said"].map(file);
        // udhcpc names the event by an argument, the others by a variable.
        let text = format!(
            "#!/bin/sh\n{reaction}\n{{ echo \"event=${{1:-$reason}}\"; env; echo; }} >>'{}'\n",
            told.display()
        );
        for path in [&told, &said] {
            File::create(path).expect("the lab's folder is writable");
        }
        fs::write(&script, text).expect("the lab's folder is writable");
        fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("one's own file");
        let output = File::options().append(true).open(&said).expect("just made");
        let child = lab.guest.enter(|| {
            let mut command = command(program, &[]);
            arguments(&mut command);
            command
                .env_clear()
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .arg(script_flag)
                .arg(&script)
                .stdin(Stdio::null())
                .stdout(output.try_clone().expect("a descriptor"))
                .stderr(output)
                .spawn()
                .unwrap_or_else(|error| panic!("{program}: {error}"))
        });
        Self {
            child,
            told,
            said,
            seen: BTreeMap::new(),
        }
    }

    /// The next event of this name, once it has come.
    ///
    /// # Panics
    /// If it doesn't come, with what the client said.
    pub fn event(&mut self, name: &str) -> Event {
        let event = eventually(&format!("event {name}"), || {
            if matches!(self.child.try_wait(), Ok(Some(_))) && self.find(name).is_none() {
                panic!("the client ended before {name}: {}", self.said());
            }
            self.find(name)
        });
        *self.seen.entry(name.into()).or_default() += 1;
        event
    }

    fn find(&self, name: &str) -> Option<Event> {
        let text = fs::read_to_string(&self.told).unwrap_or_default();
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
        let events = whole.split("\n\n").map(event);
        let mut named = events.filter(|event| event.get("event").is_some_and(|of| of == name));
        named.nth(self.seen.get(name).copied().unwrap_or(0))
    }

    /// What the client has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// Sends the client a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: libc::c_int) {
        namespace::signal(self.child.id(), signal).expect("the client is at work");
    }

    /// Waits until the client ends by itself.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn wait(&mut self) {
        eventually("the client ends", || self.child.try_wait().ok().flatten());
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // libtest shows this with the test that failed.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("the client said: {}", self.said());
            }
        }
        // Neither fails for one that ended meanwhile.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn event(text: &str) -> Event {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

/// The files that dhclient keeps, and what it asks for.
fn dhclient_files(lab: &Lab, family: &str) -> Vec<PathBuf> {
    let settings = lab.path("dhclient.conf");
    let text = "option classless-routes code 121 = array of unsigned integer 8;\n\
        send host-name \"lab\";\n\
        send fqdn.fqdn \"lab\";\n\
        request subnet-mask, routers, domain-name, domain-name-servers, interface-mtu, \
        classless-routes;\n\
        also request dhcp6.name-servers, dhcp6.domain-search;\n";
    fs::write(&settings, text).expect("the lab's folder is writable");
    let leases = lab.path(&format!("dhclient{family}.leases"));
    let running = lab.path(&format!("dhclient{family}.pid"));
    let pairs = [("-cf", settings), ("-lf", leases), ("-pf", running)];
    pairs
        .into_iter()
        .flat_map(|(flag, path)| [PathBuf::from(flag), path])
        .collect()
}
