//! `nestling nest`: a chain of levels.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use nestling_arch::hyperv;
use nestling_arch::nested::Request as Nested;
use nestling_arch::template::Template;

use super::{Failure, Format, Verdict, print_result};
use crate::api::message::NestInfo;
use crate::api::nest::NestApi;
use crate::api::{self, Answer, Server, directory};
use crate::config::TemplateSource;
use crate::console::terminal::{self, RawMode};
use crate::image::{self, Addition, Image, kernel};
use crate::memory;
use crate::metal::{self, Metal};
use crate::monitor::Monitor;
use crate::nest::network::{Host, HostPage, Kind};
use crate::nest::plan;
use crate::nest::report::Report;
use crate::nest::screen::{Screen, Style};
use crate::nest::start::{self, Start};
use crate::nest::{self, table::table};
use crate::order::{Kvm, Nest as Plan};
use crate::signals::Signals;
use crate::size::Size;

const EXAMPLES: &str = "\
Examples:
  L1 on this host, or on an emulated processor where the host can't nest; L2 says hello:
    nestling nest

  Three levels on emulated AMD-V, and a shell in the innermost:
    nestling nest --metal svm --depth 3 --workload shell

  What L2 costs without EPT on emulated VT-x:
    nestling nest --metal vmx --nested vmx,-ept

  A program of this host's, with its libraries, in L2 with two vCPUs:
    nestling nest --cpus 2 --workload /usr/bin/lscpu

  What would be booted, and that again with changes:
    nestling nest --print-plan > plan.json
    nestling nest --plan plan.json";

/// The flags of `nestling nest`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Nest {
    /// How many levels above L0
    #[arg(long, value_name = "N", default_value_t = 2)]
    depth: u8,

    /// What the deepest level runs: hello, shell, probe, cpu-dump, cpuid N, or a program with its
    /// arguments
    #[arg(long, value_name = "WORDS", num_args = 1.., default_value = "hello",
          allow_hyphen_values = true)]
    workload: Vec<String>,

    /// vCPUs of L1, L2 and so on; the last counts for the rest
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1")]
    cpus: Vec<u32>,

    /// The deepest level's memory; each level above gets what it needs on top
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    memory: Size,

    /// What L0 runs on: auto, host, svm (QEMU) or vmx (Bochs)
    #[arg(long, value_name = "METAL", default_value_t = metal::Request::Auto)]
    metal: metal::Request,

    /// What of VMX or SVM a level is shown: auto, on, off, vmx or svm, and controls, as in
    /// vmx,-ept,-vpid; may be repeated for L1, L2 and so on, and the last counts for the rest
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "on",
        allow_hyphen_values = true
    )]
    nested: Vec<Nested>,

    /// What the levels above L0 see of the processor: a template's name (see `nestling cpu
    /// templates`) or file [default: all that KVM gives]
    #[arg(long, value_name = "TEMPLATE")]
    cpu_template: Option<TemplateSource>,

    /// What of Hyper-V's interface a level is shown, in place of KVM's: off, on, on,-NAME... or
    /// NAME,... of enlightenments; may be repeated as --nested [default: off]
    #[arg(long, value_name = "WHAT", allow_hyphen_values = true)]
    hyperv: Vec<hyperv::Request>,

    /// The processor of an emulated metal: a model of `qemu-system-x86_64 -cpu help` for svm, of
    /// `bochs --help cpu` for vmx
    #[arg(long, value_name = "MODEL")]
    metal_cpu: Option<metal::Model>,

    /// How levels above L1 reach the network: bridge (each is a full member of the one that L1
    /// is on), nat (each level runs one for the next) or off
    #[arg(long, value_name = "HOW", default_value_t = Kind::Bridge)]
    l2_net: Kind,

    /// Give up after this many seconds [default: what suits the metal and the depth]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,

    /// The kernel of every level: a package, a .deb, a bzImage, or `host`
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<kernel::Source>,

    /// The kernel's modules, where --kernel names a bzImage
    #[arg(long, value_name = "FOLDER")]
    modules: Option<PathBuf>,

    /// Further arguments for every level's kernel
    #[arg(long, value_name = "TEXT", default_value = "")]
    cmdline: String,

    /// A disk for L0 of an emulated metal, which is /dev/vda there; may be repeated
    #[arg(long, value_name = "FILE")]
    disk: Vec<PathBuf>,

    /// A program to take into the image with its shared libraries; may be repeated
    #[arg(long, value_name = "FILE")]
    program: Vec<PathBuf>,

    /// A file or folder to take into the image: SOURCE[:/DESTINATION]; may be repeated
    #[arg(long, value_name = "FILE")]
    add: Vec<Addition>,

    /// Let the svm metal's clock count instructions, so that a run repeats
    #[arg(long)]
    count_instructions: bool,

    /// Boot the levels that this file describes, as --print-plan writes it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["depth", "workload", "cpus", "memory", "nested", "cpu_template", "hyperv", "l2_net", "sample", "trace"])]
    plan: Option<PathBuf>,

    /// Print what would be booted, as JSON, and end
    #[arg(long)]
    print_plan: bool,

    /// Report every level's counts so often, besides when its steps begin and end; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    sample: u32,

    /// Count exits by reason too, and split those of L2 and above into handled below and
    /// reflected, by KVM's tracepoints
    #[arg(long)]
    trace: bool,

    /// Write every event of every level into this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    events_output: Option<PathBuf>,

    /// Also show what each level does, besides what it prints
    #[arg(long, short)]
    verbose: bool,
}

