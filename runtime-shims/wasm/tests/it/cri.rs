//! What upstream's `critest` asks of a runtime, asked of this one: a kubelet or `crictl` relies on it.

use std::collections::BTreeMap;

use coracle_cri::v1::*;
use coracle_cri::{Code, Status};
use expect_test::expect;
use futures::StreamExt;

use crate::shim::{Shim, eventually, guest, refusal, within};

fn code<T>(outcome: Result<T, Status>) -> Code {
    match outcome {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

async fn sandboxes(shim: &Shim, filter: PodSandboxFilter) -> Vec<String> {
    let request = ListPodSandboxRequest { filter: Some(filter) };
    let items = shim.runtime().list_pod_sandbox(request).await.expect("a list").into_inner().items;
    items.into_iter().map(|item| item.id).collect()
}

async fn containers(shim: &Shim, filter: ContainerFilter) -> Vec<String> {
    let request = ListContainersRequest { filter: Some(filter) };
    let items = shim.runtime().list_containers(request).await.expect("a list").into_inner().containers;
    items.into_iter().map(|item| item.id).collect()
}

async fn sandbox_state(shim: &Shim, id: &str) -> PodSandboxState {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    let status = shim.runtime().pod_sandbox_status(request).await.expect("it is known").into_inner().status;
    status.expect("a status").state()
}

fn metadata(name: &str, attempt: u32) -> Option<PodSandboxMetadata> {
    Some(PodSandboxMetadata { name: name.to_owned(), namespace: "ns".to_owned(), uid: format!("uid-{name}"), attempt })
}

async fn run(shim: &Shim, config: PodSandboxConfig) -> Result<String, Status> {
    let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    shim.runtime().run_pod_sandbox(request).await.map(|response| response.into_inner().pod_sandbox_id)
}

#[tokio::test]
async fn a_sandbox_is_stopped_and_removed_as_often_as_one_likes() {
    let shim = Shim::start().await;
    let id = shim.sandbox("again", &[], &[]).await;
    let stop = || StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    let remove = || RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
    for _ in 0..2 {
        shim.runtime().stop_pod_sandbox(stop()).await.expect("stopped is stopped");
        assert_eq!(sandbox_state(&shim, &id).await, PodSandboxState::SandboxNotready);
    }
    for _ in 0..2 {
        shim.runtime().remove_pod_sandbox(remove()).await.expect("gone is gone");
    }
    shim.runtime().stop_pod_sandbox(stop()).await.expect("gone is stopped");
    let status = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
    assert_eq!(code(shim.runtime().pod_sandbox_status(status).await), Code::NotFound);
    assert!(sandboxes(&shim, PodSandboxFilter::default()).await.is_empty());
    // The name is free again.
    shim.sandbox("again", &[], &[]).await;
}

#[tokio::test]
async fn a_ready_sandbox_is_removed_with_all_that_runs_in_it() {
    let shim = Shim::start().await;
    let pod = shim.run("running", guest("spin")).await;
    shim.remove_pod(&pod.sandbox).await;
    assert!(containers(&shim, ContainerFilter::default()).await.is_empty());
    assert!(sandboxes(&shim, PodSandboxFilter::default()).await.is_empty());
    let status = ContainerStatusRequest { container_id: pod.container, verbose: false };
    assert_eq!(code(shim.runtime().container_status(status).await), Code::NotFound);
}

#[tokio::test]
async fn a_stopped_sandbox_has_stopped_its_containers() {
    let shim = Shim::start().await;
    let pod = shim.run("stopped", guest("spin")).await;
    let other = shim.create(&pod.sandbox, "created", guest("exit")).await.expect("it is made");
    let stop = StopPodSandboxRequest { pod_sandbox_id: pod.sandbox.clone() };
    shim.runtime().stop_pod_sandbox(stop).await.expect("it stops");
    assert_eq!(shim.status(&pod.container).await.state(), ContainerState::ContainerExited);
    // Its logs and its end are still to be had.
    assert_eq!(shim.status(&pod.container).await.exit_code, 137);
    assert_ne!(code(shim.start_container(&other).await), Code::Ok, "nothing starts in a stopped sandbox");
}

#[tokio::test]
async fn sandboxes_are_filtered_by_id_state_and_labels() {
    let shim = Shim::start().await;
    let mut ids = Vec::new();
    for (name, tier) in [("a", "web"), ("b", "web"), ("c", "data")] {
        let labels: BTreeMap<String, String> =
            [("app".to_owned(), name.to_owned()), ("tier".to_owned(), tier.to_owned())].into();
        let annotations = [("note".to_owned(), name.to_owned())].into();
        let config = PodSandboxConfig { metadata: metadata(name, 0), labels, annotations, ..Default::default() };
        ids.push(run(&shim, config).await.expect("it runs"));
    }
    let stop = StopPodSandboxRequest { pod_sandbox_id: ids[1].clone() };
    shim.runtime().stop_pod_sandbox(stop).await.expect("it stops");
    let state = |state: PodSandboxState| Some(PodSandboxStateValue { state: state.into() });
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let shown = |found: Vec<String>| {
        let mut names: Vec<&str> = found
            .iter()
            .map(|id| ["a", "b", "c"][ids.iter().position(|one| one == id).expect("one of them")])
            .collect();
        names.sort_unstable();
        names.concat()
    };
    let mut told = Vec::new();
    for filter in [
        PodSandboxFilter::default(),
        PodSandboxFilter { id: ids[0].clone(), ..Default::default() },
        PodSandboxFilter { id: ids[2][..10].to_owned(), ..Default::default() },
        PodSandboxFilter { id: "nobody".to_owned(), ..Default::default() },
        PodSandboxFilter { state: state(PodSandboxState::SandboxReady), ..Default::default() },
        PodSandboxFilter { state: state(PodSandboxState::SandboxNotready), ..Default::default() },
        PodSandboxFilter { label_selector: labels(&[("tier", "web")]), ..Default::default() },
        PodSandboxFilter { label_selector: labels(&[("tier", "web"), ("app", "b")]), ..Default::default() },
        PodSandboxFilter {
            state: state(PodSandboxState::SandboxReady),
            label_selector: labels(&[("tier", "web")]),
            ..Default::default()
        },
    ] {
        told.push(shown(sandboxes(&shim, filter).await));
    }
    assert_eq!(told, ["abc", "a", "c", "", "ac", "b", "ab", "b", "a"]);
    let request = ListPodSandboxRequest { filter: Some(PodSandboxFilter { id: ids[0].clone(), ..Default::default() }) };
    let item = shim.runtime().list_pod_sandbox(request).await.expect("a list").into_inner().items.pop().expect("one");
    assert_eq!(item.metadata, metadata("a", 0));
    assert_eq!(item.labels, [("app".to_owned(), "a".to_owned()), ("tier".to_owned(), "web".to_owned())].into());
    assert_eq!(item.annotations, [("note".to_owned(), "a".to_owned())].into());
    assert!(item.created_at > 0);
}

#[tokio::test]
async fn another_attempt_is_another_sandbox() {
    let shim = Shim::start().await;
    let config = |attempt| PodSandboxConfig { metadata: metadata("same", attempt), ..Default::default() };
    let first = run(&shim, config(0)).await.expect("it runs");
    assert_eq!(code(run(&shim, config(0)).await), Code::AlreadyExists);
    let second = run(&shim, config(1)).await.expect("it runs");
    assert_ne!(first, second);
    assert_ne!(shim.ip(&first).await, shim.ip(&second).await);
}

#[tokio::test]
async fn a_container_goes_through_its_states_with_growing_times() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("states", &[], &[]).await;
    let id = shim.create(&sandbox, "main", guest("spin")).await.expect("it is made");
    let mut story = String::new();
    let created = shim.status(&id).await;
    story.push_str(&format!("{:?} {} {}\n", created.state(), created.started_at, created.finished_at));
    shim.start_container(&id).await.expect("it starts");
    let running = shim.status(&id).await;
    story.push_str(&format!("{:?} {} {}\n", running.state(), running.started_at > 0, running.finished_at));
    story.push_str(&format!("start again: {}\n", refusal(shim.start_container(&id).await)));
    shim.stop(&id, 5).await;
    let exited = shim.status(&id).await;
    story.push_str(&format!("{:?} {} {}\n", exited.state(), exited.exit_code, exited.reason));
    story.push_str(&format!("start again: {}\n", refusal(shim.start_container(&id).await)));
    expect![[r#"
        ContainerCreated 0 0
        ContainerRunning true 0
        start again: FailedPrecondition: container is in CONTAINER_RUNNING state
        ContainerExited 143 Error
        start again: FailedPrecondition: container is in CONTAINER_EXITED state
    "#]]
    .assert_eq(&story);
    assert!(created.created_at > 0);
    assert_eq!([running.created_at, exited.created_at], [created.created_at; 2]);
    assert_eq!(exited.started_at, running.started_at);
    assert!(created.created_at <= running.started_at && running.started_at <= exited.finished_at);
}

#[tokio::test]
async fn containers_are_stopped_and_removed_as_often_as_one_likes_even_running_ones() {
    let shim = Shim::start().await;
    let pod = shim.run("gone", guest("spin")).await;
    let remove = || RemoveContainerRequest { container_id: pod.container.clone() };
    // critest: "removing a running container should succeed".
    for _ in 0..2 {
        within("it is removed", shim.runtime().remove_container(remove())).await.expect("gone is gone");
    }
    let status = ContainerStatusRequest { container_id: pod.container.clone(), verbose: false };
    assert_eq!(code(shim.runtime().container_status(status).await), Code::NotFound);
    let stop = StopContainerRequest { container_id: pod.container.clone(), timeout: 5 };
    shim.runtime().stop_container(stop).await.expect("gone is stopped");
    assert_eq!(code(shim.start_container(&pod.container).await), Code::NotFound);
    // One that was never started, and one that has exited: stopping changes nothing.
    let created = shim.create(&pod.sandbox, "created", guest("exit")).await.expect("it is made");
    shim.stop(&created, 5).await;
    assert_eq!(shim.status(&created).await.state(), ContainerState::ContainerCreated);
    shim.start_container(&created).await.expect("it starts all the same");
    let before = shim.exit(&created).await;
    shim.stop(&created, 5).await;
    assert_eq!(shim.status(&created).await, before);
}

#[tokio::test]
async fn a_container_that_ended_is_made_again_under_the_next_attempt() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("restart", &[], &[]).await;
    let config = |attempt| ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".to_owned(), attempt }),
        image: Some(ImageSpec { image: "exit".to_owned(), ..ImageSpec::default() }),
        ..ContainerConfig::default()
    };
    let create = |attempt| {
        let mut runtime = shim.runtime();
        let config = Some(config(attempt));
        let request = CreateContainerRequest { pod_sandbox_id: sandbox.clone(), config, sandbox_config: None };
        async move { runtime.create_container(request).await.map(|response| response.into_inner().container_id) }
    };
    let mut ids = Vec::new();
    for attempt in 0..3 {
        let id = create(attempt).await.expect("it is made");
        shim.start_container(&id).await.expect("it starts");
        assert_eq!(shim.exit(&id).await.exit_code, 42);
        ids.push(id);
    }
    assert_eq!(code(create(1).await), Code::AlreadyExists);
    let attempts: Vec<u32> = {
        let request = ListContainersRequest { filter: None };
        let items = shim.runtime().list_containers(request).await.expect("a list").into_inner().containers;
        let mut attempts: Vec<u32> = items.iter().filter_map(|item| Some(item.metadata.as_ref()?.attempt)).collect();
        attempts.sort_unstable();
        attempts
    };
    assert_eq!(attempts, [0, 1, 2]);
}

#[tokio::test]
async fn containers_are_filtered_by_all_that_is_asked_for() {
    let shim = Shim::start().await;
    let one = shim.run("one", guest("hello:dev")).await;
    let second = shim.create(&one.sandbox, "second", guest("exit")).await.expect("it is made");
    let two = shim.run("two", guest("exit")).await;
    shim.exit(&two.container).await;
    let state = |state: ContainerState| Some(ContainerStateValue { state: state.into() });
    let filter = |change: &dyn Fn(&mut ContainerFilter)| {
        let mut filter = ContainerFilter::default();
        change(&mut filter);
        filter
    };
    let mut told = String::new();
    for (what, filter) in [
        ("all", filter(&|_| {})),
        ("id", filter(&|filter| filter.id.clone_from(&second))),
        ("begins", filter(&|filter| filter.id = second[..12].to_owned())),
        ("sandbox", filter(&|filter| filter.pod_sandbox_id.clone_from(&one.sandbox))),
        ("created", filter(&|filter| filter.state = state(ContainerState::ContainerCreated))),
        ("running", filter(&|filter| filter.state = state(ContainerState::ContainerRunning))),
        ("exited", filter(&|filter| filter.state = state(ContainerState::ContainerExited))),
        (
            "exited in one",
            filter(&|filter| {
                filter.state = state(ContainerState::ContainerExited);
                filter.pod_sandbox_id.clone_from(&one.sandbox);
            }),
        ),
    ] {
        let names =
            BTreeMap::from([(&one.container, "one/main"), (&second, "one/second"), (&two.container, "two/main")]);
        let mut found: Vec<&str> = containers(&shim, filter).await.iter().map(|id| names[id]).collect();
        found.sort_unstable();
        told.push_str(&format!("{what}: {}\n", found.join(" ")));
    }
    expect![[r#"
        all: one/main one/second two/main
        id: one/second
        begins: one/second
        sandbox: one/main one/second
        created: one/second
        running: one/main
        exited: two/main
        exited in one: 
    "#]]
    .assert_eq(&told);
}

#[tokio::test]
async fn a_wrong_request_is_told_so_by_its_code() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("wrong", &[], &[]).await;
    let mut told = String::new();
    let mut tell = |what: &str, outcome: String| told.push_str(&format!("{what}: {outcome}\n"));
    let empty_run = RunPodSandboxRequest { config: None, runtime_handler: String::new() };
    tell("sandbox without config", refusal(shim.runtime().run_pod_sandbox(empty_run).await));
    tell("sandbox without metadata", refusal(run(&shim, PodSandboxConfig::default()).await));
    let config = PodSandboxConfig { metadata: metadata("handler", 0), ..Default::default() };
    let unknown = RunPodSandboxRequest { config: Some(config), runtime_handler: "no-such-handler".to_owned() };
    tell("unknown handler", refusal(shim.runtime().run_pod_sandbox(unknown).await));
    let create = |sandbox: &str, config: Option<ContainerConfig>| {
        let request = CreateContainerRequest { pod_sandbox_id: sandbox.to_owned(), config, sandbox_config: None };
        let mut runtime = shim.runtime();
        async move { runtime.create_container(request).await }
    };
    let named = |image: &str| ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() }),
        ..ContainerConfig::default()
    };
    tell("container without config", refusal(create(&sandbox, None).await));
    tell("container without metadata", refusal(create(&sandbox, Some(ContainerConfig::default())).await));
    tell("container without image", refusal(create(&sandbox, Some(named(""))).await));
    tell("container in no sandbox", refusal(create("0123456789ab", Some(named("exit"))).await));
    tell("container in a nameless sandbox", refusal(create("", Some(named("exit"))).await));
    tell("image not there", refusal(create(&sandbox, Some(named("absent:1"))).await));
    tell("image with no name", refusal(create(&sandbox, Some(named("UPPER CASE"))).await));
    tell("start of nothing", refusal(shim.start_container("0123456789ab").await));
    tell("start of a nameless one", refusal(shim.start_container("").await));
    let status = ContainerStatusRequest { container_id: String::new(), verbose: false };
    tell("status of a nameless one", refusal(shim.runtime().container_status(status).await));
    let reopen = ReopenContainerLogRequest { container_id: "0123456789ab".to_owned() };
    tell("log of nothing", refusal(shim.runtime().reopen_container_log(reopen).await));
    let stats = ContainerStatsRequest { container_id: "0123456789ab".to_owned() };
    tell("stats of nothing", refusal(shim.runtime().container_stats(stats).await));
    let resources = UpdateContainerResourcesRequest {
        container_id: "0123456789ab".to_owned(),
        linux: Some(LinuxContainerResources::default()),
        ..Default::default()
    };
    tell("resources of nothing", refusal(shim.runtime().update_container_resources(resources).await));
    let network_config = Some(NetworkConfig { pod_cidr: "not a range".to_owned() });
    let request = UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) };
    tell("a range that is none", refusal(shim.runtime().update_runtime_config(request).await));
    expect![[r#"
        sandbox without config: InvalidArgument: config is required
        sandbox without metadata: InvalidArgument: config.metadata is required
        unknown handler: InvalidArgument: failed to get sandbox runtime: no runtime for "no-such-handler" is configured (there are wasm, wasm-namespace, wasm-pod)
        container without config: InvalidArgument: config is required
        container without metadata: InvalidArgument: config.metadata is required
        container without image: InvalidArgument: invalid image name "": its repository is not lower-case letters and digits, separated by single dots, dashes, underscores or slashes
        container in no sandbox: NotFound: sandbox "0123456789ab": not found
        container in a nameless sandbox: NotFound: sandbox "": not found
        image not there: NotFound: image "absent:1": not found
        image with no name: InvalidArgument: invalid image name "UPPER CASE": its repository is not lower-case letters and digits, separated by single dots, dashes, underscores or slashes
        start of nothing: NotFound: container "0123456789ab": not found
        start of a nameless one: NotFound: container "": not found
        status of a nameless one: NotFound: container "": not found
        log of nothing: NotFound: container "0123456789ab": not found
        stats of nothing: NotFound: container "0123456789ab": not found
        resources of nothing: NotFound: container "0123456789ab": not found
        a range that is none: InvalidArgument: pod_cidr "not a range": must be an IPv4 range such as 10.42.0.0/24
    "#]].assert_eq(&told);
    assert_eq!(sandboxes(&shim, PodSandboxFilter::default()).await, [sandbox], "nothing was left behind");
    assert!(containers(&shim, ContainerFilter::default()).await.is_empty());
}

#[tokio::test]
async fn a_log_is_where_and_as_the_kubelet_expects_it() {
    let shim = Shim::start().await;
    let pod = shim.run("chatter", guest("chatter")).await;
    shim.exit(&pod.container).await;
    let path = shim.log_file("chatter", "main");
    assert_eq!(shim.status(&pod.container).await.log_path, path.to_string_lossy());
    let text = std::fs::read_to_string(&path).expect("it is there");
    assert_eq!(text.lines().count(), 4);
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        // Time, stream, tag, text: `2016-10-06T00:17:09.669794202Z stdout F text`.
        assert!(words[0].parse::<jiff::Timestamp>().is_ok() && words[0].len() == 30, "{line}");
        assert!(matches!(words[1], "stdout" | "stderr"), "{line}");
        assert_eq!(words[2], "F", "{line}");
    }
    // A log that went away under a container that has ended cannot be opened again.
    let reopen = ReopenContainerLogRequest { container_id: pod.container };
    assert_eq!(code(shim.runtime().reopen_container_log(reopen).await), Code::FailedPrecondition);
}

