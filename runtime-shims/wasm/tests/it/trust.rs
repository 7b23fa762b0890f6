//! Signatures that a policy wants, and machine code that travels, by the whole shim.

use std::path::Path;

use coracle_shim_wasm::compile::{self, Reexec};
use coracle_shim_wasm::front::FrontConfig;
use coracle_shim_wasm::images::{Credentials, ImageStore, PushExtras, Registries, SigningKey};
use expect_test::expect;
use rcgen::{KeyPair, PublicKeyData};

use crate::images::{publish, pull};
use crate::registry::{Registry, Step};
use crate::shim::{Shim, eventually, get, guest, refusal, within};

/// Makes `NAME.pem` and `NAME.pub`.
fn key(dir: &Path, name: &str) -> SigningKey {
    let pair = KeyPair::generate().expect("a key");
    std::fs::write(dir.join(format!("{name}.pub")), public_pem(&pair)).expect("it can be written");
    std::fs::write(dir.join(format!("{name}.pem")), pair.serialize_pem()).expect("it can be written");
    SigningKey::read(&dir.join(format!("{name}.pem"))).expect("it is a key")
}

fn public_pem(pair: &KeyPair) -> String {
    use base64::Engine as _;
    let der = pair.subject_public_key_info();
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
}

fn code_of(shim: &Shim, wasm: &str) -> Vec<u8> {
    let settings = std::fs::read_dir(shim.dir.path().join("wasm/code")).expect("it is there").flatten().next();
    std::fs::read(settings.expect("settings").path().join(format!("{wasm}.cwasm"))).expect("it is compiled")
}

/// A registry to which `hello:dev` was pushed as `team/hello:NAME` with these extras, from a store of its own.
async fn pushed(registry: &Registry, dir: &Path, tag: &str, extras: &PushExtras) -> (String, String) {
    let store = ImageStore::open(dir.join("store")).expect("it opens");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/hello/hello.wasm");
    let image = store.import(Path::new(file), Some("hello:dev")).expect("it is taken in").remove(0);
    let name = format!("{}/team/hello:{tag}", registry.host);
    let registries = Registries::default();
    store.push("hello:dev", Some(&name), &Credentials::Anonymous, &registries, extras).await.expect("it is pushed");
    (name, image.wasm.hex().to_owned())
}

#[tokio::test]
async fn only_what_the_right_key_signed_is_pulled() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let (good, other) = (key(dir.path(), "good"), key(dir.path(), "other"));
    let registry = Registry::start(None).await;
    let policy = dir.path().join("policy.yaml");
    let rules = format!(
        "default: reject\nrules:\n- prefix: {}/team\n  keys: [good.pub]\n- prefix: {}/team/open\n  action: accept\n",
        registry.host, registry.host
    );
    std::fs::write(&policy, rules).expect("it can be written");
    let shim = Shim::start_with(&["--image-policy", &policy.display().to_string()]).await;
    let mut told = String::new();
    let mut note = |text: String| {
        let text = text.replace(&registry.host, "HOST").replace(&dir.path().display().to_string(), "DIR");
        told.push_str(&format!("{text}\n"));
    };
    let (name, _) = pushed(&registry, dir.path(), "v1", &PushExtras::default()).await;
    note(refusal(pull(&shim, &name, None).await));
    // The same content, so the same digest: a signature by another key is found.
    pushed(&registry, dir.path(), "v1", &PushExtras { key: Some(other), ..PushExtras::default() }).await;
    note(refusal(pull(&shim, &name, None).await));
    pushed(&registry, dir.path(), "v1", &PushExtras { key: Some(good), ..PushExtras::default() }).await;
    pull(&shim, &name, None).await.expect("it is signed");
    let artifact = ("application/vnd.wasm.config.v0+json", b"{}".as_slice());
    publish(&registry, "elsewhere", "v1", artifact, ("application/wasm", b"never fetched"));
    note(refusal(pull(&shim, &format!("{}/elsewhere:v1", registry.host), None).await));
    let wasm = crate::images::hello();
    publish(&registry, "team/open", "v1", artifact, ("application/wasm", &wasm));
    pull(&shim, &format!("{}/team/open:v1", registry.host), None).await.expect("a rule accepts it");
    std::fs::write(&policy, "rules: [{prefix: ghcr.io}]\n").expect("it can be written");
    note(refusal(pull(&shim, &name, None).await));
    expect![[r#"
        Unknown: SignatureValidationFailed: image "HOST/team/hello:v1" is refused by the signature policy: it has no signature, and one by DIR/good.pub is required
        Unknown: SignatureValidationFailed: image "HOST/team/hello:v1" is refused by the signature policy: no signature by DIR/good.pub is valid: one is by another key
        Unknown: SignatureValidationFailed: image "HOST/elsewhere:v1" is refused by the signature policy: no rule names HOST/elsewhere, and the default is to reject
        Unknown: the settings for image "HOST/team/hello:v1" cannot be used: DIR/policy.yaml: the rule for "ghcr.io" has neither keys nor an action
    "#]].assert_eq(&told);
}

#[tokio::test]
async fn machine_code_travels_and_runs_if_a_trusted_key_signed_it() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let (good, other) = (key(dir.path(), "good"), key(dir.path(), "other"));
    let registry = Registry::start(None).await;
    let store = ImageStore::open(dir.path().join("store")).expect("it opens");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/hello/hello.wasm");
    let image = store.import(Path::new(file), Some("hello:dev")).expect("it is taken in").remove(0);
    let program = Reexec { program: env!("CARGO_BIN_EXE_coracle-shim-wasm").into(), args: vec!["compile".into()] };
    let mut codes = Vec::new();
    for key in [good, other] {
        let code = compile::precompile(&store, &image, program.clone()).await.expect("it compiles");
        codes.push(code.iter().map(|code| code.content.clone()).collect::<Vec<_>>());
        let tag = format!("v{}", codes.len());
        pushed(&registry, dir.path(), &tag, &PushExtras { code, key: Some(key) }).await;
    }
    let policy = dir.path().join("policy.yaml");
    std::fs::write(&policy, "precompiledKeys: [good.pub]\n").expect("it can be written");
    for (tag, trusted) in [("v1", true), ("v2", false)] {
        let shim = Shim::start_with(&["--image-policy", &policy.display().to_string()]).await;
        // The test's guests have this file, too, but it is the pull that compiles it.
        let name = format!("{}/team/hello:{tag}", registry.host);
        let before = registry.requests("/blobs/").len();
        let image_ref = pull(&shim, &name, None).await.expect("it is pulled");
        let fetched = registry.requests("/blobs/").len() - before;
        let code = code_of(&shim, image.wasm.hex());
        // What is compiled here may be the same, on a processor that has no more than the code asks for.
        assert!(codes[0].contains(&code) || !trusted, "{tag}: what runs is what came");
        assert_eq!(
            fetched,
            usize::from(trusted),
            "{tag}: all but the code is here, and what nobody trusts is not fetched"
        );
        let pod = shim.run("hello", guest(&image_ref)).await;
        assert_eq!(get(&pod.ip, "/").await, (200, "Hello from a Wasm pod\n".to_owned()), "{tag}");
    }
}

