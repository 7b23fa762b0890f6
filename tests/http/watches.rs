//! Watches over the wire: each change once, in order, across cuts; and how they end.

use coracle_client::WatchEvent;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::link::{Events, Link, Protocol, revision, shown};
use crate::site::{MAPS, Site, config_map};
use crate::within_deadline;

const WRITERS: usize = 6;
const ROUNDS: usize = 60;

/// Creates, changes and deletes maps of its own.
async fn write(mut link: Link, writer: usize) {
    for round in 0..ROUNDS {
        let name = format!("w{writer}-{}", round / 3);
        let path = format!("{MAPS}/{name}");
        match round % 3 {
            0 => link.post(MAPS, &config_map(&name, "new")).await.expect(201),
            1 => link.put(&path, &config_map(&name, "changed")).await.expect(200),
            _ => link.delete(&path).await.expect(200),
        };
    }
}

/// Reads until the last map appears. `cut` gives how many events are read before the watch is dropped and resumed.
async fn follow(mut link: Link, from: u64, mut cut: impl FnMut() -> usize) -> Vec<String> {
    let mut seen = Vec::new();
    let mut last = from;
    loop {
        let mut events = link.watch(&format!("{MAPS}?watch=1&resourceVersion={last}")).await;
        for _ in 0..cut() {
            let event = events.next().await.expect("the watch goes on");
            assert!(revision(&event["object"]) > last, "{} after {last}", shown(&event));
            last = revision(&event["object"]);
            seen.push(shown(&event));
            if event["object"]["metadata"]["name"] == "last" {
                return seen;
            }
        }
    }
}

#[test]
fn who_resumes_sees_each_change_once() {
    within_deadline(async {
        let site = Site::new().await;
        let link = site.link(&site.admin(), Protocol::Http2).await;
        let from = revision(&link.share().get(MAPS).await.expect(200).json());
        let mut watchers = JoinSet::new();
        watchers.spawn(follow(link.share(), from, || usize::MAX));
        for watcher in 1..8_usize {
            let mut state = watcher;
            let cut = move || {
                state = (state * 7 + 3) % 13;
                state + 1
            };
            let own = site.link(&site.admin(), Protocol::Http2).await;
            watchers.spawn(follow(own, from, cut));
        }
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(link.share(), writer));
        }
        writers.join_all().await;
        link.share().post(MAPS, &config_map("last", "v")).await.expect(201);
        let seen = watchers.join_all().await;
        for one in &seen {
            assert_eq!(one.len(), WRITERS * ROUNDS + 1);
            assert_eq!(*one, seen[0]);
        }
    });
}

#[test]
fn the_initial_events_and_what_follows_leave_no_gap() {
    within_deadline(async {
        let site = Site::new().await;
        let link = site.link(&site.admin(), Protocol::Http2).await;
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(link.share(), writer));
        }
        // Watchers come while others write; each must end up with what is there at the end.
        let mut watchers = JoinSet::new();
        for _ in 0..10 {
            let mut link = link.share();
            watchers.spawn(async move {
                let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
                let mut events = link.watch(&format!("{MAPS}?{query}")).await;
                let mut state = std::collections::BTreeMap::new();
                let mut complete = false;
                loop {
                    let event = events.next().await.expect("the watch goes on");
                    let object = &event["object"];
                    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                    match event["type"].as_str().expect("a type") {
                        "BOOKMARK" => {
                            let ends = &object["metadata"]["annotations"]["k8s.io/initial-events-end"];
                            complete |= ends == "true";
                        }
                        "ADDED" => assert!(state.insert(name.clone(), revision(object)).is_none(), "{name} twice"),
                        "MODIFIED" => assert!(state.insert(name.clone(), revision(object)).is_some(), "{name} unknown"),
                        "DELETED" => assert!(state.remove(&name).is_some(), "{name} unknown"),
                        other => panic!("{other}: {object}"),
                    }
                    if name == "last" {
                        assert!(complete || state.len() == 1, "the initial events have an end");
                        return state;
                    }
                }
            });
            tokio::task::yield_now().await;
        }
        writers.join_all().await;
        link.share().post(MAPS, &config_map("last", "v")).await.expect(201);
        for state in watchers.join_all().await {
            assert_eq!(state.keys().collect::<Vec<_>>(), ["last"]);
        }
    });
}

