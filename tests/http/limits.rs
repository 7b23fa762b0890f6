//! What a client may ask of the server, and how answers are sent.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use coracle_client::Identity;
use expect_test::expect;
use http::Method;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::link::{Protocol, request, tls};
use crate::site::{MAPS, Site, config_map};
use crate::within_deadline;

const MIB: usize = 1 << 20;

#[test]
fn a_body_over_three_mebibytes_is_refused_whether_its_length_is_told_or_not() {
    within_deadline(async {
        let site = Site::new().await;
        let mut link = site.link(&site.admin(), Protocol::Http2).await;
        let fits = config_map("fits", &"x".repeat(3 * MIB - 200));
        link.post(MAPS, &fits).await.expect(422);
        let long = config_map("long", &"x".repeat(3 * MIB + 1)).to_string();
        let told = link.whole(request(Method::POST, MAPS, &[], long.clone())).await;
        expect!["413 RequestEntityTooLarge: Request entity too large: limit is 3145728"].assert_eq(&told.refusal());
        let pieces: Vec<Bytes> = long.as_bytes().chunks(64 * 1024).map(Bytes::copy_from_slice).collect();
        let stream = futures::stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece))));
        let untold = http::Request::post(MAPS).header("content-type", "application/json");
        let untold = untold.body(BodyExt::boxed(StreamBody::new(stream))).unwrap();
        expect!["413 RequestEntityTooLarge: Request entity too large: limit is 3145728"]
            .assert_eq(&link.whole(untold).await.refusal());
        // The connection is good for the next request.
        link.get("/version").await.expect(200);
    });
}

/// Says something and waits for the end, which may be told or just come.
async fn heard(site: &Site, alpn: &[&[u8]], said: &str) -> String {
    let mut stream = tls(site.address, site.ca(), &Identity::Anonymous, alpn).await.expect("a TLS connection");
    stream.write_all(said.as_bytes()).await.expect("the server listens yet");
    let mut rest = Vec::new();
    let _cut = stream.read_to_end(&mut rest).await;
    String::from_utf8_lossy(&rest).into_owned()
}

#[test]
fn who_is_slow_with_his_headers_or_says_nothing_is_cut() {
    within_deadline(async {
        let site = Site::with(|wishes| {
            wishes.socket.headers = Duration::from_secs(1);
            wishes.socket.idle = Duration::from_secs(1);
            wishes.socket.drain = Duration::from_millis(50);
        })
        .await;
        let slow = "GET /version HTTP/1.1\r\nHost: x\r\nX-Slow: ";
        let alpns: [&[&[u8]]; 3] = [&[b"http/1.1"], &[b"h2"], &[]];
        let all = alpns.iter().flat_map(|alpn| ["", slow].map(|said| heard(&site, alpn, said)));
        for rest in futures::future::join_all(all).await {
            assert!(!rest.contains("200 OK"), "{rest}");
        }
        // Those who wait for something are not meant.
        let mut link = site.link(&site.admin(), Protocol::Http2).await;
        let mut events = link.watch("/api/v1/configmaps?watch=1&timeoutSeconds=2").await;
        while events.next().await.is_some() {}
        link.get("/version").await.expect(200);
    });
}

#[test]
fn both_versions_of_http_give_the_same_answers() {
    within_deadline(async {
        let site = Site::new().await;
        let mut answers = Vec::new();
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut link = site.link(&site.admin(), protocol).await;
            let first = link.get("/api/v1/namespaces/default").await.expect(200);
            let second = link.get("/api/v1/namespaces/none").await.expect(404);
            answers.push((first.text(), second.text()));
            let name = format!("{protocol:?}").to_lowercase();
            link.post(MAPS, &config_map(&name, "v")).await.expect(201);
            link.delete(&format!("{MAPS}/{name}")).await.expect(200);
        }
        assert_eq!(answers[0], answers[1]);
    });
}

