//! A guest as a future: it waits while its quota is used up, and runs where what it has used lately says.
//!
//! ```text
//! poll ──▶ quota used up? wait for the next period ──▶ guest runs ──▶ it waits for something: over
//!                                                          └──▶ its slice is over: it goes on elsewhere (`busy`)
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::time::Sleep;

use super::busy::{Away, Bell, Returned, Runs};
use super::cpu::{Cpu, Lane, Used};

/// A future that runs guest code: the epoch moves while it is polled, its time is counted, it waits while there is none
/// left for it, and runs elsewhere while it needs much.
pub(super) struct Guest<F: Future> {
    place: Place<F>,
    cpu: Arc<Cpu>,
    used: Arc<Used>,
    throttled: Option<Pin<Box<Sleep>>>,
    /// To be carried over before it runs again.
    interrupted: bool,
}

/// Where the guest is.
enum Place<F: Future> {
    Here(F),
    /// Here, and waits for something: it was polled elsewhere, so it is the bell that tells.
    Waits(F, Arc<Bell>),
    Away(Away<F>),
    /// It has ended, or panicked.
    Nowhere,
}

impl<F: Runs> Guest<F> {
    pub(super) fn new(inner: F, cpu: Arc<Cpu>, used: Arc<Used>) -> Guest<F> {
        Guest { place: Place::Here(inner), cpu, used, throttled: None, interrupted: false }
    }

    /// One that nobody waits for an answer from: also what it does at first may take long, and need not be done where
    /// requests are served.
    pub(super) fn program(inner: F, cpu: Arc<Cpu>, used: Arc<Used>) -> Guest<F> {
        Guest { interrupted: true, ..Guest::new(inner, cpu, used) }
    }

    /// Ends the guest, and returns when it and all it held are gone. Dropped, it may go on for a slice.
    pub(super) async fn end(self) {
        match self.place {
            Place::Away(away) => away.end().await,
            Place::Here(_) | Place::Waits(..) | Place::Nowhere => {}
        }
    }

    /// Waits while its quota is used up.
    fn poll_quota(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(sleep) = &mut self.throttled {
                ready!(sleep.as_mut().poll(cx));
                self.throttled = None;
            }
            match self.used.wait() {
                Some(until) => self.throttled = Some(Box::pin(tokio::time::sleep_until(until))),
                None => return Poll::Ready(()),
            }
        }
    }

    /// A guest that is here runs, or is carried over.
    fn poll_here(&mut self, mut guest: F, cx: &mut Context<'_>) -> Option<Poll<F::Output>> {
        if self.poll_quota(cx).is_pending() {
            self.place = Place::Here(guest);
            return Some(Poll::Pending);
        }
        if std::mem::take(&mut self.interrupted) | self.cpu.is_in_the_way(&self.used) {
            match self.send(guest, cx) {
                Ok(()) => return None,
                Err(stays) => guest = stays,
            }
        }
        let slice = self.cpu.run(Lane::Network, &self.used, &mut guest, cx);
        if slice.outcome.is_pending() && slice.interrupted {
            match self.send(guest, cx) {
                Ok(()) => return None,
                // Its waker has been called: it comes behind what waits for this thread.
                Err(stays) => guest = stays,
            }
        }
        if slice.outcome.is_pending() {
            self.place = Place::Here(guest);
        }
        Some(slice.outcome)
    }

    /// Carries the guest over, if it can be.
    fn send(&mut self, guest: F, cx: &Context<'_>) -> Result<(), F> {
        Away::send(&self.cpu, &self.used, guest, cx.waker()).map(|away| self.place = Place::Away(away))
    }

    fn poll_away(&mut self, mut away: Away<F>, cx: &mut Context<'_>) -> Option<Poll<F::Output>> {
        match away.poll(cx) {
            Poll::Pending => {
                self.place = Place::Away(away);
                return Some(Poll::Pending);
            }
            Poll::Ready(Returned::Over(output)) => return Some(Poll::Ready(output)),
            Poll::Ready(Returned::Waits(guest)) => self.place = Place::Waits(guest, away.bell()),
            Poll::Ready(Returned::Throttled(guest)) => {
                self.place = Place::Here(guest);
                self.interrupted = true;
            }
        }
        None
    }
}

impl<F: Runs> Future for Guest<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        loop {
            let outcome = match std::mem::replace(&mut this.place, Place::Nowhere) {
                Place::Here(guest) => this.poll_here(guest, cx),
                Place::Waits(guest, bell) if bell.is_quiet(cx.waker()) => {
                    this.place = Place::Waits(guest, bell);
                    Some(Poll::Pending)
                }
                Place::Waits(guest, _) => {
                    this.place = Place::Here(guest);
                    None
                }
                Place::Away(away) => this.poll_away(away, cx),
                Place::Nowhere => panic!("a guest that has ended is polled"),
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }
}

#[cfg(test)]
mod tests;
