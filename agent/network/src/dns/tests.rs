use std::collections::BTreeSet;

use coracle_api::meta::ObjectKey;
use expect_test::{Expect, expect};
use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{RData, Record, RecordType, rdata::A},
    serialize::binary::BinDecodable as _,
};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use super::*;
use crate::testing::{FakeApi, World, own_address};

impl Records for World {
    fn service(&self, key: &ObjectKey) -> Option<Arc<Service>> {
        self.services.iter().find(|service| ObjectKey::of(&***service) == *key).cloned()
    }

    fn slices(&self, service: &ObjectKey) -> Vec<Arc<EndpointSlice>> {
        self.slices.iter().filter(|slice| lookup::service_of(slice).as_ref() == Some(service)).cloned().collect()
    }

    fn services_at(&self, address: IpAddr) -> Vec<Arc<Service>> {
        let has = |service: &&Arc<Service>| {
            service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some(&address.to_string())
        };
        self.services.iter().filter(has).cloned().collect()
    }

    fn slices_at(&self, address: IpAddr) -> Vec<Arc<EndpointSlice>> {
        let has = |slice: &&Arc<EndpointSlice>| {
            slice.endpoints.iter().flatten().any(|endpoint| endpoint.addresses.contains(&address.to_string()))
        };
        self.slices.iter().filter(has).cloned().collect()
    }

    fn has_services_in(&self, namespace: &str) -> bool {
        self.services.iter().any(|service| service.metadata.namespace.as_deref() == Some(namespace))
    }
}

const WORLD: &str = "
    service a/web ip=127.43.0.5 port=http:80/TCP port=dns:53/UDP
    slice a/web port=http:8080/TCP ep=127.42.0.2
    service a/dual ip=127.43.0.6,fd00::6 port=80/TCP
    service a/db ip=None port=sql:5432/TCP
    slice a/db port=sql:5432/TCP ep=127.42.0.3,host=db-0 ep=127.42.0.4,host=db-1 ep=127.42.0.5,host=db-2,not ep=127.42.0.6
    service a/empty ip=None port=80/TCP
    service a/out type=ExternalName to=www.example.com
    service a/alias type=ExternalName to=web.a.svc.cluster.local
    service a/circle type=ExternalName to=circle.a.svc.cluster.local";

fn zone() -> Zone {
    let DnsConfig { domain, networks, .. } = DnsConfig::default();
    let domain = Name::from_ascii(format!("{domain}.")).unwrap();
    Zone { domain, networks, address: "127.42.0.1".parse().unwrap() }
}

/// Answers of the pure function, one line for each question `NAME TYPE`.
fn check_lookup(questions: &str, expected: Expect) {
    let world = World::parse(WORLD);
    let mut told = String::new();
    for question in questions.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, kind) = question.split_once(' ').unwrap();
        let answer = lookup(&zone(), &world, &Name::from_ascii(name).unwrap(), kind.parse::<RecordType>().unwrap());
        told += &format!("{question}: ");
        told += &match answer {
            Answer::Records { answers, additionals } => {
                let list = |records: &[Record]| records.iter().map(|r| format!("\n    {r}")).collect::<String>();
                format!("{}{}", list(&answers), list(&additionals).replace("\n    ", "\n    + "))
            }
            Answer::Alias { target, .. } => format!("alias of {target}"),
            Answer::NoData => "no data".to_owned(),
            Answer::NoName => "no such name".to_owned(),
            Answer::Elsewhere => "elsewhere".to_owned(),
        };
        told.push('\n');
    }
    expected.assert_eq(&told);
}

