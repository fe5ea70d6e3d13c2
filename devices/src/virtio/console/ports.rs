//! A console's ports at work, in the console's thread.

use std::io;
use std::sync::Arc;

use event_manager::EventSet;
use nestling_arch::GuestMemory;
use zerocopy::IntoBytes;

use super::backend::{Endpoint, Received, Written};
use super::control::{self, Facts, Message, Notices};
use super::{CHANNEL_NAME, Size};
use crate::virtio::device::{ActivateError, Activation, Interrupt};
use crate::virtio::queue::{Chain, Malformed, VirtQueue};
use crate::virtio::worker::{Handler, Watch};

/// Tokens: queues by their index, then the ports' descriptors and the size.
const CONTROL_RECEIVE: u32 = 2;
const CONTROL_TRANSMIT: u32 = 3;
const INPUT: u32 = 0x100;
const OUTPUT: u32 = 0x200;
const SIZE_CHANGED: u32 = 0x300;

/// Chains that one port may have served before the others get their turn.
const BUDGET: usize = 64;

/// The queues of the control protocol.
struct Control {
    receive: VirtQueue,
    transmit: VirtQueue,
}

/// What an activation brings, sorted by what it is for.
pub(super) struct Parts {
    memory: Arc<GuestMemory>,
    interrupt: Arc<dyn Interrupt>,
    control: Option<Control>,
    /// Receive and transmit queue of each port.
    pairs: Vec<(VirtQueue, VirtQueue)>,
    multiport: bool,
}

impl Parts {
    /// Sorts the queues (virtio 1.3, 5.3.2): port 0, control, other ports. A
    /// driver without multiport has port 0 only.
    pub(super) fn new(
        activation: Activation,
        multiport: bool,
        ports: u16,
    ) -> Result<Self, ActivateError> {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
        } = activation;
        let needed = if multiport {
            2 * (usize::from(ports) + 1)
        } else {
            2
        };
        let enabled = queues.len();
        let mut queues = queues.into_iter().peekable();
        let mut next = |index: u16| {
            let queue = queues.next_if(|queue| queue.index == index);
            let queue = queue.ok_or(ActivateError::MissingQueues { enabled, needed })?;
            Ok(VirtQueue::new(
                queue,
                features,
                memory.clone(),
                interrupt.clone(),
            ))
        };
        let mut pairs = vec![(next(0)?, next(1)?)];
        let mut control = None;
        if multiport {
            control = Some(Control {
                receive: next(2)?,
                transmit: next(3)?,
            });
            for port in 1..ports {
                pairs.push((next(2 * port + 2)?, next(2 * port + 3)?));
            }
        }
        Ok(Self {
            memory,
            interrupt,
            control,
            pairs,
            multiport,
        })
    }
}

/// One port: its queues, its back end, and what the driver knows of it.
struct Port {
    endpoint: Endpoint,
    receive: VirtQueue,
    transmit: VirtQueue,
    /// Where input goes.
    incoming: Chain,
    /// What is being written; not empty while the output is blocked.
    outgoing: Chain,
    /// Whether `outgoing` is yet to be returned.
    pending: bool,
    /// Whether somebody in the guest has the port open.
    guest_open: bool,
    /// Whether the driver knows the port.
    announced: bool,
    notices: Notices,
}

/// All of a console's ports.
pub(super) struct Ports {
    ports: Vec<Port>,
    /// Ports that a driver without multiport doesn't see.
    unused: Vec<Endpoint>,
    control: Option<Control>,
    chain: Chain,
    message: Vec<u8>,
    size: Arc<Size>,
    interrupt: Arc<dyn Interrupt>,
}