#[tokio::test]
async fn images_are_listed_found_and_removed_as_often_as_one_likes() {
    let shim = Shim::start().await;
    let spec = |name: &str| Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
    let find = |name: &str| {
        let mut images = shim.images();
        let request = ImageStatusRequest { image: spec(name), verbose: false };
        async move { images.image_status(request).await.expect("a status").into_inner().image }
    };
    let found = find("exit").await.expect("it is there");
    // By every name it has: with and without registry and tag, by digest, by id.
    let digest = found.repo_digests.first().expect("one").clone();
    for name in ["docker.io/library/exit:latest", "exit:latest", digest.as_str(), found.id.as_str()] {
        assert_eq!(find(name).await.map(|image| image.id), Some(found.id.clone()), "{name}");
    }
    assert!(found.size > 0);
    assert_eq!(find("absent:1").await, None, "an absent image has no status, which is no error");
    let request = ListImagesRequest { filter: Some(ImageFilter { image: spec("exit") }) };
    let listed = shim.images().list_images(request).await.expect("a list").into_inner().images;
    assert_eq!(listed.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), [found.id.as_str()]);
    for _ in 0..2 {
        let request = RemoveImageRequest { image: spec("exit") };
        shim.images().remove_image(request).await.expect("gone is gone");
        assert_eq!(find("exit").await, None);
    }
    let fs = shim.images().image_fs_info(ImageFsInfoRequest {}).await.expect("figures").into_inner();
    let fs = fs.image_filesystems.first().expect("one").clone();
    assert!(fs.used_bytes.is_some_and(|bytes| bytes.value > 0) && fs.timestamp > 0);
    assert!(fs.fs_id.is_some_and(|id| std::path::Path::new(&id.mountpoint).is_dir()));
}

