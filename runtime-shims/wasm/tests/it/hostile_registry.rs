//! Pulling from registries that mean harm: whoever asks them hears so in the end, and nobody else is held up.

use std::sync::Arc;
use std::time::Duration;

use coracle_shim_wasm::images::{Credentials, PushExtras};
use futures::FutureExt;
use futures::future::{Either, select};
use tokio::sync::Barrier;

use crate::distribution::{ARTIFACT, bench, publish_hello, publish_layers};
use crate::images::{hello, publish, tar_of};
use crate::registry::{Registry, Step, digest};
use crate::shim::{eventually, within};

/// An image whose layer has so many bytes; its name, and the path of its layer.
fn publish_large(registry: &Registry, bytes: usize) -> (String, String) {
    let content = vec![1; bytes];
    publish(registry, "endless", "v1", ARTIFACT, ("application/wasm", &content));
    (format!("{}/endless:v1", registry.host), format!("/v2/endless/blobs/{}", digest(&content)))
}

#[tokio::test]
async fn who_breaks_off_far_on_and_goes_on_with_something_else_is_not_asked_for_ever() {
    let bench = bench();
    let registry = Registry::start(None).await;
    let (name, blob) = publish_large(&registry, 2 << 20);
    registry.put_lie("endless", &digest(&vec![1; 2 << 20]), &vec![2; 2 << 20]);
    let again_and_again = std::iter::repeat_n([Step::Cut(3 << 19), Step::AsAsked], 20).flatten();
    registry.script(&blob, again_and_again);
    let error = bench.pull(&name).await.expect_err("it is something else");
    assert!(error.to_string().contains("its digest is"), "{error}");
    let asked = [format!("GET {blob}"), format!("GET {blob} bytes={}-", 3 << 19)];
    assert_eq!(registry.requests(&blob), asked, "all that came is its own");
}

/// What was thrown away and comes again is no progress, however much it is: only what goes further than ever is.
#[tokio::test]
async fn who_begins_anew_each_time_is_not_asked_for_ever() {
    let bench = bench();
    let registry = Registry::start(None).await;
    let (name, blob) = publish_large(&registry, 4 << 20);
    // Never to the end, and each time from the beginning, though a later part is asked for.
    registry.script(&blob, [Step::Cut(3 << 20)]);
    let smaller_and_larger = std::iter::repeat_n([Step::WholeCut(1 << 19), Step::WholeCut(2 << 20)], 20).flatten();
    registry.script(&blob, smaller_and_larger);
    bench.pull(&name).await.expect_err("it never comes to an end");
    assert!(registry.requests(&blob).len() < 10, "{:?}", registry.requests(&blob));
}

#[tokio::test]
async fn what_a_mirror_sent_wrongly_is_not_gone_on_with_at_the_next() {
    let mut bench = bench();
    let (lying, own) = (Registry::start(None).await, Registry::start(None).await);
    publish_hello(&own, "app");
    let blob = publish_hello(&lying, "app");
    let mut other = hello();
    other[9] ^= 1;
    lying.put_lie("app", &digest(&hello()), &other);
    lying.script(&blob, std::iter::repeat_n(Step::Cut(40_000), 10));
    bench.configure(&format!("mirrors: {{\"{}\": {{endpoint: [\"http://{}\"]}}}}\n", own.host, lying.host));
    let image = bench.pull(&format!("{}/app:v1", own.host)).await.expect("the registry itself has it");
    assert!(bench.has_hello(&image));
    assert_eq!(own.requests(&blob), [format!("GET {blob} bytes=40000-"), format!("GET {blob}")]);
}

#[tokio::test]
async fn a_byte_now_and_then_is_not_waited_for() {
    let mut bench = bench();
    bench.registries.timing.stall = Duration::from_millis(500);
    bench.registries.timing.attempts = 1;
    let registry = Registry::start(None).await;
    publish_hello(&registry, "document");
    let blob = publish_hello(&registry, "blob");
    for path in ["/v2/document/manifests/v1", &blob] {
        registry.script(path, [Step::Trickle(Duration::from_millis(50))]);
    }
    let names = ["document", "blob"].map(|repository| format!("{}/{repository}:v1", registry.host));
    let pulls = futures::future::join_all(names.iter().map(|name| bench.pull(name)));
    for outcome in within("both are given up", pulls).await {
        outcome.expect_err("it would take an hour");
    }
}