/// A shim that trusts `good.pub`, with an image pulled that has machine code signed by that key: its name, and its digest
/// of WebAssembly.
async fn with_travelled_code(dir: &Path) -> (Shim, String, String) {
    let good = key(dir, "good");
    let registry = Registry::start(None).await;
    let store = ImageStore::open(dir.join("store")).expect("it opens");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/hello/hello.wasm");
    let image = store.import(Path::new(file), Some("hello:dev")).expect("it is taken in").remove(0);
    let program = Reexec { program: env!("CARGO_BIN_EXE_coracle-shim-wasm").into(), args: vec!["compile".into()] };
    let code = compile::precompile(&store, &image, program).await.expect("it compiles");
    let (name, wasm) = pushed(&registry, dir, "v1", &PushExtras { code, key: Some(good) }).await;
    let policy = dir.join("policy.yaml");
    std::fs::write(&policy, "precompiledKeys: [good.pub]\n").expect("it can be written");
    let shim = Shim::start_with(&["--image-policy", &policy.display().to_string()]).await;
    pull(&shim, &name, None).await.expect("it is pulled");
    (shim, name, wasm)
}

#[tokio::test]
async fn others_are_served_while_machine_code_is_copied() {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let dir = tempfile::tempdir().expect("a directory can be made");
    let (shim, name, wasm) = with_travelled_code(dir.path()).await;
    let sandbox = shim.sandbox("hello", &[8080], &[]).await;
    let code = code_of(&shim, &wasm);
    let settings = FrontConfig::code_dir(shim.dir.path()).read_dir().expect("it is there").flatten().next();
    let record = settings.expect("settings").path().join(format!("{wasm}.json"));
    std::fs::remove_file(record).expect("it was compiled");
    // In the layer's place something that gives its content as slowly as one likes.
    let hex = crate::registry::digest(&code).replace("sha256:", "");
    let layer = FrontConfig::image_dir(shim.dir.path()).join("blobs/sha256").join(hex);
    std::fs::remove_file(&layer).expect("the layer is there");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &layer, kind, mode, 0).expect("it can be made");
    let copying = async {
        let writing = || std::fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&layer).ok();
        let mut slow = eventually("it is being read", || async { writing() }).await;
        within("others are served", shim.ip(&sandbox)).await;
        rustix::io::ioctl_fionbio(&slow, false).expect("it can be set");
        let writing = tokio::task::spawn_blocking(move || slow.write_all(&code).map(|()| code));
        let code = writing.await.expect("no panic").expect("it is read");
        std::fs::remove_file(&layer).expect("it is there");
        std::fs::write(&layer, code).expect("it can be written");
    };
    let (created, ()) = tokio::join!(shim.create(&sandbox, "main", guest(&name)), copying);
    shim.start_container(&created.expect("the container is made")).await.expect("it starts");
    let ip = shim.ip(&sandbox).await;
    assert_eq!(get(&ip, "/").await, (200, "Hello from a Wasm pod\n".to_owned()));
}

