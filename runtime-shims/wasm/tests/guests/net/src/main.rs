//! Uses the network as a guest can, and says what came of it. Each argument is something to do:
//!
//! `lookup NAME` · `serve PORT` (accepts one connection, echoes one line) · `ask ADDRESS PORT` (sends a line, prints the
//! answer) · `bind ADDRESS PORT` · `self PORT` (serves and asks itself over 127.0.0.1) · `get AUTHORITY PATH` · `get-tls AUTHORITY
//! PATH`

use wasi::http::outgoing_handler;
use wasi::http::types::{Fields, IncomingBody, OutgoingRequest, Scheme};
use wasi::io::streams::{InputStream, OutputStream, StreamError};
use wasi::sockets::instance_network::instance_network;
use wasi::sockets::ip_name_lookup::resolve_addresses;
use wasi::sockets::network::{ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasi::sockets::tcp::TcpSocket;
use wasi::sockets::tcp_create_socket::create_tcp_socket;
use wasi::sockets::udp_create_socket::create_udp_socket;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["lookup", name] => lookup(name),
        ["bind", address, port] => bound(address, port.parse().expect("a port")).and_then(|socket| local(&socket)),
        ["udp", address, port] => udp(address, port.parse().expect("a port")),
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
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(&instance_network(), at(address, port))?;
    socket.finish_bind()?;
    socket.local_address().map(text)
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
