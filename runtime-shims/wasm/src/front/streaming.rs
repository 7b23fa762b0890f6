//! What runs behind the URLs that Exec, Attach and PortForward hand out: brings the client's streams together with a
//! command's, a container's or a connection's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use coracle_cri::Status;
use coracle_cri::streaming::{Forward, Output, Resizes, StreamingRuntime, StreamingServer, Streams};
use coracle_cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::exec::{Descriptors, input, output};
use super::pods::{Pods, guest_ip, lookup_failed};
use super::terminal::{INTERRUPT, Terminal};

const PIECE_BYTES: usize = 32 << 10;
/// As a process that was ended by an interrupt (128 + SIGINT).
const INTERRUPTED: i32 = 130;

impl Pods {
    /// Serves streams on a port of this host's own address until the front stops.
    pub(super) async fn serve_streams(self: &Arc<Pods>) -> io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let ids = self.config.ids.clone();
        let server = StreamingServer::new(listener.local_addr()?, Arc::new(Behind(self.clone())), move || ids.next());
        if self.streams.set(server.clone()).is_ok() {
            self.tasks.spawn(server.serve(listener, self.stop.clone()));
        }
        Ok(())
    }

    fn streams(&self) -> Result<&StreamingServer, Status> {
        self.streams.get().ok_or_else(|| Status::unavailable("the streaming server is not up yet"))
    }

    pub(super) fn exec_url(&self, request: ExecRequest) -> Result<String, Status> {
        let (_, container_id) = self.link_of(&request.container_id)?;
        self.streams()?.exec_url(ExecRequest { container_id, ..request })
    }

    pub(super) fn attach_url(&self, request: AttachRequest) -> Result<String, Status> {
        let (_, container_id) = self.link_of(&request.container_id)?;
        self.streams()?.attach_url(AttachRequest { container_id, ..request })
    }

    pub(super) fn port_forward_url(&self, request: PortForwardRequest) -> Result<String, Status> {
        let pod_sandbox_id = {
            let state = self.state.lock();
            let id = state.sandbox_id(&request.pod_sandbox_id).map_err(lookup_failed)?;
            if !state.sandboxes[&id].ready {
                return Err(Status::failed_precondition(format!("sandbox container {id:?} is not running")));
            }
            id
        };
        self.streams()?.port_forward_url(PortForwardRequest { pod_sandbox_id, ..request })
    }
}

/// The streaming server's view of the pods.
struct Behind(Arc<Pods>);

#[async_trait::async_trait]
impl StreamingRuntime for Behind {
    async fn exec(&self, request: &ExecRequest, streams: Streams) -> Result<i32, String> {
        if request.tty {
            return self.exec_in_terminal(request, streams).await;
        }
        let Streams { stdin, stdout, stderr, .. } = streams;
        let failed = |error: io::Error| error.to_string();
        let (from_client, stdin_end) = stdin.is_some().then(input).transpose().map_err(failed)?.unzip();
        let (from_stdout, stdout_end) = stdout.is_some().then(output).transpose().map_err(failed)?.unzip();
        let (from_stderr, stderr_end) = stderr.is_some().then(output).transpose().map_err(failed)?.unzip();
        let descriptors = Descriptors { stdin: stdin_end, stdout: stdout_end, stderr: stderr_end, terminal: false };
        let running = self.0.begin(&request.container_id, &request.cmd, descriptors).await.map_err(told)?;
        let typing = async {
            if let Some((stdin, to)) = stdin.zip(from_client) {
                inward(stdin, to).await;
            }
            std::future::pending::<()>().await;
        };
        let reading = |from: Option<_>, to: Option<Output>| async move {
            if let Some((from, to)) = from.zip(to) {
                outward(from, &to, false).await;
            }
        };
        let done =
            async { tokio::join!(running.ended(), reading(from_stdout, stdout), reading(from_stderr, stderr)).0 };
        tokio::select! {
            biased;
            ended = done => ended.map(|exit| exit.code).map_err(failed),
            () = typing => Ok(INTERRUPTED),
        }
    }

    async fn attach(&self, request: &AttachRequest, streams: Streams) -> Result<(), String> {
        self.0.attach(request, streams).await
    }

