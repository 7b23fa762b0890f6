//! How a machine becomes a node: the CA by its hash, certificates for its keys, and its name for it alone.

use coracle_client::{Identity, fetch_ca};
use expect_test::expect;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::link::{Answer, Protocol};
use crate::site::Site;
use crate::within_deadline;

const PATH: &str = "/v1-coracle/node-certificate";

struct Machine {
    password: String,
    client: KeyPair,
    serving: KeyPair,
}

impl Machine {
    fn new(password: &str) -> Machine {
        let key = || KeyPair::generate().expect("a key is made");
        Machine { password: password.repeat(8), client: key(), serving: key() }
    }

    fn request(&self, node: &str, addresses: &[&str]) -> Value {
        let signed = |key: &KeyPair| {
            let request = CertificateParams::default().serialize_request(key).expect("a request is signed");
            request.pem().expect("a request becomes PEM")
        };
        json!({
            "nodeName": node,
            "nodePassword": self.password,
            "clientCsr": signed(&self.client),
            "servingCsr": signed(&self.serving),
            "addresses": addresses,
        })
    }

    async fn enrol(&self, site: &Site, identity: &Identity, node: &str) -> Answer {
        let mut link = site.link(identity, Protocol::Http2).await;
        link.post(PATH, &self.request(node, &["10.0.0.7"])).await
    }

    fn identity(&self, enrolled: &Answer) -> Identity {
        let cert_pem = enrolled.json()["clientCertificate"].as_str().expect("a certificate").to_owned();
        Identity::ClientCert { cert_pem, key_pem: self.client.serialize_pem() }
    }
}

fn hash_of(token: &str) -> &str {
    let hash = token.strip_prefix("K10").and_then(|rest| rest.split_once("::")).map(|(hash, _)| hash);
    hash.unwrap_or_else(|| panic!("no hash of the CA in {token}"))
}