#[tokio::test]
async fn every_listener_hears_every_event() {
    let shim = Shim::start().await;
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(shim.runtime().get_container_events(GetEventsRequest {}).await.expect("a stream").into_inner());
    }
    // One of them leaves; the others do not notice.
    drop(listeners.pop());
    let pod = shim.run("told", guest("exit")).await;
    shim.exit(&pod.container).await;
    let mut stories = Vec::new();
    for listener in &mut listeners {
        let mut story = Vec::new();
        while story.last() != Some(&ContainerEventType::ContainerStoppedEvent) {
            let event = within("it is told", listener.next()).await.expect("it goes on").expect("an event");
            assert!(event.created_at > 0 && event.pod_sandbox_status.is_some());
            story.push(event.container_event_type());
        }
        stories.push(story);
    }
    use ContainerEventType::{ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent};
    assert_eq!(
        stories[0],
        [
            ContainerCreatedEvent,
            ContainerStartedEvent,
            ContainerCreatedEvent,
            ContainerStartedEvent,
            ContainerStoppedEvent
        ]
    );
    assert_eq!(stories[0], stories[1]);
}

#[tokio::test]
async fn a_stop_waits_as_long_as_it_was_told_and_a_second_one_may_shorten_that() {
    let shim = Shim::start().await;
    let pod = shim.run("stop", guest("hello:dev")).await;
    // A request that does not end keeps the first stop waiting.
    let mut stream = tokio::net::TcpStream::connect((pod.ip.as_str(), 8080)).await.expect("it listens");
    let said = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf";
    tokio::io::AsyncWriteExt::write_all(&mut stream, said).await.expect("it is read");
    tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 16]).await.expect("it is answered");
    let first = shim.stop(&pod.container, 3600);
    let second = async {
        eventually("the first is under way", || async {
            tokio::net::TcpStream::connect((pod.ip.as_str(), 8080)).await.err()
        })
        .await;
        shim.stop(&pod.container, 0).await;
    };
    within("both return", futures::future::join(first, second)).await;
    assert_eq!(shim.status(&pod.container).await.exit_code, 137);
}