impl Nest {
    /// Boots the nest, shows its consoles, and reports on every level.
    pub(super) fn execute(self, format: Format) -> Result<Verdict, Failure> {
        // Before any thread or child starts, so that all are covered.
        let signals = Signals::block(&[libc::SIGINT, libc::SIGTERM, libc::SIGHUP])
            .map_err(Failure::failed)?;
        let template = self.template()?;
        let choice = metal::choose(self.metal, &start::host_facts(), Metal::missing)
            .map_err(Failure::failed)?;
        if choice.metal == Metal::Host && self.metal_cpu.is_some() {
            return Err(Failure::usage(
                "--metal-cpu: on --metal host the processor is this host's; --cpu-template makes \
                 another of it for guests",
            ));
        }
        let image = image::build(&self.image_options()).map_err(Failure::failed)?;
        let page = self.host_page(choice.metal);
        let host = page.as_ref().map_or(Host::EMULATED, |page| page.host);
        let plan = self.plan(choice.metal, &image, host, template)?;
        self.check_disks(choice.metal)?;
        if self.print_plan {
            let mut text = serde_json::to_string_pretty(&plan).map_err(Failure::failed)?;
            text.push('\n');
            print_result(&text)?;
            return Ok(Verdict::Done);
        }
        tracing::info!("{}", choice.reason);
        let report = self.run(choice.metal, &plan, &image, &signals, format)?;
        match format {
            Format::Text => print_result(&table(&report))?,
            Format::Json => {
                let text = serde_json::to_string(&report).map_err(Failure::failed)?;
                print_result(&format!("{text}\n"))?;
            }
        }
        Ok(if report.ok {
            Verdict::Done
        } else {
            Verdict::Failed
        })
    }

    /// The page that this host serves to the nest, where it is the host of L1
    /// itself and the nest is to ask for it.
    fn host_page(&self, metal: Metal) -> Option<HostPage> {
        if metal != Metal::Host || self.l2_net == Kind::Off || self.plan.is_some() {
            return None;
        }
        let page = HostPage::serve();
        page.inspect_err(|error| tracing::warn!("this host serves no page to the nest: {error}"))
            .ok()
    }

    fn image_options(&self) -> image::Options {
        let program = self.workload.first().map(PathBuf::from);
        image::Options {
            kernel: self.kernel.clone().unwrap_or_default(),
            modules: self.modules.clone(),
            // A path names a program of this host's; a bare word one of the image's.
            programs: program
                .into_iter()
                .filter(|path| path.is_absolute())
                .chain(self.program.iter().cloned())
                .collect(),
            additions: self.add.clone(),
            ..image::Options::default()
        }
    }

