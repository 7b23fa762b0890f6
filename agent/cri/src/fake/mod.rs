//! A scripted runtime in memory: the runtime of simulations and of the agent's own tests.
//!
//! Owns sandboxes, containers and images of one imaginary node. It outlives the agent that drives it, as a real runtime
//! does. It starts no task: a container that ends by itself is moved on by whoever looks next (a call, or an open event
//! stream, which wakes at the next deadline), so it works on a current-thread runtime with paused time. From outside it
//! can be made to fail, to lose its connections and to lose its containers; what must never happen (two live containers
//! of one name in one pod) is recorded in [`FakeRuntime::violations`].

mod script;
mod service;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::time::Instant;

pub use script::{Run, Script, Step, Stop};
use state::State;

use crate::endpoint::Endpoint;
use crate::v1::ContainerEventResponse;

/// Events that a slow watcher may fall behind before its stream is ended and it has to list.
const EVENTS_BUFFERED: usize = 4096;

/// The handle on the fake. Clones share the node.
#[derive(Clone)]
pub struct FakeRuntime {
    state: Arc<Mutex<State>>,
    signals: broadcast::Sender<Signal>,
    started: Instant,
    base_ns: i64,
}

/// What open event streams are told.
#[derive(Clone, Debug)]
enum Signal {
    Event(Arc<ContainerEventResponse>),
    /// A deadline has moved: look again.
    Wake,
    /// The connection is lost.
    Cut,
}

impl FakeRuntime {
    /// An empty node whose clock shows `base_ns` nanoseconds since 1970 now and then follows tokio's clock.
    pub fn new(base_ns: i64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::default())),
            signals: broadcast::channel(EVENTS_BUFFERED).0,
            started: Instant::now(),
            base_ns,
        }
    }

    /// An endpoint for the router.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::in_process(Arc::new(self.clone())).named("fake")
    }

    /// What containers of `image` do. Unscripted images can be pulled and run until they are stopped.
    pub fn script(&self, image: &str, script: Script) {
        self.state.lock().scripts.insert(image.to_owned(), script);
    }

    /// [`FakeRuntime::script`] from the text form, see [`Script`]; panics on a fault in the text.
    pub fn scripted(self, image: &str, text: &str) -> Self {
        let script = text.parse().unwrap_or_else(|fault| panic!("script of {image}: {fault}"));
        self.script(image, script);
        self
    }

    /// Puts an image on the node, as an import does.
    pub fn with_image(self, image: &str) -> Self {
        self.state.lock().add_image(image);
        self
    }

    /// The next `times` calls of the named RPC (`RunPodSandbox`, …) fail with Unknown and this message.
    pub fn fail(&self, rpc: &str, times: u32, message: &str) {
        self.state.lock().faults.insert(rpc.to_owned(), (times, message.to_owned()));
    }

    /// The next `times` calls of the named RPC have their effect, and their answer is lost.
    pub fn lose_answers(&self, rpc: &str, times: u32) {
        self.state.lock().lost.insert(rpc.to_owned(), times);
    }

    /// While down every call answers Unavailable and event streams are cut; containers live on.
    pub fn set_down(&self, down: bool) {
        self.state.lock().down = down;
        if down {
            self.cut_streams();
        }
    }

    /// Ends every open event stream, as a lost connection does.
    pub fn cut_streams(&self) {
        let _ = self.signals.send(Signal::Cut);
    }

    /// Takes the node's power away: sandboxes and containers are gone, images stay.
    pub fn power_cut(&self) {
        self.state.lock().power_cut();
        self.cut_streams();
    }

    /// Ends the live container of this pod and name now, as a crash of the guest does. False if none is live.
    pub fn crash(&self, pod_uid: &str, container: &str, code: i32) -> bool {
        self.with(|state, now| state.crash(pod_uid, container, code, now))
    }

    /// What went wrong that must never happen, oldest first.
    pub fn violations(&self) -> Vec<String> {
        self.with(|state, _| state.violations.clone())
    }

    /// Live containers by (pod UID, container name).
    pub fn live(&self) -> BTreeMap<(String, String), usize> {
        self.with(|state, _| state.live())
    }

    /// Starts ever made by (pod UID, container name).
    pub fn starts(&self) -> BTreeMap<(String, String), u64> {
        self.with(|state, _| state.starts.clone())
    }

    /// Sandboxes on the node, ready or not, as `namespace/name uid state`.
    pub fn sandboxes(&self) -> Vec<String> {
        self.with(|state, _| state.describe_sandboxes())
    }

    /// The calls that changed something since the last time this was asked, oldest first.
    pub fn take_calls(&self) -> Vec<String> {
        self.with(|state, _| std::mem::take(&mut state.calls))
    }

    fn now_ns(&self) -> i64 {
        let elapsed = self.started.elapsed().as_nanos();
        self.base_ns + i64::try_from(elapsed).expect("a test does not run for centuries")
    }

    fn instant_of(&self, ns: i64) -> Instant {
        let since = u64::try_from(ns - self.base_ns).unwrap_or(0);
        self.started + std::time::Duration::from_nanos(since)
    }

    /// Brings the node up to now, does `act`, and tells the streams what happened.
    fn with<T>(&self, act: impl FnOnce(&mut State, i64) -> T) -> T {
        let now = self.now_ns();
        let mut state = self.state.lock();
        state.advance(now);
        let before = state.next_deadline();
        let result = act(&mut state, now);
        state.advance(now);
        let moved = state.next_deadline() != before;
        // Sent under the lock, so that every stream sees events in the order they happened.
        for event in state.events.drain(..) {
            let _ = self.signals.send(Signal::Event(Arc::new(event)));
        }
        if moved {
            let _ = self.signals.send(Signal::Wake);
        }
        result
    }
}
