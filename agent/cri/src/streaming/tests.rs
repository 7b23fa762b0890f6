//! The server as clients of Kubernetes use it, over real sockets, with a runtime that echoes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use expect_test::{Expect, expect};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use super::command::{self, Command};
use super::forward;
use super::spdy::{self, Headers, Side};
use super::websocket::Framing;
use super::*;
use crate::v1::PortForwardRequest;

/// Its commands: `echo` sends its input back and the last size of the terminal, `exit N`, `deaf` neither reads nor ends,
/// `missing`.
struct Echo;

#[async_trait::async_trait]
impl StreamingRuntime for Echo {
    async fn exec(&self, request: &ExecRequest, mut streams: Streams) -> Result<i32, String> {
        if let Some(mut resizes) = streams.resizes.take() {
            let size = resizes.next().await.ok_or("no size")?;
            let text = format!("{}x{} ", size.width, size.height);
            streams.stdout.as_ref().ok_or("no stdout")?.send(text.into()).await.map_err(|gone| gone.to_string())?;
        }
        if let Some(stderr) = &streams.stderr {
            stderr.send(Bytes::from_static(b"to stderr")).await.map_err(|gone| gone.to_string())?;
        }
        match request.cmd.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["echo"] => {
                let (mut stdin, stdout) = streams.stdin.zip(streams.stdout).ok_or("no streams")?;
                while let Some(piece) = stdin.recv().await {
                    stdout.send(piece).await.map_err(|gone| gone.to_string())?;
                }
                Ok(0)
            }
            ["exit", code] => Ok(code.parse().unwrap_or(-1)),
            ["deaf"] => std::future::pending().await,
            _ => Err("exec: \"sh\": executable file not found in $PATH".to_owned()),
        }
    }

    async fn attach(&self, request: &AttachRequest, streams: Streams) -> Result<(), String> {
        let stdout = streams.stdout.ok_or("no stdout")?;
        stdout.send(format!("attached to {}", request.container_id).into()).await.map_err(|gone| gone.to_string())
    }

    async fn forward(&self, _: &str, port: u16, mut streams: Forward) -> Result<(), String> {
        if port == 81 {
            return Err("connection refused".to_owned());
        }
        if port == 82 {
            // It reads nothing.
            std::future::pending::<()>().await;
        }
        streams.output.send(format!("port {port}: ").into()).await.map_err(|gone| gone.to_string())?;
        while let Some(piece) = streams.input.recv().await {
            streams.output.send(piece).await.map_err(|gone| gone.to_string())?;
        }
        Ok(())
    }
}

/// Runs `client` against a server.
async fn with_server<T>(client: impl AsyncFnOnce(SocketAddr, StreamingServer) -> T) -> T {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let next = AtomicU32::new(0);
    let server = StreamingServer::new(address, Arc::new(Echo), move || {
        format!("token-{}", next.fetch_add(1, Ordering::Relaxed))
    });
    let stop = CancellationToken::new();
    tokio::select! {
        biased;
        outcome = client(address, server.clone()) => outcome,
        () = server.serve(listener, stop) => unreachable!("it was not stopped"),
    }
}