/// A field of a protobuf message whose value is bytes, a text or a message.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("short messages only");
    assert!(length < 128, "its length takes one byte");
    [&[number << 3 | 2, length], value].concat()
}

#[test]
fn what_go_clients_write_is_read_and_answered_in_json() {
    within_deadline(async {
        let site = Site::new().await;
        let mut link = site.link(&site.admin(), Protocol::Http2).await;
        let kind = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
        let data = field(2, &[field(1, b"key"), field(2, b"value")].concat());
        let map = [field(1, &field(1, b"written")), data].concat();
        let body = [b"k8s\0".to_vec(), field(1, &kind), field(2, &map)].concat();
        let headers = [
            ("content-type", "application/vnd.kubernetes.protobuf"),
            ("accept", "application/vnd.kubernetes.protobuf,application/json"),
        ];
        let answer = link.whole(request(Method::POST, MAPS, &headers, body.clone())).await.expect(201);
        assert_eq!(
            (answer.header("content-type"), &answer.json()["data"]["key"]),
            ("application/json", &"value".into())
        );
        let torn = link.whole(request(Method::POST, MAPS, &headers, body[..body.len() - 3].to_vec())).await;
        assert_eq!(torn.code, 400, "{}", torn.text());
    });
}

#[test]
fn head_is_get_without_a_body() {
    within_deadline(async {
        let site = Site::new().await;
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut link = site.link(&site.admin(), protocol).await;
            for (path, code) in [
                ("/api/v1/namespaces/default", 200),
                ("/api/v1/nodes", 200),
                ("/version", 200),
                ("/api/v1/nodes/none", 404),
            ] {
                let head = link.whole(request(Method::HEAD, path, &[], Bytes::new())).await.expect(code);
                assert_eq!((head.bytes.len(), head.header("content-type")), (0, "application/json"), "{path}");
            }
            link.get("/version").await.expect(200);
        }
    });
}

