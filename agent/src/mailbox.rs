//! What a pod's worker has been told and has not looked at yet.
//!
//! Only the newest of each thing is kept, so a mailbox is bounded by the pod itself, senders never wait, and what the
//! worker finds is the state of things and not their history.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::Pod;
use coracle_cri::v1::ContainerStatus;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::pod::machine::ProbeKind;

#[derive(Default)]
pub struct Mailbox {
    mail: Mutex<Mail>,
    notify: Notify,
}

/// What has come since the last look.
#[derive(Default)]
pub struct Mail {
    pub pod: Option<Arc<Pod>>,
    pub removed: bool,
    /// Ended containers by id.
    pub exits: BTreeMap<Arc<str>, Option<Box<ContainerStatus>>>,
    pub lost_sandbox: Option<Arc<str>>,
    /// Events may have been lost: ask the runtime.
    pub relist: bool,
    pub sources_changed: bool,
    pub verdicts: BTreeMap<(Arc<str>, ProbeKind), Verdict>,
    pub eviction: Option<Eviction>,
}

/// The pod has to go, or may not begin, for the host's sake.
#[derive(Clone, Debug, PartialEq)]
pub struct Eviction {
    pub message: String,
    /// It was running: its condition DisruptionTarget says so.
    pub disrupted: bool,
}

/// A probe's finding about one container.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub id: Arc<str>,
    pub healthy: bool,
    pub grace: Option<Duration>,
}

impl Mail {
    fn is_empty(&self) -> bool {
        self.pod.is_none()
            && !self.removed
            && self.exits.is_empty()
            && self.lost_sandbox.is_none()
            && !self.relist
            && !self.sources_changed
            && self.verdicts.is_empty()
            && self.eviction.is_none()
    }
}

impl Mailbox {
    /// Changes what lies in the box.
    pub fn put(&self, change: impl FnOnce(&mut Mail)) {
        change(&mut self.mail.lock());
        self.notify.notify_one();
    }

    /// Waits for mail and takes all of it. Dropping the future loses nothing.
    pub async fn take(&self) -> Mail {
        loop {
            {
                let mut mail = self.mail.lock();
                if !mail.is_empty() {
                    return std::mem::take(&mut *mail);
                }
            }
            self.notify.notified().await;
        }
    }

    /// Takes what lies in the box now.
    pub fn take_now(&self) -> Mail {
        std::mem::take(&mut *self.mail.lock())
    }
}
