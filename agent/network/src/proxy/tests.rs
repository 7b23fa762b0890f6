use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use coracle_client::{RandomIds, SystemClock, events::Source};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    task::JoinSet,
    time::{advance, pause, resume, timeout},
};

use super::*;
use crate::testing::{FakeApi, own_address};

struct Fixture {
    api: FakeApi,
    scope: TaskScope,
    proxy: ProxyHandle,
    plans: u64,
}

impl Fixture {
    async fn start(config: ProxyConfig, world: &str) -> Self {
        let (api, scope) = (FakeApi::new(world), TaskScope::root());
        let informers = api.informers(&scope);
        let facts = NodeFacts { name: "n1".into(), node_port_addresses: Vec::new() };
        let source = Source { component: "kube-proxy".into(), host: "n1".into() };
        let recorder = Recorder::new(&api.client(), SystemClock::shared(), RandomIds::seeded(1), source, &scope);
        let proxy = start(config, facts, informers.get(), informers.get(), Some(recorder), &scope);
        let status = proxy.wait_for(|status| status.plans > 0).await.unwrap();
        Self { api, scope, proxy, plans: status.plans }
    }

    /// Sends one change and waits until the proxy has acted upon it.
    async fn change(&mut self, kind: &str, object: &str) {
        self.api.send(kind, object);
        self.plans = self.proxy.wait_for(|status| status.plans > self.plans).await.unwrap().plans;
    }
}

/// A server that says its name, then echoes until the client is done, then says goodbye.
async fn endpoint(tasks: &mut JoinSet<()>, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut clients = JoinSet::new();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            clients.spawn(async move {
                client.write_all(name.as_bytes()).await.unwrap();
                let (mut read, mut write) = client.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
                write.write_all(b"bye").await.unwrap();
            });
        }
    });
    address
}

async fn dial(service: SocketAddr) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(service).await.unwrap();
    let mut name = [0; 1];
    stream.read_exact(&mut name).await.unwrap();
    (stream, String::from_utf8_lossy(&name).into_owned())
}

async fn names(service: SocketAddr, count: usize) -> String {
    let mut all = String::new();
    for _ in 0..count {
        all += &dial(service).await.1;
    }
    all
}

fn slice(name: &str, endpoints: &[SocketAddr], protocol: &str) -> String {
    // A slice has one port for all its endpoints, so that here each endpoint has a slice.
    let line = |(n, endpoint): (usize, &SocketAddr)| {
        format!("slice a/{name} n={n} port={}/{protocol} ep={}\n", endpoint.port(), endpoint.ip())
    };
    endpoints.iter().enumerate().map(line).collect()
}

#[tokio::test]
async fn connections_go_round_and_survive_what_changes() {
    let mut tasks = JoinSet::new();
    let (a, b) = (endpoint(&mut tasks, "a").await, endpoint(&mut tasks, "b").await);
    let mut both = [(a, "a"), (b, "b")];
    both.sort_unstable();
    let service = SocketAddr::from((own_address(), 8080));
    let world = format!("service a/web ip={} port=8080/TCP\n", service.ip()) + &slice("web", &[a, b], "TCP");
    let mut fixture = Fixture::start(ProxyConfig::default(), &world).await;
    let round = both.map(|(_, name)| name).concat();
    assert_eq!(names(service, 4).await, round.repeat(2));

    // An established connection outlives its endpoint's place and its service.
    let (mut old, name) = dial(service).await;
    let number = if name == "a" { 0 } else { 1 };
    fixture.change("DELETED", slice("web", &[a, b], "TCP").lines().nth(number).unwrap()).await;
    let other = if name == "a" { "b" } else { "a" };
    assert_eq!(names(service, 3).await, other.repeat(3));
    fixture.change("DELETED", &format!("service a/web ip={} port=8080/TCP", service.ip())).await;
    assert_eq!(TcpStream::connect(service).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    old.write_all(b"still there").await.unwrap();
    // A half that is closed closes that half only.
    old.shutdown().await.unwrap();
    let mut rest = String::new();
    old.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "still therebye");
    fixture.scope.shutdown().await;
    assert!(fixture.scope.tasks().is_empty());
}

