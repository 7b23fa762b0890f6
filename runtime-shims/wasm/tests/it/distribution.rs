//! Pulling from registries that break off, lie, hide behind mirrors or want to know who asks. No front: the store does it.

use std::path::Path;
use std::time::Duration;

use coracle_shim_wasm::clock::Clock;
use coracle_shim_wasm::images::{
    ConfigFile, Credentials, Image, ImageError, ImageStore, PushExtras, Registries, Timing,
};
use expect_test::{Expect, expect};
use futures::FutureExt;

use crate::images::{hello, publish, tar_of};
use crate::registry::{Access, Pki, Registry, Step, digest};
use crate::shim::eventually;

pub const ARTIFACT: (&str, &[u8]) = ("application/vnd.wasm.config.v0+json", b"{}");

pub struct Bench {
    pub dir: tempfile::TempDir,
    pub store: ImageStore,
    pub registries: Registries,
}

pub fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let store = ImageStore::open(dir.path().join("store")).expect("it opens");
    let timing = Timing {
        connect: Duration::from_secs(60),
        stall: Duration::from_secs(60),
        first_pause: Duration::from_millis(1),
        attempts: 4,
    };
    Bench { dir, store, registries: Registries { timing, ..Registries::default() } }
}

impl Bench {
    pub async fn pull(&self, name: &str) -> Result<Image, ImageError> {
        self.pull_as(name, &Credentials::Anonymous).await
    }

    async fn pull_as(&self, name: &str, credentials: &Credentials) -> Result<Image, ImageError> {
        self.store.pull(name, credentials, &self.registries, None).await
    }

    pub fn configure(&mut self, text: &str) {
        let path = self.dir.path().join("registries.yaml");
        std::fs::write(&path, text).expect("it can be written");
        self.registries.file = ConfigFile::at(path);
    }

    pub fn files(&self, dir: &str) -> usize {
        std::fs::read_dir(self.dir.path().join("store").join(dir)).expect("it is there").count()
    }

    /// Whether what was pulled is what was published.
    pub fn has_hello(&self, image: &Image) -> bool {
        let path = self.dir.path().join("store/blobs/sha256").join(image.wasm.hex());
        std::fs::read(path).expect("it is there") == hello()
    }
}

pub fn publish_hello(registry: &Registry, repository: &str) -> String {
    publish(registry, repository, "v1", ARTIFACT, ("application/wasm", &hello()));
    format!("/v2/{repository}/blobs/{}", digest(&hello()))
}

fn check(error: ImageError, hosts: &[(&str, &str)], expected: Expect) {
    let mut text = error.to_string();
    for (host, name) in hosts {
        text = text.replace(host, name);
    }
    expected.assert_eq(&text);
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let bench = bench();
    let registry = Registry::start(None).await;
    let blob = publish_hello(&registry, "cut");
    registry.script(&blob, [Step::Cut(40_000), Step::Status(503), Step::Cut(10_000)]);
    let image = bench.pull(&format!("{}/cut:v1", registry.host)).await.expect("it is pulled");
    assert!(bench.has_hello(&image));
    let asked: Vec<String> = registry.requests(&blob).iter().map(|request| request.replace(&blob, "BLOB")).collect();
    assert_eq!(asked, ["GET BLOB", "GET BLOB bytes=40000-", "GET BLOB bytes=40000-", "GET BLOB bytes=50000-"]);
    assert_eq!(bench.files("partial"), 0);
}

