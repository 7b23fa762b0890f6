//! What is counted of WASI 0.3. There a stream of a socket or file lives on when the socket or file has been dropped, and
//! keeps it open: so what is held for it is given back when both are gone.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{FutureConsumer, FutureReader, Lift, Lower, Source};

use super::allowance::Held;
use super::guest::Instance;

/// Hands on how a stream ended, which is told when it is gone, and holds `held` until then.
pub(super) fn until_over<T>(
    mut store: StoreContextMut<'_, Instance>,
    over: FutureReader<T>,
    held: Option<Arc<Held>>,
) -> wasmtime::Result<FutureReader<T>>
where
    T: Lift + Lower + Send + Sync + Unpin + 'static,
{
    if held.is_none() {
        return Ok(over);
    }
    let (told, heard) = oneshot::channel();
    over.pipe(&mut store, Until { told: Some(told), held })?;
    FutureReader::new(&mut store, heard)
}

struct Until<T> {
    told: Option<oneshot::Sender<T>>,
    held: Option<Arc<Held>>,
}

impl<T: Lift + Send + Unpin + 'static> FutureConsumer<Instance> for Until<T> {
    type Item = T;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: StoreContextMut<'_, Instance>,
        mut source: Source<'_, T>,
        _: bool,
    ) -> Poll<wasmtime::Result<()>> {
        let mut end = None;
        source.read(store, &mut end)?;
        self.held = None;
        if let (Some(told), Some(end)) = (self.told.take(), end) {
            // The guest need not listen.
            let _ = told.send(end);
        }
        Poll::Ready(Ok(()))
    }
}
