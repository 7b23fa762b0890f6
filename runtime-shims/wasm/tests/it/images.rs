//! Images over CRI: pulled from a registry, put into the directory of archives, refused for what they are.

use std::io::Write;

use coracle_cri::v1::*;
use coracle_shim_wasm::front::FrontConfig;
use coracle_shim_wasm::images::{Credentials, ImageStore, PushExtras, Registries};
use expect_test::expect;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::registry::{Registry, digest};
use crate::shim::{Shim, get, guest, refusal};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

pub fn spec(name: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() })
}

pub async fn pull(shim: &Shim, name: &str, auth: Option<AuthConfig>) -> Result<String, coracle_cri::Status> {
    let request = PullImageRequest { image: spec(name), auth, sandbox_config: None };
    Ok(shim.images().pull_image(request).await?.into_inner().image_ref)
}

pub async fn status(shim: &Shim, name: &str) -> Option<Image> {
    let request = ImageStatusRequest { image: spec(name), verbose: false };
    shim.images().image_status(request).await.expect("an answer").into_inner().image
}

pub fn hello() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/hello/hello.wasm")).expect("it is committed")
}

/// A manifest of one layer, with its blobs.
pub fn publish(
    registry: &Registry,
    repository: &str,
    tag: &str,
    config: (&str, &[u8]),
    layer: (&str, &[u8]),
) -> String {
    let config_digest = registry.put_blob(repository, config.1);
    let layer_digest = registry.put_blob(repository, layer.1);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI}",
            "config":{{"mediaType":"{}","digest":"{config_digest}","size":{}}},
            "layers":[{{"mediaType":"{}","digest":"{layer_digest}","size":{}}}]}}"#,
        config.0,
        config.1.len(),
        layer.0,
        layer.1.len(),
    );
    registry.put_manifest(repository, tag, OCI, &manifest)
}

pub fn tar_of(path: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, path, content).expect("it can be written");
    archive.into_inner().expect("it can be finished")
}

/// `several:1`, an image with a file system that has several programs.
pub fn import_several(shim: &Shim) {
    let file = |name: &str| std::fs::read(crate::guests::file(name)).expect("it is there");
    let (tool, exit, web) = (file("tool"), file("exit"), hello());
    let files: [(&str, &[u8]); 4] = [
        ("srv/app.wasm", &tool),
        ("usr/bin/exit.wasm", &exit),
        ("usr/bin/web.wasm", &web),
        ("opt/not-wasm.wasm", &[1, 2]),
    ];
    import_files(shim, "several:1", &files);
}

/// An image with a file system, whose first file is its entrypoint.
pub fn import_files(shim: &Shim, name: &str, files: &[(&str, &[u8])]) {
    let mut layer = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        layer.append_data(&mut header, path, *content).expect("it can be written");
    }
    let layer = layer.into_inner().expect("it can be finished");
    let config = format!(
        r#"{{"architecture":"wasm","os":"wasi","config":{{"Entrypoint":["/{}"]}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#,
        files[0].0
    );
    let (config_digest, layer_digest) = (digest(config.as_bytes()), digest(&layer));
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{}}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer_digest}","size":{}}}]}}"#,
        config.len(),
        layer.len()
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{},
            "annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}]}}"#,
        digest(manifest.as_bytes()),
        manifest.len()
    );
    let mut archive = tar::Builder::new(Vec::new());
    let mut put = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, content).expect("it can be written");
    };
    put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    put("index.json", index.as_bytes());
    for content in [config.as_bytes(), &layer, manifest.as_bytes()] {
        put(&format!("blobs/sha256/{}", digest(content).trim_start_matches("sha256:")), content);
    }
    let file = shim.dir.path().join("files.tar");
    std::fs::write(&file, archive.into_inner().expect("it can be finished")).expect("it can be written");
    let store = ImageStore::open(FrontConfig::image_dir(shim.dir.path())).expect("the store opens");
    store.import(&file, Some(name)).expect("it is an image");
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).expect("it can be written");
    encoder.finish().expect("it can be finished")
}

