use expect_test::expect;

use crate::testing::check_script;

const ACCOUNT: &str = r#"POST /api/v1/namespaces/default/serviceaccounts {"metadata":{"name":"default"},"imagePullSecrets":[{"name":"s"}]} | metadata.name"#;

fn after_account(script: &str) -> String {
    format!("{ACCOUNT}\n{script}")
}

#[tokio::test(start_paused = true)]
async fn pods_get_account_token_tolerations_and_priority() {
    check_script(
        &after_account(
            r#"
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"p"},"spec":{"initContainers":[{"name":"i","image":"x"}],"containers":[{"name":"c","image":"x","volumeMounts":[{"name":"v","mountPath":"/v"}]}],"volumes":[{"name":"v","emptyDir":{}}]}} | spec.serviceAccountName spec.serviceAccount spec.volumes spec.initContainers.0.volumeMounts spec.containers.0.volumeMounts spec.imagePullSecrets spec.tolerations spec.priority spec.preemptionPolicy
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"q"},"spec":{"automountServiceAccountToken":false,"priorityClassName":"system-node-critical","containers":[{"name":"c","image":"x"}]}} | spec.volumes spec.priority
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"r"},"spec":{"priorityClassName":"none","containers":[{"name":"c","image":"x"}]}} | code message
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"r"},"spec":{"serviceAccountName":"none","containers":[{"name":"c","image":"x"}]}} | code message
            "#,
        ),
        expect![[r#"
            201 metadata.name="default"
            201 spec.serviceAccountName="default" spec.serviceAccount="default" spec.volumes=[{"emptyDir":{},"name":"v"},{"name":"kube-api-access-qj8kc","projected":{"defaultMode":420,"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},{"configMap":{"items":[{"key":"ca.crt","path":"ca.crt"}],"name":"kube-root-ca.crt"}},{"downwardAPI":{"items":[{"fieldRef":{"apiVersion":"v1","fieldPath":"metadata.namespace"},"path":"namespace"}]}}]}}] spec.initContainers.0.volumeMounts=[{"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount","name":"kube-api-access-qj8kc","readOnly":true}] spec.containers.0.volumeMounts=[{"mountPath":"/v","name":"v"},{"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount","name":"kube-api-access-qj8kc","readOnly":true}] spec.imagePullSecrets=[{"name":"s"}] spec.tolerations=[{"effect":"NoExecute","key":"node.kubernetes.io/not-ready","operator":"Exists","tolerationSeconds":300},{"effect":"NoExecute","key":"node.kubernetes.io/unreachable","operator":"Exists","tolerationSeconds":300}] spec.priority=0 spec.preemptionPolicy="PreemptLowerPriority"
            201 spec.volumes=- spec.priority=2000001000
            403 code=403 message="pods \"r\" is forbidden: no PriorityClass with name none was found"
            403 code=403 message="pods \"r\" is forbidden: error looking up service account default/none: serviceaccount \"none\" not found"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_one_controller_name_the_volume_of_the_token_alike() {
    const OWNER: &str = r#""apiVersion":"apps/v1","kind":"ReplicaSet","name":"web","uid""#;
    let pod = |name: &str, owner: &str, spec: &str| {
        let metadata = format!(r#"{{"name":"{name}","ownerReferences":[{owner}]}}"#);
        format!(
            r#"POST /api/v1/namespaces/default/pods {{"metadata":{metadata},"spec":{{{spec}"containers":[{{"name":"c","image":"x"}}]}}}} | spec.volumes.0.name spec.containers.0.volumeMounts.0.name spec.volumes.1"#
        )
    };
    let controlled = |uid: &str| format!(r#"{{{OWNER}:"{uid}","controller":true}}"#);
    let own = r#""volumes":[{"name":"kube-api-access-sk9dj","emptyDir":{}}],"#;
    check_script(
        &after_account(
            &[
                r#"POST /api/v1/namespaces/default/serviceaccounts {"metadata":{"name":"other"}} | metadata.name"#
                    .into(),
                pod("a", &controlled("1"), ""),
                pod("b", &controlled("1"), ""),
                pod("c", &controlled("2"), ""),
                pod("d", &controlled("1"), r#""serviceAccountName":"other","#),
                pod("e", &format!(r#"{{{OWNER}:"1"}}"#), ""),
                pod("f", &format!(r#"{{{OWNER}:"1"}}"#), ""),
                pod("g", &controlled("1"), own),
            ]
            .join("\n"),
        ),
        expect![[r#"
            201 metadata.name="default"
            201 metadata.name="other"
            201 spec.volumes.0.name="kube-api-access-sk9dj" spec.containers.0.volumeMounts.0.name="kube-api-access-sk9dj" spec.volumes.1=-
            201 spec.volumes.0.name="kube-api-access-sk9dj" spec.containers.0.volumeMounts.0.name="kube-api-access-sk9dj" spec.volumes.1=-
            201 spec.volumes.0.name="kube-api-access-n6mcd" spec.containers.0.volumeMounts.0.name="kube-api-access-n6mcd" spec.volumes.1=-
            201 spec.volumes.0.name="kube-api-access-vdp2p" spec.containers.0.volumeMounts.0.name="kube-api-access-vdp2p" spec.volumes.1=-
            201 spec.volumes.0.name="kube-api-access-bzkw8" spec.containers.0.volumeMounts.0.name="kube-api-access-bzkw8" spec.volumes.1=-
            201 spec.volumes.0.name="kube-api-access-cgs4m" spec.containers.0.volumeMounts.0.name="kube-api-access-cgs4m" spec.volumes.1=-
            201 spec.volumes.0.name="kube-api-access-sk9dj" spec.containers.0.volumeMounts.0.name="kube-api-access-sk9dj" spec.volumes.1=-
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn runtime_classes_bring_overhead_and_scheduling() {
    check_script(
        &after_account(
            r#"
            GET /apis/node.k8s.io/v1/runtimeclasses/wasm | handler
            POST /apis/node.k8s.io/v1/runtimeclasses {"metadata":{"name":"heavy"},"handler":"h","overhead":{"podFixed":{"cpu":"100m"}},"scheduling":{"nodeSelector":{"disk":"fast"},"tolerations":[{"key":"k","operator":"Exists"}]}} | handler
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"p"},"spec":{"runtimeClassName":"heavy","containers":[{"name":"c","image":"x"}]}} | spec.overhead spec.nodeSelector spec.tolerations.2
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"q"},"spec":{"runtimeClassName":"heavy","nodeSelector":{"disk":"slow"},"containers":[{"name":"c","image":"x"}]}} | code message
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"q"},"spec":{"runtimeClassName":"none","containers":[{"name":"c","image":"x"}]}} | code message
            "#,
        ),
        expect![[r#"
            201 metadata.name="default"
            200 handler="wasm"
            201 handler="h"
            201 spec.overhead={"cpu":"100m"} spec.nodeSelector={"disk":"fast"} spec.tolerations.2={"key":"k","operator":"Exists"}
            403 code=403 message="pods \"q\" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[disk] = fast; pod.spec.nodeSelector[disk] = slow"
            403 code=403 message="pods \"q\" is forbidden: pod rejected: RuntimeClass \"none\" not found"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn limit_ranges_default_and_bound() {
    check_script(
        &after_account(
            r#"
            POST /api/v1/namespaces/default/limitranges {"metadata":{"name":"l"},"spec":{"limits":[{"type":"Container","default":{"memory":"200Mi"},"defaultRequest":{"memory":"100Mi"},"max":{"memory":"300Mi"},"min":{"memory":"50Mi"}}]}} | metadata.name
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"x"}]}} | spec.containers.0.resources
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"q"},"spec":{"containers":[{"name":"c","image":"x","resources":{"limits":{"memory":"1Gi"},"requests":{"memory":"10Mi"}}}]}} | code message
            "#,
        ),
        expect![[r#"
            201 metadata.name="default"
            201 metadata.name="l"
            201 spec.containers.0.resources={"limits":{"memory":"200Mi"},"requests":{"memory":"100Mi"}}
            403 code=403 message="pods \"q\" is forbidden: [minimum memory usage per Container is 50Mi, but request is 10Mi, maximum memory usage per Container is 300Mi, but limit is 1Gi]"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_touches_its_own_objects_only() {
    check_script(
        &after_account(
            r#"
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"mine"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"x"}]}} | metadata.name
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"other"},"spec":{"nodeName":"n2","containers":[{"name":"c","image":"x"}]}} | metadata.name
            as system:node:n1 system:nodes
            POST /api/v1/nodes {"metadata":{"name":"n1"}} | metadata.name spec.taints
            POST /api/v1/nodes {"metadata":{"name":"n2"}} | code message
            PATCH /api/v1/nodes/n1 {"metadata":{"labels":{"node-restriction.kubernetes.io/x":"y"}}} | code message
            PATCH /api/v1/namespaces/default/pods/mine/status {"status":{"phase":"Running"}} | status.phase
            PATCH /api/v1/namespaces/default/pods/other/status {"status":{"phase":"Running"}} | code message
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"new"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"x"}]}} | code message
            DELETE /api/v1/namespaces/default/pods/other | code message
            DELETE /api/v1/namespaces/default/pods/mine?gracePeriodSeconds=0 | metadata.name
            POST /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases {"metadata":{"name":"n1"},"spec":{"holderIdentity":"n1"}} | metadata.name
            POST /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases {"metadata":{"name":"n2"}} | code message
            POST /api/v1/namespaces/default/serviceaccounts/default/token {"spec":{"audiences":[],"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"other","uid":"stale"}}} | code message
            GET /api/v1/namespaces/default/pods/other | metadata.name
            POST /api/v1/namespaces/default/serviceaccounts/default/token {"spec":{"audiences":[],"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"other","uid":"$uid"}}} | code message
            POST /api/v1/namespaces/default/serviceaccounts/default/token {"spec":{"audiences":[]}} | code message
            "#,
        ),
        expect![[r#"
            201 metadata.name="default"
            201 metadata.name="mine"
            201 metadata.name="other"
            201 metadata.name="n1" spec.taints=[{"effect":"NoSchedule","key":"node.kubernetes.io/not-ready"}]
            403 code=403 message="nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\""
            403 code=403 message="nodes \"n1\" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/x"
            200 status.phase="Running"
            403 code=403 message="pods \"other\" is forbidden: node \"n1\" can only update status for pods with spec.nodeName set to itself"
            403 code=403 message="pods \"new\" is forbidden: pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods"
            403 code=403 message="pods \"other\" is forbidden: node \"n1\" can only delete pods with spec.nodeName set to itself"
            200 metadata.name="mine"
            201 metadata.name="n1"
            403 code=403 message="leases.coordination.k8s.io \"n2\" is forbidden: can only access node lease with the same name as the requesting node"
            403 code=403 message="serviceaccounts \"default\" is forbidden: the UID in the bound object reference (stale) does not match the UID in record. The object might have been deleted and then recreated"
            200 metadata.name="other"
            403 code=403 message="serviceaccounts \"default\" is forbidden: node requested token bound to a pod scheduled on a different node"
            403 code=403 message="serviceaccounts \"default\" is forbidden: node requested token not bound to a pod"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_priority_class_may_be_the_default() {
    check_script(
        &after_account(
            r#"
            POST /apis/scheduling.k8s.io/v1/priorityclasses {"metadata":{"name":"a"},"value":7,"globalDefault":true} | value
            POST /apis/scheduling.k8s.io/v1/priorityclasses {"metadata":{"name":"b"},"value":8,"globalDefault":true} | code message
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"x"}]}} | spec.priority spec.priorityClassName
            "#,
        ),
        expect![[r#"
            201 metadata.name="default"
            201 value=7
            403 code=403 message="priorityclasses.scheduling.k8s.io \"b\" is forbidden: PriorityClass a is already marked as default. Only one default can exist"
            201 spec.priority=7 spec.priorityClassName="a"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn nobody_grants_what_they_do_not_have() {
    check_script(
        r#"
        POST /apis/rbac.authorization.k8s.io/v1/clusterroles {"metadata":{"name":"all"},"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]} | metadata.name
        as editor devs
        POST /apis/rbac.authorization.k8s.io/v1/namespaces/default/roles {"metadata":{"name":"r"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods","pods/log"]}]} | metadata.name
        PATCH /apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/r {"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["secrets"]}]} | code message
        POST /apis/rbac.authorization.k8s.io/v1/clusterroles {"metadata":{"name":"c"},"aggregationRule":{"clusterRoleSelectors":[{}]}} | code message
        POST /apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings {"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"r"},"subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"x"}]} | metadata.name
        POST /apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings {"metadata":{"name":"c"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"all"},"subjects":[]} | code message
        "#,
        expect![[r#"
            201 metadata.name="all"
            201 metadata.name="r"
            403 code=403 message="roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"editor\" (groups=[\"devs\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"
            403 code=403 message="clusterroles.rbac.authorization.k8s.io \"c\" is forbidden: user \"editor\" (groups=[\"devs\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"
            201 metadata.name="b"
            403 code=403 message="rolebindings.rbac.authorization.k8s.io \"c\" is forbidden: user \"editor\" (groups=[\"devs\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}"
        "#]],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn annotations_name_the_configuration_of_wasm_guests() {
    check_script(
        &after_account(
            r#"
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"p","annotations":{"coracle.dev/config":"configmap/a, secret/b","coracle.dev/config.d":"configmap/d"}},"spec":{"automountServiceAccountToken":false,"initContainers":[{"name":"i","image":"x"}],"containers":[{"name":"c","image":"x","volumeMounts":[{"name":"own","mountPath":"/run/coracle/config"}]},{"name":"d","image":"x"}],"volumes":[{"name":"own","emptyDir":{}}]}} | spec.volumes spec.initContainers.0.volumeMounts spec.containers.0.volumeMounts spec.containers.1.volumeMounts
            POST /api/v1/namespaces/default/pods {"metadata":{"name":"q","annotations":{"coracle.dev/config":"a"}},"spec":{"containers":[{"name":"c","image":"x"}]}} | code message
            "#,
        ),
        expect![[r#"
            201 metadata.name="default"
            201 spec.volumes=[{"emptyDir":{},"name":"own"},{"name":"coracle-config","projected":{"defaultMode":420,"sources":[{"configMap":{"name":"a"}},{"secret":{"name":"b"}}]}},{"name":"coracle-config-1","projected":{"defaultMode":420,"sources":[{"configMap":{"name":"d"}}]}}] spec.initContainers.0.volumeMounts=[{"mountPath":"/run/coracle/config","name":"coracle-config","readOnly":true}] spec.containers.0.volumeMounts=[{"mountPath":"/run/coracle/config","name":"own"}] spec.containers.1.volumeMounts=[{"mountPath":"/run/coracle/config","name":"coracle-config-1","readOnly":true}]
            403 code=403 message="pods \"q\" is forbidden: annotation coracle.dev/config: \"a\" must be a list such as configmap/NAME,secret/NAME"
        "#]],
    )
    .await;
}
