use std::fs;
use std::os::unix::fs::PermissionsExt;

use expect_test::{Expect, expect};
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn config(dir: &TempDir) -> PkiConfig {
    PkiConfig {
        data_dir: dir.path().to_owned(),
        hostname: "edge-1".to_owned(),
        tls_san: Vec::new(),
        addresses: vec!["10.0.0.5".parse().unwrap()],
        service_ip: "127.43.0.1".parse().unwrap(),
        cluster_domain: "cluster.local".to_owned(),
        server_url: "https://127.0.0.1:6443".to_owned(),
    }
}

fn describe(der: &[u8]) -> String {
    let (_, cert) = x509_parser::parse_x509_certificate(der).unwrap();
    let facts = authority::facts(der).unwrap();
    let usage = cert.extended_key_usage().unwrap().map(|usage| (usage.value.client_auth, usage.value.server_auth));
    format!(
        "{} by {}\n{} .. {}\nclient, server: {:?}\n{:?}\n",
        cert.subject(),
        cert.issuer(),
        Timestamp::from_second(cert.validity().not_before.timestamp()).unwrap(),
        facts.not_after,
        usage,
        facts.sans
    )
}

#[test]
fn the_serving_certificate_names_every_way_to_this_server() {
    let dir = TempDir::new().unwrap();
    let pki = Pki::open(config(&dir), now()).unwrap();
    expect![[r#"
        CN=coracle by CN=coracle-server-ca@1780272000
        2020-01-01T00:00:00Z .. 2027-06-01T00:00:00Z
        client, server: Some((false, true))
        [Dns("edge-1"), Dns("kubernetes"), Dns("kubernetes.default"), Dns("kubernetes.default.svc"), Dns("kubernetes.default.svc.cluster.local"), Dns("localhost"), Ip(10.0.0.5), Ip(127.0.0.1), Ip(127.43.0.1), Ip(::1)]
    "#]]
    .assert_eq(&describe(pki.serving().get().end_entity_cert().unwrap()));
    expect![[r#"
        O=system:masters, CN=kube-apiserver by CN=coracle-client-ca@1780272000
        2020-01-01T00:00:00Z .. 2027-06-01T00:00:00Z
        client, server: Some((true, false))
        []
    "#]]
    .assert_eq(&describe(pki.kubelet_client().get().end_entity_cert().unwrap()));
}

#[test]
fn secrets_are_for_the_owner_only() {
    let dir = TempDir::new().unwrap();
    let pki = Pki::open(config(&dir), now()).unwrap();
    let mut listing = String::new();
    let mut paths: Vec<_> = fs::read_dir(pki.dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.push(pki.kubeconfig_path());
    paths.sort();
    for path in paths {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        listing += &format!("{} {mode:o}\n", path.file_name().unwrap().to_string_lossy());
    }
    expect![[r#"
        kubeconfig.yaml 600
        client-ca.crt 644
        client-ca.key 600
        kubelet-client.crt 644
        kubelet-client.key 600
        server-ca.crt 644
        server-ca.key 600
        service-account.key 600
        serving.crt 644
        serving.key 600
    "#]]
    .assert_eq(&listing);
}

/// Opens, lets `between` change the world, opens again, and says what is the same.
fn check_reopen(between: impl FnOnce(&mut PkiConfig, &Pki) -> Timestamp, expected: Expect) {
    let dir = TempDir::new().unwrap();
    let mut config = config(&dir);
    let first = Pki::open(config.clone(), now()).unwrap();
    let before = print(&first);
    let later = between(&mut config, &first);
    let after = print(&Pki::open(config, later).unwrap());
    let changed: Vec<&str> =
        before.iter().zip(&after).filter(|(one, other)| one.1 != other.1).map(|(one, _)| one.0).collect();
    expected.assert_eq(&changed.join(" "));
}

fn print(pki: &Pki) -> Vec<(&'static str, String)> {
    vec![
        ("server-ca", pki.server_ca().pem().to_owned()),
        ("client-ca", pki.client_ca().pem().to_owned()),
        ("serving", describe(pki.serving().get().end_entity_cert().unwrap())),
        ("kubelet-client", describe(pki.kubelet_client().get().end_entity_cert().unwrap())),
        ("signing-key", pki.signing_key().id.clone()),
        ("kubeconfig", fs::read_to_string(pki.kubeconfig_path()).unwrap()),
    ]
}

#[test]
fn a_second_start_makes_nothing_new() {
    check_reopen(|_, _| now() + SignedDuration::from_hours(24 * 100), expect![""]);
}

#[test]
fn a_new_name_makes_a_new_serving_certificate() {
    check_reopen(
        |config, _| {
            config.tls_san.push("shop.example.org".to_owned());
            now()
        },
        expect!["serving"],
    );
}

#[test]
fn certificates_near_their_end_are_made_again() {
    check_reopen(|_, _| now() + SignedDuration::from_hours(24 * 300), expect!["serving kubelet-client kubeconfig"]);
}

#[test]
fn a_damaged_leaf_is_made_again() {
    check_reopen(
        |_, pki| {
            fs::write(pki.dir().join("serving.crt"), "rubbish").unwrap();
            now() + SignedDuration::from_hours(1)
        },
        expect!["serving"],
    );
}

#[test]
fn another_port_rewrites_the_kubeconfig() {
    check_reopen(
        |config, _| {
            config.server_url = "https://127.0.0.1:7443".to_owned();
            now()
        },
        expect!["kubeconfig"],
    );
}

#[test]
fn renewal_exchanges_the_certificate_under_running_connections() {
    let dir = TempDir::new().unwrap();
    let pki = Pki::open(config(&dir), now()).unwrap();
    let serving = pki.serving();
    let before = describe(serving.get().end_entity_cert().unwrap());
    pki.renew(now() + SignedDuration::from_hours(24 * 100)).unwrap();
    assert_eq!(before, describe(serving.get().end_entity_cert().unwrap()));
    pki.renew(now() + SignedDuration::from_hours(24 * 300)).unwrap();
    assert_ne!(before, describe(serving.get().end_entity_cert().unwrap()));
}

#[test]
fn a_host_without_a_clock_makes_certificates_that_hold_once_it_is_set() {
    let dir = TempDir::new().unwrap();
    let pki = Pki::open(config(&dir), Timestamp::UNIX_EPOCH).unwrap();
    expect![[r#"
        CN=coracle by CN=coracle-server-ca@1767225600
        2020-01-01T00:00:00Z .. 2027-01-01T00:00:00Z
        client, server: Some((false, true))
    "#]]
    .assert_eq(
        describe(pki.serving().get().end_entity_cert().unwrap())
            .split_inclusive('\n')
            .take(3)
            .collect::<String>()
            .as_str(),
    );
}

/// What opening says after `damage`, with the directory's name cut out.
fn check_damage(damage: impl FnOnce(&Pki), expected: Expect) {
    let dir = TempDir::new().unwrap();
    let pki = Pki::open(config(&dir), now()).unwrap();
    damage(&pki);
    let said = Pki::open(config(&dir), now()).unwrap_err().to_string();
    expected.assert_eq(&said.replace(&dir.path().display().to_string(), "DIR"));
}

#[test]
fn a_missing_key_is_named_with_its_cure() {
    check_damage(
        |pki| fs::remove_file(pki.dir().join("server-ca.key")).unwrap(),
        expect![
            "DIR/server/tls/server-ca.key is missing while DIR/server/tls/server-ca.crt exists; restore both files from a backup, or remove both to make a new authority (nodes and kubeconfigs must then be enrolled again)"
        ],
    );
}

#[test]
fn a_damaged_authority_is_named_with_its_cure() {
    check_damage(
        |pki| fs::write(pki.dir().join("client-ca.crt"), "rubbish").unwrap(),
        expect![
            "DIR/server/tls/client-ca.crt is damaged: no PEM certificate in it (no items found); restore both files from a backup, or remove both to make a new authority (nodes and kubeconfigs must then be enrolled again)"
        ],
    );
    check_damage(
        |pki| {
            fs::copy(pki.dir().join("server-ca.key"), pki.dir().join("client-ca.key")).unwrap();
        },
        expect![
            "DIR/server/tls/client-ca.key is damaged: it is not the key of DIR/server/tls/client-ca.crt; restore both files from a backup, or remove both to make a new authority (nodes and kubeconfigs must then be enrolled again)"
        ],
    );
    check_damage(
        |pki| fs::write(pki.dir().join("service-account.key"), "rubbish").unwrap(),
        expect![
            "DIR/server/tls/service-account.key is damaged: no private key in PEM in it (PEM error: malformedframing); restore it from a backup, or remove it to make a new one (all service-account tokens then end)"
        ],
    );
}

#[test]
fn a_wrong_san_is_named() {
    let dir = TempDir::new().unwrap();
    let mut config = config(&dir);
    config.tls_san.push("not a name".to_owned());
    expect![[r#"--tls-san "not a name" is neither an IP address nor a DNS name"#]]
        .assert_eq(&Pki::open(config, now()).unwrap_err().to_string());
}

#[test]
fn a_nodes_request_gets_what_the_server_says_and_not_what_it_asks() {
    let dir = TempDir::new().unwrap();
    let pki = Pki::open(config(&dir), now()).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::new(vec!["kubernetes".to_owned()]).unwrap().serialize_request(&key).unwrap();
    let request = request.pem().unwrap();
    let der = |pem: &str| x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents;
    expect![[r#"
        O=system:nodes, CN=system:node:edge-2 by CN=coracle-client-ca@1780272000
        2020-01-01T00:00:00Z .. 2027-06-01T00:00:00Z
        client, server: Some((true, false))
        []
    "#]]
    .assert_eq(&describe(&der(&pki.sign_node_client("edge-2", &request, now()).unwrap())));
    let sans = vec![San::parse("10.0.0.9").unwrap()];
    expect![[r#"
        O=system:nodes, CN=system:node:edge-2 by CN=coracle-server-ca@1780272000
        2020-01-01T00:00:00Z .. 2027-06-01T00:00:00Z
        client, server: Some((false, true))
        [Ip(10.0.0.9)]
    "#]]
    .assert_eq(&describe(&der(&pki.sign_node_serving("edge-2", sans, &request, now()).unwrap())));
    assert!(pki.sign_node_client("edge-2", "rubbish", now()).is_err());
}