impl Ports {
    pub(super) fn new(parts: Parts, endpoints: Vec<Endpoint>, size: Arc<Size>) -> Self {
        let mut endpoints = endpoints.into_iter();
        let memory = &parts.memory;
        let multiport = parts.multiport;
        let ports = parts.pairs.into_iter().zip(endpoints.by_ref());
        let ports = ports.map(|((receive, transmit), endpoint)| Port {
            endpoint,
            receive,
            transmit,
            incoming: Chain::new(memory),
            outgoing: Chain::new(memory),
            pending: false,
            guest_open: !multiport,
            announced: false,
            notices: Notices::empty(),
        });
        Self {
            ports: ports.collect(),
            unused: endpoints.collect(),
            control: parts.control,
            chain: Chain::new(memory),
            message: Vec::new(),
            size,
            interrupt: parts.interrupt,
        }
    }

    pub(super) fn into_endpoints(self) -> Vec<Endpoint> {
        self.ports
            .into_iter()
            .map(|port| port.endpoint)
            .chain(self.unused)
            .collect()
    }

    /// Reads what the driver says about ports.
    fn read_control(&mut self) -> Result<(), Malformed> {
        let Some(control) = &mut self.control else {
            return Ok(());
        };
        let ports = &mut self.ports;
        let budget = control.transmit.size();
        control.transmit.serve(&mut self.chain, budget, |chain| {
            let mut message = Message::default();
            if !chain.readable.take(message.as_mut_bytes()) {
                return Err("too short for a control message");
            }
            handle(ports, &message);
            Ok(0)
        })?;
        self.tell()
    }

    /// Tells the driver what it doesn't know yet, as far as it gave buffers.
    fn tell(&mut self) -> Result<(), Malformed> {
        let Some(control) = &mut self.control else {
            return Ok(());
        };
        let queue = &mut control.receive;
        let size = self.size.get();
        for (number, port) in (0..).zip(&mut self.ports) {
            while !port.notices.is_empty() {
                if !queue.pop(&mut self.chain)? {
                    // Should buffers have come meanwhile, come back for them.
                    if queue.enable_doorbell()? {
                        queue.ring_doorbell();
                    }
                    return queue.signal_used();
                }
                let Some(notice) = port.notices.take_first() else {
                    break;
                };
                let open = port.endpoint.is_open();
                let facts = Facts {
                    port: number,
                    name: CHANNEL_NAME,
                    size,
                    open,
                };
                control::encode(notice, facts, &mut self.message);
                let head = self.chain.head;
                if self.chain.writable.len() < self.message.len() {
                    return Err(queue.bad_request(head, "too small for a control message"));
                }
                self.chain.writable.write_at(0, &self.message);
                queue.push_used(head, self.message.len())?;
            }
        }
        queue.signal_used()
    }

    /// Runs `step` on a port and tells the driver if its host side closed.
    fn with_port(
        &mut self,
        number: u32,
        step: impl FnOnce(&mut Port) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let Some(port) = self.ports.get_mut(number as usize) else {
            return Ok(());
        };
        let was_open = port.endpoint.is_open();
        step(port)?;
        if was_open && !port.endpoint.is_open() && port.announced {
            port.notices.insert(Notices::OPEN);
            self.tell()?;
        }
        Ok(())
    }

    fn resized(&mut self) -> Result<(), Malformed> {
        if self.control.is_none() {
            self.interrupt.config_changed();
            return Ok(());
        }
        if let Some(console) = self.ports.first_mut().filter(|port| port.announced) {
            console.notices.insert(Notices::SIZE);
        }
        self.tell()
    }
}

/// Acts on one message from the driver; what makes no sense is ignored, as
/// a port's number may be of a port that we never had.
fn handle(ports: &mut [Port], message: &Message) {
    let number = message.port.get();
    let value = message.value.get();
    if message.event.get() == control::DEVICE_READY && value == 1 {
        ports
            .iter_mut()
            .for_each(|port| port.notices.insert(Notices::ADD));
        return;
    }
    let Some(port) = ports.get_mut(number as usize) else {
        return;
    };
    match message.event.get() {
        control::PORT_READY if value == 1 => {
            let console = Notices::CONSOLE | Notices::SIZE;
            port.notices
                .insert(if number == 0 { console } else { Notices::NAME });
            port.notices.insert(Notices::OPEN);
            port.announced = true;
        }
        control::PORT_OPEN => {
            port.guest_open = value == 1;
            // Input that waited for the port to be opened.
            port.receive.ring_doorbell();
        }
        _ => {}
    }
}

