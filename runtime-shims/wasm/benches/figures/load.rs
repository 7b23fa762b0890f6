//! A small HTTP/1.1 client that costs little itself: it shares the processors with what it measures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// One connection, kept alive.
pub(crate) struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(at: SocketAddr, path: &str) -> anyhow::Result<Client> {
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {at}\r\n\r\n").into_bytes();
        Ok(Client { stream, request, buffer: Vec::with_capacity(4096) })
    }

    /// Sends the request and reads the whole response, which must be a 200.
    pub(crate) async fn ask(&mut self) -> anyhow::Result<()> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        let (head, length) = loop {
            self.more().await?;
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break (end + 4, body_length(&self.buffer[..end + 2])?);
            }
        };
        loop {
            let body = &self.buffer[head..];
            let whole = match length {
                Some(length) => body.len() >= length,
                None => body.ends_with(b"0\r\n\r\n"),
            };
            if whole {
                return Ok(());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed");
        }
        Ok(())
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

/// None if the body comes in chunks.
fn body_length(head: &[u8]) -> anyhow::Result<Option<usize>> {
    if !head.starts_with(b"HTTP/1.1 200 ") {
        bail!("{}", String::from_utf8_lossy(head).lines().next().unwrap_or_default());
    }
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    match head.lines().find_map(|line| line.strip_prefix("content-length:")) {
        Some(length) => Ok(Some(length.trim().parse().context("content-length")?)),
        None if head.contains("transfer-encoding: chunked") => Ok(None),
        None => bail!("a response without a length"),
    }
}

/// What was measured.
#[derive(Default)]
pub(crate) struct Measured {
    latencies: Vec<Duration>,
    elapsed: Duration,
    pub(crate) failed: usize,
}

impl Measured {
    pub(crate) fn of(latencies: Vec<Duration>, elapsed: Duration) -> Measured {
        Measured { latencies, elapsed, failed: 0 }
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// Milliseconds below which a share `p` of them lies.
    pub(crate) fn percentile_ms(&self, p: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = (sorted.len().saturating_sub(1) as f64 * p).round() as usize;
        sorted.get(at).map_or(f64::NAN, |one| one.as_secs_f64() * 1e3)
    }

    pub(crate) fn add(&mut self, other: Measured) {
        self.latencies.extend(other.latencies);
        self.elapsed += other.elapsed;
        self.failed += other.failed;
    }
}

/// As many requests as possible over `connections` connections for a time.
pub(crate) async fn flat_out(
    at: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
) -> anyhow::Result<Measured> {
    let over = Arc::new(AtomicBool::new(false));
    let mut asking = JoinSet::new();
    for _ in 0..connections {
        let mut client = Client::connect(at, path).await?;
        let over = over.clone();
        asking.spawn(async move {
            let mut latencies = Vec::with_capacity(16 << 10);
            while !over.load(Ordering::Relaxed) {
                let sent = Instant::now();
                client.ask().await?;
                latencies.push(sent.elapsed());
            }
            anyhow::Ok(latencies)
        });
    }
    let start = Instant::now();
    tokio::time::sleep(time).await;
    over.store(true, Ordering::Relaxed);
    let elapsed = start.elapsed();
    let mut measured = Measured::of(Vec::new(), elapsed);
    while let Some(done) = asking.join_next().await {
        measured.latencies.extend(done??);
    }
    Ok(measured)
}

/// A light load: each of `connections` asks every `pause`. A request that fails is counted, and its connection made
/// anew. Ends when `over` does.
pub(crate) async fn lightly(
    at: SocketAddr,
    connections: usize,
    pause: Duration,
    over: impl Future<Output = ()>,
) -> anyhow::Result<Measured> {
    let done = Arc::new(AtomicBool::new(false));
    let asking = ask_lightly(at, connections, pause, done.clone());
    // On a thread of its own: who asks does not wait in one queue with the clients of others.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measuring = tokio::task::spawn_blocking(move || {
        // And it stands for another machine: what goes on at this one does not keep it from its work, if we may say so.
        let _ = rustix::process::setpriority_process(None, -20);
        runtime.block_on(asking)
    });
    over.await;
    done.store(true, Ordering::Relaxed);
    measuring.await?
}

async fn ask_lightly(
    at: SocketAddr,
    connections: usize,
    pause: Duration,
    done: Arc<AtomicBool>,
) -> anyhow::Result<Measured> {
    let mut asking = JoinSet::new();
    let start = Instant::now();
    for number in 0..connections {
        let done = done.clone();
        asking.spawn(async move {
            let mut measured = Measured::default();
            let mut client = Client::connect(at, "/").await.ok();
            // Not all in the same moment.
            let first = start + pause * u32::try_from(number).unwrap_or(0) / u32::try_from(connections).unwrap_or(1);
            let mut rhythm = tokio::time::interval_at(first, pause);
            rhythm.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !done.load(Ordering::Relaxed) {
                rhythm.tick().await;
                let sent = Instant::now();
                let asked = async {
                    if client.is_none() {
                        client = Some(Client::connect(at, "/").await?);
                    }
                    client.as_mut().context("it is connected")?.ask().await
                };
                match asked.await {
                    Ok(()) => measured.latencies.push(sent.elapsed()),
                    Err(_) => {
                        measured.failed += 1;
                        client = None;
                    }
                }
            }
            measured
        });
    }
    let mut all = Measured::default();
    while let Some(one) = asking.join_next().await {
        all.add(one?);
    }
    all.elapsed = start.elapsed();
    Ok(all)
}
