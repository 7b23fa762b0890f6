//! Rubbish on the front's own socket. Only root can speak there, and a bug of a kubelet must not end all Wasm pods.

use coracle_cri::v1::*;
use coracle_cri::{Code, Status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::modules::Chance;
use super::neighbour::Neighbour;
use crate::shim::{Shim, within};

fn text(chance: &mut Chance, known: &[String]) -> String {
    match chance.below(9) {
        0 => String::new(),
        1 => "x".repeat(chance.below(1000)),
        2 => "\0".to_owned(),
        3 => "../../../etc/passwd".to_owned(),
        4 => "\u{202e}\u{0}é\u{1F980}/".repeat(chance.below(20)),
        5 => "sha256:".to_owned() + &"f".repeat(chance.below(80)),
        6 => format!("{}", chance.next()),
        _ => known[chance.below(known.len())].clone(),
    }
}

fn container(chance: &mut Chance, known: &[String]) -> ContainerConfig {
    let mut word = || text(&mut *chance, known);
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: word(), attempt: u32::MAX }),
        image: Some(ImageSpec { image: word(), ..ImageSpec::default() }),
        command: vec![word()],
        args: vec![word(), word()],
        working_dir: word(),
        envs: vec![KeyValue { key: word(), value: word().into_bytes() }, KeyValue { key: word(), value: vec![0xff] }],
        mounts: vec![Mount { container_path: word(), host_path: word(), ..Mount::default() }],
        annotations: [("coracle.dev/http-port".to_owned(), word()), (word(), word())].into(),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                memory_limit_in_bytes: i64::MIN,
                cpu_period: i64::MIN,
                cpu_quota: i64::MAX,
                cpu_shares: i64::MIN,
                ..Default::default()
            }),
            security_context: None,
        }),
        ..ContainerConfig::default()
    }
}

/// One call with whatever comes.
async fn call(shim: &Shim, chance: &mut Chance, known: &mut Vec<String>) -> Result<(), Status> {
    let (mut runtime, mut images) = (shim.runtime(), shim.images());
    let word = text(chance, known);
    let image = Some(ImageSpec { image: text(chance, known), ..ImageSpec::default() });
    match chance.below(13) {
        0 => {
            let metadata = PodSandboxMetadata {
                name: word,
                namespace: text(chance, known),
                uid: text(chance, known),
                attempt: u32::MAX,
            };
            let config = PodSandboxConfig {
                metadata: Some(metadata),
                annotations: [(text(chance, known), text(chance, known))].into(),
                dns_config: Some(DnsConfig { servers: vec![text(chance, known)], ..Default::default() }),
                port_mappings: vec![PortMapping { container_port: i32::MIN, ..Default::default() }],
                ..Default::default()
            };
            let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
            known.push(runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id);
            Ok(())
        }
        1 | 2 => {
            let config = Some(container(chance, known));
            let request = CreateContainerRequest { pod_sandbox_id: word, config, sandbox_config: None };
            known.push(runtime.create_container(request).await?.into_inner().container_id);
            Ok(())
        }
        3 => runtime.start_container(StartContainerRequest { container_id: word }).await.map(drop),
        4 => runtime.stop_container(StopContainerRequest { container_id: word, timeout: i64::MIN }).await.map(drop),
        5 => runtime.remove_container(RemoveContainerRequest { container_id: word }).await.map(drop),
        6 => runtime.container_status(ContainerStatusRequest { container_id: word, verbose: true }).await.map(drop),
        7 => {
            let request = UpdateContainerResourcesRequest {
                container_id: word,
                linux: Some(LinuxContainerResources { memory_limit_in_bytes: i64::MAX, ..Default::default() }),
                ..Default::default()
            };
            runtime.update_container_resources(request).await.map(drop)
        }
        8 => runtime.reopen_container_log(ReopenContainerLogRequest { container_id: word }).await.map(drop),
        9 => images.image_status(ImageStatusRequest { image, verbose: true }).await.map(drop),
        10 => images.list_images(ListImagesRequest { filter: Some(ImageFilter { image }) }).await.map(drop),
        11 => runtime.container_stats(ContainerStatsRequest { container_id: word }).await.map(drop),
        _ => runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: word }).await.map(drop),
    }
}

#[tokio::test]
async fn calls_with_rubbish_in_them_are_answered() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let mut chance = Chance(0x0c41_5eed);
    let mut known = vec![shim.sandbox("known", &[], &[]).await, "exit".to_owned(), "/tmp".to_owned(), "/".to_owned()];
    for round in 0..600 {
        let outcome = within("the call is answered", call(&shim, &mut chance, &mut known)).await;
        if let Err(status) = outcome {
            // These are what a client makes of a call whose handler is gone.
            let lost = matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::DataLoss);
            assert!(!lost && !status.message().contains("h2 protocol"), "call {round}: {status:?}");
        }
    }
    neighbour.unharmed(&shim).await;
}

#[tokio::test]
async fn bytes_that_are_no_calls_are_cut_off() {
    let shim = Shim::start().await;
    let neighbour = Neighbour::start(&shim).await;
    let mut chance = Chance(0x00b1_7e50);
    for round in 0..100 {
        let mut stream = UnixStream::connect(shim.dir.path().join("wasm.sock")).await.expect("it listens");
        let mut bytes = if round % 2 == 0 { b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec() } else { Vec::new() };
        bytes.extend((0..chance.below(2000)).map(|_| u8::try_from(chance.below(256)).expect("it is a byte")));
        // It may hang up before all is said.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut said = Vec::new();
        let _ = within("it hangs up", stream.read_to_end(&mut said)).await;
    }
    shim.runtime().version(VersionRequest::default()).await.expect("it answers as before");
    neighbour.unharmed(&shim).await;
}