impl Port {
    /// Writes what the guest sends, in order, until the output is blocked.
    fn send(&mut self) -> Result<(), Malformed> {
        self.transmit.disable_doorbell()?;
        for _ in 0..BUDGET {
            if !self.pending {
                self.pending = self.transmit.pop(&mut self.outgoing)?;
            }
            if !self.pending {
                self.transmit.signal_used()?;
                if !self.transmit.enable_doorbell()? {
                    return Ok(());
                }
                continue;
            }
            if self.endpoint.send(&mut self.outgoing.readable) == Written::Blocked {
                // The output's readiness brings us back.
                return self.transmit.signal_used();
            }
            self.transmit.push_used(self.outgoing.head, 0)?;
            self.pending = false;
        }
        self.transmit.ring_doorbell();
        self.transmit.signal_used()
    }

    /// Reads input into the guest's buffers while there are both. Input is
    /// left where it is as long as nobody in the guest reads it.
    fn receive(&mut self) -> Result<(), Malformed> {
        let (queue, chain) = (&mut self.receive, &mut self.incoming);
        for _ in 0..BUDGET {
            if !self.guest_open || !self.endpoint.has_input() {
                return queue.signal_used();
            }
            if !queue.pop(chain)? {
                if queue.enable_doorbell()? {
                    continue;
                }
                return queue.signal_used();
            }
            if chain.writable.is_empty() {
                return Err(queue.bad_request(chain.head, "not a buffer to receive into"));
            }
            match self.endpoint.receive(&chain.writable) {
                Received::Bytes(count) => queue.push_used(chain.head, count)?,
                Received::Nothing => queue.unpop(),
                Received::End => {
                    queue.unpop();
                    // A socket's two directions end together.
                    self.endpoint.check_output();
                    return queue.signal_used();
                }
            }
        }
        queue.ring_doorbell();
        queue.signal_used()
    }
}

impl Handler for Ports {
    fn watch(&mut self, watch: &mut Watch<'_, '_>) -> io::Result<()> {
        watch.add(&self.size.changed, SIZE_CHANGED, EventSet::IN)?;
        for (number, port) in (0..).zip(&self.ports) {
            for queue in [&port.receive, &port.transmit] {
                watch.add(queue, u32::from(queue.index()), EventSet::IN)?;
                queue.ring_doorbell();
            }
            // Descriptors that can't be waited for never block.
            if let Some(input) = port.endpoint.input() {
                watch.add(input, INPUT + number, EventSet::IN)?;
            }
            if let Some(output) = port.endpoint.output() {
                watch.add(output, OUTPUT + number, EventSet::OUT)?;
            }
        }
        if let Some(control) = &self.control {
            for queue in [&control.receive, &control.transmit] {
                watch.add(queue, u32::from(queue.index()), EventSet::IN)?;
                queue.ring_doorbell();
            }
        }
        Ok(())
    }

    fn ready(&mut self, token: u32, _watch: &mut Watch<'_, '_>) -> Result<(), Malformed> {
        match token {
            SIZE_CHANGED => self.resized(),
            OUTPUT.. => self.with_port(token - OUTPUT, |port| {
                port.endpoint.check_output();
                port.send()
            }),
            INPUT.. => self.with_port(token - INPUT, Port::receive),
            CONTROL_RECEIVE => self.tell(),
            CONTROL_TRANSMIT => self.read_control(),
            queue => {
                let number = queue.saturating_sub(CONTROL_TRANSMIT).div_ceil(2);
                let receives = queue.is_multiple_of(2);
                self.with_port(number, if receives { Port::receive } else { Port::send })
            }
        }
    }

    fn finish(&mut self) -> Result<(), Malformed> {
        // What the guest wrote before it stopped is still to be seen.
        self.ports.iter_mut().try_for_each(Port::send)
    }

    fn identity(&self) -> (&str, &dyn Interrupt) {
        ("console", &*self.interrupt)
    }
}