#[tokio::test]
async fn a_second_stop_with_less_grace_ends_the_container_and_nothing_else() {
    let shim = Shim::start().await;
    let neighbour = shim.run("neighbour", guest("hello:dev")).await;
    let served = shim.run("served", guest("hello:dev")).await;
    let command = shim.run("command", crate::shim::Guest { stdin: true, ..guest("stubborn") }).await;
    eventually("it looks at its input", || async { shim.log("command", "main").contains("listening").then_some(()) })
        .await;
    let worker = shim.worker_pid();
    // A request that does not end keeps the first stop waiting.
    let mut stream = tokio::net::TcpStream::connect((served.ip.as_str(), 8080)).await.expect("it listens");
    let said = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\nhalf";
    tokio::io::AsyncWriteExt::write_all(&mut stream, said).await.expect("it is read");
    tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 16]).await.expect("it is answered");
    let first = futures::future::join(shim.stop(&served.container, 3600), shim.stop(&command.container, 3600));
    let second = async {
        eventually("the first stop is under way", || async {
            let told = shim.log("command", "main").contains("told to stop");
            let closed = tokio::net::TcpStream::connect((served.ip.as_str(), 8080)).await.is_err();
            (told && closed).then_some(())
        })
        .await;
        futures::future::join(shim.stop(&served.container, 1), shim.stop(&command.container, 1)).await;
    };
    within("all return", futures::future::join(first, second)).await;
    for pod in [&served, &command] {
        assert_eq!(shim.ending(&pod.container).await, r#"137 Error """#);
    }
    assert_eq!(shim.worker_pid(), worker, "the worker of all other pods is not ended for it");
    assert_eq!(shim.status(&neighbour.container).await.state(), ContainerState::ContainerRunning);
}

