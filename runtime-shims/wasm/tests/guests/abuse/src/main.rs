//! Takes what a guest can take, without ever giving back, and says how far it came. The first argument says what, the
//! others how much:
//!
//! `files DIR N` · `handles DIR N` (one file, opened again and again) · `lists DIR N` · `list DIR` (once, to its end) · `tcp N` · `udp N` · `listen PORT N` ·
//! `connect ADDRESS PORT N` · `objects N` · `fields N` · `lookups N` · `random BYTES` · `bodies AUTHORITY N` ·
//! `headers N` · `copies N` · `requests N` (objects with much in each) · `upstream AUTHORITY N` · `escape DIR SECRET` · `deep DIR N`

use wasi::clocks::monotonic_clock;
use wasi::filesystem::preopens::get_directories;
use wasi::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasi::http::outgoing_handler;
use wasi::http::types::{Fields, FutureIncomingResponse, Method, OutgoingRequest, Scheme};
use wasi::sockets::instance_network::instance_network;
use wasi::sockets::ip_name_lookup::resolve_addresses;
use wasi::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
use wasi::sockets::tcp::TcpSocket;
use wasi::sockets::tcp_create_socket::create_tcp_socket;
use wasi::sockets::udp_create_socket::create_udp_socket;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let text = match words.as_slice() {
        ["files", dir, count] => files(dir, number(count), |at| format!("f{at}")),
        ["handles", dir, count] => files(dir, number(count), |_| "same".to_owned()),
        ["lists", dir, count] => lists(dir, number(count)),
        ["list", dir] => {
            let entries = directory(dir).read_directory().expect("it can be read");
            let count = std::iter::from_fn(|| entries.read_directory_entry().expect("it goes on")).count();
            format!("{count} entries")
        }
        ["tcp", count] => grab(number(count), |_| create_tcp_socket(IpAddressFamily::Ipv4)),
        ["udp", count] => grab(number(count), |_| create_udp_socket(IpAddressFamily::Ipv4)),
        ["listen", port, count] => listen(number(port) as u16, number(count)),
        ["connect", address, port, count] => {
            grab(number(count), |_| connect(address, number(port) as u16))
        }
        ["objects", count] => grab(number(count), |at| {
            Ok::<_, ErrorCode>(monotonic_clock::subscribe_duration(3_600_000_000_000 + at as u64))
        }),
        ["fields", count] => fields(number(count)),
        ["headers", count] => headers(number(count)),
        ["copies", count] => copies(number(count)),
        ["requests", count] => requests(number(count)),
        ["lookups", count] => {
            let network = instance_network();
            grab(number(count), |at| resolve_addresses(&network, &format!("name-{at}.example")))
        }
        ["random", bytes] => format!("{} bytes", wasi::random::random::get_random_bytes(number(bytes) as u64).len()),
        ["bodies", authority, count] => bodies(authority, number(count)),
        ["upstream", authority, count] => upstream(authority, number(count)),
        ["escape", dir, secret] => escape(dir, secret),
        ["deep", dir, count] => deep(dir, number(count)),
        other => panic!("{other:?}"),
    };
    println!("{}: {text}", words[0]);
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

/// Tries `count` times, keeps what it gets, and tells how many there were and what the first refusal was.
fn grab<T, E: std::fmt::Debug>(count: usize, mut take: impl FnMut(usize) -> Result<T, E>) -> String {
    let mut held = Vec::new();
    let mut refused = 0;
    let mut first = None;
    for at in 0..count {
        match take(at) {
            Ok(one) => held.push(one),
            Err(error) => {
                refused += 1;
                first.get_or_insert_with(|| format!("{error:?}"));
            }
        }
    }
    format!("{} held, {refused} refused, first {}", held.len(), first.as_deref().unwrap_or("none"))
}

fn directory(wanted: &str) -> Descriptor {
    let found = get_directories().into_iter().find(|(_, path)| path == wanted);
    found.map(|(dir, _)| dir).expect("the directory is mounted")
}

