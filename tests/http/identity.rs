//! Who asks: certificates, tokens, nobody.

use coracle_client::{Error, Identity};
use expect_test::expect;
use http::Method;
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::link::{Protocol, request};
use crate::site::{MAPS, Site};
use crate::within_deadline;

const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

async fn who(site: &Site, identity: &Identity) -> String {
    let mut link = site.link(identity, Protocol::Http1).await;
    let answer = link.post(REVIEW, &json!({})).await;
    if answer.code != 201 {
        return answer.refusal();
    }
    let user = &answer.json()["status"]["userInfo"];
    format!("{} {}", user["username"], user["groups"])
}

#[test]
fn certificates_say_who_asks() {
    within_deadline(async {
        let site = Site::new().await;
        expect![[r#""admin" ["system:masters","system:authenticated"]"#]].assert_eq(&who(&site, &site.admin()).await);
        expect![[r#""jane" ["system:authenticated"]"#]].assert_eq(&who(&site, &site.certificate("jane", None)).await);
        // One of another cluster, of the same name.
        let other = Site::new().await;
        expect!["401 Unauthorized: Unauthorized"].assert_eq(&who(&site, &other.admin()).await);
    });
}

#[test]
fn without_credentials_only_what_everybody_may_know_is_told() {
    within_deadline(async {
        let site = Site::new().await;
        let mut link = site.link(&Identity::Anonymous, Protocol::Http2).await;
        let mut told = String::new();
        for path in [
            "/healthz",
            "/livez",
            "/readyz",
            "/version",
            "/cacerts",
            "/api",
            "/apis",
            "/metrics",
            "/openapi/v2",
            "/",
            "/api/v1/namespaces",
            "/debug/tasks",
            "/.well-known/openid-configuration",
        ] {
            let answer = link.get(path).await;
            told += &format!("{path} {} {}\n", answer.code, answer.header("www-authenticate"));
        }
        told += &format!("POST {}\n", link.post(MAPS, &json!({"metadata": {"name": "a"}})).await.refusal());
        expect![[r#"
            /healthz 200 -
            /livez 200 -
            /readyz 200 -
            /version 200 -
            /cacerts 200 -
            /api 401 -
            /apis 401 -
            /metrics 401 -
            /openapi/v2 401 -
            / 401 -
            /api/v1/namespaces 401 -
            /debug/tasks 401 -
            /.well-known/openid-configuration 401 -
            POST 401 Unauthorized: Unauthorized
        "#]]
        .assert_eq(&told);
    });
}

#[test]
fn tokens_of_every_kind() {
    within_deadline(async {
        let site = Site::new().await;
        let mut link = site.link(&site.admin(), Protocol::Http2).await;
        let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
        let mut token = async |spec: serde_json::Value| {
            let answer = link.post(path, &json!({"spec": spec})).await.expect(201);
            Identity::Token(answer.json()["status"]["token"].as_str().unwrap().to_owned())
        };
        let good = token(json!({})).await;
        let other = token(json!({"audiences": ["vault"]})).await;
        let Identity::Token(text) = &good else { unreachable!() };
        let (head, signature) = text.rsplit_once('.').unwrap();
        let forged = Identity::Token(format!("{head}.{}", signature.chars().rev().collect::<String>()));
        let unsigned = {
            use base64::Engine as _;
            let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
            let claims = head.split_once('.').unwrap().1;
            Identity::Token(format!("{}.{claims}.", engine.encode(r#"{"alg":"none","typ":"JWT"}"#)))
        };
        let joining = Identity::Token(site.assembly.enrolment.token().text());
        let mut told = String::new();
        for (name, identity) in [
            ("good", &good),
            ("for vault", &other),
            ("forged", &forged),
            ("unsigned", &unsigned),
            ("join token", &joining),
            ("empty", &Identity::Token(String::new())),
        ] {
            told += &format!("{name}: {}\n", who(&site, identity).await);
        }
        expect![[r#"
            good: "system:serviceaccount:default:default" ["system:serviceaccounts","system:serviceaccounts:default","system:authenticated"]
            for vault: 401 Unauthorized: Unauthorized
            forged: 401 Unauthorized: Unauthorized
            unsigned: 401 Unauthorized: Unauthorized
            join token: 401 Unauthorized: Unauthorized
            empty: 401 Unauthorized: Unauthorized
        "#]].assert_eq(&told);
        // A certificate beside a token: the certificate is asked first.
        let mut both = site.link(&site.certificate("jane", None), Protocol::Http1).await;
        let headers = [("authorization", &*format!("Bearer {text}")), ("content-type", "application/json")];
        let answer = both.whole(request(Method::POST, REVIEW, &headers, "{}")).await.expect(201);
        assert_eq!(answer.json()["status"]["userInfo"]["username"], "jane");
    });
}

#[test]
fn a_client_trusts_only_its_own_cluster() {
    within_deadline(async {
        let (site, other) = (Site::new().await, Site::new().await);
        let nodes = site.remote(site.admin()).all::<Node>();
        assert!(nodes.get_opt("none").await.unwrap().is_none());
        let config = coracle_client::RemoteConfig::new(format!("https://{}", site.address), other.ca(), site.admin());
        let error = coracle_client::Client::remote(config).unwrap().all::<Node>().get_opt("none").await.unwrap_err();
        assert!(matches!(error, Error::Transport { .. }), "{error}");
        let message = chain(&error);
        assert!(message.contains("is not signed by the CA this client trusts"), "{message}");
    });
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text += &format!(": {error}");
        next = error.source();
    }
    text
}
