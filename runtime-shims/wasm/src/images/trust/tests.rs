use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use expect_test::expect;
use rcgen::{KeyPair, PublicKeyData};

use super::cosign::verify;
use super::*;
use crate::images::{Digest, ImageName};

/// Made by openssl, as are their signatures of `message`.
const RSA: (&str, &str) = (
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA73W+SbDwqof1nQsFwwt9\nbsjXBQaz8wDJCIb2fEQvd10ABsb3R0BFpNo+Anbi0D3XnvE3Zvgj04sx9vGZpGGe\nTLYTgj7tkDUkXpoKIbGQ10gLL/4LGtzE1WNVO9aTn40cHI3WdmaU8T78AJkq157k\n+MnOWoSZR3T7jHXXwnoKbmdvXu9Yq2p2YwRhufjfvf23CHsyMgAMju1sp/NbSbYR\n12EiOf+htDLUc5ryvUPcmBzCjUnwDXBaA4QRE0IUA41kPin8h+4Vp77qeB4XWbIi\nmzKBFDXXSrl3dgW0JnJqgP6NkC+KJnwwka/9nLXBIR3oAscoVX5Zjy9ffS+mwny6\nKQIDAQAB\n-----END PUBLIC KEY-----\n",
    "B0ZTs/WUUhXv6+24YyJDOjd56CMQuOb3tdwT3Yy+OmANThEgWWOJTm8bMyXQjVoY4G6gFDLF3y8sa9EXi5Xeato8PiUcVejxL9Cs06iJM8R5O+LMWfpUaBGybHOkyatwcgE4oz2m6GLX/qZhHaDSfVmmTV6WnlKKcDxg2l6JZ80h9iRdP5UUCzJ98/oh4f1FWa0ovk74U3HRJU4iQRPemPgMdijq9Y8M6FOzWBQ0aQAh5svuTcVVJbMfYo3jEQrucKfgfT1fRjaDKQWEdJu1wJ5KcH77iuSBfTPUfNDSOWXpEPLTk2b7k5q4g8zgt3CTbuM3XWS0UEnRtmdGRQ5vLw==",
);
const P256: (&str, &str) = (
    "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE/iqVsIDZfblpAQ+JIMy5S21NnhDO\nySo438T0uU9fpreRqbyoF5eCieCT8NKFlX3C4Moo64jvBiYiw2h0wjRchQ==\n-----END PUBLIC KEY-----\n",
    "MEQCIDxG5jTAPsr6hfTJLa6zagWOLOFu8uqJYgPdrwt8eT7/AiAJF44M7JoOy/f/JPNKn5Tevl91U1Tsbxl6ugcYrjqP0Q==",
);

fn pem(pair: &KeyPair) -> String {
    let text = STANDARD.encode(pair.subject_public_key_info());
    format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
}

#[test]
fn keys_and_signatures_of_other_tools_are_taken() {
    for (key, signed) in [RSA, P256] {
        let key = PublicKey::parse("key", key.as_bytes()).expect("it is a key");
        let mut signed = STANDARD.decode(signed).expect("it is base64");
        assert!(key.verifies(b"message", &signed));
        assert!(!key.verifies(b"massage", &signed));
        signed[20] ^= 1;
        assert!(!key.verifies(b"message", &signed));
    }
}

#[test]
fn what_is_signed_here_is_verified() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
        let pair = KeyPair::generate_for(algorithm).expect("a key");
        let signing = SigningKey::parse(pair.serialize_pem().as_bytes()).expect("it is a key");
        let public = PublicKey::parse("key", pem(&pair).as_bytes()).expect("it is a key");
        let signed = signing.sign(b"message").expect("it is signed");
        assert!(public.verifies(b"message", &signed));
        assert!(!public.verifies(b"massage", &signed));
    }
}

