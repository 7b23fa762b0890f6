use std::time::Duration;

use expect_test::{Expect, expect};
use futures::StreamExt;

use super::FakeRuntime;
use crate::v1::*;
use crate::{Endpoint, RuntimeRouter};

/// Runs one container of an image with `script` on paused time and tells what the event stream and the status say.
async fn run(script: &str, wait: Duration) -> String {
    let fake = FakeRuntime::new(0).scripted("app", script);
    run_on(fake.endpoint(), wait).await.unwrap_or_else(|status| format!("{:?}: {}\n", status.code(), status.message()))
}

async fn run_on(endpoint: Endpoint, wait: Duration) -> Result<String, tonic::Status> {
    let (mut runtime, mut images) = (endpoint.runtime(), endpoint.images());
    let network_config = Some(NetworkConfig { pod_cidr: "127.42.16.0/20".into() });
    let runtime_config = Some(RuntimeConfig { network_config });
    runtime.update_runtime_config(UpdateRuntimeConfigRequest { runtime_config }).await?;
    let mut events = runtime.get_container_events(GetEventsRequest {}).await?.into_inner();
    let image = Some(ImageSpec { image: "app".into(), ..Default::default() });
    images.pull_image(PullImageRequest { image: image.clone(), ..Default::default() }).await?;
    let metadata = PodSandboxMetadata { name: "web".into(), uid: "u1".into(), namespace: "ns".into(), attempt: 0 };
    let config = Some(PodSandboxConfig { metadata: Some(metadata), ..Default::default() });
    let request = RunPodSandboxRequest { config: config.clone(), runtime_handler: String::new() };
    let pod_sandbox_id = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
    let status =
        runtime.pod_sandbox_status(PodSandboxStatusRequest { pod_sandbox_id: pod_sandbox_id.clone(), verbose: false });
    let ip = status.await?.into_inner().status.and_then(|status| status.network).unwrap_or_default().ip;
    let mut out = format!("ip {ip}\n");
    let metadata = Some(ContainerMetadata { name: "main".into(), attempt: 0 });
    let container = Some(ContainerConfig { metadata, image, ..Default::default() });
    let request = CreateContainerRequest { pod_sandbox_id, config: container, sandbox_config: config };
    let container_id = runtime.create_container(request).await?.into_inner().container_id;
    runtime.start_container(StartContainerRequest { container_id: container_id.clone() }).await?;
    let until = tokio::time::Instant::now() + wait;
    while let Ok(Some(event)) = tokio::time::timeout_at(until, events.next()).await {
        let event = event?;
        out += &format!("{} {}\n", event.container_event_type().as_str_name(), event.container_id);
    }
    let status = runtime.container_status(ContainerStatusRequest { container_id, verbose: false }).await?;
    let status = status.into_inner().status.unwrap_or_default();
    out += &format!(
        "{} code={} reason={} message={} ran={:?}\n",
        status.state().as_str_name(),
        status.exit_code,
        status.reason,
        status.message,
        Duration::from_nanos(u64::try_from((status.finished_at - status.started_at).max(0)).unwrap_or(0)),
    );
    Ok(out)
}

async fn check_run(script: &str, expected: Expect) {
    expected.assert_eq(&run(script, Duration::from_secs(60)).await);
}