/// Asks for `url` with these headers: the status, the protocol and the body or the open connection.
async fn upgrade(address: SocketAddr, url: &str, headers: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let path = url.strip_prefix(&format!("http://{address}")).expect("the server's own URL");
    let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().to_owned();
    let protocol = answer.lines().find_map(|line| line.strip_prefix("x-stream-protocol-version: "));
    let protocol = protocol.or_else(|| answer.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: ")));
    (format!("{status} {}", protocol.unwrap_or("-")), stream)
}

async fn spdy(address: SocketAddr, url: &str, protocols: &str) -> (String, TcpStream) {
    let headers = format!("connection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: {protocols}\r\n");
    upgrade(address, url, &headers).await
}

async fn websocket(address: SocketAddr, url: &str, protocol: &str) -> (String, WebSocketStream<TcpStream>) {
    let headers = format!(
        "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: {protocol}\r\n"
    );
    let (answer, stream) = upgrade(address, url, &headers).await;
    (answer, WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
}

fn exec(command: &[&str], tty: bool) -> ExecRequest {
    let cmd = command.iter().map(|word| (*word).to_owned()).collect();
    ExecRequest { container_id: "c".into(), cmd, tty, stdin: true, stdout: true, stderr: !tty }
}

/// What a client of SPDY sees of a command: every stream's bytes.
async fn over_spdy(stream: impl AsyncRead + AsyncWrite, kinds: &[&str], input: &'static [u8]) -> String {
    let (connection, link, _none) = spdy::connection(stream, Side::Client, 1);
    let talk = async {
        let mut streams = Vec::new();
        for kind in kinds {
            streams.push(link.open(vec![("streamtype".into(), (*kind).to_owned())]).await.unwrap());
        }
        let mut seen = String::new();
        for (kind, mut stream) in kinds.iter().zip(streams) {
            if *kind == "resize" {
                stream.output.send(Bytes::from_static(b"{\"Width\":80,\"Hei")).await.unwrap();
                stream.output.send(Bytes::from_static(b"ght\":24}\n")).await.unwrap();
                continue;
            }
            if *kind == "stdin" {
                stream.output.send(Bytes::from_static(input)).await.unwrap();
                stream.output.end().await.unwrap();
                continue;
            }
            seen += &format!("{kind}: ");
            while let Some(piece) = stream.input.recv().await {
                seen += &String::from_utf8_lossy(&piece);
            }
            seen += "\n";
        }
        link.finish().await;
        seen
    };
    let (seen, _) = tokio::join!(talk, connection.run());
    seen
}

async fn check_spdy(command: &[&str], tty: bool, protocols: &str, expected: Expect) {
    let shown = with_server(async |address, server| {
        let url = server.exec_url(exec(command, tty)).unwrap();
        let (answer, stream) = spdy(address, &url, protocols).await;
        let kinds: &[&str] =
            if tty { &["resize", "stdin", "stdout", "error"] } else { &["stdin", "stdout", "stderr", "error"] };
        format!("{answer}\n{}", over_spdy(stream, kinds, b"hello").await)
    });
    expected.assert_eq(&shown.await);
}

#[tokio::test]
async fn a_command_over_spdy_gets_its_input_and_its_end_is_told() {
    let all = "v4.channel.k8s.io, v3.channel.k8s.io, channel.k8s.io";
    check_spdy(
        &["echo"],
        false,
        all,
        expect![[r#"
        101 v4.channel.k8s.io
        stdout: hello
        stderr: to stderr
        error: {"metadata":{},"status":"Success"}
    "#]],
    )
    .await;
    check_spdy(&["exit", "3"], false, all, expect![[r#"
        101 v4.channel.k8s.io
        stdout: 
        stderr: to stderr
        error: {"details":{"causes":[{"message":"3","reason":"ExitCode"}]},"message":"command terminated with non-zero exit code: error executing command [exit 3], exit code 3","metadata":{},"reason":"NonZeroExitCode","status":"Failure"}
    "#]])
    .await;
    check_spdy(&["sh"], false, all, expect![[r#"
        101 v4.channel.k8s.io
        stdout: 
        stderr: to stderr
        error: {"code":500,"details":{"causes":[{"message":"error executing command in container: exec: \"sh\": executable file not found in $PATH"}]},"message":"Internal error occurred: error executing command in container: exec: \"sh\": executable file not found in $PATH","metadata":{},"reason":"InternalError","status":"Failure"}
    "#]])
    .await;
    check_spdy(
        &["echo"],
        true,
        "v3.channel.k8s.io",
        expect![[r#"
        101 v3.channel.k8s.io
        stdout: 80x24 hello
        error: 
    "#]],
    )
    .await;
    check_spdy(
        &["exit", "1"],
        false,
        "channel.k8s.io",
        expect![[r#"
        101 channel.k8s.io
        stdout: 
        stderr: to stderr
        error: command terminated with non-zero exit code: error executing command [exit 1], exit code 1
    "#]],
    )
    .await;
}

/// Every message but empty ones; an end of input is asked for where the protocol has it.
async fn check_websocket(protocol: &str, messages: Vec<Message>, expected: Expect) {
    let shown = with_server(async |address, server| {
        let url = server.exec_url(exec(&["echo"], false)).unwrap();
        let (answer, mut socket) = websocket(address, &url, protocol).await;
        let mut shown = format!("{answer}\n");
        for message in messages {
            socket.send(message).await.unwrap();
        }
        let mut left = if protocol.starts_with("v5") { usize::MAX } else { 3 };
        while left > 0
            && let Some(Ok(message)) = socket.next().await
        {
            left -= 1;
            shown += &match message {
                Message::Binary(bytes) => format!("{} {}\n", bytes[0], String::from_utf8_lossy(&bytes[1..])),
                Message::Text(text) => format!("text {text}\n"),
                Message::Close(frame) => format!("closed {:?}\n", frame.map(|frame| u16::from(frame.code))),
                other => format!("{other:?}\n"),
            };
        }
        shown
    });
    expected.assert_eq(&shown.await);
}

#[tokio::test]
async fn a_command_over_a_websocket_in_each_protocol() {
    let binary = |text: &'static [u8]| Message::Binary(Bytes::from_static(text));
    check_websocket(
        "v5.channel.k8s.io",
        vec![binary(b"\0in"), binary(b""), binary(b"\x09nobody's"), binary(b"\0put"), binary(b"\xff\0")],
        expect![[r#"
            101 v5.channel.k8s.io
            1 
            2 to stderr
            1 in
            1 put
            3 {"metadata":{},"status":"Success"}
            closed Some(1000)
        "#]],
    )
    .await;
    check_websocket(
        "v4.channel.k8s.io",
        vec![binary(b"\0input")],
        expect![[r#"
        101 v4.channel.k8s.io
        1 
        2 to stderr
        1 input
    "#]],
    )
    .await;
    check_websocket(
        "base64.channel.k8s.io",
        vec![Message::Text("0aW5wdXQ=".into())],
        expect![[r#"
        101 base64.channel.k8s.io
        text 1
        text 2dG8gc3RkZXJy
        text 1aW5wdXQ=
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_token_is_good_once_for_what_it_was_made_for_and_for_a_minute() {
    let told = with_server(async |address, server| {
        let mut told = String::new();
        let url = server.exec_url(exec(&["exit", "0"], false)).unwrap();
        let other = url.replace("/exec/", "/attach/");
        for (url, protocol) in [(&other, "v4.channel.k8s.io"), (&url, "v4.channel.k8s.io"), (&url, "v4.channel.k8s.io")]
        {
            told += &format!("{}\n", spdy(address, url, protocol).await.0);
        }
        let url = server.exec_url(exec(&["exit", "0"], false)).unwrap();
        told += &format!("{}\n", spdy(address, &url, "v9.channel.k8s.io").await.0);
        let url = server.exec_url(exec(&["exit", "0"], false)).unwrap();
        told += &format!("{}\n", upgrade(address, &url, "").await.0);
        let url = server.exec_url(exec(&["exit", "0"], false)).unwrap();
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(61)).await;
        tokio::time::resume();
        told += &format!("{}\n", spdy(address, &url, "v4.channel.k8s.io").await.0);
        for _ in 0..1000 {
            server.attach_url(AttachRequest { stdout: true, ..AttachRequest::default() }).unwrap();
        }
        told += &format!("{}\n", server.exec_url(exec(&["x"], false)).unwrap_err().message());
        let both = ExecRequest { stderr: true, ..exec(&["x"], true) };
        told += &format!("{}\n", server.exec_url(both).unwrap_err().message());
        told += &format!("{}\n", server.attach_url(AttachRequest::default()).unwrap_err().message());
        told
    })
    .await;
    expect![[r#"
        404 -
        101 v4.channel.k8s.io
        404 -
        403 -
        400 -
        404 -
        maximum number of in-flight requests exceeded
        tty and stderr cannot both be true
        one of stdin, stdout, or stderr must be set
    "#]]
    .assert_eq(&told);
}

#[tokio::test]
async fn attach_goes_the_same_way() {
    let shown = with_server(async |address, server| {
        let request = AttachRequest { container_id: "c1".into(), stdout: true, ..AttachRequest::default() };
        let (_, stream) = spdy(address, &server.attach_url(request).unwrap(), "v4.channel.k8s.io").await;
        over_spdy(stream, &["stdout", "error"], b"").await
    });
    assert_eq!(shown.await, "stdout: attached to c1\nerror: {\"metadata\":{},\"status\":\"Success\"}\n");
}

/// Two connections to one port at once, and one to a port where nothing listens.
async fn forwarded(stream: impl AsyncRead + AsyncWrite) -> String {
    let (connection, link, _none) = spdy::connection(stream, Side::Client, 1);
    let talk = async {
        let mut open = Vec::new();
        for (port, id) in [("80", "0"), ("80", "1"), ("81", "2")] {
            let headers = |kind: &str| {
                vec![
                    ("streamtype".to_owned(), kind.to_owned()),
                    ("port".to_owned(), port.to_owned()),
                    ("requestid".to_owned(), id.to_owned()),
                ]
            };
            let error = link.open(headers("error")).await.unwrap();
            error.output.end().await.unwrap();
            let data = link.open(headers("data")).await.unwrap();
            data.output.send(format!("I am {id}").into()).await.unwrap();
            open.push((id, data, error));
        }
        let mut seen = String::new();
        // The later one ends first.
        open.reverse();
        for (id, mut data, mut error) in open {
            data.output.end().await.unwrap();
            seen += &format!("{id}: ");
            while let Some(piece) = data.input.recv().await {
                seen += &String::from_utf8_lossy(&piece);
            }
            while let Some(piece) = error.input.recv().await {
                seen += &String::from_utf8_lossy(&piece);
            }
            seen += "\n";
        }
        link.finish().await;
        seen
    };
    let (seen, _) = tokio::join!(talk, connection.run());
    seen
}

/// The client's half of a tunnel: the server's with the roles changed.
async fn through(socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>, inner: DuplexStream) {
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(inner);
    let out = async {
        let mut piece = vec![0; 1000];
        while let Ok(got @ 1..) = read.read(&mut piece).await {
            sink.send(Message::Binary(Bytes::copy_from_slice(&piece[..got]))).await.unwrap();
        }
        let _ = sink.close().await;
    };
    let back = async {
        while let Some(Ok(Message::Binary(bytes))) = stream.next().await {
            write.write_all(&bytes).await.unwrap();
        }
        let _ = write.shutdown().await;
    };
    tokio::join!(out, back);
}

#[tokio::test]
async fn ports_are_forwarded_connection_by_connection() {
    let request = || PortForwardRequest { pod_sandbox_id: "s1".into(), port: Vec::new() };
    let plain = with_server(async |address, server| {
        let url = server.port_forward_url(request()).unwrap();
        forwarded(spdy(address, &url, "portforward.k8s.io").await.1).await
    });
    let expected = expect![[r#"
        2: error forwarding port 81 to pod s1, uid : connection refused
        1: port 80: I am 1
        0: port 80: I am 0
    "#]];
    expected.assert_eq(&plain.await);
    let tunnelled = with_server(async |address, server| {
        let url = server.port_forward_url(request()).unwrap();
        let (answer, socket) = websocket(address, &url, "SPDY/3.1+portforward.k8s.io").await;
        assert_eq!(answer, "101 SPDY/3.1+portforward.k8s.io");
        let (ours, theirs) = tokio::io::duplex(1024);
        tokio::join!(forwarded(ours), through(socket, theirs)).0
    });
    expected.assert_eq(&tunnelled.await);
}

#[tokio::test]
async fn ports_are_forwarded_over_channels() {
    let shown = with_server(async |address, server| {
        let request = PortForwardRequest { pod_sandbox_id: "s1".into(), port: vec![80, 81] };
        let (_, mut socket) = websocket(address, &server.port_forward_url(request).unwrap(), "v4.channel.k8s.io").await;
        socket.send(Message::Binary(Bytes::from_static(b"\0ping"))).await.unwrap();
        let mut shown = Vec::new();
        while shown.len() < 7
            && let Some(Ok(Message::Binary(bytes))) = socket.next().await
        {
            shown.push(bytes.escape_ascii().to_string());
        }
        shown.sort();
        shown.join("\n")
    });
    expect![[r#"
        \x00P\x00
        \x00ping
        \x00port 80: 
        \x01P\x00
        \x02Q\x00
        \x03Q\x00
        \x03error forwarding port 81 to pod s1, uid : connection refused"#]]
    .assert_eq(&shown.await);
}

const V5: Framing = Framing { base64: false, closes: true };
const PIECE: Bytes = Bytes::from_static(&[7; PIECE_BYTES]);
/// Nothing more is taken from a client that has waited so long.
const HELD_UP: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3600);

fn streams_of(kinds: &[&str]) -> Vec<Headers> {
    let headers =
        |kind: &&str| vec![("streamtype".to_owned(), (*kind).to_owned()), ("port".to_owned(), "82".to_owned())];
    kinds.iter().map(headers).collect()
}

/// Opens the streams, says to the last one as much as is taken, and is gone.
async fn say_too_much_over_spdy(io: DuplexStream, streams: Vec<Headers>) {
    let (connection, link, _none) = spdy::connection(io, Side::Client, 1);
    let talk = async {
        let mut opened = Vec::new();
        for headers in streams {
            opened.push(link.open(headers).await.unwrap());
        }
        let last = &opened.last().unwrap().output;
        while let Ok(said) = timeout(HELD_UP, last.send(PIECE)).await {
            said.unwrap();
        }
    };
    tokio::select! {
        biased;
        () = talk => {}
        ended = connection.run() => panic!("the server has ended it: {ended:?}"),
    }
}

async fn say_too_much_over_a_websocket(io: DuplexStream) {
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    let message = Bytes::from([&[0][..], &PIECE].concat());
    while let Ok(said) = timeout(HELD_UP, socket.send(Message::Binary(message.clone()))).await {
        said.unwrap();
    }
}

async fn say_too_much_through_a_tunnel(io: DuplexStream, streams: Vec<Headers>) {
    let (ours, theirs) = tokio::io::duplex(1024);
    let socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    tokio::select! {
        biased;
        () = say_too_much_over_spdy(ours, streams) => {}
        () = through(socket, theirs) => panic!("the tunnel has ended"),
    }
}

/// A session whose input nobody reads: it ends, as one that broke, when the client is gone.
async fn check_end<S: Future<Output = std::io::Result<()>>, C: Future<Output = ()>>(
    session: impl FnOnce(DuplexStream) -> S,
    client: impl FnOnce(DuplexStream) -> C,
) {
    let (ours, theirs) = tokio::io::duplex(PIECE_BYTES);
    let ended = timeout(HOUR, async { tokio::join!(session(theirs), client(ours)).0 }).await;
    ended.expect("the session ends").expect_err("its client did not end it in order");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_reads_nothing_ends_with_its_client() {
    let command = Command::Exec(exec(&["deaf"], false));
    let terms = command.terms(true, true);
    check_end(|io| command::over_websocket(io, V5, &command, terms, Arc::new(Echo)), say_too_much_over_a_websocket)
        .await;
    let streams = streams_of(&["stdout", "stderr", "error", "stdin"]);
    check_end(|io| command::over_spdy(io, &command, terms, Arc::new(Echo)), |io| say_too_much_over_spdy(io, streams))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_forwarded_port_that_reads_nothing_ends_with_its_client() {
    let request = PortForwardRequest { pod_sandbox_id: "s1".into(), port: vec![82] };
    let streams = || streams_of(&["error", "data"]);
    check_end(|io| forward::over_websocket(io, V5, &request, Arc::new(Echo)), say_too_much_over_a_websocket).await;
    check_end(|io| forward::over_spdy(io, &request, Arc::new(Echo)), |io| say_too_much_over_spdy(io, streams())).await;
    check_end(|io| forward::tunnelled(io, &request, Arc::new(Echo)), |io| say_too_much_through_a_tunnel(io, streams()))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_for_an_hour_is_not_given_up() {
    let command = Command::Exec(exec(&["echo"], false));
    let terms = command.terms(true, true);
    // What is sent meanwhile does not all find room.
    let (ours, theirs) = tokio::io::duplex(64);
    let talk = async {
        tokio::time::sleep(HOUR).await;
        let mut socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        for message in [&b"\0still here"[..], b"\xff\0"] {
            socket.send(Message::Binary(Bytes::from_static(message))).await.unwrap();
        }
        let mut heard = String::new();
        while let Some(Ok(message)) = socket.next().await {
            heard += &String::from_utf8_lossy(&message.into_data());
        }
        heard
    };
    let session = command::over_websocket(theirs, V5, &command, terms, Arc::new(Echo));
    let (ended, heard) = tokio::join!(session, talk);
    ended.unwrap();
    assert!(heard.contains("still here") && heard.contains("Success"), "{heard}");
}
