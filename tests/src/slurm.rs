//! A Slurm cluster of two nodes, both of which are this machine: Debian's slurmctld,
//! slurmd and munged with a configuration, ports and a key of their own, for as long as
//! a test takes.

use std::fmt::Write as _;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const MUNGED: &str = "/usr/sbin/munged";
const SLURMCTLD: &str = "/usr/sbin/slurmctld";
const SLURMD: &str = "/usr/sbin/slurmd";
/// The variable by which Slurm's commands find the cluster.
pub const VARIABLE: &str = "SLURM_CONF";
const NODES: [&str; 2] = ["one", "two"];
/// How long the cluster may take to start, or its jobs to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    daemons: Vec<Child>,
}

impl Cluster {
    /// Starts one, and waits until its nodes are there.
    ///
    /// # Errors
    /// The reason for a skip.
    ///
    /// # Panics
    /// If what is installed doesn't start.
    pub fn start() -> Result<Self, String> {
        for program in [MUNGED, SLURMCTLD, SLURMD] {
            if !Path::new(program).exists() {
                return Err(format!("{program} is not installed"));
            }
        }
        let folder = tempfile::tempdir().expect("a folder for the cluster");
        let mut cluster = Self {
            folder,
            daemons: Vec::new(),
        };
        cluster.write().expect("the cluster's files");
        cluster.start_daemons().expect("the cluster's daemons");
        cluster.wait("idle nodes", || {
            let states = cluster.ask("sinfo", &["--noheader", "--Node", "--format=%T"]);
            states.lines().filter(|state| *state == "idle").count() == NODES.len()
        });
        Ok(cluster)
    }

    /// Its configuration, for [`VARIABLE`].
    #[must_use]
    pub fn configuration(&self) -> PathBuf {
        self.path("slurm.conf")
    }

    /// What one of Slurm's commands prints.
    ///
    /// # Panics
    /// If it can't be run.
    #[must_use]
    pub fn ask(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program)
            .args(arguments)
            .env(VARIABLE, self.configuration())
            .output()
            .expect("Slurm's commands come with its daemons");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until something is there.
    ///
    /// # Panics
    /// If it doesn't come, with what the daemons have said.
    pub fn wait(&self, what: &str, mut there: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !there() {
            assert!(begin.elapsed() < PATIENCE, "no {what}: {}", self.said());
            sleep(Duration::from_millis(100));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self) -> io::Result<()> {
        // The socket's folder has to be open to all, as munged sees to.
        fs::set_permissions(self.folder.path(), Permissions::from_mode(0o755))?;
        let mut key = [0; 128];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        fs::write(self.path("key"), key)?;
        fs::set_permissions(self.path("key"), Permissions::from_mode(0o600))?;
        for folder in ["state"].iter().chain(&NODES) {
            fs::create_dir(self.path(folder))?;
        }
        fs::write(self.configuration(), self.slurm_conf()?)
    }

    /// slurm.conf(5): everything at the loopback address, nothing of cgroups, no
    /// accounting.
    fn slurm_conf(&self) -> io::Result<String> {
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
        let host = host.trim().split('.').next().unwrap_or_default();
        let user = Command::new("id").arg("-un").output()?.stdout;
        let user = String::from_utf8_lossy(&user).trim().to_owned();
        // Held together, so that no two are the same.
        let ports: Vec<TcpListener> = (0..=NODES.len())
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<io::Result<_>>()?;
        let port = |index: usize| -> io::Result<u16> { Ok(ports[index].local_addr()?.port()) };
        let folder = self.folder.path().display();
        let mut conf = format!(
            "ClusterName=nestling\n\
             SlurmctldHost={host}(127.0.0.1)\n\
             SlurmctldPort={}\n\
             SlurmUser={user}\n\
             SlurmdUser={user}\n\
             AuthType=auth/munge\n\
             AuthInfo=socket={folder}/munge\n\
             ProctrackType=proctrack/linuxproc\n\
             TaskPlugin=task/none\n\
             SelectType=select/cons_tres\n\
             JobAcctGatherType=jobacct_gather/none\n\
             AccountingStorageType=accounting_storage/none\n\
             MpiDefault=none\n\
             SlurmdParameters=config_overrides\n\
             StateSaveLocation={folder}/state\n\
             SlurmdSpoolDir={folder}/%n\n\
             SlurmctldPidFile={folder}/slurmctld.pid\n\
             SlurmdPidFile={folder}/%n.pid\n\
             PartitionName=all Nodes=ALL Default=YES\n",
            port(NODES.len())?
        );
        for (index, node) in NODES.iter().enumerate() {
            let port = port(index)?;
            writeln!(
                conf,
                "NodeName={node} NodeAddr=127.0.0.1 Port={port} CPUs=1"
            )
            .expect("a string takes all");
        }
        Ok(conf)
    }

    fn start_daemons(&mut self) -> io::Result<()> {
        let option = |name: &str, file: &str| format!("--{name}={}", self.path(file).display());
        let munged = vec![
            // The folder is below one that all can write to.
            "--force".to_owned(),
            "--foreground".to_owned(),
            option("key-file", "key"),
            option("socket", "munge"),
            option("pid-file", "munge.pid"),
            option("seed-file", "munge.seed"),
            option("log-file", "munge.log"),
        ];
        self.spawn(MUNGED, "munged", &munged)?;
        self.wait("munged's socket", || self.path("munge").exists());
        self.spawn(SLURMCTLD, "slurmctld", &["-D".to_owned()])?;
        for node in NODES {
            let options = ["-D", "-N", node].map(str::to_owned);
            self.spawn(SLURMD, node, &options)?;
        }
        Ok(())
    }

    fn spawn(&mut self, program: &str, name: &str, options: &[String]) -> io::Result<()> {
        let log = File::create(self.path(&format!("{name}.said")))?;
        let daemon = Command::new(program)
            .args(options)
            .env(VARIABLE, self.configuration())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.daemons.push(daemon);
        Ok(())
    }

    /// What the daemons have said.
    fn said(&self) -> String {
        ["munged", "slurmctld"]
            .iter()
            .chain(&NODES)
            .map(|name| fs::read_to_string(self.path(&format!("{name}.said"))))
            .map(Result::unwrap_or_default)
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Tasks outlive their daemons.
        let _ = self.ask("scancel", &["--name=nestling-bench"]);
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE && !self.ask("squeue", &["--noheader"]).is_empty() {
            sleep(Duration::from_millis(100));
        }
        // In the other order than they were started.
        for mut daemon in self.daemons.drain(..).rev() {
            let _ = Command::new("kill").arg(daemon.id().to_string()).status();
            let _ = daemon.wait();
        }
    }
}