#[test]
fn a_machine_joins_with_the_token_and_is_the_node_from_then_on() {
    within_deadline(async {
        let site = Site::new().await;
        let token = site.assembly.enrolment.token().text();
        let server = format!("https://{}", site.address);
        assert_eq!(fetch_ca(&server, hash_of(&token)).await.unwrap(), site.ca());
        let wrong = fetch_ca(&server, &"0".repeat(64)).await.unwrap_err().to_string();
        assert!(wrong.contains("is not the server this token was made by"), "{wrong}");

        let machine = Machine::new("first-");
        let joining = Identity::Token(token.clone());
        let enrolled = machine.enrol(&site, &joining, "n1").await.expect(200);
        assert_eq!(enrolled.json()["addresses"], json!(["n1", "10.0.0.7"]));
        let node = machine.identity(&enrolled);
        let mut link = site.link(&node, Protocol::Http2).await;
        let who = link.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.expect(201);
        let who = &who.json()["status"]["userInfo"];
        expect![[r#""system:node:n1" ["system:nodes","system:authenticated"]"#]]
            .assert_eq(&format!("{} {}", who["username"], who["groups"]));
        link.post("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await.expect(201);
        let other = link.post("/api/v1/nodes", &json!({"metadata": {"name": "n2"}})).await;
        expect![[r#"403 Forbidden: nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2""#]]
            .assert_eq(&other.refusal());
        let secret = link.get("/api/v1/namespaces/kube-system/secrets/n1.node-password.coracle").await;
        assert_eq!(secret.code, 403, "a node cannot read what proves who it is");
    });
}

#[test]
fn a_name_belongs_to_the_machine_that_took_it_first() {
    within_deadline(async {
        let site = Site::new().await;
        let joining = Identity::Token(site.assembly.enrolment.token().text());
        let (first, second) = (Machine::new("first-"), Machine::new("second-"));
        let mut told = String::new();
        let mut tell = |what: &str, answer: &Answer| {
            let outcome = if answer.code == 200 { "200".to_owned() } else { answer.refusal() };
            told += &format!("{what}: {outcome}\n");
        };
        tell("no token", &first.enrol(&site, &Identity::Anonymous, "n1").await);
        tell("wrong token", &first.enrol(&site, &Identity::Token("K10abc::server:nonsense".into()), "n1").await);
        tell("first", &first.enrol(&site, &joining, "n1").await);
        tell("first again, without the token", &first.enrol(&site, &Identity::Anonymous, "n1").await);
        tell("another machine", &second.enrol(&site, &joining, "n1").await);
        tell("another machine, without the token", &second.enrol(&site, &Identity::Anonymous, "n1").await);
        tell("another machine under its own name", &second.enrol(&site, &joining, "n2").await);
        tell("a name that is none", &second.enrol(&site, &joining, "N_3").await);
        let mut link = site.link(&joining, Protocol::Http2).await;
        tell(
            "a short password",
            &link.post(PATH, &json!({"nodeName": "n4", "nodePassword": "x", "clientCsr": "", "servingCsr": ""})).await,
        );
        let mut swapped = second.request("n5", &[]);
        swapped["clientCsr"] = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n".into();
        tell("a request that is none", &link.post(PATH, &swapped).await);
        tell("no body", &link.post(PATH, &json!("")).await);
        tell("GET", &link.get(PATH).await);
        expect![[r#"
            no token: 401 Unauthorized: the join token is missing or wrong: start the agent with --token and what lies in server/token of the server's data directory
            wrong token: 401 Unauthorized: the join token is missing or wrong: start the agent with --token and what lies in server/token of the server's data directory
            first: 200
            first again, without the token: 200
            another machine: 403 Forbidden: the node name "n1" belongs to another machine. Give this one another name with --node-name; or, if that machine is gone or was set up anew: kubectl delete secret --namespace kube-system n1.node-password.coracle
            another machine, without the token: 403 Forbidden: the node name "n1" belongs to another machine. Give this one another name with --node-name; or, if that machine is gone or was set up anew: kubectl delete secret --namespace kube-system n1.node-password.coracle
            another machine under its own name: 200
            a name that is none: 400 BadRequest: nodeName "N_3": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            a short password: 400 BadRequest: nodePassword must have at least 32 characters
            a request that is none: 400 BadRequest: clientCsr: the certificate signing request is refused: Could not parse certificate signing request
            no body: 400 BadRequest: the body is no enrolment request: invalid type: string "", expected struct EnrolRequest at line 1 column 2
            GET: 401 Unauthorized: Unauthorized
        "#]].assert_eq(&told);
        // As the message says: without the secret the name is free again.
        let mut admin = site.link(&site.admin(), Protocol::Http2).await;
        admin.delete("/api/v1/namespaces/kube-system/secrets/n1.node-password.coracle").await.expect(200);
        second.enrol(&site, &joining, "n1").await.expect(200);
    });
}

#[test]
fn two_machines_that_ask_for_one_name_at_once_do_not_both_get_it() {
    within_deadline(async {
        let site = Site::new().await;
        let joining = Identity::Token(site.assembly.enrolment.token().text());
        for round in 0..8 {
            let (first, second) = (Machine::new("first-"), Machine::new("second-"));
            let name = format!("n{round}");
            let (a, b) = tokio::join!(first.enrol(&site, &joining, &name), second.enrol(&site, &joining, &name));
            let mut codes = [a.code, b.code];
            codes.sort_unstable();
            assert_eq!(codes, [200, 403], "round {round}");
        }
    });
}

#[test]
fn a_node_cannot_pose_as_the_server() {
    within_deadline(async {
        let site = Site::new().await;
        let joining = Identity::Token(site.assembly.enrolment.token().text());
        let machine = Machine::new("first-");
        let mut link = site.link(&joining, Protocol::Http2).await;
        let asked = ["127.0.0.1", "127.43.0.1", "10.0.0.7", "kubernetes.default.svc", "localhost", "other-node"];
        let enrolled = link.post(PATH, &machine.request("n1", &asked)).await.expect(200);
        expect![[r#"["n1","10.0.0.7"]"#]].assert_eq(&enrolled.json()["addresses"].to_string());
        let posing = link.post(PATH, &machine.request("kubernetes", &[])).await.expect(200);
        expect!["[]"].assert_eq(&posing.json()["addresses"].to_string());
    });
}
