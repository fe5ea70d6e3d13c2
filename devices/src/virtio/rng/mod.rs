//! virtio-rng (virtio 1.3, 5.4): entropy from the host's kernel.

use std::io;
use std::sync::Arc;

use event_manager::EventSet;
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use crate::virtio::device::{ActivateError, Activation, Interrupt, VirtioDevice};
use crate::virtio::queue::{Chain, Malformed, RING_FEATURES, VirtQueue};
use crate::virtio::worker::{Handler, Watch, Worker};

const QUEUE_SIZE: u16 = 64;

/// The most bytes given for one buffer: a device may return fewer than asked
/// for (5.4.6.2), and a buffer of gigabytes mustn't hold up a reset.
const MAX_BYTES: usize = 64 * 1024;

/// The most buffers answered at a stretch.
const BUDGET: u16 = 16;

/// A virtio entropy source.
#[derive(Default)]
pub struct Rng {
    worker: Option<Worker<Source>>,
}

impl Rng {
    /// An entropy source.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    /// There is no configuration space.
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation {
            memory,
            features,
            queues,
            interrupt,
        } = activation;
        let Some(queue) = queues.into_iter().next() else {
            return Err(ActivateError::MissingQueues {
                enabled: 0,
                needed: 1,
            });
        };
        let source = Source {
            queue: VirtQueue::new(queue, features, memory.clone(), interrupt.clone()),
            chain: Chain::new(&memory),
            interrupt,
        };
        self.worker = Some(Worker::spawn("nestling-rng", source).map_err(|failed| failed.error)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.worker = None;
    }
}

/// The request queue at work.
struct Source {
    queue: VirtQueue,
    chain: Chain,
    interrupt: Arc<dyn Interrupt>,
}

impl Handler for Source {
    fn watch(&mut self, watch: &mut Watch<'_, '_>) -> io::Result<()> {
        watch.add(&self.queue, 0, EventSet::IN)?;
        self.queue.ring_doorbell();
        Ok(())
    }

    fn ready(&mut self, _token: u32, _watch: &mut Watch<'_, '_>) -> Result<(), Malformed> {
        self.queue.serve(&mut self.chain, BUDGET, |chain| {
            if !chain.readable.is_empty() || chain.writable.is_empty() {
                return Err("not a buffer for entropy");
            }
            chain.writable.truncate(MAX_BYTES);
            let length = chain.writable.len();
            // getrandom fails only for memory that isn't mapped, or on kernels
            // without it; the driver then learns that nothing was written.
            Ok(chain.writable.fill_random().map_or(0, |()| length))
        })?;
        Ok(())
    }

    fn identity(&self) -> (&str, &dyn Interrupt) {
        ("rng", &*self.interrupt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{Buffer, Driver, wait_for};

    fn start(rng: &mut Rng) -> Driver {
        let driver = Driver::of(rng);
        rng.activate(driver.activation(0)).unwrap();
        driver
    }

    #[test]
    fn fills_what_is_asked_for_up_to_a_bound() {
        let mut rng = Rng::new();
        let mut driver = start(&mut rng);
        for (asked, given) in [
            (1, 1),
            (64, 64),
            (MAX_BYTES, MAX_BYTES),
            (8 * MAX_BYTES, MAX_BYTES),
        ] {
            let (used, data) =
                driver.call(0, &[Buffer::In(asked / 2), Buffer::In(asked - asked / 2)]);
            assert_eq!(used as usize, given);
            assert!(given < 64 || data[..given].iter().any(|byte| *byte != 0));
            assert!(data[given..].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn two_answers_differ() {
        let mut rng = Rng::new();
        let mut driver = start(&mut rng);
        let first = driver.call(0, &[Buffer::In(32)]).1;
        assert_ne!(first, driver.call(0, &[Buffer::In(32)]).1);
    }

    #[test]
    fn readable_buffers_stop_the_device_until_reset() {
        let mut rng = Rng::new();
        let mut driver = start(&mut rng);
        driver.send(0, &[Buffer::Out(&[1, 2, 3])]);
        wait_for("the device to give up", || driver.recorder.broken());
        driver.reset(&mut rng);
        rng.activate(driver.activation(0)).unwrap();
        assert_eq!(driver.call(0, &[Buffer::In(16)]).0, 16);
    }
}
