use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use serde_json::json;

use crate::{DeleteParams, Error, ListParams, Pod, Propagation, ResourceRef, testing::Script};

/// Sends requests by `send`; the log of the server and the outcomes are the result.
async fn check_requests<F: Future<Output = Vec<String>>>(
    answers: &[&str],
    send: impl FnOnce(crate::Client) -> F,
    expected: Expect,
) {
    let script = Script::new(&answers.join("\n---\n"));
    let outcomes = send(script.client()).await;
    expected.assert_eq(&format!("{}{}", script.log(), outcomes.join("\n")));
}

fn outcome<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{error} ({:?}, retriable {})", error.code(), error.is_retriable()),
    }
}

const OBJECT: &str = r#"json {"metadata":{"name":"a"}}"#;

#[tokio::test]
async fn verbs_and_paths() {
    check_requests(
        &[OBJECT; 9],
        |client| async move {
            let maps = client.namespaced::<ConfigMap>("ns");
            let mut a = ConfigMap::default();
            a.metadata.name = Some("a".into());
            vec![
                outcome(maps.get("a").await),
                outcome(maps.create(&a).await),
                outcome(maps.replace("a", &a).await),
                outcome(maps.merge_patch("a", &json!({"data": null})).await),
                outcome(client.all::<Node>().strategic_patch_status("n", &json!({"status": {}})).await),
                // A namespace means nothing to a cluster-scoped kind.
                outcome(client.namespaced::<Node>("ns").json_patch("n", &json!([])).await),
                outcome(maps.delete("a", &DeleteParams::default().uid("u").propagation(Propagation::Foreground)).await),
                outcome(
                    maps.delete_collection(&DeleteParams::default().grace(0), &ListParams::default().labels("a=b"))
                        .await,
                ),
                outcome(client.namespaced::<Pod>("ns").create_subresource::<_, Pod>("p", "binding", &json!({})).await),
            ]
        },
        expect![[r#"
            GET /api/v1/namespaces/ns/configmaps/a
            POST /api/v1/namespaces/ns/configmaps {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}
            PUT /api/v1/namespaces/ns/configmaps/a {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}
            PATCH /api/v1/namespaces/ns/configmaps/a {"data":null}
            PATCH /api/v1/nodes/n/status {"status":{}}
            PATCH /api/v1/nodes/n []
            DELETE /api/v1/namespaces/ns/configmaps/a {"propagationPolicy":"Foreground","preconditions":{"uid":"u"}}
            DELETE /api/v1/namespaces/ns/configmaps labelSelector=a%3Db {"gracePeriodSeconds":0}
            POST /api/v1/namespaces/ns/pods/p/binding {}
            ok
            ok
            ok
            ok
            ok
            ok
            ok
            ok
            ok"#]],
    )
    .await;
}

#[tokio::test]
async fn dynamic_requests() {
    check_requests(
        &[
            OBJECT,
            "status 404 NotFound",
            r#"json {"metadata":{"resourceVersion":"7","continue":"c"},"items":[{"metadata":{"name":"a"}}]}"#,
        ],
        |client| async move {
            let deployments = ResourceRef::new("apps", "v1", "deployments", "Deployment", true);
            let api = client.dynamic(deployments, Some("ns"));
            let object = api.get("a").await.unwrap();
            let missing = api.get_metadata_opt("b").await.unwrap();
            let list = api.list_metadata(&ListParams::default().limit(1)).await.unwrap();
            vec![format!("{:?} {missing:?} {} {:?}", object.name(), list.resource_version, list.continue_token)]
        },
        expect![[r#"
            GET /apis/apps/v1/namespaces/ns/deployments/a
            GET /apis/apps/v1/namespaces/ns/deployments/b
            GET /apis/apps/v1/namespaces/ns/deployments limit=1
            "a" None 7 Some("c")"#]],
    )
    .await;
}

#[tokio::test]
async fn failures() {
    check_requests(
        &["status 409 Conflict", "status 503 ServiceUnavailable", "status 418 Teapot", "json []"],
        |client| async move {
            let maps = client.all::<ConfigMap>();
            let mut told = Vec::new();
            for name in ["a", "b", "c", "d", "../secrets"] {
                told.push(outcome(maps.get(name).await));
            }
            told
        },
        expect![[r#"
            GET /api/v1/configmaps/a
            GET /api/v1/configmaps/b
            GET /api/v1/configmaps/c
            GET /api/v1/configmaps/d
            no (Some(409), retriable false)
            no (Some(503), retriable true)
            no (Some(418), retriable false)
            GET /api/v1/configmaps/d: the answer cannot be read: invalid type: sequence, expected ConfigMap at line 1 column 2 (None, retriable false)
            "../secrets" cannot be part of a path under /api/v1/configmaps (None, retriable false)"#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_a_timeout() {
    let script = Script::new("json {}");
    let client = script.client();
    let _ = client.all::<ConfigMap>().get("a").await;
    let error = client.all::<ConfigMap>().get("b").await.unwrap_err();
    expect!["GET /api/v1/configmaps/b: no answer within 60s"].assert_eq(&error.to_string());
}
