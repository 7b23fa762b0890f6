//! Container events for whoever listens. A listener that falls behind is cut off, so that it lists anew instead of
//! believing it has seen everything.

use std::sync::Arc;

use coracle_cri::Status;
use coracle_cri::v1::ContainerEventResponse;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

/// What a listener may be behind.
const BACKLOG: usize = 2048;

#[derive(Debug)]
pub(super) struct Events {
    sender: broadcast::Sender<Arc<ContainerEventResponse>>,
    stop: CancellationToken,
}

impl Events {
    /// Streams end when `stop` is cancelled.
    pub(super) fn new(stop: CancellationToken) -> Events {
        Events { sender: broadcast::Sender::new(BACKLOG), stop }
    }

    /// Whether making an event is worth the while.
    pub(super) fn has_listeners(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub(super) fn send(&self, event: ContainerEventResponse) {
        // Nobody listens: nobody misses it.
        let _ = self.sender.send(Arc::new(event));
    }

    pub(super) fn subscribe(&self) -> BoxStream<'static, Result<ContainerEventResponse, Status>> {
        following(self.sender.subscribe()).take_until(self.stop.clone().cancelled_owned()).boxed()
    }
}

fn following(
    receiver: broadcast::Receiver<Arc<ContainerEventResponse>>,
) -> impl Stream<Item = Result<ContainerEventResponse, Status>> + Send {
    stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Ok(event) => Some((Ok(ContainerEventResponse::clone(&event)), Some(receiver))),
            Err(RecvError::Closed) => None,
            Err(RecvError::Lagged(missed)) => {
                let why = format!("{missed} events were missed: list the containers and listen again");
                Some((Err(Status::data_loss(why)), None))
            }
        }
    })
}
