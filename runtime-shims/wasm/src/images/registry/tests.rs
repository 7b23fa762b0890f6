use expect_test::{Expect, expect};

use super::auth::{Challenge, challenges};
use super::endpoints::endpoints;
use super::*;
use crate::images::ImageName;

fn check_endpoints(settings: &Registries, file: &str, names: &[&str], expected: Expect) {
    let file = serde_norway::from_str(file).expect("it is registries.yaml");
    let mut shown = String::new();
    for name in names {
        shown.push_str(&format!("{name}\n"));
        let parsed = ImageName::parse(name).expect("a name");
        match endpoints(settings, &file, &parsed) {
            Ok(found) => {
                for endpoint in found {
                    let who = endpoint.credentials(&Credentials::Anonymous).expect("credentials");
                    let tls = if endpoint.config.tls.is_some() { " own TLS" } else { "" };
                    let url = endpoint.url(&format!("manifests/{}", parsed.reference())).expect("a URL");
                    shown.push_str(&format!("  {url} {who:?}{tls}\n"));
                }
            }
            Err(why) => shown.push_str(&format!("  {why}\n")),
        }
    }
    expected.assert_eq(&shown);
}

#[test]
fn endpoints_are_those_of_k3s() {
    let file = r#"
mirrors:
  docker.io:
    endpoint: ["https://mirror.example:5000", "mirror.example/v2/proxy", "https://registry-1.docker.io"]
    rewrite: {"^library/(.*)": "cache/$1", "never": "matched"}
  ghcr.io:
  quay.io:
    endpoint: [localhost:5000, "127.0.0.1", "https://docker.io"]
  "*":
    endpoint: ["http://wild.example"]
configs:
  "mirror.example:5000": {auth: {username: me, password: x}, tls: {ca_file: /ca.pem}}
  docker.io: {auth: {auth: aHViOnNlY3JldA==}}
  Own.example: {auth: {identity_token: t}}
  "*": {auth: {username: any}}
"#;
    let names = [
        "hello",
        "ghcr.io/a/b",
        "quay.io/a",
        "own.example/a",
        "other.example/a",
        "localhost:5000/a@sha256:0000000000000000000000000000000000000000000000000000000000000000",
    ];
    check_endpoints(
        &Registries::default(),
        file,
        &names,
        expect![[r#"
        hello
          https://mirror.example:5000/v2/cache/hello/manifests/latest?ns=docker.io Password(me) own TLS
          https://mirror.example/v2/proxy/cache/hello/manifests/latest?ns=docker.io Anonymous
          https://registry-1.docker.io/v2/cache/hello/manifests/latest Password(hub)
        ghcr.io/a/b
          https://ghcr.io/v2/a/b/manifests/latest Anonymous
        quay.io/a
          http://localhost:5000/v2/a/manifests/latest?ns=quay.io Anonymous
          https://127.0.0.1/v2/a/manifests/latest?ns=quay.io Anonymous
          https://registry-1.docker.io/v2/a/manifests/latest?ns=quay.io Password(hub)
          https://quay.io/v2/a/manifests/latest Anonymous
        own.example/a
          https://own.example/v2/a/manifests/latest IdentityToken
        other.example/a
          http://wild.example/v2/a/manifests/latest?ns=other.example Anonymous
          https://other.example/v2/a/manifests/latest Password(any)
        localhost:5000/a@sha256:0000000000000000000000000000000000000000000000000000000000000000
          http://wild.example/v2/a/manifests/sha256:0000000000000000000000000000000000000000000000000000000000000000?ns=localhost%3A5000 Anonymous
          http://localhost:5000/v2/a/manifests/sha256:0000000000000000000000000000000000000000000000000000000000000000 Password(any)
    "#]],
    );
}

#[test]
fn plain_http_is_for_loopback_and_where_it_is_said() {
    let settings = Registries { insecure: vec!["Plain.example:80".to_owned()], ..Registries::default() };
    let file = "configs: {\"localhost:5001\": {tls: {ca_file: /ca.pem}}}";
    let names = [
        "localhost:5000/a",
        "localhost:5001/a",
        "[::1]:5000/a",
        "127.9.9.9:1/a",
        "plain.example:80/a",
        "other.example:80/a",
    ];
    check_endpoints(
        &settings,
        file,
        &names,
        expect![[r#"
        localhost:5000/a
          http://localhost:5000/v2/a/manifests/latest Anonymous
        localhost:5001/a
          https://localhost:5001/v2/a/manifests/latest Anonymous own TLS
        [::1]:5000/a
          http://[::1]:5000/v2/a/manifests/latest Anonymous
        127.9.9.9:1/a
          http://127.9.9.9:1/v2/a/manifests/latest Anonymous
        plain.example:80/a
          http://plain.example/v2/a/manifests/latest Anonymous
        other.example:80/a
          https://other.example:80/v2/a/manifests/latest Anonymous
    "#]],
    );
    let strict = Registries { disable_default_endpoint: true, ..Registries::default() };
    let file = "mirrors: {docker.io: {endpoint: [\"http://m\"]}, ghcr.io: {}}";
    check_endpoints(
        &strict,
        file,
        &["hello", "ghcr.io/a", "quay.io/a"],
        expect![[r#"
        hello
          http://m/v2/library/hello/manifests/latest?ns=docker.io Anonymous
        ghcr.io/a
          no endpoint is left for ghcr.io: its default endpoint is disabled and its mirror has none
        quay.io/a
          https://quay.io/v2/a/manifests/latest Anonymous
    "#]],
    );
}

#[test]
fn credentials_go_to_their_host_only() {
    let file = serde_norway::from_str("{}").expect("it is registries.yaml");
    let sent = |server: &str, image: &str| {
        let name = ImageName::parse(image).expect("a name");
        let own =
            Credentials::For { host: server.to_owned(), credentials: Box::new(Credentials::Token("t".to_owned())) };
        let found = endpoints(&Registries::default(), &file, &name).expect("endpoints");
        found[0].credentials(&own).expect("credentials") != Credentials::Anonymous
    };
    for (server, image) in [
        ("https://index.docker.io/v1/", "hello"),
        ("docker.io", "team/hello"),
        ("ghcr.io/team", "ghcr.io/team/app"),
        ("GHCR.io", "ghcr.IO/team/app"),
        ("*.azurecr.io", "me.azurecr.io/app"),
        ("localhost:5000", "localhost:5000/app"),
        ("ghcr.io:443", "ghcr.io:443/app"),
        ("", "ghcr.io/app"),
    ] {
        assert!(sent(server, image), "{server} {image}");
    }
    for (server, image) in
        [("ghcr.io", "quay.io/a"), ("*.azurecr.io", "azurecr.io/app"), ("localhost:5000", "localhost:5001/app")]
    {
        assert!(!sent(server, image), "{server} {image}");
    }
}

#[test]
fn challenges_are_read_as_registries_write_them() {
    let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
        realm: realm.to_owned(),
        service: service.map(str::to_owned),
        scope: scope.map(str::to_owned),
    };
    let scope = "repository:a/b:pull,push";
    for (header, expected) in [
        ("Basic realm=\"a b\"", vec![Challenge::Basic]),
        ("basic", vec![Challenge::Basic]),
        (
            "Bearer realm=\"https://auth/token\",service=\"reg\",scope=\"repository:a/b:pull,push\"",
            vec![bearer("https://auth/token", Some("reg"), Some(scope))],
        ),
        (
            "Bearer realm=\"https://a/\\\"q\", Basic realm=x",
            vec![bearer("https://a/\"q", None, None), Challenge::Basic],
        ),
        ("Negotiate, Bearer service=x, realm=https://a", vec![bearer("https://a", Some("x"), None)]),
        ("Bearer service=\"no realm\"", vec![]),
        ("Bearer realm=\"cut", vec![]),
        ("", vec![]),
        (",,, ,", vec![]),
    ] {
        assert_eq!(challenges(header), expected, "{header}");
    }
}

#[tokio::test]
async fn settings_of_tls_are_made_ready_once_however_many_hosts_they_hold_for() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let file = dir.path().join("registries.yaml");
    std::fs::write(&file, "configs: {other.example: {tls: {insecure_skip_verify: true}}}").expect("it can be written");
    let registries = Registries { file: ConfigFile::at(file), ..Registries::default() };
    let name = ImageName::parse("registry.example/a").expect("a name");
    let session = Session::open(&name, Verb::Pull, &Credentials::Anonymous, &registries).expect("it opens");
    let mut tries = session.tries();
    let place = tries.next().await.expect("the registry itself");
    let made = ["registry.example", "a.example", "b.example", "other.example"].map(|host| {
        let url = format!("https://{host}/v2").parse().expect("a URL");
        session.tls(place, &url).expect("settings")
    });
    let same = |at: usize| made.iter().map(|other| std::sync::Arc::ptr_eq(&made[at], other)).collect::<Vec<_>>();
    assert_eq!((same(0), same(3)), (vec![true, true, true, false], vec![false, false, false, true]));
}
