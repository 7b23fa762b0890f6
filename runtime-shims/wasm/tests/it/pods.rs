//! Sandboxes, lists, events, and what CRI asks of a runtime besides containers.

use coracle_cri::v1::*;
use expect_test::expect;
use futures::StreamExt;

use crate::shim::{Shim, guest, refusal, within};

#[tokio::test]
async fn it_says_what_it_is() {
    let shim = Shim::start().await;
    let version = shim.runtime().version(VersionRequest::default()).await.expect("a version").into_inner();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("coracle-wasm", "v1"));
    let status = shim.runtime().status(StatusRequest::default()).await.expect("a status").into_inner();
    let ready: Vec<(String, bool)> = status
        .status
        .map(|status| status.conditions.into_iter().map(|one| (one.r#type, one.status)).collect())
        .unwrap_or_default();
    assert_eq!(ready, [("RuntimeReady".to_owned(), true), ("NetworkReady".to_owned(), true)]);
    let mode = std::fs::metadata(shim.dir.path().join("wasm.sock")).map(|meta| {
        use std::os::unix::fs::PermissionsExt;
        meta.permissions().mode() & 0o777
    });
    assert_eq!(mode.expect("the socket is there"), 0o600);
}

#[tokio::test]
async fn sandboxes_have_addresses_of_their_own_and_give_them_back() {
    let shim = Shim::start().await;
    let one = shim.sandbox("one", &[], &[]).await;
    let two = shim.sandbox("two", &[], &[]).await;
    let (first, second) = (shim.ip(&one).await, shim.ip(&two).await);
    assert!(first.ends_with(".2") && second.ends_with(".3"), "{first} {second}");
    expect![[r#"AlreadyExists: failed to reserve sandbox name "one_default_uid-one_0": name "one_default_uid-one_0" is reserved for "#]]
        .assert_eq(refusal(shim.try_sandbox("one", &[], &[]).await).split('"').take(5).collect::<Vec<_>>().join("\"").as_str());
    let stop = StopPodSandboxRequest { pod_sandbox_id: one.clone() };
    shim.runtime().stop_pod_sandbox(stop.clone()).await.expect("it stops");
    shim.runtime().stop_pod_sandbox(stop).await.expect("it has stopped");
    assert_eq!(shim.ip(&one).await, "");
    let create = shim.create(&one, "main", guest("exit")).await;
    assert!(refusal(create).starts_with("FailedPrecondition: sandbox container"));
    // By its beginning, as crictl does.
    let request = PodSandboxStatusRequest { pod_sandbox_id: two[..12].to_owned(), verbose: false };
    let status = shim.runtime().pod_sandbox_status(request).await.expect("it is found").into_inner().status;
    assert_eq!(status.expect("a status").id, two);
    shim.remove_pod(&one).await;
    let ready = PodSandboxFilter { state: Some(PodSandboxStateValue { state: 0 }), ..PodSandboxFilter::default() };
    let request = ListPodSandboxRequest { filter: Some(ready) };
    let listed = shim.runtime().list_pod_sandbox(request).await.expect("a list").into_inner().items;
    assert_eq!(listed.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), [two.as_str()]);
}

#[tokio::test]
async fn a_life_is_told_in_events() {
    let shim = Shim::start().await;
    let events = shim.runtime().get_container_events(GetEventsRequest {}).await.expect("a stream").into_inner();
    let pod = shim.run("exit", guest("exit")).await;
    shim.exit(&pod.container).await;
    shim.remove_pod(&pod.sandbox).await;
    let told = within("all is told", events.take(8).collect::<Vec<_>>()).await;
    let mut story = String::new();
    for event in told {
        let event = event.expect("an event");
        let who = if event.container_id == pod.container { "container" } else { "sandbox" };
        assert!(event.containers_statuses.iter().all(|status| status.log_path.ends_with("/main.log")));
        let codes: Vec<String> = event
            .containers_statuses
            .iter()
            .map(|status| format!("{:?} {}", status.state(), status.exit_code))
            .collect();
        story.push_str(&format!("{who} {:?} {codes:?}\n", event.container_event_type()));
    }
    expect![[r#"
        sandbox ContainerCreatedEvent []
        sandbox ContainerStartedEvent []
        container ContainerCreatedEvent ["ContainerCreated 0"]
        container ContainerStartedEvent ["ContainerRunning 0"]
        container ContainerStoppedEvent ["ContainerExited 42"]
        sandbox ContainerStoppedEvent ["ContainerExited 42"]
        container ContainerDeletedEvent []
        sandbox ContainerDeletedEvent []
    "#]]
    .assert_eq(&story);
}

#[tokio::test]
async fn lists_are_filtered() {
    let shim = Shim::start().await;
    let one = shim.run("one", guest("hello:dev")).await;
    let two = shim.run("two", guest("exit")).await;
    shim.exit(&two.container).await;
    let list = |filter: ContainerFilter| {
        let mut runtime = shim.runtime();
        async move {
            let request = ListContainersRequest { filter: Some(filter) };
            let containers = runtime.list_containers(request).await.expect("a list").into_inner().containers;
            containers.into_iter().map(|container| container.id).collect::<Vec<_>>()
        }
    };
    let running = Some(ContainerStateValue { state: ContainerState::ContainerRunning.into() });
    assert_eq!(
        list(ContainerFilter { state: running, ..Default::default() }).await,
        std::slice::from_ref(&one.container)
    );
    let in_two = ContainerFilter { pod_sandbox_id: two.sandbox.clone(), ..Default::default() };
    assert_eq!(list(in_two).await, std::slice::from_ref(&two.container));
    let labelled =
        ContainerFilter { label_selector: [("no".to_owned(), "such".to_owned())].into(), ..Default::default() };
    assert!(list(labelled).await.is_empty());
}