/// Reads to the end; what came, and whether the end was an error.
async fn to_the_end(mut events: Events) -> (Vec<Value>, Option<Value>) {
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        if event["type"] == "ERROR" {
            assert!(events.next().await.is_none(), "nothing follows an error");
            return (seen, Some(event["object"].clone()));
        }
        seen.push(event);
    }
    (seen, None)
}

#[test]
fn who_reads_too_slowly_is_told_and_missed_nothing_before() {
    within_deadline(async {
        let site = Site::with(|wishes| {
            wishes.store.history_events = 50;
        })
        .await;
        let mut slow = site.link(&site.admin(), Protocol::Http1).await;
        let mut link = site.link(&site.admin(), Protocol::Http2).await;
        let from = revision(&link.get(MAPS).await.expect(200).json());
        let events = slow.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
        // Far more than the sockets' buffers take.
        let value = "x".repeat(64 * 1024);
        link.post(MAPS, &config_map("big", &value)).await.expect(201);
        for round in 0..300 {
            let body = config_map("big", &format!("{round}{value}"));
            link.put(&format!("{MAPS}/big"), &body).await.expect(200);
        }
        let (seen, error) = to_the_end(events).await;
        let error = error.expect("the watch cannot have kept up");
        assert_eq!((error["code"].as_u64(), error["reason"].as_str()), (Some(410), Some("Expired")), "{error}");
        let revisions: Vec<u64> = seen.iter().map(|event| revision(&event["object"])).collect();
        assert!(revisions.windows(2).all(|pair| pair[1] == pair[0] + 1), "a gap in {revisions:?}");
        assert!(revisions.len() < 300, "the watch kept up after all");
        // One that is slow does not slow the others down: a new one is served at once.
        let now = revision(&link.get(MAPS).await.expect(200).json());
        let mut fresh = link.share().watch(&format!("{MAPS}?watch=1&resourceVersion={now}")).await;
        link.post(MAPS, &config_map("after", "v")).await.expect(201);
        assert_eq!(fresh.next().await.unwrap()["object"]["metadata"]["name"], "after");
    });
}

#[test]
fn watches_end_in_order_when_the_server_stops() {
    within_deadline(async {
        let site = Site::new().await;
        let mut opened = Vec::new();
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut link = site.link(&site.admin(), protocol).await;
            let events = link.watch(&format!("{MAPS}?watch=1")).await;
            opened.push((link, events));
        }
        let mut link = site.link(&site.admin(), Protocol::Http2).await;
        link.post(MAPS, &config_map("before", "v")).await.expect(201);
        site.assembly.stop();
        for (_link, events) in opened {
            let (seen, error) = to_the_end(events).await;
            assert_eq!(error, None);
            assert!(seen.len() <= 1, "{seen:?}");
        }
        // Answers go on until the listener is gone; then connections end by themselves.
        link.get("/livez").await.expect(200);
        site.scope.shutdown().await;
        assert!(tokio::net::TcpStream::connect(site.address).await.is_err(), "nobody listens any more");
    });
}

#[test]
fn the_stop_of_the_listener_ends_watches_too() {
    within_deadline(async {
        let site = Site::new().await;
        let mut link = site.link(&site.admin(), Protocol::Http2).await;
        let events = link.watch(&format!("{MAPS}?watch=1")).await;
        let (_, (seen, error)) = tokio::join!(site.scope.shutdown(), to_the_end(events));
        assert_eq!((seen.len(), error), (0, None));
    });
}

#[test]
fn the_client_of_the_house_watches_over_the_wire_as_inside() {
    within_deadline(async {
        let site = Site::new().await;
        let clients = [site.inside(), site.remote(site.admin())];
        let mut watches = Vec::new();
        for client in &clients {
            let maps = client.namespaced::<ConfigMap>("default");
            watches.push(maps.watch(&coracle_client::WatchParams::default().with_initial_events()).await.unwrap());
        }
        let mut link = site.link(&site.admin(), Protocol::Http2).await;
        link.post(MAPS, &config_map("a", "v")).await.expect(201);
        link.delete(&format!("{MAPS}/a")).await.expect(200);
        let mut seen = Vec::new();
        for mut watch in watches {
            let mut own = Vec::new();
            loop {
                use futures::StreamExt as _;
                let event = watch.next().await.expect("the watch goes on").expect("no error");
                let is_last = matches!(event, WatchEvent::Deleted(_));
                own.push(format!("{event:?}"));
                if is_last {
                    break;
                }
            }
            seen.push(own);
        }
        assert_eq!(seen[0], seen[1]);
    });
}