#[tokio::test]
async fn a_refused_connection_goes_to_another_endpoint_and_is_reset_if_all_refuse() {
    let mut tasks = JoinSet::new();
    let a = endpoint(&mut tasks, "a").await;
    let dead = |_| std::net::TcpListener::bind((own_address(), 0)).unwrap().local_addr().unwrap();
    let dead: Vec<_> = (0..3).map(dead).collect();
    let (some, none) = (SocketAddr::from((own_address(), 80_80)), SocketAddr::from((own_address(), 80_80)));
    let world =
        format!("service a/some ip={} port=8080/TCP\nservice a/none ip={} port=8080/TCP\n", some.ip(), none.ip())
            + &slice("some", &[dead[0], dead[1], a, dead[2]], "TCP")
            + &slice("none", &dead, "TCP");
    let fixture = Fixture::start(ProxyConfig::default(), &world).await;
    assert_eq!(names(some, 5).await, "aaaaa");
    let mut stream = TcpStream::connect(none).await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    fixture.scope.shutdown().await;
}

#[tokio::test]
async fn a_client_keeps_its_endpoint() {
    let mut tasks = JoinSet::new();
    let (a, b) = (endpoint(&mut tasks, "a").await, endpoint(&mut tasks, "b").await);
    let service = SocketAddr::from((own_address(), 8080));
    let world =
        format!("service a/web ip={} affinity=600 port=8080/TCP\n", service.ip()) + &slice("web", &[a, b], "TCP");
    let mut fixture = Fixture::start(ProxyConfig::default(), &world).await;
    let from = async |client: Ipv4Addr| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((client, 0))).unwrap();
        let mut stream = socket.connect(service).await.unwrap();
        let mut name = [0; 1];
        stream.read_exact(&mut name).await.unwrap();
        name[0]
    };
    let (one, two) = (Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2));
    let (first, second) = (from(one).await, from(two).await);
    assert_ne!(first, second);
    for _ in 0..3 {
        assert_eq!((from(one).await, from(two).await), (first, second));
    }
    // Its endpoint goes: another for good.
    fixture
        .change("DELETED", slice("web", &[a, b], "TCP").lines().nth(if first == b'a' { 0 } else { 1 }).unwrap())
        .await;
    assert_eq!((from(one).await, from(one).await), (second, second));
    fixture.scope.shutdown().await;
}

#[test]
fn affinity_ends_when_the_client_was_away_for_long() {
    let endpoints: Vec<SocketAddr> = vec!["127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()];
    let affinity = Some(Duration::from_secs(600));
    let service = coracle_api::meta::ObjectKey::new("a", "web");
    let balancer =
        balance::Balancer::new(Backends { service, uid: "".into(), port_name: String::new(), endpoints, affinity });
    let (client, now) = (IpAddr::from([127, 0, 0, 9]), tokio::time::Instant::now());
    let first = |after: u64| {
        let at = now + Duration::from_secs(after);
        let candidates = balancer.candidates(client, at);
        assert_eq!(candidates.len(), 2);
        balancer.connected(client, candidates[0], at);
        candidates[0].port()
    };
    assert_eq!([first(0), first(599), first(1198), first(1798), first(1799)], [1, 1, 1, 2, 2]);
    balancer.refused(client, "127.0.0.1:2".parse().unwrap());
    assert_eq!(first(1800), 1);
}

/// A server that answers each datagram with its name and the sender's port.
async fn udp_endpoint(tasks: &mut JoinSet<()>, name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind((own_address(), 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tasks.spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let answer = format!("{name} {}/{length}", client.port());
            socket.send_to(answer.as_bytes(), client).await.unwrap();
        }
    });
    address
}

