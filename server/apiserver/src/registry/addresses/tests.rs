use coracle_store::Mode;
use futures::FutureExt as _;
use serde_json::json;

use crate::http::Limits;
use crate::testing::World;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, address: &str, port: u16) -> String {
    let ports = json!([{"port": 80, "nodePort": port}]);
    json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "clusterIP": address, "ports": ports}}).to_string()
}

async fn threaded() -> World {
    World::with(|config| config.mode = Mode::Threaded, Limits::default()).await
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_frees_nothing() {
    let world = threaded().await;
    for round in 0..50_u16 {
        let (address, port) = (format!("127.43.9.{round}"), 30_100 + round);
        // Asked for and not waited for: the commit is on its way, or done.
        let first = service(&format!("left-{round}"), &address, port);
        let _left = world.send("POST", SERVICES, None, &first).now_or_never();
        for (address, port) in [(address.as_str(), 30_500 + round), (&format!("127.43.10.{round}"), port)] {
            let answer = world.send("POST", SERVICES, None, &service("late", address, port)).await;
            assert_eq!(answer.status(), 422, "{address} and {port} are given to the Service whose client left");
        }
    }
    // Commits are made in the order they are asked for: when this one is answered, the others are made.
    let last = world.send("POST", SERVICES, None, &service("last", "127.43.11.1", 30_099)).await;
    assert_eq!(last.status(), 201);
    let stored = world.send("GET", SERVICES, None, "").await;
    let body = http_body_util::BodyExt::collect(stored.into_body()).await.unwrap().to_bytes();
    let list: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 52, "each that was asked for, the last, and `kubernetes`");
}

#[tokio::test]
async fn what_no_commit_took_and_what_a_deletion_left_is_free_again() {
    let world = threaded().await;
    let post = async |path: &str, body: String| world.send("POST", path, None, &body).await.status().as_u16();
    assert_eq!(post(&format!("{SERVICES}?dryRun=All"), service("a", "127.43.9.9", 30_100)).await, 201);
    assert_eq!(post(SERVICES, service("a", "127.43.9.9", 30_100)).await, 201);
    // The name is taken: the address that came with it was claimed for nothing.
    assert_eq!(post(SERVICES, service("a", "127.43.9.8", 30_101)).await, 409);
    assert_eq!(post(SERVICES, service("b", "127.43.9.8", 30_101)).await, 201);
    assert_eq!(post(SERVICES, service("c", "127.43.9.9", 30_102)).await, 422);
    assert_eq!(world.send("DELETE", &format!("{SERVICES}/a"), None, "").await.status(), 200);
    assert_eq!(post(SERVICES, service("c", "127.43.9.9", 30_100)).await, 201);
}

#[tokio::test]
async fn an_index_that_fell_behind_is_made_anew() {
    let configure = |config: &mut coracle_store::StoreConfig| config.history_events = 10;
    let world = World::with(configure, Limits::default()).await;
    let post = async |body: String| world.send("POST", SERVICES, None, &body).await.status().as_u16();
    assert_eq!(post(service("a", "127.43.9.9", 30_100)).await, 201);
    for round in 0..40 {
        // Without an address nothing is asked of the index, which falls behind.
        let body =
            json!({"spec": {"type": "ExternalName", "externalName": format!("n{round}.example.org")}}).to_string();
        let answer = world.send("PATCH", &format!("{SERVICES}/a"), None, &body).await;
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(post(service("b", "127.43.9.9", 30_100)).await, 201);
    assert_eq!(post(service("c", "127.43.9.9", 30_101)).await, 422);
}
