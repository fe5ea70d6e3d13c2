//! Seeing a machine through to its end: the loop that waits for its streams,
//! its process, a stop and the clock, and leaves the judging to [`Watch`].

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::machine::Machine;
use super::meter::Meter;
use super::process;
use super::relay::Relay;
use super::watch::{Verdict, Watch};
use crate::channel::{
    Answer, Event, Lines, MAX_LINE, MAX_TEXT, Mark, MonitorEvent, Overlong, What, printable,
};
use crate::console::keyboard::Request;
use crate::console::streams;
use crate::signals::Signals;
use crate::stats;

/// How long a guest whose power button was pressed may take to power off.
const GRACE: Duration = Duration::from_secs(60);
/// The most bytes taken from one stream after the process has ended.
const LAST_WORDS: usize = 4 << 20;
/// How often it is looked whether another monitor's vCPUs run yet.
const LOOK: Duration = Duration::from_millis(10);

/// Who is told what happens to a machine.
pub trait Observer {
    /// Takes an event as it happens. At a mark it returns when all levels below
    /// have counted.
    fn event(&mut self, event: Event);

    /// Called now and then; answers how soon it wants to be called again, if at
    /// all.
    fn tick(&mut self) -> Option<Duration> {
        None
    }
}

impl<F: FnMut(Event)> Observer for F {
    fn event(&mut self, event: Event) {
        self(event);
    }
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Console,
    Channel,
    Listener,
    Events,
    Messages,
    Exit,
    Stop,
    Typed,
}

/// A stream from the machine, cut into lines.
struct Stream {
    source: Source,
    file: File,
    lines: Lines,
}

impl Stream {
    fn open(source: Source, fd: Option<OwnedFd>) -> io::Result<Option<Self>> {
        let Some(fd) = fd else { return Ok(None) };
        streams::set_nonblocking(&fd)?;
        let lines = match source {
            Source::Console | Source::Messages => Lines::new(MAX_TEXT, Overlong::Split),
            _ => Lines::new(MAX_LINE, Overlong::Drop),
        };
        Ok(Some(Self {
            source,
            file: File::from(fd),
            lines,
        }))
    }

    /// Reads what is there, at most `limit` bytes, shows it to `relay` and hands
    /// its lines on. Answers whether more may come.
    fn read(
        &mut self,
        limit: usize,
        mut relay: Option<&mut Relay>,
        mut each: impl FnMut(&[u8]),
    ) -> bool {
        let mut buffer = [0; 16 * 1024];
        let mut taken = 0;
        while taken < limit {
            match self.file.read(&mut buffer) {
                Ok(count) if count > 0 => {
                    if let Some(relay) = &mut relay {
                        relay.show(&buffer[..count]);
                    }
                    self.lines.push(&buffer[..count], &mut each);
                    taken += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                // The end, or what a pseudo-terminal answers instead of it.
                Ok(_) | Err(_) => {
                    self.lines.finish(&mut each);
                    return false;
                }
            }
        }
        true
    }
}

/// One machine under supervision.
struct Supervision<'a> {
    level: u8,
    watch: Watch,
    meter: Option<Meter>,
    /// Whether exits are to be counted by reason, and aren't yet.
    trace: bool,
    sample: Option<Duration>,
    sampled: Duration,
    /// Marks that were counted, and not yet answered.
    counted: usize,
    start: Instant,
    last_message: String,
    malformed: u64,
    /// It was said why there are no counts.
    warned: bool,
    relay: Option<Relay>,
    relayed: bool,
    observer: &'a mut dyn Observer,
}

/// Sees `machine`, the one that `watch` judges, through to its end. What happens is handed
/// to `observer` as it happens; the last event of the level is [`What::Ended`].
///
/// A signal in `stop` presses the guest's power button, and kills the machine if
/// that doesn't end it; the signal itself is left pending.
///
/// At each mark that comes up the channel the machine's counts are reported, and
/// once those below have counted too, it is told so.
///
/// With a `relay` the console belongs to a person: its bytes go there, its lines
/// are evidence but no events, and Ctrl-A X ends the machine.
///
/// # Errors
/// What the system says when it can't be waited. The machine has been killed.
pub fn supervise(
    mut machine: Machine,
    watch: Watch,
    stop: Option<&Signals>,
    relay: Option<Relay>,
    observer: &mut dyn Observer,
) -> io::Result<Verdict> {
    let ended = process::exit_descriptor(&machine.child)?;
    let mut streams = Vec::new();
    for (source, fd) in [
        (Source::Console, machine.console.take()),
        (Source::Channel, machine.channel.take()),
        (Source::Events, machine.events.take()),
        (Source::Messages, machine.messages.take()),
    ] {
        streams.extend(Stream::open(source, fd)?);
    }
    let sight = std::mem::take(&mut machine.sight);
    let mut supervision = Supervision {
        level: watch.level(),
        watch,
        meter: sight.counts.map(|by| Meter::new(by, machine.child.id())),
        trace: sight.trace,
        sample: sight.sample,
        sampled: Duration::ZERO,
        counted: 0,
        start: Instant::now(),
        last_message: String::new(),
        malformed: 0,
        warned: false,
        relayed: relay.is_some(),
        relay,
        observer,
    };
    supervision.wait(&mut machine, &mut streams, ended.as_fd(), stop)?;
    supervision.count_finally();
    // Descendants that hold the streams open are ended before the last words.
    let status = machine.kill()?;
    for mut stream in streams {
        // A stream may stay open elsewhere; its last line counts all the same.
        if supervision.read(&mut stream, LAST_WORDS) {
            let Stream {
                source, mut lines, ..
            } = stream;
            lines.finish(|line| supervision.line(source, line));
        }
    }
    Ok(supervision.finish(status))
}