async fn ask(client: &UdpSocket, service: SocketAddr, payload: &[u8]) -> String {
    client.send_to(payload, service).await.unwrap();
    let mut answer = [0; 100];
    let (length, from) = timeout(Duration::from_secs(10), client.recv_from(&mut answer)).await.unwrap().unwrap();
    assert_eq!(from, service);
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn datagrams_flow_until_they_are_idle_or_their_endpoint_goes() {
    let mut tasks = JoinSet::new();
    let (a, b) = (udp_endpoint(&mut tasks, "a").await, udp_endpoint(&mut tasks, "b").await);
    let service = SocketAddr::from((own_address(), 8053));
    let world = format!("service a/dns ip={} port=8053/UDP\n", service.ip()) + &slice("dns", &[a, b], "UDP");
    let mut fixture = Fixture::start(ProxyConfig::default(), &world).await;
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let first = ask(&client, service, b"hello").await;
    assert_eq!(ask(&client, service, b"again").await, first);
    assert_eq!(ask(&client, service, &[0; 60_000]).await, first.replace("/5", "/60000"));
    let another = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    assert_ne!(ask(&another, service, b"hello").await[..1], first[..1]);

    // A conversation may pause for two minutes, not for longer: then it is another flow, to the endpoint whose turn it is.
    for (seconds, same) in [(119, true), (121, false)] {
        pause();
        advance(Duration::from_secs(seconds)).await;
        resume();
        assert_eq!(ask(&client, service, b"hello").await == first, same, "after {seconds} s");
    }
    let now = ask(&client, service, b"hello").await;
    let number = if now.starts_with('a') { 0 } else { 1 };
    fixture.change("DELETED", slice("dns", &[a, b], "UDP").lines().nth(number).unwrap()).await;
    assert_ne!(ask(&client, service, b"hello").await[..1], now[..1]);
    fixture.scope.shutdown().await;
}

#[tokio::test]
async fn a_port_that_is_in_use_is_told_and_tried_again() {
    let mut tasks = JoinSet::new();
    let a = endpoint(&mut tasks, "a").await;
    let held = TcpListener::bind((own_address(), 0)).await.unwrap();
    let service = held.local_addr().unwrap();
    let world = format!("service a/web ip={} port={}/TCP\n", service.ip(), service.port()) + &slice("web", &[a], "TCP");
    let fixture = Fixture::start(ProxyConfig::default(), &world).await;
    let status = fixture.proxy.status();
    let [ListenerState::Failed(reason)] = &status.listeners.values().cloned().collect::<Vec<_>>()[..] else {
        panic!("{status:?}")
    };
    assert!(reason.starts_with(&format!("{service}/TCP is in use by ")), "{reason}");
    assert!(reason.ends_with("stop that, or choose another port"), "{reason}");
    let event = fixture.api.posted().await;
    assert_eq!((&event["reason"], &event["message"]), (&"PortNotAvailable".into(), &reason.as_str().into()));
    assert_eq!((&event["involvedObject"]["name"], &event["involvedObject"]["uid"]), (&"web".into(), &"u1".into()));
    drop(held);
    pause();
    let open = |status: &Arc<Status>| status.listeners.values().all(|state| *state == ListenerState::Open);
    fixture.proxy.wait_for(open).await.unwrap();
    resume();
    assert_eq!(names(service, 1).await, "a");
    fixture.scope.shutdown().await;
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_one_to_end() {
    let mut tasks = JoinSet::new();
    let a = endpoint(&mut tasks, "a").await;
    let service = SocketAddr::from((own_address(), 8080));
    let world = format!("service a/web ip={} port=8080/TCP\n", service.ip()) + &slice("web", &[a], "TCP");
    let fixture = Fixture::start(ProxyConfig { max_connections: 2, ..ProxyConfig::default() }, &world).await;
    let (one, _two) = (dial(service).await, dial(service).await);
    let mut third = TcpStream::connect(service).await.unwrap();
    let mut name = [0; 1];
    assert!(timeout(Duration::from_millis(50), third.read_exact(&mut name)).await.is_err());
    drop(one);
    third.read_exact(&mut name).await.unwrap();
    fixture.scope.shutdown().await;
}

/// In a process of its own: other tests take memory too.
#[test]
fn a_thousand_listeners_are_small() {
    let test = "proxy::tests::open_a_thousand_listeners";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
#[ignore = "a_thousand_listeners_are_small runs it"]
async fn open_a_thousand_listeners() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let ports = |protocol: &str| {
        (10_000..10_500).map(|port| format!("port={protocol}{port}:{port}/{protocol} ")).collect::<String>()
    };
    let ports = ports("TCP") + &ports("UDP");
    let world = format!("service a/web ip={} {ports}", own_address());
    let mut fixture = Fixture::start(ProxyConfig::default(), &world).await;
    let before = resident();
    fixture.change("ADDED", &format!("slice a/web {ports} ep=127.0.0.1")).await;
    let status = fixture.proxy.status();
    assert_eq!(status.listeners.values().filter(|state| **state == ListenerState::Open).count(), 1000);
    let grown = resident().saturating_sub(before);
    assert!(grown < 6 << 20, "{grown} bytes");
    println!("{} bytes for each listener", grown / 1000);
    fixture.scope.shutdown().await;
}