#[tokio::test]
async fn another_process_goes_on_with_what_is_there() {
    let bench = bench();
    let registry = Registry::start(None).await;
    let blob = publish_hello(&registry, "cut");
    let name = format!("{}/cut:v1", registry.host);
    registry.script(&blob, [Step::Cut(40_000), Step::Status(500), Step::Status(500), Step::Status(500)]);
    let error = bench.pull(&name).await.expect_err("it breaks off too often");
    check(
        error,
        &[(&registry.host, "HOST")],
        expect![[r#"failed to pull image "HOST/cut:v1": it answered 500 Internal Server Error"#]],
    );
    assert_eq!(bench.files("partial"), 1);
    // As a new process would: nothing but the directory is the same.
    let store = ImageStore::open(bench.dir.path().join("store")).expect("it opens");
    let image = store.pull(&name, &Credentials::Anonymous, &bench.registries, None).await.expect("it is pulled");
    assert!(bench.has_hello(&image));
    assert_eq!(registry.requests(&blob).pop().expect("a request"), format!("GET {blob} bytes=40000-"));
    assert_eq!(bench.files("partial"), 0);
}

#[tokio::test]
async fn what_lies_there_half_and_is_wrong_is_fetched_anew() {
    let bench = bench();
    let registry = Registry::start(None).await;
    let blob = publish_hello(&registry, "spoilt");
    // Where it lies is where a download that breaks off leaves it.
    registry.script(&blob, std::iter::once(Step::Cut(40_000)).chain(std::iter::repeat_n(Step::Status(500), 3)));
    bench.pull(&format!("{}/spoilt:v1", registry.host)).await.expect_err("it breaks off too often");
    let partials = bench.dir.path().join("store/partial");
    let partial =
        std::fs::read_dir(partials).expect("it is there").next().expect("one").expect("it can be read").path();
    let asked = registry.requests(&blob).len();
    std::fs::write(&partial, vec![7; 5_000]).expect("it can be written");
    let image = bench.pull(&format!("{}/spoilt:v1", registry.host)).await.expect("it is pulled");
    assert!(bench.has_hello(&image));
    assert_eq!(registry.requests(&blob)[asked..], [format!("GET {blob} bytes=5000-"), format!("GET {blob}")]);
}

#[tokio::test]
async fn a_registry_that_cannot_resume_sends_the_whole() {
    let bench = bench();
    let registry = Registry::start(None).await;
    let blob = publish_hello(&registry, "whole");
    registry.script(&blob, [Step::Cut(40_000), Step::Whole]);
    let image = bench.pull(&format!("{}/whole:v1", registry.host)).await.expect("it is pulled");
    assert!(bench.has_hello(&image));
}

#[tokio::test]
async fn a_stalled_download_is_given_up_and_tried_again() {
    let mut bench = bench();
    bench.registries.timing.stall = Duration::from_secs(2);
    let registry = Registry::start(None).await;
    let blob = publish_hello(&registry, "stall");
    registry.script(&blob, [Step::Stall(40_000)]);
    let image = bench.pull(&format!("{}/stall:v1", registry.host)).await.expect("it is pulled");
    assert!(bench.has_hello(&image));
    assert_eq!(registry.requests(&blob).pop().expect("a request"), format!("GET {blob} bytes=40000-"));
}

#[tokio::test]
async fn lies_are_told_and_leave_nothing_behind() {
    let bench = bench();
    let registry = Registry::start(None).await;
    let size = hello().len();
    for repository in ["digest", "long", "short", "endless"] {
        publish_hello(&registry, repository);
    }
    let known = digest(&hello());
    let mut other = hello();
    other[size / 2] ^= 1;
    registry.put_lie("digest", &known, &other);
    registry.put_lie("long", &known, &[hello(), vec![0; 9]].concat());
    registry.script(&format!("/v2/short/blobs/{known}"), [Step::Unsized(hello()[..100].to_vec())]);
    registry.script(&format!("/v2/endless/blobs/{known}"), [Step::Unsized([hello(), vec![0; 9]].concat())]);
    let mut told = String::new();
    for repository in ["digest", "long", "short", "endless"] {
        let error = bench.pull(&format!("{}/{repository}:v1", registry.host)).await.expect_err(repository);
        let other = digest(&other);
        told.push_str(
            &error.to_string().replace(&registry.host, "HOST").replace(&known, "KNOWN").replace(&other, "OTHER"),
        );
        told.push('\n');
    }
    let told = told.replace(&size.to_string(), "SIZE").replace(&(size + 9).to_string(), "SIZE+9");
    expect![[r#"
        blob KNOWN of HOST/digest:v1 is corrupt: its digest is OTHER, not KNOWN
        blob KNOWN of HOST/long:v1 is corrupt: the registry has SIZE+9 bytes of it, and its manifest says SIZE
        blob KNOWN of HOST/short:v1 is corrupt: it ends after 100 bytes, and its manifest says SIZE
        blob KNOWN of HOST/endless:v1 is corrupt: the registry sends more than the SIZE bytes its manifest says
    "#]]
    .assert_eq(&told);
    assert_eq!((bench.files("partial"), bench.files("blobs/sha256"), bench.files("claims")), (0, 0, 0));
}

#[tokio::test]
async fn sizes_are_bounded() {
    let mut bench = bench();
    let registry = Registry::start(None).await;
    publish_hello(&registry, "big");
    bench.registries.max_layer_bytes = 1_000;
    let error = bench.pull(&format!("{}/big:v1", registry.host)).await.expect_err("the layer is too large");
    assert!(error.to_string().ends_with("is larger than the limit of 1000 bytes"), "{error}");
    registry.put("/v2/huge/manifests/v1".to_owned(), "application/json", &vec![b' '; (4 << 20) + 1]);
    let error = bench.pull(&format!("{}/huge:v1", registry.host)).await.expect_err("the manifest is too large");
    check(
        error,
        &[(&registry.host, "HOST")],
        expect![[
            r#"failed to pull image "HOST/huge:v1": the manifest of HOST/huge:v1 is larger than the limit of 4194304 bytes"#
        ]],
    );
}

#[tokio::test]
async fn what_a_pull_fills_the_disk_with_is_bounded() {
    let mut bench = bench();
    bench.registries.max_layer_bytes = 1 << 40;
    let registry = Registry::start(None).await;
    let (one, two) = (tar_of("one", b"1"), tar_of("two", b"2"));
    let blobs = publish_layers(&registry, "large", &[&one, &two, &one]);
    let manifest = registry.get("/v2/large/manifests/v1").expect("it is there");
    let manifest = String::from_utf8(manifest.to_vec()).expect("text");
    let large = manifest.replace(&format!("\"size\":{}", one.len()), &format!("\"size\":{}", (2_u64 << 30) + 1));
    registry.put("/v2/large/manifests/v1".to_owned(), "application/vnd.oci.image.manifest.v1+json", large.as_bytes());
    let error = bench.pull(&format!("{}/large:v1", registry.host)).await.expect_err("all are too large");
    check(
        error,
        &[(&registry.host, "HOST")],
        expect!["the content of HOST/large:v1 is larger than the limit of 4294967296 bytes"],
    );
    assert!(blobs.iter().all(|blob| registry.requests(blob).is_empty()));
}

/// Images of which the pull breaks off for good, once: after 90,000 bytes of the layer, or after a configuration of as many.
fn publish_broken(registry: &Registry, number: u8, is_whole: bool) -> String {
    let (config, layer) = match is_whole {
        true => (vec![number; 90_000], vec![number; 9]),
        false => (b"{}".to_vec(), vec![number; 99_000]),
    };
    let repository = format!("app-{number}");
    let media_type = "application/vnd.wasm.config.v0+json";
    publish(registry, &repository, "v1", (media_type, &config), ("application/wasm", &layer));
    let first = if is_whole { Step::Status(500) } else { Step::Cut(90_000) };
    let blob = format!("/v2/{repository}/blobs/{}", digest(&layer));
    registry.script(&blob, std::iter::once(first).chain(std::iter::repeat_n(Step::Status(500), 3)));
    format!("{}/{repository}:v1", registry.host)
}

#[tokio::test]
async fn what_broke_off_makes_room_for_what_breaks_off_later_but_not_for_itself() {
    for is_whole in [false, true] {
        let mut bench = bench();
        bench.registries.max_layer_bytes = 100_000;
        let registry = Registry::start(None).await;
        let names: Vec<String> = (0..6).map(|number| publish_broken(&registry, number, is_whole)).collect();
        for name in &names[..4] {
            bench.pull(name).await.expect_err("it breaks off too often");
        }
        let left = || bench.files(if is_whole { "blobs/sha256" } else { "partial" });
        // Three were left when the last of them began.
        assert_eq!(left(), 4);
        // The first is the oldest of them now, and goes on nevertheless. No Wasm file is what comes in the end.
        let error = bench.pull(&names[0]).await.expect_err("it is no Wasm file").to_string();
        assert!(error.contains("not WebAssembly"), "{error}");
        let asked = registry.requests("app-0/blobs");
        assert_eq!(asked.len(), 1 + 4 + 1, "{asked:?}");
        assert_eq!(asked[5].ends_with(" bytes=90000-"), !is_whole, "{asked:?}");
        assert_eq!(left(), 3);
        for name in &names[4..] {
            bench.pull(name).await.expect_err("it breaks off too often");
        }
        assert_eq!(left(), 4);
    }
}

#[tokio::test]
async fn layers_that_came_whole_are_not_fetched_again_when_another_breaks_off() {
    let bench = bench();
    let registry = Registry::start(None).await;
    let (app, other, late) = (tar_of("app.wasm", &hello()), tar_of("etc/other", b"1"), tar_of("etc/late", b"2"));
    let blobs = publish_layers(&registry, "layers", &[&app, &other, &late]);
    let name = format!("{}/layers:v1", registry.host);
    // Whoever asked gives up.
    registry.script(&blobs[2], [Step::Stall(9)]);
    let fetched = || async { (bench.files("blobs/sha256") == 3 && bench.files("partial") == 1).then_some(()) };
    let pulling = bench.pull(&name).boxed();
    let come = eventually("the configuration and two layers are there", fetched).boxed();
    futures::future::select(pulling, come).await;
    bench.pull(&format!("{}/nothing:v1", registry.host)).await.expect_err("it is not there");
    assert_eq!((bench.files("blobs/sha256"), bench.files("claims")), (3, 1), "whoever collects leaves it");
    // And the registry.
    registry.script(&blobs[2], std::iter::repeat_n(Step::Status(500), 4));
    bench.pull(&name).await.expect_err("it breaks off too often");
    assert_eq!(
        (bench.files("blobs/sha256"), bench.files("claims")),
        (3, 1),
        "the later claim is in the earlier one's place"
    );
    let image = bench.pull(&name).await.expect("it is pulled");
    assert!(bench.has_hello(&image));
    assert_eq!([&blobs[0], &blobs[1]].map(|blob| registry.requests(blob).len()), [1, 1]);
    bench.store.remove(&name).expect("it can be removed");
    assert_eq!((bench.files("blobs/sha256"), bench.files("claims")), (0, 0));

    // What nobody goes on with expires.
    registry.script(&blobs[2], std::iter::repeat_n(Step::Status(500), 4));
    bench.pull(&name).await.expect_err("it breaks off too often");
    let in_a_century = Clock::stepping(4_000_000_000_000_000_000);
    let later = ImageStore::open_with_clock(bench.dir.path().join("store"), in_a_century).expect("it opens");
    let nothing = format!("{}/nothing:v1", registry.host);
    later.pull(&nothing, &Credentials::Anonymous, &bench.registries, None).await.expect_err("it is not there");
    assert_eq!((bench.files("blobs/sha256"), bench.files("claims")), (0, 0));
}

#[tokio::test]
async fn a_blob_that_is_there_is_of_the_size_that_manifests_say() {
    let bench = bench();
    let registry = Registry::start(None).await;
    publish_hello(&registry, "app");
    bench.pull(&format!("{}/app:v1", registry.host)).await.expect("it is pulled");
    let manifest = registry.get("/v2/app/manifests/v1").expect("it is there");
    let manifest = String::from_utf8(manifest.to_vec()).expect("text");
    let smaller = manifest.replace(&format!("\"size\":{}", hello().len()), "\"size\":1");
    registry.put_manifest("app", "v2", "application/vnd.oci.image.manifest.v1+json", &smaller);
    let error = bench.pull(&format!("{}/app:v2", registry.host)).await.expect_err("it is larger").to_string();
    assert!(error.ends_with("bytes, and its manifest says 1"), "{error}");
    assert_eq!(bench.files("claims"), 0);
}

#[tokio::test]
async fn what_is_no_image_at_all_is_not_one_that_something_is_wrong_with() {
    let bench = bench();
    let registry = Registry::start(None).await;
    registry.put("/v2/page/manifests/v1".to_owned(), "text/html", b"<html>log in first</html>");
    let config = ("application/vnd.oci.image.config.v1+json", b"{}".as_slice());
    publish(&registry, "config", "v1", config, ("application/wasm", &hello()));
    registry.put_lie("config", &digest(b"{}"), b"<>");
    let text = ("application/vnd.oci.image.config.v1+json", b"<html>".as_slice());
    publish(&registry, "text", "v1", text, ("application/wasm", &hello()));
    for repository in ["page", "config", "text"] {
        let error = bench.pull(&format!("{}/{repository}:v1", registry.host)).await.expect_err(repository);
        assert!(matches!(error, ImageError::Registry { verb: "pull", .. }), "{error}");
        assert!(error.to_string().contains(" is corrupt: "), "{error}");
    }
    assert_eq!((bench.files("blobs/sha256"), bench.files("claims")), (0, 0));
}

/// What the manifest says of it is all that is large.
#[tokio::test]
async fn layers_may_be_as_large_as_is_set() {
    let mut bench = bench();
    let registry = Registry::start(None).await;
    let config = br#"{"os":"wasi","architecture":"wasm"}"#;
    let (config_digest, layer) = (registry.put_blob("large", config), registry.put_blob("large", b"small"));
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":2147483648}}]}}"#,
        config.len()
    );
    registry.put_manifest("large", "v1", media_type, &manifest);
    bench.registries.max_layer_bytes = 4 << 30;
    let error = bench.pull(&format!("{}/large:v1", registry.host)).await.expect_err("it is not as large as that");
    check(
        error,
        &[(&registry.host, "HOST"), (&layer, "LAYER")],
        expect![
            "blob LAYER of HOST/large:v1 is corrupt: the registry has 5 bytes of it, and its manifest says 2147483648"
        ],
    );
}

#[tokio::test]
async fn who_wants_the_same_layer_waits_for_one_download() {
    let bench = bench();
    let registry = Registry::start(None).await;
    let blob = publish_hello(&registry, "shared");
    publish(&registry, "shared", "v2", ("application/vnd.wasm.config.v0+json", b"{ }"), ("application/wasm", &hello()));
    let names = ["v1", "v2", "v1", "v2"].map(|tag| format!("{}/shared:{tag}", registry.host));
    let pulls = names.iter().map(|name| bench.pull(name));
    for outcome in futures::future::join_all(pulls).await {
        assert!(bench.has_hello(&outcome.expect("it is pulled")));
    }
    assert_eq!(registry.requests(&blob).len(), 1, "one download");
}

#[tokio::test]
async fn a_download_that_nobody_goes_on_with_expires() {
    let bench = bench();
    let partial = bench.dir.path().join("store/partial").join("0".repeat(64));
    std::fs::write(&partial, "half").expect("it can be written");
    bench.store.remove("nothing").expect("nothing is there");
    let file = bench.dir.path().join("hello.wasm");
    std::fs::write(&file, hello()).expect("it can be written");
    bench.store.import(&file, None).expect("it is taken in");
    assert!(partial.exists(), "it is new");
    let two_hours_on = Clock::stepping(Clock::system().now() + 7200 * 1_000_000_000);
    let later = ImageStore::open_with_clock(bench.dir.path().join("store"), two_hours_on).expect("it opens");
    later.import(&file, None).expect("it is taken in");
    assert!(partial.exists(), "somebody may go on with it");
    later.remove("hello").expect("it can be removed");
    assert!(!partial.exists(), "whoever removes an image wants its room");
    std::fs::write(&partial, "half").expect("it can be written");
    let in_a_century = Clock::stepping(4_000_000_000_000_000_000);
    let later = ImageStore::open_with_clock(bench.dir.path().join("store"), in_a_century).expect("it opens");
    later.import(&file, None).expect("it is taken in");
    assert!(!partial.exists());
}

#[tokio::test]
async fn mirrors_are_asked_in_turn_and_the_registry_last() {
    let mut bench = bench();
    let (empty, mirror, own) = (Registry::start(None).await, Registry::start(None).await, Registry::start(None).await);
    publish_hello(&own, "team/app");
    publish_hello(&mirror, "cache/team/app");
    let name = format!("{}/team/app:v1", own.host);
    bench.configure(&format!(
        "mirrors:\n  \"{}\":\n    endpoint: [\"http://{}\", \"http://{}\"]\n    rewrite:\n      \"^team/(.*)\": \"cache/team/$1\"\n",
        own.host, empty.host, mirror.host
    ));
    bench.pull(&name).await.expect("the second mirror has it");
    assert_eq!(
        empty.requests("")[0],
        format!("GET /v2/cache/team/app/manifests/v1?ns={}", own.host.replace(':', "%3A"))
    );
    assert!(own.requests("").is_empty(), "nobody asked the registry itself");
    // The file is read at each pull.
    bench.configure(&format!("mirrors:\n  \"*\":\n    endpoint: [\"http://{}\"]\n", empty.host));
    bench.store.remove(&name).expect("it can be removed");
    bench.pull(&name).await.expect("the registry itself has it");
    assert!(!own.requests("").is_empty());
    bench.registries.disable_default_endpoint = true;
    bench.store.remove(&name).expect("it can be removed");
    let error = bench.pull(&name).await.expect_err("only the mirror is asked");
    assert!(matches!(error, ImageError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_registry_that_lacks_what_a_manifest_names_may_have_it_later() {
    let bench = bench();
    let registry = Registry::start(None).await;
    let layer = publish_hello(&registry, "app");
    let name = format!("{}/app:v1", registry.host);
    for path in [format!("/v2/app/blobs/{}", digest(b"{}")), layer] {
        registry.script(&path, [Step::Status(404)]);
        let error = bench.pull(&name).await.expect_err("something is missing");
        assert!(matches!(error, ImageError::Registry { .. }), "{error}");
        let told =
            expect!["failed to pull image \"HOST/app:v1\": something that its manifest names is not in the registry"];
        check(error, &[(&registry.host, "HOST")], told);
    }
    bench.pull(&name).await.expect("now it has all");
}

#[tokio::test]
async fn a_mirror_that_is_down_or_lies_is_passed_over() {
    let mut bench = bench();
    let (lying, own) = (Registry::start(None).await, Registry::start(None).await);
    publish_hello(&own, "app");
    publish_hello(&lying, "app");
    let mut other = hello();
    other[9] ^= 1;
    lying.put_lie("app", &digest(&hello()), &other);
    bench.configure(&format!(
        "mirrors:\n  \"{}\":\n    endpoint: [\"http://127.0.0.1:1\", \"http://{}\"]\n",
        own.host, lying.host
    ));
    let image = bench.pull(&format!("{}/app:v1", own.host)).await.expect("the registry itself has it");
    assert!(bench.has_hello(&image));
}

#[tokio::test]
async fn tokens_are_fetched_for_passwords_and_identity_tokens() {
    let bench = bench();
    // user:secret
    let access = Access::Token { basic: "Basic dXNlcjpzZWNyZXQ=", refresh: "identity" };
    let registry = Registry::start_with(access, None).await;
    publish_hello(&registry, "private");
    let name = format!("{}/private:v1", registry.host);
    let password = |password: &str| Credentials::Password { user: "user".to_owned(), password: password.to_owned() };
    bench.pull_as(&name, &password("secret")).await.expect("a password is exchanged for a token");
    let scope = "scope=repository%3Aprivate%3Apull%2Cpush";
    assert!(
        registry.requests("/token")[0].contains(&format!("service=test&{scope}")),
        "{:?}",
        registry.requests("/token")
    );
    bench.pull_as(&name, &Credentials::IdentityToken("identity".to_owned())).await.expect("so is an identity token");
    bench
        .pull_as(&name, &Credentials::Token("opensesame".to_owned()))
        .await
        .expect("a registry token is sent as it is");
    let error = bench.pull_as(&name, &password("wrong")).await.expect_err("it is refused");
    check(
        error,
        &[(&registry.host, "HOST")],
        expect![[
            r#"failed to pull image "HOST/private:v1": HOST refused access: its token server HOST answered 401 Unauthorized"#
        ]],
    );
    // Credentials for another host stay here.
    let elsewhere = Credentials::For { host: "ghcr.io".to_owned(), credentials: Box::new(password("secret")) };
    let before = registry.authorizations().len();
    bench.pull_as(&name, &elsewhere).await.expect_err("nobody asks");
    assert!(registry.authorizations()[before..].iter().all(String::is_empty));
}

#[tokio::test]
async fn the_nodes_own_credentials_stand_in_and_are_not_sent_along_a_redirect() {
    let mut bench = bench();
    // node:secret
    let registry = Registry::start_with(Access::Basic("Basic bm9kZTpzZWNyZXQ="), None).await;
    let elsewhere = Registry::start(None).await;
    let blob = publish_hello(&registry, "private");
    elsewhere.put("/cdn".to_owned(), "application/octet-stream", &hello());
    registry.script(&blob, [Step::Redirect(format!("http://{}/cdn", elsewhere.host))]);
    bench.configure(&format!("configs:\n  \"{}\":\n    auth: {{username: node, password: secret}}\n", registry.host));
    let image = bench.pull(&format!("{}/private:v1", registry.host)).await.expect("it is pulled");
    assert!(bench.has_hello(&image));
    assert_eq!(elsewhere.authorizations(), [""]);
}

fn tls_config(host: &str, pki: &Path, lines: &str) -> String {
    let lines = lines.replace("DIR", &pki.display().to_string());
    format!("configs:\n  \"{host}\":\n    tls:\n{lines}")
}

#[tokio::test]
async fn tls_trusts_the_users_own_ca_and_shows_a_client_certificate() {
    let mut bench = bench();
    let pki = Pki::new(true);
    let registry = Registry::start_with(Access::Open, Some(&pki)).await;
    publish_hello(&registry, "secure");
    let name = format!("{}/secure:v1", registry.host);
    bench.configure(&tls_config(
        &registry.host,
        pki.dir.path(),
        "      cert_file: DIR/client.pem\n      key_file: DIR/client.key\n",
    ));
    let error = bench.pull(&name).await.expect_err("nobody trusts its CA");
    check(
        error,
        &[(&registry.host, "HOST")],
        expect![[
            r#"failed to pull image "HOST/secure:v1": the certificate of HOST is not trusted: UnknownIssuer; name its CA as configs."HOST".tls.ca_file in registries.yaml"#
        ]],
    );
    let whole = "      ca_file: DIR/ca.pem\n      cert_file: DIR/client.pem\n      key_file: DIR/client.key\n";
    bench.configure(&tls_config(&registry.host, pki.dir.path(), whole));
    let image = bench.pull(&name).await.expect("it is pulled");
    assert!(bench.has_hello(&image));
    bench.store.remove(&name).expect("it can be removed");
    bench.configure(&tls_config(&registry.host, pki.dir.path(), "      ca_file: DIR/ca.pem\n"));
    bench.pull(&name).await.expect_err("a client certificate is demanded");
}

#[tokio::test]
async fn tls_can_be_believed_blindly() {
    let mut bench = bench();
    let pki = Pki::new(false);
    let registry = Registry::start_with(Access::Open, Some(&pki)).await;
    publish_hello(&registry, "secure");
    bench.configure(&tls_config(&registry.host, pki.dir.path(), "      insecure_skip_verify: true\n"));
    bench.pull(&format!("{}/secure:v1", registry.host)).await.expect("it is pulled");
}

#[tokio::test]
async fn the_settings_of_a_mirror_hold_where_it_redirects_to_and_for_nobody_else() {
    let mut bench = bench();
    bench.registries.disable_default_endpoint = true;
    let pki = Pki::new(false);
    let (mirror, other) =
        (Registry::start_with(Access::Open, Some(&pki)).await, Registry::start_with(Access::Open, Some(&pki)).await);
    let blob = publish_hello(&mirror, "app");
    publish_hello(&other, "app");
    other.put("/cdn".to_owned(), "application/octet-stream", &hello());
    mirror.script(&blob, [Step::Redirect(format!("https://{}/cdn", other.host))]);
    bench.configure(&format!(
        "mirrors: {{registry.example: {{endpoint: [\"https://{0}\", \"https://{1}\"]}}}}\n\
         configs: {{\"{0}\": {{tls: {{insecure_skip_verify: true}}}}}}\n",
        mirror.host, other.host
    ));
    let image = bench.pull("registry.example/app:v1").await.expect("where the mirror leads, its settings hold");
    assert!(bench.has_hello(&image));
    // The mirror leads to nothing there, and then it is the other's turn to be asked, which nobody trusts.
    let asked = other.requests("").len();
    mirror.script("/v2/app/manifests/v1", [Step::Redirect(format!("https://{}/nothing", other.host))]);
    let error = bench.pull("registry.example/app:v1").await.expect_err("nobody trusts its CA");
    check(
        error,
        &[(&mirror.host, "MIRROR"), (&other.host, "OTHER")],
        expect![[
            r#"failed to pull image "registry.example/app:v1": MIRROR: not found; OTHER: the certificate of OTHER is not trusted: UnknownIssuer; name its CA as configs."OTHER".tls.ca_file in registries.yaml"#
        ]],
    );
    assert_eq!(other.requests("").len(), asked + 1, "the redirect's");
}

#[tokio::test]
async fn settings_that_make_no_sense_are_named() {
    let mut bench = bench();
    let mut told = String::new();
    for text in [
        "mirror: {}\n",
        "mirrors: {docker.io: {endpoints: [x]}}\n",
        "mirrors: {\"*\": {endpoint: [\"ftp://a\"]}}\n",
        "mirrors: {\"*\": {endpoint: [\"http://a\"], rewrite: {\"(\": b}}}\n",
        "configs: {\"127.0.0.1:1\": {auth: {auth: \"%\"}}}\n",
    ] {
        bench.configure(text);
        let error = bench.pull("127.0.0.1:1/app:v1").await.expect_err(text).to_string();
        told.push_str(&error.replace(&bench.dir.path().display().to_string(), "DIR"));
        told.push('\n');
    }
    expect![[r#"
        the settings for image "127.0.0.1:1/app:v1" cannot be used: DIR/registries.yaml: unknown field `mirror`, expected `mirrors` or `configs`
        the settings for image "127.0.0.1:1/app:v1" cannot be used: DIR/registries.yaml: mirrors.docker.io: unknown field `endpoints`, expected `endpoint` or `rewrite` at line 1 column 23
        the settings for image "127.0.0.1:1/app:v1" cannot be used: mirror "ftp://a" of 127.0.0.1:1: it is no HTTP or HTTPS address
        the settings for image "127.0.0.1:1/app:v1" cannot be used: rewrite: pattern "(": found open group without closing ')'
        the settings for image "127.0.0.1:1/app:v1" cannot be used: auth: is not the base64 of USER:PASSWORD
    "#]].assert_eq(&told);
    bench.registries.file = ConfigFile::at("/nowhere/registries.yaml");
    let error = bench.pull("127.0.0.1:1/app:v1").await.expect_err("a file that was named must be there");
    assert!(error.to_string().contains("cannot read /nowhere/registries.yaml"), "{error}");
}

#[tokio::test]
async fn a_push_is_authorised_and_goes_past_the_mirrors() {
    let mut bench = bench();
    let access = Access::Token { basic: "Basic dXNlcjpzZWNyZXQ=", refresh: "" };
    let registry = Registry::start_with(access, None).await;
    let file = bench.dir.path().join("hello.wasm");
    std::fs::write(&file, hello()).expect("it can be written");
    let name = format!("{}/team/hello:v1", registry.host);
    bench.store.import(&file, Some(&name)).expect("it is taken in");
    bench.configure(&format!("mirrors: {{\"{}\": {{endpoint: [\"http://127.0.0.1:1\"]}}}}\n", registry.host));
    let push = |password: &str| {
        let credentials = Credentials::Password { user: "user".to_owned(), password: password.to_owned() };
        let (bench, name) = (&bench, &name);
        async move { bench.store.push(name, None, &credentials, &bench.registries, &PushExtras::default()).await }
    };
    let refused = push("wrong").await.expect_err("it is refused");
    assert!(matches!(refused, ImageError::Unauthorized { verb: "push", .. }), "{refused}");
    let pushed = push("secret").await.expect("it is pushed").to_string();
    assert_eq!(digest(&registry.get("/v2/team/hello/manifests/v1").expect("it is there")), pushed);
    assert_eq!(registry.get(&format!("/v2/team/hello/blobs/{}", digest(&hello()))).expect("it is there"), hello());
}

/// An image of a file system in several layers; the paths of their blobs, by which they are asked for.
pub fn publish_layers(registry: &Registry, repository: &str, layers: &[&[u8]]) -> Vec<String> {
    let config = br#"{"os":"wasi","architecture":"wasm","config":{"Entrypoint":["/app.wasm"]}}"#;
    let config_digest = registry.put_blob(repository, config);
    let digests: Vec<String> = layers.iter().map(|layer| registry.put_blob(repository, layer)).collect();
    let listed: Vec<String> = layers
        .iter()
        .zip(&digests)
        .map(|(layer, digest)| {
            let size = layer.len();
            format!(r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{size}}}"#)
        })
        .collect();
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{}}},"layers":[{}]}}"#,
        config.len(),
        listed.join(",")
    );
    registry.put_manifest(repository, "v1", media_type, &manifest);
    digests.iter().map(|digest| format!("/v2/{repository}/blobs/{digest}")).collect()
}

#[tokio::test]
async fn layers_are_fetched_a_few_at_once_and_one_that_is_named_twice_once() {
    let bench = bench();
    let registry = Registry::start(None).await;
    let app = tar_of("app.wasm", &hello());
    let (one, two) = (tar_of("etc/one", b"1"), tar_of("etc/two", b"2"));
    let blobs = publish_layers(&registry, "layers", &[&app, &one, &app, &two]);
    // None is sent before all three are asked for.
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(3));
    for blob in [&blobs[0], &blobs[1], &blobs[3]] {
        registry.script(blob, [Step::Meet(barrier.clone())]);
    }
    let image = bench.pull(&format!("{}/layers:v1", registry.host)).await.expect("it is pulled");
    assert!(bench.has_hello(&image));
    for blob in &blobs {
        assert_eq!(registry.requests(blob).len(), 1, "{blob}");
    }
}