#[tokio::test]
async fn every_accepted_shape_is_pulled_and_runs() {
    let shim = Shim::start().await;
    let registry = Registry::start(None).await;
    let wasm = hello();
    let artifact = ("application/vnd.wasm.config.v0+json", b"{}".as_slice());
    publish(&registry, "shapes/artifact", "v1", artifact, ("application/wasm", &wasm));
    let older = ("application/vnd.wasm.config.v1+json", b"{}".as_slice());
    publish(&registry, "shapes/older", "v1", older, ("application/vnd.wasm.content.layer.v1+wasm", &wasm));
    let config = br#"{"os":"linux","architecture":"amd64","config":{"Entrypoint":["/app/hello.wasm"],"Env":["GREETING=Image"]}}"#;
    let layer = gzip(&tar_of("app/hello.wasm", &wasm));
    let oci = ("application/vnd.oci.image.config.v1+json", config.as_slice());
    publish(&registry, "shapes/entrypoint", "v1", oci, ("application/vnd.oci.image.layer.v1.tar+gzip", &layer));
    let config = br#"{"os":"wasi","architecture":"wasm"}"#;
    let layer = tar_of("any/name.wasm", &wasm);
    let oci = ("application/vnd.oci.image.config.v1+json", config.as_slice());
    let single =
        publish(&registry, "shapes/platform", "single", oci, ("application/vnd.oci.image.layer.v1.tar", &layer));
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[
            {{"mediaType":"{OCI}","digest":"sha256:{}","size":1,"platform":{{"os":"linux","architecture":"arm64"}}}},
            {{"mediaType":"{OCI}","digest":"{single}","size":1,"platform":{{"os":"wasi","architecture":"wasm"}}}}]}}"#,
        "0".repeat(64)
    );
    registry.put_manifest("shapes/platform", "v1", "application/vnd.oci.image.index.v1+json", &index);
    for shape in ["artifact", "older", "entrypoint", "platform"] {
        let name = format!("{}/shapes/{shape}:v1", registry.host);
        let image_ref = pull(&shim, &name, None).await.unwrap_or_else(|error| panic!("{shape}: {error:?}"));
        let image = status(&shim, &name).await.expect("it is there");
        assert_eq!((image.id.as_str(), image.repo_tags.as_slice()), (image_ref.as_str(), &[name][..]));
        // By the reference the pull gave, as the kubelet does.
        let pod = shim.run(shape, guest(&image_ref)).await;
        let greeting = if shape == "entrypoint" { "Image" } else { "Hello" };
        assert_eq!(get(&pod.ip, "/").await, (200, format!("{greeting} from a Wasm pod\n")), "{shape}");
    }
    // One file, compiled once, though four images have it.
    let code = std::fs::read_dir(shim.dir.path().join("wasm/code")).expect("it is there").flatten().next();
    let files = std::fs::read_dir(code.expect("compiled code").path()).expect("it is there").count();
    assert_eq!(files, 2, "the code and its record");
}

