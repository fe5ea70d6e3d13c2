//! The common configuration structure (virtio 1.3, 4.1.4.3).

use nestling_arch::GuestMemory;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::{Queue, QueueT};

use crate::virtio::layout::{QueueError, RingLayout};
use crate::virtio::pci::signals::{NO_VECTOR, Signals, Status};

/// A queue as the driver sets it up.
#[derive(Clone, Debug)]
pub(super) struct QueueSetup {
    max: u16,
    size: u16,
    enabled: bool,
    descriptors: u64,
    available: u64,
    used: u64,
}

impl QueueSetup {
    fn new(max: u16) -> Self {
        Self {
            max,
            size: max,
            enabled: false,
            descriptors: 0,
            available: 0,
            used: 0,
        }
    }

    pub(super) fn enabled(&self) -> bool {
        self.enabled
    }

    /// The queue, if all of its rings are aligned and in `memory`.
    pub(super) fn queue(&self, memory: &GuestMemory, event_idx: bool) -> Result<Queue, QueueError> {
        let rings = RingLayout {
            size: self.size,
            descriptors: self.descriptors,
            available: self.available,
            used: self.used,
        };
        let mut queue = rings.queue(self.max, memory)?;
        queue.set_event_idx(event_idx);
        Ok(queue)
    }
}

/// The registers by which a driver negotiates features and sets queues up. The
/// status and the vectors are in [`Signals`].
pub(super) struct CommonConfig {
    offered: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    acknowledged: u64,
    /// Whether the driver acknowledged a feature past the 64 there are.
    acknowledged_unknown: bool,
    queue_select: u16,
    queues: Vec<QueueSetup>,
}

impl CommonConfig {
    pub(super) fn new(offered: u64, queue_sizes: &[u16]) -> Self {
        Self {
            offered,
            device_feature_select: 0,
            driver_feature_select: 0,
            acknowledged: 0,
            acknowledged_unknown: false,
            queue_select: 0,
            queues: queue_sizes.iter().copied().map(QueueSetup::new).collect(),
        }
    }

    /// Returns everything to its state after a device reset.
    pub(super) fn reset(&mut self) {
        let sizes: Vec<_> = self.queues.iter().map(|queue| queue.max).collect();
        *self = Self::new(self.offered, &sizes);
    }

    /// Whether the driver acknowledged VIRTIO_F_VERSION_1, and nothing that
    /// isn't offered.
    pub(super) fn features_acceptable(&self) -> bool {
        self.acknowledged & !self.offered == 0
            && self.acknowledged & 1 << VIRTIO_F_VERSION_1 != 0
            && !self.acknowledged_unknown
    }

    /// The features the driver acknowledged.
    pub(super) fn features(&self) -> u64 {
        self.acknowledged
    }

    pub(super) fn queues(&self) -> &[QueueSetup] {
        &self.queues
    }

    /// Reads, at any width and alignment; zero past the structure's end.
    pub(super) fn read(&self, signals: &Signals, offset: u64, data: &mut [u8]) {
        let image = self.image(signals);
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(image.len());
        let len = data.len().min(image.len() - start);
        data[..len].copy_from_slice(&image[start..start + len]);
    }

    /// Writes a field at its own width, or half of a 64-bit field (virtio 1.3,
    /// 4.1.3.1); other writes are ignored, as are those that come too late.
    /// Returns what was written to the status.
    pub(super) fn write(&mut self, signals: &Signals, offset: u64, data: &[u8]) -> Option<u8> {
        let status = signals.status();
        match (offset, data) {
            (0, &[a, b, c, d]) => self.device_feature_select = u32::from_le_bytes([a, b, c, d]),
            (8, &[a, b, c, d]) => self.driver_feature_select = u32::from_le_bytes([a, b, c, d]),
            (12, &[a, b, c, d]) if !status.contains(Status::FEATURES_OK) => {
                self.acknowledge(u32::from_le_bytes([a, b, c, d]));
            }
            (16, &[a, b]) => signals.set_config_vector(u16::from_le_bytes([a, b])),
            (20, &[value]) => return Some(value),
            (22, &[a, b]) => self.queue_select = u16::from_le_bytes([a, b]),
            (26, &[a, b]) => {
                signals.set_queue_vector(self.queue_select, u16::from_le_bytes([a, b]));
            }
            _ if !status.contains(Status::DRIVER_OK) => self.write_queue(offset, data),
            _ => {}
        }
        None
    }

    fn acknowledge(&mut self, features: u32) {
        let features = u64::from(features);
        match self.driver_feature_select {
            0 => self.acknowledged = (self.acknowledged & !0xffff_ffff) | features,
            1 => self.acknowledged = (self.acknowledged & 0xffff_ffff) | features << 32,
            _ => self.acknowledged_unknown |= features != 0,
        }
    }

    /// Writes a field of the selected queue, which can't change once enabled.
    fn write_queue(&mut self, offset: u64, data: &[u8]) {
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
            return;
        };
        if queue.enabled {
            return;
        }
        match (offset, data) {
            (24, &[a, b]) => queue.size = u16::from_le_bytes([a, b]),
            (28, &[1, 0]) => queue.enabled = true,
            (32 | 36, _) => write_address(&mut queue.descriptors, offset - 32, data),
            (40 | 44, _) => write_address(&mut queue.available, offset - 40, data),
            (48 | 52, _) => write_address(&mut queue.used, offset - 48, data),
            _ => {}
        }
    }

    /// All registers as they read.
    fn image(&self, signals: &Signals) -> [u8; 56] {
        let features = |features: u64, select| match select {
            0 => features & 0xffff_ffff,
            1 => features >> 32,
            _ => 0,
        };
        let mut image = [0; 56];
        let mut put = |offset: usize, len: usize, value: u64| {
            image[offset..offset + len].copy_from_slice(&value.to_le_bytes()[..len]);
        };
        put(0, 4, u64::from(self.device_feature_select));
        put(4, 4, features(self.offered, self.device_feature_select));
        put(8, 4, u64::from(self.driver_feature_select));
        put(
            12,
            4,
            features(self.acknowledged, self.driver_feature_select),
        );
        put(16, 2, u64::from(signals.config_vector()));
        put(18, 2, u64::try_from(self.queues.len()).unwrap_or(0));
        put(20, 1, u64::from(signals.status().bits()));
        put(21, 1, u64::from(signals.generation()));
        put(22, 2, u64::from(self.queue_select));
        put(26, 2, u64::from(NO_VECTOR));
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(24, 2, u64::from(queue.size));
            put(26, 2, u64::from(signals.queue_vector(self.queue_select)));
            put(28, 2, u64::from(queue.enabled));
            put(30, 2, u64::from(self.queue_select));
            put(32, 8, queue.descriptors);
            put(40, 8, queue.available);
            put(48, 8, queue.used);
        }
        image
    }
}

/// Writes all of a 64-bit field or the half at `offset`.
fn write_address(field: &mut u64, offset: u64, data: &[u8]) {
    match (offset, data) {
        (0, &[a, b, c, d, e, f, g, h]) => *field = u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        (0, &[a, b, c, d]) => {
            *field = (*field & !0xffff_ffff) | u64::from(u32::from_le_bytes([a, b, c, d]));
        }
        (4, &[a, b, c, d]) => {
            *field = (*field & 0xffff_ffff) | u64::from(u32::from_le_bytes([a, b, c, d])) << 32;
        }
        _ => {}
    }
}
