//! Fronts come and go; the worker serves the one that came last. Part of [`Worker`].
//!
//! ```text
//! with a front ──(it is gone)──▶ alone ──(the next one knocks)──▶ with a front
//!                                  └──(nothing to do, or nobody can knock any more)──▶ end
//! ```
//!
//! A worker that is alone serves on for as long as it takes: on an edge node pods are worth more than whoever looks
//! after them. It ends when it has nothing to serve and nothing to tell, or when the socket that fronts come to was
//! removed, because then none ever will.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;

use super::Worker;
use crate::wire::{self, Channel, Command, Door, Hello, Message, Order, Report, Welcome};

/// How often a worker without a front looks whether one can still come.
const ALONE: Duration = Duration::from_secs(30);

/// Orders that are carried out and not answered yet; a front that does not read its answers gives no more orders.
const ANSWERS: usize = 256;

/// A report with what goes with it.
type Parcel = (Report, Option<OwnedFd>);

/// What the worker does next.
enum Next {
    Serve(Channel),
    Alone,
    End,
}

impl Worker {
    /// Serves fronts, the first of them on `control`, until it is time to end.
    pub(super) async fn serve(self, control: OwnedFd, door: Door) -> io::Result<()> {
        let mut next = Next::Serve(Channel::new(control)?);
        loop {
            next = match &next {
                Next::Serve(front) => tokio::select! {
                    biased;
                    () = self.retired() => Next::End,
                    // One front at a time has the directory: who knocks has taken over.
                    later = door.accept() => Next::Serve(later),
                    outcome = self.converse(front) => {
                        if let Err(error) = outcome {
                            tracing::warn!(%error, "the front is left");
                        }
                        Next::Alone
                    }
                },
                Next::Alone => tokio::select! {
                    biased;
                    () = self.retired() => Next::End,
                    front = door.accept() => Next::Serve(front),
                    () = tokio::time::sleep(ALONE) => if self.is_idle() || door.is_removed() { Next::End } else { Next::Alone },
                },
                Next::End => return Ok(()),
            };
        }
    }

    /// Talks to one front until it is gone.
    async fn converse(&self, front: &Channel) -> io::Result<()> {
        let Some(message) = front.receive().await? else { return Ok(()) };
        let hello: Hello = message.parse()?;
        tracing::debug!(version = hello.version, build = hello.build, "a front is here");
        let (welcome, mut told) = self.welcome();
        front.send(&Report::Welcome(welcome), &[]).await?;
        let (answers, mut outbox) = mpsc::channel::<Parcel>(ANSWERS);
        let sending = async {
            loop {
                let news = self.ends.wait_until(|| {
                    let (ended, last) = self.ends.after(told);
                    (!ended.is_empty()).then_some((ended, last))
                });
                tokio::select! {
                    biased;
                    answer = outbox.recv() => {
                        let Some((report, fd)) = answer else { return Ok(()) };
                        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
                        front.send(&report, &fds).await?;
                    }
                    (ended, last) = news => {
                        for ended in ended {
                            front.send(&Report::Exited(ended), &[]).await?;
                        }
                        told = last;
                    }
                }
            }
        };
        // Orders that wait for something outside, beside those that come after them.
        let (wait, mut slow) = mpsc::channel(ANSWERS);
        let receiving = async {
            while let Some(message) = front.receive().await? {
                let mut carried = Box::pin(self.carry_out(message));
                // Both are bounded, and other parts of this task empty them.
                let is_taken = match carried.as_mut().now_or_never() {
                    Some(parcel) => answers.send(parcel?).await.is_ok(),
                    None => wait.send(carried).await.is_ok(),
                };
                if !is_taken {
                    break;
                }
            }
            Ok(())
        };
        let waiting = async {
            let mut all = FuturesUnordered::new();
            loop {
                tokio::select! {
                    biased;
                    Some(parcel) = all.next() => {
                        if answers.send(parcel?).await.is_err() {
                            return Ok(());
                        }
                    }
                    Some(carried) = slow.recv() => all.push(carried),
                    else => return Ok(()),
                }
            }
        };
        tokio::select! {
            biased;
            sent = sending => sent,
            received = receiving => received,
            waited = waiting => waited,
        }
    }

    async fn carry_out(&self, message: Message) -> io::Result<Parcel> {
        let (number, outcome) = match message.parse::<Order>() {
            Ok(Order { number, what }) => (number, self.obey(what, message.fds.take()).await),
            Err(error) => {
                let why = format!("the Wasm worker process is of build {} and does not know this: {error}", self.build);
                (Command::number_of(&message)?, Err(why))
            }
        };
        let (outcome, fd) = match outcome {
            Ok((answer, fd)) => (Ok(answer), fd),
            Err(why) => (Err(why), None),
        };
        Ok((Report::Done { number, outcome }, fd))
    }

    /// What runs and what has ended, at one moment.
    fn welcome(&self) -> (Welcome, u64) {
        let running = self.running.lock();
        let (ended, last) = self.ends.after(0);
        let live = running.iter().filter(|(_, handle)| !handle.forgotten).map(|(id, _)| id.clone());
        let welcome = Welcome {
            version: wire::VERSION,
            build: self.build.clone(),
            retiring: self.is_retiring(),
            running: live.collect(),
            ended,
        };
        (welcome, last)
    }

    pub(super) fn retire(&self) {
        self.retiring.store(true, Ordering::Relaxed);
        self.ends.changed();
    }

    pub(super) fn is_retiring(&self) -> bool {
        self.retiring.load(Ordering::Relaxed)
    }

    /// Neither a guest, nor one to come, nor news of one.
    fn is_idle(&self) -> bool {
        let running = self.running.lock();
        running.is_empty() && self.opening.is_empty() && self.ends.is_empty()
    }

    /// Returns when it was told to end and is empty.
    async fn retired(&self) {
        self.ends.wait_until(|| (self.is_retiring() && self.is_idle()).then_some(())).await;
    }
}