#[tokio::test]
async fn what_is_no_wasm_or_not_what_it_says_is_refused() {
    let shim = Shim::start().await;
    let registry = Registry::start(None).await;
    let artifact = ("application/vnd.wasm.config.v0+json", b"{}".as_slice());
    let config = br#"{"os":"linux","architecture":"amd64","config":{"Entrypoint":["/bin/sh"]}}"#;
    let oci = ("application/vnd.oci.image.config.v1+json", config.as_slice());
    publish(&registry, "linux", "v1", oci, ("application/vnd.oci.image.layer.v1.tar+gzip", b"never fetched"));
    publish(&registry, "text", "v1", artifact, ("application/wasm", b"#!/bin/sh\n"));
    publish(&registry, "cut", "v1", artifact, ("application/wasm", &hello()[..5000]));
    let mut mutated = hello();
    mutated[200..260].fill(0xff);
    publish(&registry, "mutated", "v1", artifact, ("application/wasm", &mutated));
    publish(&registry, "lying", "v1", artifact, ("application/wasm", &hello()[..3000]));
    registry.put_lie("lying", &digest(&hello()[..3000]), b"something of another digest");
    publish(&registry, "long", "v1", artifact, ("application/wasm", b"\0asm\x01\0\0\0"));
    registry.put_lie("long", &digest(b"\0asm\x01\0\0\0"), &hello());
    let linux_only = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI}","digest":"sha256:{}","size":1,"platform":{{"os":"linux","architecture":"arm64"}}}}]}}"#,
        "0".repeat(64)
    );
    registry.put_manifest("platforms", "v1", "application/vnd.oci.image.index.v1+json", &linux_only);
    let mut refusals = String::new();
    for repository in ["linux", "text", "cut", "mutated", "lying", "long", "platforms", "absent"] {
        let outcome = pull(&shim, &format!("{}/{repository}:v1", registry.host), None).await;
        let told = refusal(outcome).replace(&registry.host, "HOST");
        refusals.push_str(&format!("{}\n", shortened(&told)));
        // A repaired image of the same name must be pulled, not what is in the store.
        assert!(status(&shim, &format!("{}/{repository}:v1", registry.host)).await.is_none(), "{repository}");
    }
    expect![[r#"
        FailedPrecondition: "HOST/linux:v1" is not a WebAssembly image: its entrypoint is no .wasm file and its platform not wasi/wasm (configuration application/vnd.oci.image.config.v1+json for linux/amd64; layers application/vnd.oci.image.layer.v1.tar+gzip). Accepted are a layer of type application/wasm or application/vnd.wasm.content.layer.v1+wasm or application/vnd.bytecodealliance.wasm.component.layer.v0+wasm, a platform of wasi/wasm, or an entrypoint that is a .wasm file
        InvalidArgument: the Wasm file of HOST/text:v1 is corrupt: not WebAssembly: it begins with [23, 21, 2f, 62] instead of "\0asm"
        InvalidArgument: cannot run image "HOST/cut:v1": it is not valid WebAssembly: unexpected end-of-file (at offset 0x12de)
        InvalidArgument: cannot run image "HOST/mutated:v1": it is not valid WebAssembly: invalid var_u32: integer representation too long (at offset 0xcc)
        InvalidArgument: blob sha256:… of HOST/lying:v1 is corrupt: the registry has 27 bytes of it, and its manifest says 3000
        InvalidArgument: blob sha256:… of HOST/long:v1 is corrupt: the registry has 96221 bytes of it, and its manifest says 8
        FailedPrecondition: "HOST/platforms:v1" is not a WebAssembly image: it is offered for linux/arm64, not for wasi/wasm
        NotFound: failed to pull image "HOST/absent:v1": not found in the registry
    "#]].assert_eq(&refusals);
}

/// Digests and offsets, out of the way.
fn shortened(text: &str) -> String {
    text.split(' ')
        .map(|word| match word.find("sha256:") {
            Some(at) => format!("{}sha256:…", &word[..at]),
            None => word.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[tokio::test]
async fn credentials_are_sent_and_their_lack_is_told() {
    let shim = Shim::start().await;
    // user:secret
    let registry = Registry::start(Some("Basic dXNlcjpzZWNyZXQ=")).await;
    let artifact = ("application/vnd.wasm.config.v0+json", b"{}".as_slice());
    publish(&registry, "private", "v1", artifact, ("application/wasm", &hello()));
    let name = format!("{}/private:v1", registry.host);
    let told = refusal(pull(&shim, &name, None).await);
    assert!(told.starts_with("PermissionDenied: failed to pull image"), "{told}");
    assert!(told.ends_with("check imagePullSecrets"), "{told}");
    let auth = AuthConfig { username: "user".to_owned(), password: "secret".to_owned(), ..AuthConfig::default() };
    pull(&shim, &name, Some(auth)).await.expect("it is pulled");
    let removed = RemoveImageRequest { image: spec(&name) };
    shim.images().remove_image(removed.clone()).await.expect("it is removed");
    shim.images().remove_image(removed).await.expect("it has been removed");
    let auth = AuthConfig { auth: "dXNlcjpzZWNyZXQ=".to_owned(), ..AuthConfig::default() };
    pull(&shim, &name, Some(auth)).await.expect("it is pulled");
}

#[tokio::test]
async fn an_archive_that_is_put_into_the_directory_is_found() {
    let shim = Shim::start().await;
    assert!(status(&shim, "dropped:latest").await.is_none());
    let dir = shim.dir.path().join("images");
    std::fs::create_dir_all(&dir).expect("a directory can be made");
    std::fs::write(dir.join("dropped.wasm"), hello()).expect("it can be written");
    let image = status(&shim, "dropped").await.expect("it was taken in");
    assert!(image.pinned, "it would come back as long as its archive lies there");
    assert!(!status(&shim, "net").await.is_none_or(|image| image.pinned), "it was imported by hand");
    // The same file under two names is one image.
    assert_eq!(image.repo_tags, ["docker.io/library/dropped:latest", "docker.io/library/hello:dev"]);
    let list = shim.images().list_images(ListImagesRequest::default()).await.expect("a list").into_inner().images;
    assert_eq!(list.iter().filter(|other| other.id == image.id).count(), 1);
    let info = shim.images().image_fs_info(ImageFsInfoRequest {}).await.expect("usage").into_inner();
    assert!(info.image_filesystems[0].used_bytes.is_some_and(|bytes| bytes.value > 100_000));
}

#[tokio::test]
async fn an_archive_that_many_pods_wait_for_is_taken_in_once() {
    let shim = Shim::start().await;
    let store = ImageStore::open(FrontConfig::image_dir(shim.dir.path())).expect("the store opens");
    let dir = shim.dir.path().join("images");
    std::fs::create_dir_all(&dir).expect("a directory can be made");
    std::fs::write(dir.join(".dropped"), hello()).expect("it can be written");
    std::fs::rename(dir.join(".dropped"), dir.join("dropped.wasm")).expect("it can be renamed");
    let mut asked: FuturesUnordered<_> = (0..16).map(|_| status(&shim, "dropped")).collect();
    let mut taken_in = Vec::new();
    while let Some(answer) = asked.next().await {
        answer.expect("it was taken in");
        taken_in.push(store.get("dropped").expect("it can be read").expect("it is there").imported_at);
    }
    assert!(taken_in.iter().all(|at| *at == taken_in[0]), "{taken_in:?}");
}

#[tokio::test]
async fn what_is_pushed_can_be_pulled_and_has_the_same_digest() {
    let shim = Shim::start().await;
    let registry = Registry::start(None).await;
    let store = ImageStore::open(FrontConfig::image_dir(shim.dir.path())).expect("the store opens");
    let target = format!("{}/team/hello:v2", registry.host);
    let (anonymous, registries) = (Credentials::Anonymous, Registries::default());
    let pushed = store.push("hello:dev", Some(&target), &anonymous, &registries, &PushExtras::default()).await;
    let pushed = pushed.expect("it is pushed").to_string();
    let manifest = registry.get("/v2/team/hello/manifests/v2").expect("it is there");
    assert_eq!(digest(&manifest), pushed);
    store.remove("hello:dev").expect("it is removed");
    assert_eq!(pull(&shim, &target, None).await.expect("it is pulled"), pushed);
    let by_digest = format!("{}/team/hello@{pushed}", registry.host);
    assert_eq!(status(&shim, &by_digest).await.expect("it is known by its digest").id, pushed);
}

/// A tar with much of nothing before the program: long to unpack, short to fetch.
fn lengthy_layer(blocks: usize, path: &str, content: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 16 << 20;
    let mut header = tar::Header::new_gnu();
    header.set_path("var/nothing").expect("a path");
    header.set_size((blocks * BLOCK) as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut layer = gzip(header.as_bytes());
    let block = gzip(&vec![0; BLOCK]);
    (0..blocks).for_each(|_| layer.extend_from_slice(&block));
    layer.extend(gzip(&tar_of(path, content)));
    layer
}

#[tokio::test]
async fn nobody_waits_while_an_image_is_unpacked() {
    let shim = Shim::start().await;
    let registry = Registry::start(None).await;
    let config = br#"{"os":"wasi","architecture":"wasm","config":{"Entrypoint":["/app.wasm"]}}"#;
    let oci = ("application/vnd.oci.image.config.v1+json", config.as_slice());
    let layer = lengthy_layer(16, "app.wasm", &hello());
    publish(&registry, "lengthy", "v1", oci, ("application/vnd.oci.image.layer.v1.tar+gzip", &layer));
    let name = format!("{}/lengthy:v1", registry.host);
    let pulling = pull(&shim, &name, None);
    let mut answers = 0;
    let asking = async {
        let fetched = || async { (registry.requests("/blobs/").len() == 2).then_some(()) };
        crate::shim::eventually("the layer is asked for", fetched).await;
        loop {
            shim.runtime().version(VersionRequest::default()).await.expect("it answers");
            answers += 1;
        }
    };
    let pulled: Result<String, coracle_cri::Status> = tokio::select! {
        biased;
        pulled = pulling => pulled,
        never = asking => never,
    };
    pulled.expect("it is pulled");
    assert!(answers > 20, "{answers} calls were answered while 256 MiB were unpacked");
}

#[tokio::test]
async fn a_container_stays_what_it_was_made_of_though_its_name_goes_to_another_image() {
    let shim = Shim::start().await;
    let registry = Registry::start(None).await;
    let artifact = ("application/vnd.wasm.config.v0+json", b"{}".as_slice());
    let file = |name: &str| std::fs::read(crate::guests::file(name)).expect("it is there");
    publish(&registry, "app", "v1", artifact, ("application/wasm", &file("tool")));
    let name = format!("{}/app:v1", registry.host);
    let first = pull(&shim, &name, None).await.expect("it is pulled");
    let wasm = digest(&file("tool"));
    // What the node's own images hold of it is in the way of seeing that it goes.
    let spec = |name: &str| RemoveImageRequest { image: spec(name) };
    shim.images().remove_image(spec("tool")).await.expect("it is removed");
    let first_again = pull(&shim, &name, None).await.expect("it is pulled");
    assert_eq!(first, first_again);
    let pod = shim.run("app", crate::shim::Guest { stdin: true, ..guest(&name) }).await;
    let waiting = shim.create(&pod.sandbox, "waiting", guest(&name).args(&["exit", "9"])).await.expect("it is made");

    publish(&registry, "app", "v1", artifact, ("application/wasm", &file("trap")));
    let second = pull(&shim, &name, None).await.expect("it is pulled");
    assert_ne!(first, second);
    let exec = || async {
        let cmd = ["app", "exit", "7"].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: pod.container.clone(), cmd, timeout: 0 };
        shim.runtime().exec_sync(request).await.map(|done| done.into_inner().exit_code)
    };
    assert_eq!(exec().await.expect("it runs"), 7, "the program of the container, not of the name");
    shim.images().remove_image(spec(&second)).await.expect("it is removed");
    assert!(status(&shim, &first).await.is_none() && status(&shim, &name).await.is_none(), "no name is left");
    assert_eq!(exec().await.expect("it runs"), 7);
    shim.start_container(&waiting).await.expect("what it was made of is here");
    assert_eq!(shim.exit(&waiting).await.exit_code, 9);

    let blob = shim.dir.path().join("wasm/images/blobs/sha256").join(&wasm["sha256:".len()..]);
    assert!(blob.exists());
    let remove = RemoveContainerRequest { container_id: waiting };
    shim.runtime().remove_container(remove).await.expect("it is removed");
    assert!(blob.exists(), "one container is left");
    shim.remove_pod(&pod.sandbox).await;
    assert!(!blob.exists(), "and now none");
}
