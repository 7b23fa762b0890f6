//! `wasi:cli/run` of WASI 0.3. Each argument is something to do, with its words separated by colons:
//!
//! `fail` · `trap` · `wait` (until the input ends) · `bind:ADDRESS:PORT` · `ask:ADDRESS:PORT` (sends a line, says the
//! answer and from where it was asked) · `lookup:NAME` · `listen` (on no address in particular) · `udp:ADDRESS:PORT` (sends
//! from no address in particular) · `sockets:N` · `streams:ADDRESS:PORT:N` (connections of which it keeps the streams only) ·
//! `accept:PORT` (for ever, and keeps the streams only) · `files:N` (of which it keeps the streams only) · `timers:N` (all at once) ·
//! `free:sockets:N`, `free:files:N` (waits until there is room for so many)

use std::future::Future;

use wasip3::cli::{environment, stdin};
use wasip3::filesystem::preopens::get_directories;
use wasip3::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket,
};
use wasip3::wit_stream;

wasip3::cli::command::export!(Command);

struct Command;

impl wasip3::exports::cli::run::Guest for Command {
    async fn run() -> Result<(), ()> {
        for argument in environment::get_arguments().into_iter().skip(1) {
            let words: Vec<&str> = argument.split(':').collect();
            let said = match words.as_slice() {
                ["fail"] => return Err(()),
                ["trap"] => panic!("as asked"),
                ["wait"] => {
                    println!("waits");
                    let (mut input, _done) = stdin::read_via_stream();
                    let mut bytes = 0;
                    while let Some(_byte) = input.next().await {
                        bytes += 1;
                    }
                    format!("{bytes} bytes")
                }
                ["bind", address, port] => bind(address, port).map_or_else(failed, shown),
                ["ask", address, port] => ask(address, port).await.unwrap_or_else(failed),
                ["listen"] => listen().map_or_else(failed, shown),
                ["udp", address, port] => datagram(address, port).await.map_or_else(failed, shown),
                ["sockets", count] => {
                    grab(count, async || TcpSocket::create(IpAddressFamily::Ipv4).map_err(failed)).await
                }
                ["streams", address, port, count] => {
                    grab(count, async || stream(address, port).await.map_err(failed)).await
                }
                ["accept", port] => accept(port).await.map_or_else(failed, |()| "over".to_owned()),
                ["timers", count] => timers(count).await,
                ["free", "sockets", count] => {
                    free(count, async || TcpSocket::create(IpAddressFamily::Ipv4).map_err(failed)).await
                }
                ["free", "files", count] => free(count, opened).await,
                ["files", count] => grab(count, file).await,
                ["lookup", name] => match resolve_addresses((*name).to_owned()).await {
                    Ok(found) => found.into_iter().map(ip).collect::<Vec<_>>().join(" "),
                    Err(error) => format!("{error:?}"),
                },
                other => panic!("{other:?}"),
            };
            println!("{argument}: {said}");
        }
        Ok(())
    }
}

fn failed(error: ErrorCode) -> String {
    format!("{error:?}")
}

fn at(address: &str, port: &str) -> IpSocketAddress {
    let parts: Vec<u8> = address.split('.').map(|part| part.parse().expect("an address")).collect();
    let address = (parts[0], parts[1], parts[2], parts[3]);
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port: port.parse().expect("a port"), address })
}

fn ip(address: IpAddress) -> String {
    match address {
        IpAddress::Ipv4((a, b, c, d)) => format!("{a}.{b}.{c}.{d}"),
        IpAddress::Ipv6(parts) => format!("{parts:?}"),
    }
}

fn shown(address: IpSocketAddress) -> String {
    match address {
        IpSocketAddress::Ipv4(v4) => format!("{}:{}", ip(IpAddress::Ipv4(v4.address)), v4.port),
        IpSocketAddress::Ipv6(v6) => format!("{v6:?}"),
    }
}

fn bind(address: &str, port: &str) -> Result<IpSocketAddress, ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.bind(at(address, port))?;
    socket.get_local_address()
}

/// Takes so many, keeps them, and tells how many there were and what the first refusal was.
async fn grab<T>(count: &str, mut take: impl AsyncFnMut() -> Result<T, String>) -> String {
    let count: usize = count.parse().expect("a number");
    let mut held = Vec::new();
    let mut first = None;
    for _ in 0..count {
        match take().await {
            Ok(one) => held.push(one),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    format!("{} held, {} refused, first {first:?}", held.len(), count - held.len())
}

/// What was dropped is given back when the host has seen to it.
async fn free<T>(count: &str, mut take: impl AsyncFnMut() -> Result<T, String>) -> String {
    while !grab(count, &mut take).await.contains(" 0 refused") {
        wasip3::clocks::monotonic_clock::wait_for(1_000_000).await;
    }
    "yes".to_owned()
}

async fn timers(count: &str) -> String {
    let mut started = Vec::new();
    for _ in 0..count.parse().expect("a number") {
        let mut timer = Box::pin(wasip3::clocks::monotonic_clock::wait_for(3_600_000_000_000));
        std::future::poll_fn(|cx| std::task::Poll::Ready(timer.as_mut().poll(cx).is_ready())).await;
        started.push(timer);
    }
    format!("{} started", started.len())
}

fn listen() -> Result<IpSocketAddress, ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    let _connections = socket.listen()?;
    socket.get_local_address()
}

async fn datagram(address: &str, port: &str) -> Result<IpSocketAddress, ErrorCode> {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4)?;
    socket.send(b"datagram".to_vec(), Some(at(address, port))).await?;
    socket.get_local_address()
}

async fn stream(address: &str, port: &str) -> Result<impl Sized, ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.connect(at(address, port)).await?;
    Ok(socket.receive().0)
}

async fn accept(port: &str) -> Result<(), ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.bind(at("0.0.0.0", port))?;
    let mut connections = socket.listen()?;
    println!("listens");
    let mut held = Vec::new();
    while let Some(connection) = connections.next().await {
        held.push(connection.receive().0);
    }
    Ok(())
}

async fn file() -> Result<impl Sized, String> {
    opened().await.map(|file| file.read_via_stream(0).0)
}

async fn opened() -> Result<Descriptor, String> {
    let (dir, _) = get_directories().into_iter().next().expect("a directory is mounted");
    let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
    let file = dir.open_at(PathFlags::empty(), "file".to_owned(), OpenFlags::CREATE, flags).await;
    file.map_err(|error| format!("{error:?}"))
}

async fn ask(address: &str, port: &str) -> Result<String, ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.connect(at(address, port)).await?;
    let mine = shown(socket.get_local_address()?);
    let (mut question, reader) = wit_stream::new();
    let _sent = socket.send(reader);
    let (mut answer, _received) = socket.receive();
    question.write_all(b"question\n".to_vec()).await;
    let mut heard = Vec::new();
    while let Some(byte) = answer.next().await {
        if byte == b'\n' {
            break;
        }
        heard.push(byte);
    }
    Ok(format!("from {mine}: {}", String::from_utf8_lossy(&heard)))
}