#[tokio::test(start_paused = true)]
async fn a_container_ends_at_its_time_while_only_the_stream_looks() {
    check_run(
        "exit 3 after 5s message boom",
        expect![[r#"
            ip 127.42.16.2
            CONTAINER_STARTED_EVENT sandbox-000001
            CONTAINER_CREATED_EVENT container-000002
            CONTAINER_STARTED_EVENT container-000002
            CONTAINER_STOPPED_EVENT container-000002
            CONTAINER_EXITED code=3 reason=Error message=boom ran=5s
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn faults_come_as_statuses() {
    check_run("pull fails no such thing", expect![["NotFound: no such thing\n"]]).await;
    check_run("create fails not a module", expect![["Unknown: not a module\n"]]).await;
    check_run("start fails trap", expect![["Unknown: trap\n"]]).await;
}

#[tokio::test]
async fn a_unix_socket_carries_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cri.sock");
    // What a killed process leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let fake = std::sync::Arc::new(FakeRuntime::new(0).scripted("app", "exit 0"));
    let (bound, ready) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serve = crate::serve_unix(&path, fake, || _ = bound.send(()), async { drop(stopped.await) });
    let calls = async {
        ready.await.unwrap();
        let name =
            Endpoint::unix(&path).runtime().version(VersionRequest::default()).await.unwrap().into_inner().runtime_name;
        let second = crate::serve_unix(&path, std::sync::Arc::new(FakeRuntime::new(0)), || (), std::future::pending());
        let refused = second.await.unwrap_err().to_string();
        drop(stop);
        format!("{name}; {}", refused.replace(path.to_str().unwrap(), "PATH"))
    };
    let (served, text) = tokio::join!(serve, calls);
    served.unwrap();
    expect!["fake; socket PATH is in use by another process: stop it, or give another path"].assert_eq(&text);
    assert!(!path.exists(), "the socket is removed at the end");
}

#[tokio::test]
async fn a_refusal_of_any_length_breaks_no_other_call() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cri.sock");
    let (latin, greek) = ("fails ".to_owned() + &"a".repeat(100_000), "fails ".to_owned() + &"é".repeat(100_000));
    let fake = FakeRuntime::new(0);
    let fake = fake.scripted("latin", &format!("pull {latin}")).scripted("greek", &format!("pull {greek}"));
    let (bound, ready) = tokio::sync::oneshot::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serve =
        crate::serve_unix(&path, std::sync::Arc::new(fake), || _ = bound.send(()), async { drop(stopped.await) });
    let calls = async {
        ready.await.unwrap();
        let endpoint = Endpoint::unix(&path);
        let pull = async |image: &str| {
            let image = Some(ImageSpec { image: image.into(), ..Default::default() });
            endpoint.images().pull_image(PullImageRequest { image, ..Default::default() }).await.unwrap_err()
        };
        let mut events = endpoint.runtime().get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
        for (image, text) in [("latin", "a".repeat(4096)), ("greek", "é".repeat(2048))] {
            let refusal = pull(image).await;
            assert_eq!((refusal.code(), refusal.message()), (tonic::Code::NotFound, text.as_str()));
        }
        let mut runtime = endpoint.runtime();
        let network_config = Some(NetworkConfig { pod_cidr: "127.42.16.0/20".into() });
        let runtime_config = Some(RuntimeConfig { network_config });
        runtime.update_runtime_config(UpdateRuntimeConfigRequest { runtime_config }).await.unwrap();
        let metadata = PodSandboxMetadata { name: "web".into(), uid: "u1".into(), namespace: "ns".into(), attempt: 0 };
        let config = Some(PodSandboxConfig { metadata: Some(metadata), ..Default::default() });
        runtime.run_pod_sandbox(RunPodSandboxRequest { config, runtime_handler: String::new() }).await.unwrap();
        events.next().await.unwrap().unwrap();
        drop((stop, events));
    };
    tokio::join!(serve, calls).0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_live_containers_of_one_name_are_a_violation() {
    let fake = FakeRuntime::new(0);
    run_on(fake.endpoint(), Duration::ZERO).await.unwrap();
    assert_eq!(fake.violations(), Vec::<String>::new());
    run_on(fake.endpoint(), Duration::ZERO).await.unwrap();
    expect![[r#"["a second ready sandbox for pod u1", "a second live container main in pod u1"]"#]]
        .assert_eq(&format!("{:?}", fake.violations()));
}

#[tokio::test]
async fn the_router_names_an_unknown_handler() {
    let fake = FakeRuntime::new(0);
    let router = RuntimeRouter::new(fake.endpoint()).with_handler("wasm", fake.endpoint());
    assert_eq!(router.endpoints().len(), 1);
    assert_eq!(router.route("wasm").unwrap().name(), "fake");
    expect![[r#"failed to get sandbox runtime: no runtime for "kata" is configured"#]]
        .assert_eq(&router.route("kata").unwrap_err().to_string());
}