#[tokio::test]
async fn a_registry_that_takes_its_time_holds_up_nobody_who_asks_another() {
    let bench = bench();
    let (slow, quick) = (Registry::start(None).await, Registry::start(None).await);
    let blob = publish_hello(&slow, "app");
    publish_hello(&quick, "app");
    let sent = Arc::new(Barrier::new(2));
    slow.script(&blob, [Step::Meet(sent.clone())]);
    let (slow_name, quick_name) = (format!("{}/app:v1", slow.host), format!("{}/app:v1", quick.host));
    let meanwhile = async {
        let asked = || async { (!slow.requests(&blob).is_empty()).then_some(()) };
        eventually("the slow one is asked", asked).await;
        let image = within("the other one answers", bench.pull(&quick_name)).await.expect("it is pulled");
        assert!(bench.has_hello(&image));
        sent.wait().await;
    };
    let (image, ()) = tokio::join!(bench.pull(&slow_name), meanwhile);
    assert!(bench.has_hello(&image.expect("it is pulled, too")));
}

#[tokio::test]
async fn what_nobody_needs_is_collected_during_a_pull_and_what_the_pull_has_is_not() {
    let bench = bench();
    let registry = Registry::start(None).await;
    let (app, other) = (tar_of("app.wasm", &hello()), tar_of("etc/other", b"other"));
    let blobs = publish_layers(&registry, "slow", &[&app, &other]);
    publish(
        &registry,
        "old",
        "v1",
        ("application/vnd.wasm.config.v0+json", b"{ }"),
        ("application/wasm", b"\0asm\x01\0\0\0"),
    );
    let old = format!("{}/old:v1", registry.host);
    bench.pull(&old).await.expect("it is pulled");
    let sent = Arc::new(Barrier::new(2));
    registry.script(&blobs[1], [Step::Meet(sent.clone())]);
    let meanwhile = async {
        let fetched = || async { (bench.files("blobs/sha256") == 3 + 2 && bench.files("partial") == 1).then_some(()) };
        eventually("one layer and the configuration are there", fetched).await;
        bench.store.remove(&old).expect("it can be removed");
        assert_eq!(bench.files("blobs/sha256"), 2, "nothing of the image that was removed");
        sent.wait().await;
    };
    let name = format!("{}/slow:v1", registry.host);
    let (image, ()) =
        tokio::join!(bench.store.pull(&name, &Credentials::Anonymous, &bench.registries, None), meanwhile);
    assert!(bench.has_hello(&image.expect("it is whole")));
    assert_eq!(bench.files("claims"), 0);
    bench.store.remove(&name).expect("it can be removed");
    assert_eq!(bench.files("blobs/sha256"), 0);
}

#[tokio::test]
async fn what_nobody_needs_is_collected_during_a_push_and_what_the_push_has_is_not() {
    let bench = bench();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it has an address");
    let file = |name: &str, content: &[u8]| {
        let path = bench.dir.path().join(name);
        std::fs::write(&path, content).expect("it can be written");
        bench.store.import(&path, None).expect("it is taken in");
    };
    file("app.wasm", &hello());
    file("old.wasm", b"\0asm\x01\0\0\0");
    let (target, extras) = (format!("{address}/app:v1"), PushExtras::default());
    let pushing = bench.store.push("app", Some(&target), &Credentials::Anonymous, &bench.registries, &extras).boxed();
    let asked = listener.accept().boxed();
    let Either::Right((connection, pushing)) = select(pushing, asked).await else { panic!("nobody answered it") };
    bench.store.remove("app").expect("it can be removed");
    bench.store.remove("old").expect("it can be removed");
    assert_eq!(bench.files("blobs/sha256"), 2, "the layer and the configuration that are pushed");
    drop((connection, pushing));
    file("next.wasm", b"\0asm\x01\0\0\0");
    bench.store.remove("next").expect("it can be removed");
    assert_eq!((bench.files("blobs/sha256"), bench.files("claims")), (0, 0));
}
