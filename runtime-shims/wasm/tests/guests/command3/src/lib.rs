//! `wasi:cli/run` of WASI 0.3. Each argument is something to do, with its words separated by colons:
//!
//! `fail` · `trap` · `wait` (until the input ends) · `bind:ADDRESS:PORT` · `ask:ADDRESS:PORT` (sends a line, says the
//! answer and from where it was asked) · `lookup:NAME`

use wasip3::cli::{environment, stdin};
use wasip3::sockets::ip_name_lookup::resolve_addresses;
use wasip3::sockets::types::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket,
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