impl Supervision<'_> {
    /// Runs until the process has ended or must be killed.
    fn wait(
        &mut self,
        machine: &mut Machine,
        streams: &mut Vec<Stream>,
        ended: BorrowedFd<'_>,
        stop: Option<&Signals>,
    ) -> io::Result<()> {
        let mut kill_at: Option<Duration> = None;
        loop {
            let now = self.start.elapsed();
            if self.watch.overdue(now) || kill_at.is_some_and(|at| now >= at) {
                return Ok(());
            }
            let until = kill_at.map_or(self.watch.deadline(), |at| at.min(self.watch.deadline()));
            let stop = stop.filter(|_| kill_at.is_none());
            let rest = until.saturating_sub(now);
            let rest = self.sample(now).map_or(rest, |next| next.min(rest));
            let rest = self.await_vcpus().map_or(rest, |next| next.min(rest));
            let rest = self.observer.tick().map_or(rest, |tick| tick.min(rest));
            let typed = self.relay.as_ref().and_then(Relay::input);
            let listener = machine.listener.as_ref();
            let ready = wait_for(streams, listener, ended, stop, typed, rest)?;
            if ready.contains(&Source::Listener) {
                streams.extend(accept(&mut machine.listener)?);
            }
            streams.retain_mut(|stream| {
                !ready.contains(&stream.source) || self.read(stream, 256 * 1024)
            });
            let asked = self.typed(&ready, streams);
            if asked == Some(Request::Quit) {
                self.watch.stop();
                return Ok(());
            }
            if ready.contains(&Source::Stop) || asked == Some(Request::PowerButton) {
                self.watch.stop();
                let pressed = machine.press_power_button();
                let grace = if pressed { GRACE } else { Duration::ZERO };
                kill_at = Some(self.start.elapsed() + grace);
            }
            if ready.contains(&Source::Exit) {
                return Ok(());
            }
        }
    }

    /// An event of the monitor itself, which knows nothing of reasons.
    fn monitor(&mut self, mut event: MonitorEvent) -> Option<Event> {
        match (&mut event, &self.meter) {
            (MonitorEvent::Started, _) => self.start_tracing(),
            (MonitorEvent::Exits { vm, .. }, Some(meter)) => stats::add(vm, &meter.reasons()),
            _ => {}
        }
        self.watch.monitor(event)
    }

    /// Begins to count exits by reason; if that can't be, says why and goes on.
    fn start_tracing(&mut self) {
        if !std::mem::take(&mut self.trace) {
            return;
        }
        if let Some(Err(error)) = self.meter.as_mut().map(Meter::trace) {
            self.warn(error.to_string());
        }
    }

    /// Begins to count exits by reason once the vCPUs of another monitor run, which
    /// doesn't say when. Answers how soon to look again.
    fn await_vcpus(&mut self) -> Option<Duration> {
        let meter = self.meter.as_ref().filter(|meter| meter.by_kernel())?;
        if !self.trace {
            return None;
        }
        if meter.running().is_none() {
            return Some(LOOK);
        }
        self.start_tracing();
        None
    }

    fn warn(&mut self, text: String) {
        self.observer.event(Event {
            level: self.level,
            what: What::Warning { text },
        });
    }

    /// Reports the machine's counts if it is time; answers how long it is to the
    /// next time.
    fn sample(&mut self, now: Duration) -> Option<Duration> {
        let interval = self.sample?;
        let next = self.sampled + interval;
        if now < next {
            return Some(next - now);
        }
        self.sampled = now;
        if let Some(meter) = &self.meter
            && let Some(counts) = meter.read_most_telling()
        {
            let event = self.watch.counted(counts, None, meter.hypervisor());
            self.observer.event(event);
        }
        Some(interval)
    }

    /// Reports the machine's counts at a mark, if its monitor tells them. Nothing
    /// else is asked of it then: a look for a hypervisor costs the guest an exit.
    fn count(&mut self, at: Option<Mark>) {
        match self.meter.as_ref().map(Meter::read) {
            Some(Ok(Some(counts))) => {
                let event = self.watch.counted(counts, at, None);
                self.observer.event(event);
            }
            Some(Err(error)) if !std::mem::replace(&mut self.warned, true) => {
                self.warn(error.to_string());
            }
            _ => {}
        }
    }

    /// Reports what the machine has counted in all, as far as that can be told before
    /// its end: under another monitor nobody can after it.
    fn count_finally(&mut self) {
        let meter = self.meter.as_ref().filter(|meter| meter.by_kernel());
        if let Some(Ok(Some(counts))) = meter.map(Meter::read) {
            let event = self.watch.counted(counts, None, None);
            self.observer.event(event);
            // A sample has fewer counts, and would take their place.
            self.sample = None;
        }
    }

    /// Passes on what a person typed; answers what it asks of nestling.
    fn typed(&mut self, ready: &[Source], streams: &mut [Stream]) -> Option<Request> {
        let relay = self
            .relay
            .as_mut()
            .filter(|_| ready.contains(&Source::Typed))?;
        let console = streams
            .iter_mut()
            .find(|stream| stream.source == Source::Console);
        match console {
            Some(console) => relay.pass(&mut console.file),
            None => relay.pass(&mut io::sink()),
        }
    }

    fn read(&mut self, stream: &mut Stream, limit: usize) -> bool {
        let source = stream.source;
        let mut relay = self.relay.take_if(|_| source == Source::Console);
        let more = stream.read(limit, relay.as_mut(), |line| self.line(source, line));
        if relay.is_some() {
            self.relay = relay;
        }
        for _ in 0..std::mem::take(&mut self.counted) {
            // One that doesn't take the answer goes on without after a while.
            let _ = stream.file.write_all(&Answer::Counted.line());
        }
        more
    }

    fn line(&mut self, source: Source, line: &[u8]) {
        let now = self.start.elapsed();
        let event = match source {
            Source::Console => self.watch.console(line, now).filter(|_| !self.relayed),
            Source::Channel => match Event::parse(line, self.level) {
                Ok(event) => self.watch.event(event, now),
                Err(_) => {
                    self.malformed += 1;
                    None
                }
            },
            Source::Events => match serde_json::from_slice::<MonitorEvent>(line) {
                Ok(event) => self.monitor(event),
                Err(_) => {
                    self.malformed += 1;
                    None
                }
            },
            Source::Messages => {
                self.last_message = printable(&String::from_utf8_lossy(line), MAX_TEXT);
                let text = format!("monitor: {}", self.last_message);
                Some(Event {
                    level: self.level,
                    what: What::Progress { text },
                })
            }
            Source::Listener | Source::Exit | Source::Stop | Source::Typed => None,
        };
        let Some(event) = event else { return };
        if event.level == self.level && event.what == What::Done {
            self.count_finally();
        }
        let mark = event.mark();
        let marked = mark.is_some();
        if marked {
            self.count(mark);
        }
        self.observer.event(event);
        self.counted += usize::from(marked);
    }

    fn finish(self, status: ExitStatus) -> Verdict {
        let Self {
            level,
            watch,
            last_message,
            malformed,
            observer,
            ..
        } = self;
        let lost = watch.dropped();
        if lost + malformed > 0 {
            let text = format!("{lost} events came too fast, {malformed} lines were malformed");
            observer.event(Event {
                level,
                what: What::Progress { text },
            });
        }
        let verdict = watch.verdict(status, &last_message);
        if let Some(fault) = &verdict.fault {
            observer.event(Event {
                level,
                what: What::Fault(fault.clone()),
            });
        }
        if let Some(result) = &verdict.result {
            observer.event(Event {
                level,
                what: What::Workload(result.clone()),
            });
        }
        // It can't say so itself.
        if verdict.result.as_ref().is_some_and(|result| result.ok) {
            observer.event(Event {
                level,
                what: What::Done,
            });
        }
        observer.event(Event {
            level,
            what: What::Ended { how: verdict.how },
        });
        verdict
    }
}