#[test]
fn keys_that_cannot_be_used_are_told_with_the_cure() {
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
    let told = [
        PublicKey::parse("a.pub", b"nothing").expect_err("no key"),
        PublicKey::parse("a.pub", pem(&p384).as_bytes()).expect_err("another curve"),
        PublicKey::parse("a.pub", b"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n").expect_err("cut"),
        SigningKey::parse(b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n").expect_err("encrypted"),
        SigningKey::parse(p384.serialize_pem().as_bytes()).expect_err("another curve"),
    ];
    expect![[r#"
        a.pub is no public key in PEM (-----BEGIN PUBLIC KEY-----): no items found
        a.pub is a key of a kind that is not supported; ECDSA P-256, Ed25519 and RSA are
        a.pub is a key of a kind that is not supported; ECDSA P-256, Ed25519 and RSA are
        the key has a passphrase, which is not supported; `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem` makes a key that is taken
        the key is neither ECDSA P-256 nor Ed25519; `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem` makes a key that is taken
    "#]].assert_eq(&(told.join("\n") + "\n"));
}

#[test]
fn a_signature_is_of_this_image_under_this_name() {
    let pair = KeyPair::generate().expect("a key");
    let signing = SigningKey::parse(pair.serialize_pem().as_bytes()).expect("it is a key");
    let keys = [PublicKey::parse("good", pem(&pair).as_bytes()).expect("it is a key")];
    let name = ImageName::parse("hello:v1").expect("a name");
    let (own, other) = (Digest::of(b"own"), Digest::of(b"other"));
    let payload = |reference: &str, digest: &Digest, kind: &str| {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"{reference}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":{{"creator":"cosign"}}}}"#
        )
    };
    let kind = "cosign container image signature";
    let outcome = |payload: &str| {
        let signed = signing.sign(payload.as_bytes()).expect("it is signed");
        verify(&name, &own, payload.as_bytes(), &signed, &keys)
    };
    let spellings = ["index.docker.io/library/hello", "docker.io/library/hello", "hello", "hello:v2"];
    for reference in spellings.into_iter().chain(["registry-1.docker.io:443/library/hello"]) {
        assert_eq!(outcome(&payload(reference, &own, kind)), Ok("good".to_owned()), "{reference}");
    }
    let told: Vec<String> = [
        payload("ghcr.io/library/hello", &own, kind),
        payload("hello", &other, kind),
        payload("hello", &own, "atomic container signature"),
        "{}".to_owned(),
    ]
    .iter()
    .map(|payload| outcome(payload).expect_err(payload).replace(&other.to_string(), "OTHER"))
    .collect();
    expect![[r#"
        one is of this image as ghcr.io/library/hello, not as docker.io/library/hello (`cosign sign --sign-container-identity` says otherwise)
        one is of another image, OTHER
        one is a "atomic container signature"
        one is of something else: missing field `critical` at line 1 column 2
    "#]].assert_eq(&(told.join("\n") + "\n"));
    let genuine = payload("hello", &own, kind);
    let signed = signing.sign(b"something else").expect("it is signed");
    assert_eq!(verify(&name, &own, genuine.as_bytes(), &signed, &keys), Err("one is by another key".to_owned()));
}

#[test]
fn a_bundle_is_a_signature_of_this_image_and_no_other_statement() {
    let pair = KeyPair::generate().expect("a key");
    let signing = SigningKey::parse(pair.serialize_pem().as_bytes()).expect("it is a key");
    let keys = [PublicKey::parse("good", pem(&pair).as_bytes()).expect("it is a key")];
    let own = Digest::of(b"own");
    let outcome = |digest: &Digest, predicate: &str, kind: &str, claimed: &str| {
        let statement = format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"name":"","digest":{{"sha256":"{}"}}}}],"predicateType":"{predicate}","predicate":{{}}}}"#,
            digest.hex()
        );
        let signed = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
        let signature = STANDARD.encode(signing.sign(signed.as_bytes()).expect("it is signed"));
        let payload = STANDARD.encode(&statement);
        let bundle = format!(
            r#"{{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{{"publicKey":{{"hint":"x"}}}},"dsseEnvelope":{{"payload":"{payload}","payloadType":"{claimed}","signatures":[{{"sig":"{signature}"}}]}}}}"#
        );
        super::bundle::verify(&own, bundle.as_bytes(), &keys)
    };
    let (sign, kind) = ("https://sigstore.dev/cosign/sign/v1", "application/vnd.in-toto+json");
    assert_eq!(outcome(&own, sign, kind, kind), Ok("good".to_owned()));
    let told = [
        outcome(&Digest::of(b"other"), sign, kind, kind),
        outcome(&own, "https://spdx.dev/Document", kind, kind),
        outcome(&own, sign, "text/plain", "text/plain"),
        outcome(&own, sign, "text/plain", kind),
        super::bundle::verify(&own, b"{}", &keys),
    ]
    .map(|outcome| outcome.expect_err("it is no signature"));
    expect![[r#"
        one is of another image
        one is a statement of another kind, "https://spdx.dev/Document"
        one is of a "text/plain"
        one is by another key
        one is a bundle of another kind: missing field `dsseEnvelope` at line 1 column 2
    "#]]
    .assert_eq(&(told.join("\n") + "\n"));
}

#[test]
fn the_longest_prefix_decides() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    std::fs::write(dir.path().join("a.pub"), P256.0).expect("it can be written");
    let policy = r#"
default: reject
rules:
- {prefix: ghcr.io/team, keys: [a.pub]}
- {prefix: ghcr.io/team/open/, action: accept}
- {prefix: "docker.io", action: accept}
- {prefix: index.docker.io/library/bad, action: reject}
- {prefix: "Corp.example:443", action: accept}
- {prefix: "corp.example:8443/a", action: accept}
"#;
    let policy = Policy::parse(policy, dir.path()).expect("it is a policy");
    let shown: String = [
        "ghcr.io/team/app",
        "ghcr.io/teammate/app",
        "ghcr.io/team/open/app:v1",
        "GHCR.IO/team/app",
        "ghcr.io:443/team/app",
        "ghcr.io:0443/team/open",
        "ghcr.io:444/team/app",
        "hello",
        "bad:v1",
        "docker.io/bad",
        "Docker.io/library/bad",
        "Index.docker.io:443/library/bad",
        "registry-1.docker.io/library/bad",
        "badge",
        "corp.example/a",
        "corp.example:8443/a/b",
        "corp.example:8443/b",
        "300.0.0.1/a",
        "quay.io/a",
    ]
    .iter()
    .map(|name| {
        let verdict = match policy.verdict(&ImageName::parse(name).expect("a name")) {
            Verdict::Accept => "accepted".to_owned(),
            Verdict::Reject(why) => why,
            Verdict::Signed(keys) => format!("signed by one of {}", keys.len()),
        };
        format!("{name}: {verdict}\n")
    })
    .collect();
    expect![[r#"
        ghcr.io/team/app: signed by one of 1
        ghcr.io/teammate/app: no rule names ghcr.io/teammate/app, and the default is to reject
        ghcr.io/team/open/app:v1: accepted
        GHCR.IO/team/app: signed by one of 1
        ghcr.io:443/team/app: signed by one of 1
        ghcr.io:0443/team/open: accepted
        ghcr.io:444/team/app: no rule names ghcr.io:444/team/app, and the default is to reject
        hello: accepted
        bad:v1: a rule rejects index.docker.io/library/bad
        docker.io/bad: a rule rejects index.docker.io/library/bad
        Docker.io/library/bad: a rule rejects index.docker.io/library/bad
        Index.docker.io:443/library/bad: a rule rejects index.docker.io/library/bad
        registry-1.docker.io/library/bad: a rule rejects index.docker.io/library/bad
        badge: accepted
        corp.example/a: accepted
        corp.example:8443/a/b: accepted
        corp.example:8443/b: no rule names corp.example:8443/b, and the default is to reject
        300.0.0.1/a: its registry 300.0.0.1 makes no sense: invalid IPv4 address
        quay.io/a: no rule names quay.io/a, and the default is to reject
    "#]]
    .assert_eq(&shown);
}

#[test]
fn a_rule_for_every_image_gives_way_to_any_other() {
    let policy = "rules: [{prefix: \"*\", action: reject}, {prefix: docker.io, action: accept}]";
    let policy = Policy::parse(policy, std::path::Path::new("/")).expect("it is a policy");
    let verdict = |name| policy.verdict(&ImageName::parse(name).expect("a name"));
    assert!(matches!(verdict("quay.io/a"), Verdict::Reject(_)));
    assert!(matches!(verdict("hello"), Verdict::Accept));
}

#[test]
fn a_policy_that_makes_no_sense_lets_nothing_in() {
    let refusal = |text: &str| Policy::parse(text, std::path::Path::new("/")).expect_err(text);
    let told = [
        "rules: [{prefix: a.io}]",
        "rules: [{prefix: a.io, keys: []}]",
        "rules: [{prefix: a.io, keys: [x], action: accept}]",
        "rules: [{prefix: a.io, keys: [/nowhere/x.pub]}]",
        "rules: [{prefix: hello, action: accept}]",
        "rule: []",
        "default: maybe",
    ]
    .map(refusal);
    expect![[r#"
        the rule for "a.io" has neither keys nor an action
        the rule for "a.io" has an empty list of keys; `action: reject` refuses every image
        the rule for "a.io" has both keys and an action
        cannot read the key /nowhere/x.pub: No such file or directory (os error 2)
        the rule for "hello" is about no image: a prefix is "*", HOST or HOST/PATH, as docker.io/library/hello is
        unknown field `rule`, expected one of `default`, `rules`, `precompiledKeys`
        default: unknown variant `maybe`, expected `accept` or `reject` at line 1 column 10
    "#]]
    .assert_eq(&(told.join("\n") + "\n"));
    for prefix in [
        "",
        "/",
        "library/hello",
        "ghcr.io/team/*",
        "*.ghcr.io",
        "ghcr.io/Team",
        "ghcr.io//team",
        "ghcr.io/team/app:v1",
        "ghcr.io/team/app@sha256:00",
        "ghcr.io:port/team",
        "https://ghcr.io/team",
        "300.0.0.1",
    ] {
        let text = format!("rules: [{{prefix: \"{prefix}\", action: reject}}]");
        assert!(refusal(&text).contains("is about no image"), "{prefix}");
    }
}