fn files(dir: &str, count: usize, name: impl Fn(usize) -> String) -> String {
    let dir = directory(dir);
    let flags = DescriptorFlags::READ | DescriptorFlags::WRITE;
    grab(count, |at| dir.open_at(PathFlags::empty(), &name(at), OpenFlags::CREATE, flags))
}

/// Begins as many lists, each of which could go on.
fn lists(dir: &str, count: usize) -> String {
    let dir = directory(dir);
    grab(count, |_| {
        let entries = dir.read_directory()?;
        entries.read_directory_entry()?;
        Ok::<_, wasi::filesystem::types::ErrorCode>(entries)
    })
}

fn at(address: &str, port: u16) -> IpSocketAddress {
    let parts: Vec<u8> = address.split('.').map(|part| part.parse().expect("an address")).collect();
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (parts[0], parts[1], parts[2], parts[3]) })
}

fn listen(first: u16, count: usize) -> String {
    let network = instance_network();
    grab(count, |number| {
        let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
        socket.start_bind(&network, at("0.0.0.0", first.wrapping_add(number as u16)))?;
        socket.finish_bind()?;
        socket.start_listen()?;
        socket.finish_listen()?;
        Ok::<TcpSocket, ErrorCode>(socket)
    })
}

fn connect(address: &str, port: u16) -> Result<impl Sized, ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(&instance_network(), at(address, port))?;
    loop {
        match socket.finish_connect() {
            Ok(streams) => return Ok((streams, socket)),
            Err(ErrorCode::WouldBlock) => socket.subscribe().block(),
            Err(error) => return Err(error),
        }
    }
}

/// Header fields, as many and as long as may be: they lie in the host's memory.
fn fields(count: usize) -> String {
    let value = vec![b'x'; 4096];
    let all: Vec<Fields> = (0..16).map(|_| Fields::new()).collect();
    grab(count, |at| all[at % all.len()].append("x-field", &value))
}

/// Header fields with much in each.
fn headers(count: usize) -> String {
    let value = vec![b'x'; 100_000];
    grab(count, |_| {
        let fields = Fields::new();
        fields.append("x-field", &value).map(|()| fields)
    })
}

/// The same header fields again and again, each copy changed a little, so that it must be one.
fn copies(count: usize) -> String {
    let first = Fields::new();
    first.append("x-field", &vec![b'x'; 100_000]).expect("one is allowed");
    grab(count, |_| {
        let copy = first.clone();
        copy.append("y", b"y").map(|()| copy)
    })
}

/// Requests with a method and an authority of a megabyte, and a path as long as paths may be.
fn requests(count: usize) -> String {
    let long = "x".repeat(1 << 20);
    let path = format!("/{}", &long[..60_000]);
    grab(count, |_| {
        let request = OutgoingRequest::new(Fields::new());
        let set = [
            request.set_method(&Method::Other(long.to_uppercase())),
            request.set_authority(Some(&long)),
            request.set_path_with_query(Some(&path)),
        ];
        if set[..2].iter().any(Result::is_ok) { Ok(request) } else { Err(set) }
    })
}

fn request(authority: &str) -> OutgoingRequest {
    let request = OutgoingRequest::new(Fields::new());
    request.set_scheme(Some(&Scheme::Http)).expect("a scheme");
    request.set_authority(Some(authority)).expect("an authority");
    request.set_path_with_query(Some("/")).expect("a path");
    request
}

/// Requests that are never read: each has a connection in the host.
fn bodies(authority: &str, count: usize) -> String {
    grab(count, |_| outgoing_handler::handle(request(authority), None))
}

/// Requests to a server that answers slowly or not at all, all at once, each waited for.
fn upstream(authority: &str, count: usize) -> String {
    let sent: Vec<FutureIncomingResponse> =
        (0..count).filter_map(|_| outgoing_handler::handle(request(authority), None).ok()).collect();
    let mut answered = 0;
    for one in &sent {
        one.subscribe().block();
        if let Some(Ok(Ok(_))) = one.get() {
            answered += 1;
        }
    }
    format!("{} sent, {answered} answered", sent.len())
}