#[test]
fn services() {
    check_lookup(
        "web.a.svc.cluster.local. A
         WEB.A.SVC.Cluster.Local. A
         web.a.svc.cluster.local. AAAA
         web.a.svc.cluster.local. TXT
         dual.a.svc.cluster.local. AAAA
         _http._tcp.web.a.svc.cluster.local. SRV
         _http._udp.web.a.svc.cluster.local. SRV
         _http._tcp.web.a.svc.cluster.local. A
         _tcp.web.a.svc.cluster.local. A
         web.a.svc.cluster.local. SRV
         x.web.a.svc.cluster.local. A
         nope.a.svc.cluster.local. A
         a.svc.cluster.local. A
         b.svc.cluster.local. A
         svc.cluster.local. A",
        expect![[r#"
            web.a.svc.cluster.local. A: 
                web.a.svc.cluster.local. 5 IN A 127.43.0.5
            WEB.A.SVC.Cluster.Local. A: 
                web.a.svc.cluster.local. 5 IN A 127.43.0.5
            web.a.svc.cluster.local. AAAA: no data
            web.a.svc.cluster.local. TXT: no data
            dual.a.svc.cluster.local. AAAA: 
                dual.a.svc.cluster.local. 5 IN AAAA fd00::6
            _http._tcp.web.a.svc.cluster.local. SRV: 
                _http._tcp.web.a.svc.cluster.local. 5 IN SRV 0 100 80 web.a.svc.cluster.local.
                + web.a.svc.cluster.local. 5 IN A 127.43.0.5
            _http._udp.web.a.svc.cluster.local. SRV: no such name
            _http._tcp.web.a.svc.cluster.local. A: no data
            _tcp.web.a.svc.cluster.local. A: no data
            web.a.svc.cluster.local. SRV: 
                web.a.svc.cluster.local. 5 IN SRV 0 100 80 web.a.svc.cluster.local.
                web.a.svc.cluster.local. 5 IN SRV 0 100 53 web.a.svc.cluster.local.
                + web.a.svc.cluster.local. 5 IN A 127.43.0.5
            x.web.a.svc.cluster.local. A: no such name
            nope.a.svc.cluster.local. A: no such name
            a.svc.cluster.local. A: no data
            b.svc.cluster.local. A: no such name
            svc.cluster.local. A: no data
        "#]],
    );
}

#[test]
fn headless_services() {
    check_lookup(
        "db.a.svc.cluster.local. A
         db-0.db.a.svc.cluster.local. A
         db-2.db.a.svc.cluster.local. A
         127-42-0-6.db.a.svc.cluster.local. A
         _sql._tcp.db.a.svc.cluster.local. SRV
         empty.a.svc.cluster.local. A",
        expect![[r#"
            db.a.svc.cluster.local. A: 
                db.a.svc.cluster.local. 5 IN A 127.42.0.6
                db.a.svc.cluster.local. 5 IN A 127.42.0.3
                db.a.svc.cluster.local. 5 IN A 127.42.0.4
            db-0.db.a.svc.cluster.local. A: 
                db-0.db.a.svc.cluster.local. 5 IN A 127.42.0.3
            db-2.db.a.svc.cluster.local. A: no such name
            127-42-0-6.db.a.svc.cluster.local. A: 
                127-42-0-6.db.a.svc.cluster.local. 5 IN A 127.42.0.6
            _sql._tcp.db.a.svc.cluster.local. SRV: 
                _sql._tcp.db.a.svc.cluster.local. 5 IN SRV 0 33 5432 127-42-0-6.db.a.svc.cluster.local.
                _sql._tcp.db.a.svc.cluster.local. 5 IN SRV 0 33 5432 db-0.db.a.svc.cluster.local.
                _sql._tcp.db.a.svc.cluster.local. 5 IN SRV 0 33 5432 db-1.db.a.svc.cluster.local.
                + 127-42-0-6.db.a.svc.cluster.local. 5 IN A 127.42.0.6
                + db-0.db.a.svc.cluster.local. 5 IN A 127.42.0.3
                + db-1.db.a.svc.cluster.local. 5 IN A 127.42.0.4
            empty.a.svc.cluster.local. A: no data
        "#]],
    );
}

#[test]
fn other_names() {
    check_lookup(
        "out.a.svc.cluster.local. A
         x.out.a.svc.cluster.local. A
         127-42-0-9.a.pod.cluster.local. A
         127-42-0-9.a.pod.cluster.local. AAAA
         nope.a.pod.cluster.local. A
         cluster.local. SOA
         cluster.local. NS
         cluster.local. A
         ns.dns.cluster.local. A
         dns-version.cluster.local. TXT
         nope.cluster.local. A
         example.com. A
         5.0.43.127.in-addr.arpa. PTR
         3.0.42.127.in-addr.arpa. PTR
         2.0.42.127.in-addr.arpa. PTR
         9.0.42.127.in-addr.arpa. PTR
         5.0.43.127.in-addr.arpa. A
         43.127.in-addr.arpa. PTR
         8.8.8.8.in-addr.arpa. PTR",
        expect![[r#"
            out.a.svc.cluster.local. A: alias of www.example.com.
            x.out.a.svc.cluster.local. A: no such name
            127-42-0-9.a.pod.cluster.local. A: 
                127-42-0-9.a.pod.cluster.local. 5 IN A 127.42.0.9
            127-42-0-9.a.pod.cluster.local. AAAA: no data
            nope.a.pod.cluster.local. A: no such name
            cluster.local. SOA: 
                cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5
            cluster.local. NS: 
                cluster.local. 5 IN NS ns.dns.cluster.local.
                + ns.dns.cluster.local. 5 IN A 127.42.0.1
            cluster.local. A: no data
            ns.dns.cluster.local. A: 
                ns.dns.cluster.local. 5 IN A 127.42.0.1
            dns-version.cluster.local. TXT: 
                dns-version.cluster.local. 5 IN TXT 1.1.0
            nope.cluster.local. A: no such name
            example.com. A: elsewhere
            5.0.43.127.in-addr.arpa. PTR: 
                5.0.43.127.in-addr.arpa. 5 IN PTR web.a.svc.cluster.local.
            3.0.42.127.in-addr.arpa. PTR: 
                3.0.42.127.in-addr.arpa. 5 IN PTR db-0.db.a.svc.cluster.local.
            2.0.42.127.in-addr.arpa. PTR: 
                2.0.42.127.in-addr.arpa. 5 IN PTR 127-42-0-2.web.a.svc.cluster.local.
            9.0.42.127.in-addr.arpa. PTR: no such name
            5.0.43.127.in-addr.arpa. A: no data
            43.127.in-addr.arpa. PTR: no data
            8.8.8.8.in-addr.arpa. PTR: elsewhere
        "#]],
    );
}

/// A resolver of the outside world that knows one name, and counts.
async fn outside(tasks: &mut JoinSet<()>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tasks.spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::from_bytes(&buffer[..length]).unwrap();
            let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
            reply.queries = query.queries.clone();
            let name = query.queries[0].name().clone();
            if name.to_string().starts_with("www.") && query.queries[0].query_type() == RecordType::A {
                reply.answers.push(Record::from_rdata(name, 300, RData::A(A::new(192, 0, 2, 7))));
            } else {
                reply.metadata.response_code = ResponseCode::NXDomain;
            }
            socket.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
}

async fn serve(world: &str, upstream: Upstream) -> (SocketAddr, TaskScope) {
    let (api, scope) = (FakeApi::new(world), TaskScope::root());
    let informers = api.informers(&scope);
    let view = View::new(informers.get(), informers.get());
    informers.synced().await;
    let config = DnsConfig { ports: vec![0], upstream, ..DnsConfig::default() };
    let address = start(&config, own_address().into(), view, &scope).unwrap();
    (address, scope)
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 77;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask_udp(server: SocketAddr, query: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(query, server).await.unwrap();
    let mut reply = vec![0; 4096];
    let length = timeout(Duration::from_secs(10), socket.recv(&mut reply)).await.unwrap().unwrap();
    Message::from_vec(&reply[..length]).unwrap()
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(&[&(query.len() as u16).to_be_bytes(), query].concat()).await.unwrap();
    Message::from_vec(&read(&mut stream).await.unwrap()).unwrap()
}

fn show(reply: &Message) -> String {
    let list = |records: &[Record]| records.iter().map(|record| format!("  {record}\n")).collect::<String>();
    let flag = |on: bool, name: &'static str| if on { name } else { "" };
    format!(
        "{} {}{}{}\n{}{}",
        reply.metadata.response_code,
        flag(reply.metadata.authoritative, "aa "),
        flag(reply.metadata.recursion_available, "ra "),
        flag(reply.metadata.truncation, "tc "),
        list(&reply.answers),
        list(&reply.authorities),
    )
}

#[tokio::test]
async fn replies_over_udp_and_tcp() {
    let mut tasks = JoinSet::new();
    let upstream = outside(&mut tasks).await;
    let (server, scope) = serve(WORLD, Upstream::Servers(vec![upstream])).await;
    let mut told = String::new();
    for name in [
        "web.a.svc.cluster.local.",
        "nope.a.svc.cluster.local.",
        "a.svc.cluster.local.",
        "alias.a.svc.cluster.local.",
        "circle.a.svc.cluster.local.",
        "www.other.net.",
        "nope.other.net.",
        "out.a.svc.cluster.local.",
    ] {
        let query = question(name, RecordType::A).to_vec().unwrap();
        let (udp, tcp) = (ask_udp(server, &query).await, ask_tcp(server, &query).await);
        assert_eq!((udp.metadata.id, &udp.queries), (77, &question(name, RecordType::A).queries));
        // The cache counts an answer's time down.
        let text = |reply: &Message| show(reply).replace(" 299 ", " 300 ");
        assert_eq!(text(&udp), text(&tcp));
        told += &format!("{name} {}", text(&udp));
    }
    expect![[r#"
        web.a.svc.cluster.local. No Error aa ra 
          web.a.svc.cluster.local. 5 IN A 127.43.0.5
        nope.a.svc.cluster.local. Non-Existent Domain aa ra 
          cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5
        a.svc.cluster.local. No Error aa ra 
          cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5
        alias.a.svc.cluster.local. No Error aa ra 
          alias.a.svc.cluster.local. 5 IN CNAME web.a.svc.cluster.local.
          web.a.svc.cluster.local. 5 IN A 127.43.0.5
        circle.a.svc.cluster.local. Server Failure ra 
        www.other.net. No Error ra 
          www.other.net. 300 IN A 192.0.2.7
        nope.other.net. Non-Existent Domain ra 
        out.a.svc.cluster.local. No Error aa ra 
          out.a.svc.cluster.local. 5 IN CNAME www.example.com.
          www.example.com. 300 IN A 192.0.2.7
    "#]]
    .assert_eq(&told);
    scope.shutdown().await;
}

#[tokio::test]
async fn queries_that_are_none() {
    let (server, scope) = serve(WORLD, Upstream::Nobody).await;
    let mut told = String::new();
    let mut two = question("web.a.svc.cluster.local.", RecordType::A);
    two.add_query(two.queries[0].clone());
    let mut update = question("web.a.svc.cluster.local.", RecordType::A);
    update.metadata.op_code = hickory_proto::op::OpCode::Update;
    let mut edns = question("web.a.svc.cluster.local.", RecordType::A);
    edns.set_edns(Edns::new());
    edns.edns.as_mut().unwrap().set_version(1);
    let garbage = [&[0, 77, 1, 0, 0, 9][..], &[0xFF; 20]].concat();
    for query in [two, update, edns].map(|message| message.to_vec().unwrap()).into_iter().chain([garbage]) {
        told += &show(&ask_udp(server, &query).await);
    }
    told += &show(&ask_udp(server, &question("example.com.", RecordType::A).to_vec().unwrap()).await);
    expect![[r#"
        Form Error ra 
        Not Implemented ra 
        TSIG Failure ra 
        Form Error 
        Server Failure ra 
    "#]]
    .assert_eq(&told);
    scope.shutdown().await;
}

#[tokio::test]
async fn many_endpoints_are_cut_for_udp_and_take_turns() {
    let endpoints: String = (2..102).map(|n| format!("ep=127.42.0.{n} ")).collect();
    let world = format!("service a/many ip=None port=80/TCP\nslice a/many port=80/TCP {endpoints}");
    let (server, scope) = serve(&world, Upstream::Nobody).await;
    let mut query = question("many.a.svc.cluster.local.", RecordType::A);
    let small = ask_udp(server, &query.to_vec().unwrap()).await;
    assert!(small.metadata.truncation && small.answers.len() < 100);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    query.set_edns(edns);
    let large = ask_udp(server, &query.to_vec().unwrap()).await;
    assert!(large.answers.len() > small.answers.len());
    assert_eq!(large.edns.unwrap().max_payload(), 1232);
    let mut firsts = BTreeSet::new();
    for _ in 0..5 {
        let whole = ask_tcp(server, &query.to_vec().unwrap()).await;
        assert_eq!((whole.answers.len(), whole.metadata.truncation), (100, false));
        firsts.insert(whole.answers[0].to_string());
    }
    assert_eq!(firsts.len(), 5);
    scope.shutdown().await;
}

#[tokio::test]
async fn a_port_that_may_not_be_had_gives_way_to_the_next() {
    let held = std::net::UdpSocket::bind((own_address(), 0)).unwrap();
    let address = held.local_addr().unwrap();
    let (_, _, bound) = bind(address.ip(), &[address.port(), 0]).unwrap();
    assert_ne!(bound.port(), address.port());
    let error = bind(address.ip(), &[address.port()]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{address}/UDP is in use by ")), "{error}");
}

#[tokio::test]
async fn before_the_facts_are_known_nothing_is_denied() {
    let query = question("web.a.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let step = answer(&zone(), None::<&World>, &AtomicUsize::new(0), &query);
    let Step::Reply(reply) = step else { panic!("a reply") };
    let reply = Message::from_vec(&reply.bytes(true).unwrap()).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}
