//! Between a socket on the node and a port of a pod, until told to stop. How much at once is bounded; it knows no pods.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections of one port on one address; more wait in the kernel until one closes.
const CONNECTIONS: usize = 1024;
/// Clients that send datagrams to one port on one address; what comes from more is lost, as datagrams may be.
const CLIENTS: usize = 256;
/// A client that has had no answer for so long is forgotten. When it sends again, it is a new one.
const SILENCE: Duration = Duration::from_secs(60);
/// After a failure that lies with the machine: out of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(100);
const DATAGRAM_BYTES: usize = 64 << 10;

pub(super) async fn connections(listener: TcpListener, to: SocketAddr, stop: CancellationToken, tasks: TaskTracker) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let next = async || {
        let place = room.clone().acquire_owned().await.map_err(io::Error::other)?;
        listener.accept().await.map(|(client, _)| (place, client))
    };
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = next() => accepted,
        };
        let (place, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%to, %error, "cannot accept for a hostPort");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let carrying = stop.clone().run_until_cancelled_owned(async move {
            if let Err(error) = connection(client, to).await {
                tracing::debug!(%to, %error, "a connection to a hostPort ended badly");
            }
            drop(place);
        });
        tasks.spawn(carrying);
    }
}

async fn connection(mut client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut pod = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    pod.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut pod).await.map(drop)
}

type Clients = Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>>;

/// Each client has a socket of its own towards the pod, so that answers find back.
pub(super) async fn datagrams(
    socket: UdpSocket,
    to: SocketAddr,
    from: Ipv4Addr,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let socket = Arc::new(socket);
    let clients = Clients::default();
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let received = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let carried = async {
            let (length, client) = received?;
            let known = clients.lock().get(&client).cloned();
            let towards = match known {
                Some(towards) => towards,
                None if clients.lock().len() >= CLIENTS => return Ok(()),
                None => {
                    let towards = UdpSocket::bind((from, 0)).await?;
                    towards.connect(to).await?;
                    // Not so before the runtime has looked.
                    towards.writable().await?;
                    let towards = Arc::new(towards);
                    clients.lock().insert(client, towards.clone());
                    let answering = answers(towards.clone(), socket.clone(), client, clients.clone());
                    tasks.spawn(stop.clone().run_until_cancelled_owned(answering));
                    towards
                }
            };
            // Lost like any other when the pod does not listen, or not quickly enough. The first try may only tell that it
            // did not listen before.
            let _ = towards.try_send(&buffer[..length]).or_else(|_| towards.try_send(&buffer[..length]));
            io::Result::Ok(())
        };
        if let Err(error) = carried.await {
            tracing::warn!(%to, %error, "cannot carry a datagram of a hostPort");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What the pod answers to one client.
async fn answers(from: Arc<UdpSocket>, to: Arc<UdpSocket>, client: SocketAddr, clients: Clients) {
    while let Ok(Ok(())) = tokio::time::timeout(SILENCE, from.readable()).await {
        // Many clients are silent most of the time: none holds a buffer.
        let mut answer = Vec::with_capacity(DATAGRAM_BYTES);
        // That the pod does not listen is told here too; it may later.
        if from.try_recv_buf(&mut answer).is_ok() {
            let _ = to.send_to(&answer, client).await;
        }
    }
    clients.lock().remove(&client);
}