#[tokio::test]
async fn nothing_is_made_in_a_sandbox_that_went_away_meanwhile() {
    let shim = Shim::start().await;
    let store =
        coracle_shim_wasm::images::ImageStore::open(coracle_shim_wasm::front::FrontConfig::image_dir(shim.dir.path()))
            .expect("the store opens");
    let file = shim.dir.path().join("large.wasm");
    std::fs::write(&file, crate::hostile::modules::long(400)).expect("it can be written");
    store.import(&file, Some("large")).expect("it is taken in");
    let sandbox = shim.sandbox("short", &[], &[]).await;
    // Compiling takes a while, and the sandbox does not wait for it.
    let (made, ()) = within("both return", async {
        tokio::join!(shim.create(&sandbox, "main", guest("large")), async {
            let compiles = || async {
                let children =
                    std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shim.front_pid())).ok()?;
                let is_compiler = |pid: &str| {
                    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    String::from_utf8_lossy(&line).contains("\0compile\0")
                };
                children.split_whitespace().any(is_compiler).then_some(())
            };
            eventually("it is being compiled", compiles).await;
            shim.remove_pod(&sandbox).await;
        })
    })
    .await;
    assert_ne!(code(made), Code::Ok, "there is nothing it could be in");
    assert!(containers(&shim, ContainerFilter::default()).await.is_empty());
}
