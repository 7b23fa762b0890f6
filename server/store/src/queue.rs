//! Between the callers of `commit` and the writer's thread: whatever gathers while the writer syncs the disk becomes
//! the next group.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::entry::{Entry, Key, Op};
use crate::error::CommitError;

pub(crate) type Answer = Result<Vec<Arc<Entry>>, CommitError>;

/// Whatever must not be let go of before a commit is decided, such as a claim on a number that the commit gives out.
pub type Held = Box<dyn Send>;

pub(crate) struct Request {
    pub(crate) ops: Vec<(Key, Op)>,
    pub(crate) reply: oneshot::Sender<Answer>,
    /// The place in the bounded queue, and what the caller wants held: let go of when the request is answered, whether
    /// or not anybody waits for the answer.
    pub(crate) _held: (Option<OwnedSemaphorePermit>, Option<Held>),
}

pub(crate) enum Wake {
    Requests(Vec<Request>),
    Deadline,
    Close(oneshot::Sender<Result<(), CommitError>>),
    /// The last handle is gone without a close.
    Abandoned,
}

#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    close: Option<oneshot::Sender<Result<(), CommitError>>>,
    abandoned: bool,
    over: bool,
}

impl Queue {
    /// Gives the request back when the writer is gone.
    pub(crate) fn push(&self, request: Request) -> Result<(), Request> {
        let mut waiting = self.waiting.lock();
        if waiting.over || waiting.close.is_some() {
            return Err(request);
        }
        waiting.requests.push_back(request);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// Asks for an orderly end behind what is waiting. False when there was one already.
    pub(crate) fn close(&self, reply: oneshot::Sender<Result<(), CommitError>>) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.over || waiting.close.is_some() {
            return false;
        }
        waiting.close = Some(reply);
        drop(waiting);
        self.wake.notify_one();
        true
    }

    pub(crate) fn abandon(&self) {
        self.waiting.lock().abandoned = true;
        self.wake.notify_one();
    }

    /// Takes up to `most` requests, waiting for the first until `deadline`.
    pub(crate) fn take(&self, most: usize, deadline: Option<Instant>) -> Wake {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.abandoned {
                return Wake::Abandoned;
            }
            if !waiting.requests.is_empty() {
                let many = waiting.requests.len().min(most);
                return Wake::Requests(waiting.requests.drain(..many).collect());
            }
            if let Some(reply) = waiting.close.take() {
                waiting.over = true;
                return Wake::Close(reply);
            }
            match deadline {
                None => self.wake.wait(&mut waiting),
                Some(deadline) => {
                    if self.wake.wait_until(&mut waiting, deadline.into_std()).timed_out() {
                        return Wake::Deadline;
                    }
                }
            }
        }
    }

    /// Ends the queue; requests that were still waiting are dropped, which their callers see.
    pub(crate) fn end(&self) {
        let mut waiting = self.waiting.lock();
        waiting.over = true;
        waiting.requests.clear();
        waiting.close = None;
    }
}
