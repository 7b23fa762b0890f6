//! Uses the network as a guest can, and says what came of it. Each argument is something to do:
//!
//! `lookup NAME` · `serve PORT` (accepts one connection, echoes one line) · `ask ADDRESS PORT` (sends a line, prints the
//! answer) · `bind ADDRESS PORT` · `self PORT` (serves and asks itself over 127.0.0.1) · `udp ADDRESS PORT` (binds) ·
//! `udp-answer PORT` (answers one datagram) · `udp-ask ADDRESS PORT` (sends datagrams until there is an answer) · `udp-send ADDRESS
//! PORT` (the same, without a connection) · `get AUTHORITY PATH` · `get-tls AUTHORITY PATH`

use wasi::http::outgoing_handler;
use wasi::http::types::{Fields, IncomingBody, OutgoingRequest, Scheme};
use wasi::io::streams::{InputStream, OutputStream, StreamError};
use wasi::sockets::instance_network::instance_network;
use wasi::sockets::ip_name_lookup::resolve_addresses;
use wasi::sockets::network::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasi::sockets::tcp::TcpSocket;
use wasi::sockets::tcp_create_socket::create_tcp_socket;
use wasi::sockets::udp::{IncomingDatagram, IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket};
use wasi::sockets::udp_create_socket::create_udp_socket;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["lookup", name] => lookup(name),
        ["bind", address, port] => bound(address, port.parse().expect("a port")).and_then(|socket| local(&socket)),
        ["udp", address, port] => udp(address, port.parse().expect("a port")),
        ["udp-answer", port] => udp_answer(port.parse().expect("a port")),
        ["udp-ask", address, port] => udp_ask(at(address, port.parse().expect("a port")), true),
        ["udp-send", address, port] => udp_ask(at(address, port.parse().expect("a port")), false),
        ["ask", address, port] => connect(address, port.parse().expect("a port")).and_then(|(socket, input, output)| {
            let mine = local(&socket)?;
            say(&output, "question\n");
            Ok(format!("from {mine}: {}", hear(&input)))
        }),
        ["self", port] => talk_to_self(port.parse().expect("a port")),
        ["get", authority, path] => Ok(get(Scheme::Http, authority, path)),
        ["get-tls", authority, path] => Ok(get(Scheme::Https, authority, path)),
        other => panic!("{other:?}"),
    };
    match outcome {
        Ok(text) => println!("{}: {text}", words.join(" ")),
        Err(error) => println!("{}: {error:?}", words.join(" ")),
    }
}

fn lookup(name: &str) -> Result<String, ErrorCode> {
    let stream = resolve_addresses(&instance_network(), name)?;
    let mut found = Vec::new();
    loop {
        match stream.resolve_next_address() {
            Ok(Some(address)) => found.push(shown(address)),
            Ok(None) => return Ok(found.join(" ")),
            Err(ErrorCode::WouldBlock) => stream.subscribe().block(),
            Err(error) => return Err(error),
        }
    }
}

fn shown(address: IpAddress) -> String {
    match address {
        IpAddress::Ipv4((a, b, c, d)) => format!("{a}.{b}.{c}.{d}"),
        IpAddress::Ipv6(parts) => format!("{parts:?}"),
    }
}

fn at(address: &str, port: u16) -> IpSocketAddress {
    let parts: Vec<u8> = address.split('.').map(|part| part.parse().expect("an address")).collect();
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (parts[0], parts[1], parts[2], parts[3]) })
}

fn text(address: IpSocketAddress) -> String {
    match address {
        IpSocketAddress::Ipv4(v4) => format!("{}:{}", shown(IpAddress::Ipv4(v4.address)), v4.port),
        IpSocketAddress::Ipv6(v6) => format!("{v6:?}"),
    }
}

fn local(socket: &TcpSocket) -> Result<String, ErrorCode> {
    socket.local_address().map(text)
}

fn bound(address: &str, port: u16) -> Result<TcpSocket, ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), at(address, port))?;
    socket.finish_bind()?;
    Ok(socket)
}

fn udp(address: &str, port: u16) -> Result<String, ErrorCode> {
    udp_bound(address, port)?.local_address().map(text)
}

fn udp_bound(address: &str, port: u16) -> Result<UdpSocket, ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), at(address, port))?;
    socket.finish_bind()?;
    Ok(socket)
}