/// The channel, if the monitor has connected to make it. Nobody else is let in after
/// it.
fn accept(listener: &mut Option<UnixListener>) -> io::Result<Option<Stream>> {
    match listener.as_ref().map(UnixListener::accept) {
        Some(Ok((channel, _))) => {
            *listener = None;
            Stream::open(Source::Channel, Some(channel.into()))
        }
        Some(Err(error)) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted => Ok(None),
            _ => Err(error),
        },
        None => Ok(None),
    }
}

fn wait_for(
    streams: &[Stream],
    listener: Option<&UnixListener>,
    ended: BorrowedFd<'_>,
    stop: Option<&Signals>,
    typed: Option<BorrowedFd<'_>>,
    timeout: Duration,
) -> io::Result<Vec<Source>> {
    let mut sources: Vec<Source> = streams.iter().map(|stream| stream.source).collect();
    let mut fds: Vec<BorrowedFd<'_>> = streams.iter().map(|stream| stream.file.as_fd()).collect();
    sources.push(Source::Exit);
    fds.push(ended);
    if let Some(listener) = listener {
        sources.push(Source::Listener);
        fds.push(listener.as_fd());
    }
    if let Some(stop) = stop {
        sources.push(Source::Stop);
        fds.push(stop.as_fd());
    }
    if let Some(typed) = typed {
        sources.push(Source::Typed);
        fds.push(typed);
    }
    let ready = process::poll(&fds, timeout)?;
    Ok(sources
        .into_iter()
        .zip(ready)
        .filter_map(|(source, ready)| ready.then_some(source))
        .collect())
}

#[cfg(test)]
mod tests;
