//! The ports' other ends: who is plugged in where.

use crate::net::attachment::{Attachment, Content, Frame, News, Sent, Settings, Watch};
use crate::net::engine::{Ports, Receiver};
use crate::net::switch::PortId;

/// One who is plugged in.
struct Plugged {
    attachment: Box<dyn Attachment>,
    /// What it takes; none while its link is down.
    receiver: Option<Receiver>,
    /// It may have frames.
    ready: bool,
    /// It was sent or given back something since its last flush.
    touched: bool,
}

/// A port's other end.
#[derive(Default)]
struct Slot {
    plugged: Option<Plugged>,
}

/// All other ends, by their ports.
#[derive(Default)]
pub(super) struct Slots(Vec<Slot>);

impl Slots {
    fn slot(&mut self, port: PortId) -> &mut Slot {
        if self.0.len() <= port.index() {
            self.0.resize_with(port.index() + 1, Slot::default);
        }
        &mut self.0[port.index()]
    }

    fn plugged(&mut self, port: PortId) -> Option<&mut Plugged> {
        self.0.get_mut(port.index())?.plugged.as_mut()
    }

    /// Plugs one in, who is taken to be ready, and returns how it wants to be
    /// served.
    pub(super) fn plug(&mut self, port: PortId, attachment: Box<dyn Attachment>) -> Settings {
        let settings = attachment.settings();
        let slot = self.slot(port);
        slot.plugged = Some(Plugged {
            receiver: receiver(&*attachment, &settings),
            attachment,
            ready: true,
            touched: false,
        });
        settings
    }

    /// Unplugs the one at a port, who notices first what it was given back.
    pub(super) fn unplug(&mut self, port: PortId) -> Option<Box<dyn Attachment>> {
        let mut plugged = self.slot(port).plugged.take()?;
        plugged.attachment.flush();
        Some(plugged.attachment)
    }

    pub(super) fn is_plugged(&self, port: PortId) -> bool {
        let slot = self.0.get(port.index());
        slot.is_some_and(|slot| slot.plugged.is_some())
    }

    /// Tells one that a descriptor of it is ready. Settings are returned if
    /// they changed.
    pub(super) fn tell(
        &mut self,
        port: PortId,
        token: u8,
        watch: &mut dyn Watch,
    ) -> (News, Option<Settings>) {
        let Some(plugged) = self.plugged(port) else {
            return (News::empty(), None);
        };
        let news = plugged.attachment.ready(token, watch);
        plugged.note(news)
    }

    /// Has all notice what was sent to them and given back; `each` is told
    /// what they say.
    pub(super) fn flush(&mut self, mut each: impl FnMut(PortId, News, Option<Settings>)) {
        for (port, slot) in PortId::all().zip(&mut self.0) {
            let Some(plugged) = slot.plugged.as_mut().filter(|plugged| plugged.touched) else {
                continue;
            };
            plugged.touched = false;
            let news = plugged.attachment.flush();
            let (news, settings) = plugged.note(news);
            if !news.is_empty() {
                each(port, news, settings);
            }
        }
    }

    /// Whether any port may have frames.
    pub(super) fn any_ready(&self) -> bool {
        let mut plugged = self.0.iter().filter_map(|slot| slot.plugged.as_ref());
        plugged.any(|plugged| plugged.ready)
    }

    /// Whether a port may have frames.
    pub(super) fn is_ready(&self, port: PortId) -> bool {
        let plugged = self
            .0
            .get(port.index())
            .and_then(|slot| slot.plugged.as_ref());
        plugged.is_some_and(|plugged| plugged.ready)
    }

    /// The ports that there may be.
    pub(super) fn ports(&self) -> impl Iterator<Item = PortId> + use<> {
        PortId::all().take(self.0.len())
    }

    /// The next frame from a port.
    pub(super) fn receive(&mut self, port: PortId) -> Option<Frame> {
        let slot = self.0.get_mut(port.index())?;
        let plugged = slot.plugged.as_mut().filter(|plugged| plugged.ready)?;
        let Some(frame) = plugged.attachment.receive() else {
            plugged.ready = false;
            return None;
        };
        Some(frame)
    }
}

impl Plugged {
    fn note(&mut self, news: News) -> (News, Option<Settings>) {
        self.ready |= news.contains(News::FRAMES);
        let settings = news
            .contains(News::SETTINGS)
            .then(|| self.attachment.settings());
        if let Some(settings) = &settings {
            self.receiver = receiver(&*self.attachment, settings);
        }
        (news, settings)
    }
}

fn receiver(attachment: &dyn Attachment, settings: &Settings) -> Option<Receiver> {
    settings.link.then(|| Receiver {
        offloads: settings.offloads,
        mtu: attachment.mtu(),
    })
}

impl Ports for Slots {
    fn receiver(&self, port: PortId) -> Option<Receiver> {
        self.0.get(port.index())?.plugged.as_ref()?.receiver
    }

    fn send(&mut self, port: PortId, headers: &[u8], content: Content<'_>) -> Sent {
        let Some(slot) = self.0.get_mut(port.index()) else {
            return Sent::Refused;
        };
        let Some(plugged) = &mut slot.plugged else {
            return Sent::Refused;
        };
        plugged.touched = true;
        plugged.attachment.send(headers, content)
    }

    fn release(&mut self, port: PortId, frame: Frame) {
        if let Some(plugged) = self.plugged(port) {
            plugged.touched = true;
            plugged.attachment.release(frame);
        }
    }
}