    fn plan(
        &self,
        metal: Metal,
        image: &Image,
        host: Host,
        cpu_template: Option<Template>,
    ) -> Result<Plan, Failure> {
        if let Some(path) = &self.plan {
            let text = fs::read(path).map_err(|error| {
                Failure::usage(format!("can't read the plan {}: {error}", path.display()))
            })?;
            return Plan::parse(&text)
                .map_err(|error| Failure::usage(format!("the plan {}: {error}", path.display())));
        }
        let workload = plan::workload(&self.workload)
            .ok_or_else(|| Failure::usage("--workload names nothing to run"))?;
        let mib = |bytes: u64| u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        let available = memory::available_memory().map_or(u64::MAX, Size::bytes);
        let scale = metal.time_scale();
        let request = plan::Request {
            first: u8::from(metal == Metal::Host),
            depth: self.depth,
            workload,
            cpus: self.cpus.clone(),
            memory_mib: mib(self.memory.bytes()),
            memory_limit_mib: metal
                .max_memory_mib()
                .unwrap_or(u32::MAX)
                .min(mib(available)),
            image_mib: start::image_mib(image).map_err(Failure::failed)?,
            nested: self.nested.clone(),
            cpu_template,
            hyperv: self.hyperv.clone(),
            cmdline: self.level_arguments(metal),
            monitor: Monitor::default(),
            kvm: Kvm {
                common: metal.kvm_parameters().to_owned(),
                ..Kvm::default()
            },
            network: self.l2_net,
            host,
            timeout_s: self.timeout.unwrap_or(60 * scale * u32::from(self.depth)),
            silence_s: 10 * scale,
            sample_s: self.sample,
            trace: self.trace,
        };
        plan::plan(&request).map_err(Failure::usage)
    }

    /// What every level's kernel is told besides what nestling itself needs.
    fn level_arguments(&self, metal: Metal) -> String {
        let arguments = format!("{} {}", metal.level_arguments(), self.cmdline);
        arguments.trim().to_owned()
    }

    fn template(&self) -> Result<Option<Template>, Failure> {
        let source = self.cpu_template.clone();
        let read = source.map(TemplateSource::read).transpose();
        read.map_err(|error| Failure::usage(format!("--cpu-template: {error}")))
    }

    fn run(
        &self,
        metal: Metal,
        plan: &Plan,
        image: &Image,
        signals: &Signals,
        format: Format,
    ) -> Result<Report, Failure> {
        let log = self.event_log()?;
        let start = Start {
            metal,
            image,
            cmdline: &self.level_arguments(metal),
            processor: self.metal_cpu.as_ref(),
            disks: &self.disk,
            count_instructions: self.count_instructions,
        };
        let machine = start.machine(plan).map_err(Failure::failed)?;
        // A console handed over by an emulator is relayed; the monitor sets its own terminal.
        let _raw = if plan.raw_console && metal != Metal::Host {
            RawMode::enter(&io::stdin()).map_err(Failure::failed)?
        } else {
            None
        };
        let out = io::stderr();
        let columns = terminal::size(&out)
            .filter(|_| out.is_terminal())
            .map(|(columns, _)| columns.into());
        let style = Style::detect(columns.filter(|_| !plan.raw_console), self.verbose);
        // JSON has standard output for itself.
        let sink: Box<dyn Write> = match format {
            Format::Text => Box::new(io::stdout()),
            Format::Json => Box::new(out),
        };
        let mut screen = Screen::new(sink, style);
        let api = Arc::new(NestApi::new(NestInfo {
            metal: metal.to_string(),
            emulated: plan.order.level == 0,
            depth: nest::depth(plan),
        }));
        let _server = listen(&api);
        nest::run(
            &metal.to_string(),
            plan,
            machine,
            Some(signals),
            &mut screen,
            log,
            &api,
        )
        .map_err(Failure::failed)
    }

    /// Fails before anything starts, and with less to read than an emulator's words.
    fn check_disks(&self, metal: Metal) -> Result<(), Failure> {
        for path in &self.disk {
            if metal == Metal::Host {
                return Err(Failure::usage(format!(
                    "--disk {}: on --metal host there is no L0 to give a disk to; \
                     name the disk in a plan",
                    path.display()
                )));
            }
            File::options()
                .read(true)
                .write(true)
                .open(path)
                .map_err(|error| {
                    Failure::failed(format!("can't open the disk {}: {error}", path.display()))
                })?;
        }
        Ok(())
    }

    fn event_log(&self) -> Result<Option<File>, Failure> {
        let open = |path: &PathBuf| {
            File::create(path).map_err(|error| {
                Failure::failed(format!(
                    "can't write the events to {}: {error}",
                    path.display()
                ))
            })
        };
        self.events_output.as_ref().map(open).transpose()
    }
}

/// Listens where `nestling stat` and others may ask about the nest. Without a
/// folder for the socket it runs all the same.
fn listen(nest: &Arc<NestApi>) -> Option<Server> {
    directory::socket_of(std::process::id())
        .map_err(api::Error::Directory)
        .and_then(|path| Server::listen(&path, Arc::clone(nest) as Arc<dyn Answer>))
        .inspect_err(|error| tracing::debug!("`nestling stat` can't ask: {error}"))
        .ok()
}