/// All ways out of a volume that a path, a link or a rename may offer. A line for each that leads somewhere.
fn escape(dir: &str, secret: &str) -> String {
    let volume = directory(dir);
    let mut out = Vec::new();
    let mut tell = |what: &str, outcome: Result<String, wasi::filesystem::types::ErrorCode>| {
        out.push(match outcome {
            Ok(text) => format!("{what}: got {text}"),
            Err(error) => format!("{what}: {}", error.name()),
        });
    };
    let follow = PathFlags::SYMLINK_FOLLOW;
    let read = |flags: PathFlags, path: &str| {
        let file = volume.open_at(flags, path, OpenFlags::empty(), DescriptorFlags::READ)?;
        let (bytes, _) = file.read(64, 0)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let write = |path: &str| {
        let flags = DescriptorFlags::WRITE;
        volume.open_at(follow, path, OpenFlags::CREATE, flags)?;
        Ok("a file".to_owned())
    };
    let up = format!("../{secret}");
    let inner = format!("sub/../../{secret}");
    tell("..", read(follow, &up));
    tell("sub/../..", read(follow, &inner));
    tell("absolute", read(follow, "/etc/passwd"));
    tell("host link to a file", read(follow, "link-file"));
    tell("host link to a file, not followed", read(PathFlags::empty(), "link-file"));
    tell("host link to a directory", read(follow, &format!("link-dir/{secret}")));
    tell("host link upwards", read(follow, &format!("link-up/{secret}")));
    tell("host link within", read(follow, "link-within"));
    tell("own absolute link", volume.symlink_at("/etc", "mine").map(|()| "made".to_owned()));
    tell("own link upwards", volume.symlink_at("../..", "up").and_then(|()| read(follow, &format!("up/{secret}"))));
    tell("own link in two steps", {
        let made = volume.symlink_at("..", "sub/one").and_then(|()| volume.symlink_at("sub/one/..", "two"));
        made.and_then(|()| read(follow, &format!("two/{secret}")))
    });
    tell("new file above", write("../planted"));
    tell("new file through a link", write("link-dir/planted"));
    tell("new directory above", volume.create_directory_at("../planted").map(|()| "made".to_owned()));
    tell("rename out", volume.rename_at("own", &volume, "../stolen").map(|()| "moved".to_owned()));
    tell("rename in", volume.rename_at(&up, &volume, "stolen").map(|()| "moved".to_owned()));
    tell("hard link in", volume.link_at(PathFlags::empty(), &up, &volume, "hard").map(|()| "made".to_owned()));
    tell("hard link out", volume.link_at(PathFlags::empty(), "own", &volume, "../hard").map(|()| "made".to_owned()));
    tell("hard link of a link", volume.link_at(follow, "link-file", &volume, "hard").map(|()| "made".to_owned()));
    tell("unlink above", volume.unlink_file_at(&up).map(|()| "gone".to_owned()));
    tell("stat above", volume.stat_at(follow, "..").map(|_| "a stat".to_owned()));
    tell("read link", volume.readlink_at("link-file").map(|_| "a path".to_owned()));
    if let Some((other, _)) = get_directories().into_iter().find(|(_, path)| path != dir) {
        tell("rename across volumes", volume.rename_at("own", &other, "own").map(|()| "moved".to_owned()));
        let flags = DescriptorFlags::WRITE;
        tell("write where only reading is allowed", {
            other.open_at(follow, "new", OpenFlags::CREATE, flags).map(|_| "a file".to_owned())
        });
        tell("remove where only reading is allowed", other.unlink_file_at("kept").map(|()| "gone".to_owned()));
    }
    out.join("\n")
}

/// Directories in directories, then the whole path at once.
fn deep(dir: &str, count: usize) -> String {
    let volume = directory(dir);
    let mut path = String::new();
    for at in 0..count {
        path.push_str("d");
        if let Err(error) = volume.create_directory_at(&path) {
            return format!("{at} deep, then {}", error.name());
        }
        path.push('/');
    }
    format!("{count} deep")
}