#[tokio::test]
async fn machine_code_of_a_key_that_is_trusted_no_more_is_made_anew() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let (shim, name, wasm) = with_travelled_code(dir.path()).await;
    let file = || {
        let settings = FrontConfig::code_dir(shim.dir.path()).read_dir().expect("it is there").flatten().next();
        let code = settings.expect("settings").path().join(format!("{wasm}.cwasm"));
        std::os::unix::fs::MetadataExt::ino(&code.metadata().expect("it is there"))
    };
    let travelled = file();
    shim.run("before", guest(&name)).await;
    assert_eq!(file(), travelled, "as long as the key is trusted, what came is used");
    std::fs::write(dir.path().join("policy.yaml"), "precompiledKeys: []\n").expect("it can be written");
    let pod = shim.run("after", guest(&name)).await;
    let made = file();
    assert_ne!(made, travelled, "it was compiled here");
    assert_eq!(get(&pod.ip, "/").await, (200, "Hello from a Wasm pod\n".to_owned()));
    shim.run("again", guest(&name)).await;
    assert_eq!(file(), made, "once");
}

#[tokio::test]
async fn machine_code_goes_with_its_image_and_makes_room() {
    // Room for one of the two guests' code.
    let shim = Shim::start_with(&["--code-limit-bytes", "1"]).await;
    let registry = Registry::start(None).await;
    let store = ImageStore::open(FrontConfig::image_dir(shim.dir.path())).expect("it opens");
    let artifact = ("application/vnd.wasm.config.v0+json", b"{}".as_slice());
    let wasm = wat::parse_str(r#"(module (func (export "_start")) (memory (export "memory") 1))"#).expect("a module");
    publish(&registry, "small", "v1", artifact, ("application/wasm", &wasm));
    publish(&registry, "hello", "v1", artifact, ("application/wasm", &crate::images::hello()));
    let small = pull(&shim, &format!("{}/small:v1", registry.host), None).await.expect("it is pulled");
    let small = store.get(&small).expect("it can be read").expect("it is there").wasm;
    let code = FrontConfig::code_dir(shim.dir.path());
    assert!(compile::is_compiled(&code, &small));
    let hello = pull(&shim, &format!("{}/hello:v1", registry.host), None).await.expect("it is pulled");
    let hello = store.get(&hello).expect("it can be read").expect("it is there").wasm;
    assert!(compile::is_compiled(&code, &hello), "what was just made stays");
    assert!(!compile::is_compiled(&code, &small), "the other made room");
    // And when it is needed it is made again.
    let pod = shim.run("small", guest(&format!("{}/small:v1", registry.host))).await;
    assert!(!pod.container.is_empty() && compile::is_compiled(&code, &small));
    let spec = |name: String| coracle_cri::v1::RemoveImageRequest { image: crate::images::spec(&name) };
    shim.images().remove_image(spec(format!("{}/small:v1", registry.host))).await.expect("it is removed");
    assert!(compile::is_compiled(&code, &small), "its container is still there");
    shim.remove_pod(&pod.sandbox).await;
    assert!(!compile::is_compiled(&code, &small), "code goes with its image, and that with its last container");
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// Statements about an image as cosign writes them, by version 2 and by version 3.
struct Cosign<'a> {
    registry: &'a Registry,
    pair: KeyPair,
}

impl Cosign<'_> {
    fn sign(&self, message: &[u8]) -> String {
        use base64::Engine as _;
        let signed = rcgen::SigningKey::sign(&self.pair, message).expect("it is signed");
        base64::engine::general_purpose::STANDARD.encode(signed)
    }

    fn put(&self, tag: &str, extra: &str, layer: (&str, &str), annotations: &str) -> String {
        const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
        let config = self.registry.put_blob("team/hello", b"{}");
        let (media_type, content) = layer;
        let blob = self.registry.put_blob("team/hello", content.as_bytes());
        let size = content.len();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI}",{extra}"config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"{media_type}","digest":"{blob}","size":{size},"annotations":{{{annotations}}}}}]}}"#
        );
        self.registry.put_manifest("team/hello", tag, OCI, &manifest)
    }

    /// `cosign sign --key` of version 2: a manifest under a tag made of the digest.
    fn sign_as_tag(&self, image: &str) {
        let host = &self.registry.host;
        let payload = format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"{host}/team/hello"}},"image":{{"docker-manifest-digest":"{image}"}},"type":"cosign container image signature"}},"optional":null}}"#
        );
        let annotation = format!(r#""dev.cosignproject.cosign/signature":"{}""#, self.sign(payload.as_bytes()));
        let layer = ("application/vnd.dev.cosign.simplesigning.v1+json", payload.as_str());
        self.put(&format!("{}.sig", image.replace(':', "-")), "", layer, &annotation);
    }

    /// `cosign sign --key` of version 3: a bundle that refers to the image. The index that lists it as a `listed_as`, behind
    /// referrers of other kinds.
    fn sign_as_bundle(&self, image: &str, listed_as: &str) -> String {
        use base64::Engine as _;
        let hex = image.trim_start_matches("sha256:");
        let kind = "application/vnd.in-toto+json";
        let statement = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{hex}"}}}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{{}}}}"#
        );
        let signed = self.sign(format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len()).as_bytes());
        let payload = base64::engine::general_purpose::STANDARD.encode(&statement);
        let bundle = format!(
            r#"{{"mediaType":"{BUNDLE}","verificationMaterial":{{"publicKey":{{"hint":"x"}}}},"dsseEnvelope":{{"payload":"{payload}","payloadType":"{kind}","signatures":[{{"sig":"{signed}"}}]}}}}"#
        );
        let refers = |kind: &str| {
            format!(
                r#""artifactType":"{kind}","subject":{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{image}","size":1}},"#
            )
        };
        let signature = self.put("unnamed", &refers(BUNDLE), (BUNDLE, &bundle), "");
        let sbom = "application/spdx+json";
        let sbom = self.put("unnamed", &refers(sbom), (sbom, "{}"), "");
        let large = self.put("unnamed", &refers(BUNDLE), (BUNDLE, &" ".repeat((256 << 10) + 1)), "");
        let parts = self.registry.put_manifest("team/hello", "unnamed", INDEX, r#"{"manifests":[]}"#);
        let other_digest = format!("sha512:{}", "0".repeat(128));
        let listed: Vec<String> = [&sbom, &parts, &other_digest, &large, &signature]
            .iter()
            .map(|digest| format!(r#"{{"mediaType":"","digest":"{digest}","size":1,"artifactType":"{listed_as}"}}"#))
            .collect();
        format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, listed.join(","))
    }
}