#[test]
fn long_answers_are_compressed_for_those_who_ask() {
    within_deadline(async {
        let site = Site::new().await;
        let mut link = site.link(&site.admin(), Protocol::Http2).await;
        link.post(MAPS, &config_map("short", &"x".repeat(100 * 1024))).await.expect(201);
        link.post(MAPS, &config_map("long", &"x".repeat(200 * 1024))).await.expect(201);
        let mut seen = BTreeMap::new();
        for name in ["short", "long", "short?pretty=true"] {
            for asked in ["identity", "gzip", "deflate, gzip;q=0.5", "gzip;q=0"] {
                let headers = [("accept-encoding", asked)];
                let answer = link.whole(request(Method::GET, &format!("{MAPS}/{name}"), &headers, Bytes::new())).await;
                let answer = answer.expect(200);
                let plain = if answer.header("content-encoding") == "gzip" {
                    let mut plain = Vec::new();
                    flate2::read::GzDecoder::new(&answer.bytes[..]).read_to_end(&mut plain).unwrap();
                    assert!(plain.len() > answer.bytes.len());
                    plain
                } else {
                    answer.bytes.to_vec()
                };
                let object: Value = serde_json::from_slice(&plain).unwrap();
                assert_eq!(object["metadata"]["name"], name.split('?').next().unwrap());
                seen.insert(format!("{name} {asked}"), answer.header("content-encoding").to_owned());
            }
        }
        expect![[r#"
            {
                "long deflate, gzip;q=0.5": "gzip",
                "long gzip": "gzip",
                "long gzip;q=0": "-",
                "long identity": "-",
                "short deflate, gzip;q=0.5": "-",
                "short gzip": "-",
                "short gzip;q=0": "-",
                "short identity": "-",
                "short?pretty=true deflate, gzip;q=0.5": "-",
                "short?pretty=true gzip": "-",
                "short?pretty=true gzip;q=0": "-",
                "short?pretty=true identity": "-",
            }
        "#]]
        .assert_debug_eq(&seen);
        // A watch is never held back by a compressor.
        let headers = [("accept-encoding", "gzip")];
        let response =
            link.send(request(Method::GET, &format!("{MAPS}?watch=1"), &headers, Bytes::new())).await.unwrap();
        assert!(response.headers().get("content-encoding").is_none());
    });
}

#[test]
fn more_watches_than_the_server_bears_are_told_to_come_back() {
    within_deadline(async {
        let site = Site::with(|wishes| wishes.api.limits.watches = 3).await;
        let mut link = site.link(&site.admin(), Protocol::Http2).await;
        let path = "/api/v1/configmaps?watch=1";
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(link.watch(path).await);
        }
        let refused = link.get(path).await;
        assert_eq!(refused.header("retry-after"), "5");
        expect!["429 TooManyRequests: too many watches: this server serves at most 3 at a time; close some, or raise its limit of watches"]
            .assert_eq(&refused.refusal());
        // Other requests are not meant.
        link.get("/api/v1/configmaps").await.expect(200);
        open.pop();
        // The server hears of the end in its own time.
        loop {
            let again = link.send(request(Method::GET, path, &[], Bytes::new())).await.unwrap();
            if again.status() == 200 {
                break;
            }
            assert_eq!(again.status(), 429);
        }
    });
}

#[test]
fn no_user_takes_all_watches_and_some_are_kept_for_the_system() {
    within_deadline(async {
        let site = Site::with(|wishes| wishes.api.limits.watches = 8).await;
        site.let_view("devs").await;
        let path = "/api/v1/configmaps?watch=1";
        let mut jane = site.link(&site.certificate("jane", Some("devs")), Protocol::Http2).await;
        let mut john = site.link(&site.certificate("john", Some("devs")), Protocol::Http2).await;
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(jane.watch(path).await);
        }
        let refused = jane.get(path).await;
        assert_eq!(refused.header("retry-after"), "5");
        expect![[r#"429 TooManyRequests: too many watches: "jane" has 3 open, and one user may have 3 of the 8 that this server serves; close some, or raise its limit of watches"#]]
            .assert_eq(&refused.refusal());
        for _ in 0..3 {
            open.push(john.watch(path).await);
        }
        let mut jack = site.link(&site.certificate("jack", Some("devs")), Protocol::Http2).await;
        expect!["429 TooManyRequests: too many watches: 6 of 8 are open, and the rest is kept for nodes and administrators; close some, or raise the server's limit of watches"]
            .assert_eq(&jack.get(path).await.refusal());
        let mut admin = site.link(&site.admin(), Protocol::Http2).await;
        open.push(admin.watch(path).await);
        open.push(admin.watch(path).await);
        expect!["429 TooManyRequests: too many watches: this server serves at most 8 at a time; close some, or raise its limit of watches"]
            .assert_eq(&admin.get(path).await.refusal());
    });
}

/// A GET of which only the head of the answer was read.
async fn half_read(site: &Site, who: &Identity, path: &str) -> (impl Sized, String) {
    let mut stream = tls(site.address, site.ca(), who, &[b"http/1.1"]).await.expect("a TLS connection");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.expect("it is sent");
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.expect("an answer begins");
    (stream, String::from_utf8_lossy(&head).into_owned())
}

#[test]
fn an_answer_has_its_place_until_it_is_read() {
    within_deadline(async {
        let site = Site::with(|wishes| wishes.api.limits.requests = 1).await;
        site.let_view("devs").await;
        let mut admin = site.link(&site.admin(), Protocol::Http2).await;
        // More than any socket's buffers take.
        for number in 0..14 {
            let map = config_map(&format!("big-{number}"), &"x".repeat(900 * 1024));
            admin.post(MAPS, &map).await.expect(201);
        }
        let jane = site.certificate("jane", Some("devs"));
        let (slow, head) = half_read(&site, &jane, MAPS).await;
        assert_eq!(head, "HTTP/1.1 200 OK");
        let mut link = site.link(&jane, Protocol::Http2).await;
        let refused = link.get("/api/v1/namespaces/default/pods").await;
        assert_eq!(refused.header("retry-after"), "1");
        expect!["429 TooManyRequests: Too many requests, please try again later."].assert_eq(&refused.refusal());
        // Watches and administrators are not meant.
        admin.get(MAPS).await.expect(200);
        drop(link.watch("/api/v1/configmaps?watch=1&resourceVersion=0").await);
        drop(slow);
        // The server hears of the end in its own time.
        while link.get("/api/v1/namespaces/default/pods").await.code != 200 {}
    });
}

#[test]
fn a_body_that_breaks_off_stores_nothing() {
    within_deadline(async {
        let site = Site::new().await;
        let body = config_map("half", "v").to_string();
        let head = format!(
            "POST {MAPS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len() + 1
        );
        let mut stream = tls(site.address, site.ca(), &site.admin(), &[b"http/1.1"]).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _cut = stream.read_to_end(&mut rest).await;
        site.ask(&site.admin(), &format!("{MAPS}/half")).await.expect(404);
    });
}

#[test]
fn nonsense_on_the_wire_harms_nobody() {
    within_deadline(async {
        let site = Site::new().await;
        for nonsense in [
            "\0\0\0\0\0\0\0\0",
            "GET\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxxxxxxxxxxxx",
            "GET /a b HTTP/1.1\r\n\r\n",
        ] {
            let mut stream = tls(site.address, site.ca(), &site.admin(), &[]).await.unwrap();
            stream.write_all(nonsense.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let _cut = stream.read_to_end(&mut rest).await;
        }
        let mut link = site.link(&site.admin(), Protocol::Http1).await;
        for path in [
            "/api/v1/namespaces/%00/pods/%ff",
            "/api/v1/pods?labelSelector=%ff%fe",
            "/api//v1///",
            "/apis/%2e%2e/x",
            "/api/v1/namespaces/default/pods/%2F",
        ] {
            let answer = link.get(path).await;
            assert!((400..500).contains(&answer.code), "{path}: {} {}", answer.code, answer.text());
        }
        link.get("/healthz").await.expect(200);
    });
}

#[test]
fn metrics_count_and_health_tells() {
    within_deadline(async {
        let site = Site::new().await;
        let mut link = site.link(&site.admin(), Protocol::Http2).await;
        link.get("/api/v1/nodes").await.expect(200);
        link.get("/api/v1/inventions").await.expect(404);
        let events = link.watch("/api/v1/pods?watch=1").await;
        let metrics = link.get("/metrics").await.expect(200).text();
        let value = |line: &str| {
            let found = metrics.lines().find_map(|own| own.strip_prefix(line)?.strip_prefix(' '));
            found.unwrap_or_else(|| panic!("no {line} in\n{metrics}")).parse::<f64>().unwrap()
        };
        let nodes = "verb=\"LIST\",group=\"\",version=\"v1\",resource=\"nodes\",subresource=\"\"";
        assert_eq!(value(&format!("apiserver_request_total{{{nodes},code=\"200\"}}")), 1.0);
        assert_eq!(value(&format!("apiserver_request_duration_seconds_count{{{nodes}}}")), 1.0);
        assert_eq!(value("apiserver_registered_watchers"), 1.0);
        assert!(value("apiserver_storage_objects{resource=\"namespaces\"}") >= 4.0);
        assert!(!metrics.contains("inventions"), "a name that a client made up is no label");
        drop(events);
        expect![[r#"
            [+]ping ok
            [+]store ok
            [+]shutdown ok
            readyz check passed
        "#]]
        .assert_eq(&link.get("/readyz?verbose").await.expect(200).text());
        site.assembly.stop();
        expect![[r#"
            [+]ping ok
            [+]store ok
            [-]shutdown failed
            readyz check failed
        "#]]
        .assert_eq(&link.get("/readyz").await.expect(500).text());
        link.get("/livez").await.expect(200);
    });
}