/// Without a remote address, so that it hears everybody and says whom each answer is for.
fn udp_answer(port: u16) -> Result<String, ErrorCode> {
    let socket = udp_bound("0.0.0.0", port)?;
    let (input, output) = socket.stream(None)?;
    let asked = loop {
        match received(&input)? {
            Some(asked) => break asked,
            None => input.subscribe().block(),
        }
    };
    let data = [b"heard ", asked.data.as_slice()].concat();
    sent(&output, OutgoingDatagram { data, remote_address: Some(asked.remote_address) })?;
    Ok(format!("{:?} from {}", String::from_utf8_lossy(&asked.data), text(asked.remote_address)))
}

/// With a remote address, or with one in each datagram. Nobody may be there yet, and datagrams may be lost: it asks again.
fn udp_ask(remote: IpSocketAddress, connected: bool) -> Result<String, ErrorCode> {
    let socket = udp_bound("0.0.0.0", 0)?;
    let (input, output) = socket.stream(connected.then_some(remote))?;
    loop {
        let remote_address = (!connected).then_some(remote);
        match sent(&output, OutgoingDatagram { data: b"a question".to_vec(), remote_address }) {
            Ok(()) | Err(ErrorCode::ConnectionRefused) => {}
            Err(error) => return Err(error),
        }
        let a_while = wasi::clocks::monotonic_clock::subscribe_duration(50_000_000);
        wasi::io::poll::poll(&[&input.subscribe(), &a_while]);
        match received(&input) {
            Ok(Some(answer)) => {
                let (mine, from) = (socket.local_address().map(text)?, text(answer.remote_address));
                return Ok(format!("{:?} from {from} to {mine}", String::from_utf8_lossy(&answer.data)));
            }
            Ok(None) | Err(ErrorCode::ConnectionRefused) => {}
            Err(error) => return Err(error),
        }
    }
}

fn received(input: &IncomingDatagramStream) -> Result<Option<IncomingDatagram>, ErrorCode> {
    Ok(input.receive(1)?.pop())
}

fn sent(output: &OutgoingDatagramStream, datagram: OutgoingDatagram) -> Result<(), ErrorCode> {
    loop {
        if output.check_send()? > 0 && output.send(std::slice::from_ref(&datagram))? == 1 {
            return Ok(());
        }
        output.subscribe().block();
    }
}

fn connect(address: &str, port: u16) -> Result<(TcpSocket, InputStream, OutputStream), ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(&instance_network(), at(address, port))?;
    loop {
        match socket.finish_connect() {
            Ok((input, output)) => return Ok((socket, input, output)),
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            Err(error) => return Err(error),
        }
    }
}

fn talk_to_self(port: u16) -> Result<String, ErrorCode> {
    let server = bound("0.0.0.0", port)?;
    server.start_listen()?;
    server.finish_listen()?;
    let (_client, input, output) = connect("127.0.0.1", port)?;
    say(&output, "to myself\n");
    let (peer, from, to) = loop {
        match server.accept() {
            Ok(accepted) => break accepted,
            Err(ErrorCode::WouldBlock) => server.subscribe().block(),
            Err(error) => return Err(error),
        }
    };
    let heard = hear(&from);
    say(&to, &format!("heard {heard}\n"));
    let answer = hear(&input);
    let same = peer.remote_address().map(text)?.split(':').next() == local(&server)?.split(':').next();
    Ok(format!("{answer} on {}, from the same address: {same}", local(&server)?))
}

fn say(output: &OutputStream, line: &str) {
    output.blocking_write_and_flush(line.as_bytes()).expect("it is sent");
}

fn hear(input: &InputStream) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(b"\n") {
        match input.blocking_read(64) {
            Ok(piece) => heard.extend(piece),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&heard).trim_end().to_owned()
}

fn get(scheme: Scheme, authority: &str, path: &str) -> String {
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&scheme)).expect("a scheme");
    request.set_authority(Some(authority)).expect("an authority");
    request.set_path_with_query(Some(path)).expect("a path");
    let future = match outgoing_handler::handle(request, None) {
        Ok(future) => future,
        Err(error) => return format!("{error:?}"),
    };
    future.subscribe().block();
    let response = match future.get() {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(error))) => return format!("{error:?}"),
        Some(Err(())) | None => return "no response".to_owned(),
    };
    let body = response.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    let mut content = Vec::new();
    loop {
        match stream.blocking_read(1024) {
            Ok(piece) => content.extend(piece),
            Err(StreamError::Closed) | Err(StreamError::LastOperationFailed(_)) => break,
        }
    }
    drop(stream);
    IncomingBody::finish(body);
    format!("{} {}", response.status(), String::from_utf8_lossy(&content).trim_end())
}