#[tokio::test]
async fn signatures_are_found_wherever_cosign_puts_them() {
    // What cosign says of a bundle in the list it keeps under a tag.
    const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    let dir = tempfile::tempdir().expect("a directory can be made");
    let policy = dir.path().join("policy.yaml");
    std::fs::write(&policy, "default: reject\nrules:\n- prefix: \"*\"\n  keys: [good.pub]\n")
        .expect("it can be written");
    let shim = Shim::start_with(&["--image-policy", &policy.display().to_string()]).await;
    for place in ["tag", "referrers", "list under a tag", "400", "405", "406", "a page about something else"] {
        let registry = Registry::start(None).await;
        let pair = KeyPair::generate().expect("a key");
        std::fs::write(dir.path().join("good.pub"), public_pem(&pair)).expect("it can be written");
        let (name, _) = pushed(&registry, dir.path(), "v1", &PushExtras::default()).await;
        let refused = refusal(pull(&shim, &name, None).await);
        assert!(refused.contains("it has no signature"), "{place}: {refused}");
        let image = crate::registry::digest(&registry.get("/v2/team/hello/manifests/v1").expect("it is there"));
        let cosign = Cosign { registry: &registry, pair };
        let referrers = format!("/v2/team/hello/referrers/{image}");
        match place {
            "tag" => cosign.sign_as_tag(&image),
            "referrers" => registry.put(referrers, INDEX, cosign.sign_as_bundle(&image, BUNDLE).as_bytes()),
            how_there_is_no_list => {
                let listed = cosign.sign_as_bundle(&image, EMPTY);
                registry.put_manifest("team/hello", &image.replace(':', "-"), INDEX, &listed);
                if how_there_is_no_list != "list under a tag" {
                    registry.put(referrers.clone(), "text/html; charset=utf-8", b"<html>");
                }
                if let Ok(status) = how_there_is_no_list.parse() {
                    registry.script(&referrers, [Step::Status(status), Step::Status(status)]);
                }
            }
        }
        pull(&shim, &name, None).await.unwrap_or_else(|error| panic!("{place}: {error:?}"));
        // Another key's word is worth nothing, wherever it stands.
        std::fs::write(dir.path().join("good.pub"), public_pem(&KeyPair::generate().expect("a key"))).expect("written");
        let refused = refusal(pull(&shim, &name, None).await);
        assert!(refused.contains("one is by another key"), "{place}: {refused}");
    }
}