    async fn forward(&self, sandbox: &str, port: u16, streams: Forward) -> Result<(), String> {
        let address = {
            let state = self.0.state.lock();
            let found = state.sandboxes.get(sandbox).filter(|sandbox| sandbox.ready);
            let found = found.ok_or_else(|| format!("sandbox container {sandbox:?} is not running"))?;
            SocketAddr::new(guest_ip(found).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), port)
        };
        let stream = TcpStream::connect(address).await.map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
                _ => error.to_string(),
            };
            format!("failed to connect to localhost:{port} inside sandbox {sandbox:?}: dial tcp {address}: {why}")
        })?;
        let (from, to) = stream.into_split();
        let Forward { input, output } = streams;
        let answering = async {
            outward(from, &output, false).await;
            let _ = output.end().await;
        };
        let asking = async {
            inward(input, to).await;
            // The pod may answer after the client has said all.
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = answering => Ok(()),
            never = asking => never,
        }
    }
}

impl Behind {
    async fn exec_in_terminal(&self, request: &ExecRequest, streams: Streams) -> Result<i32, String> {
        let Streams { stdin, stdout, resizes, .. } = streams;
        let failed = |error: io::Error| format!("cannot use a terminal: {error}");
        let (terminal, command) = Terminal::open().map_err(failed)?;
        let copy = |wanted: bool| wanted.then(|| command.try_clone()).transpose().map_err(failed);
        let stderr = copy(true)?;
        let descriptors = Descriptors { stdin: copy(stdin.is_some())?, stdout: copy(true)?, stderr, terminal: true };
        // Only the worker keeps it open: that it is closed there is how the end is seen here.
        drop(command);
        let running = self.0.begin(&request.container_id, &request.cmd, descriptors).await.map_err(told)?;
        let done = async { tokio::join!(running.ended(), show(&terminal, stdout.as_ref())).0 };
        tokio::select! {
            biased;
            ended = done => ended.map(|exit| exit.code).map_err(failed),
            () = interrupted(&terminal, stdin) => Ok(INTERRUPTED),
            () = resized(&terminal, resizes) => Ok(INTERRUPTED),
        }
    }
}

async fn show(terminal: &Terminal, stdout: Option<&Output>) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(got @ 1..) = terminal.read(&mut piece).await {
        if let Some(stdout) = stdout
            && stdout.send(Bytes::copy_from_slice(&piece[..got])).await.is_err()
        {
            return;
        }
    }
}

/// Types what the client types. Returns when it interrupts.
async fn interrupted(terminal: &Terminal, stdin: Option<mpsc::Receiver<Bytes>>) {
    if let Some(mut stdin) = stdin {
        while let Some(bytes) = stdin.recv().await {
            let typed = terminal.write(&bytes).await;
            if bytes.contains(&INTERRUPT) {
                return;
            }
            if typed.is_err() {
                break;
            }
        }
        let _ = terminal.end_input().await;
    }
    std::future::pending().await
}

/// Never returns.
async fn resized(terminal: &Terminal, resizes: Option<Resizes>) {
    if let Some(mut resizes) = resizes {
        while let Some(size) = resizes.next().await {
            if let Err(error) = terminal.resize(size) {
                tracing::debug!(%error, "a terminal cannot be resized");
            }
        }
    }
    std::future::pending().await
}

pub(super) fn told(status: Status) -> String {
    status.message().to_owned()
}

/// From the client to a descriptor, which is closed at the end.
async fn inward(mut from: mpsc::Receiver<Bytes>, mut to: impl AsyncWrite + Unpin) {
    while let Some(bytes) = from.recv().await {
        if to.write_all(&bytes).await.is_err() {
            // Nobody reads it any more.
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// To the client, until the end or until it is gone. With `cr`, lines end as a terminal wants them to.
pub(super) async fn outward(mut from: impl AsyncRead + Unpin, to: &Output, cr: bool) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE_BYTES);
        match from.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let piece = buffer.split().freeze();
        let piece = if cr { with_returns(&piece) } else { piece };
        if to.send(piece).await.is_err() {
            return;
        }
    }
}

pub(super) fn with_returns(text: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(text.len() + 16);
    for byte in text {
        if *byte == b'\n' {
            out.push(b'\r');
        }
        out.push(*byte);
    }
    out.into()
}
