use std::collections::BTreeMap;

use bytes::Bytes;
use expect_test::{Expect, expect};
use serde_json::Value;

use super::*;

/// Objects kept in a map; changing them changes their version.
#[derive(Default)]
struct World {
    objects: BTreeMap<(String, String, String), Value>,
}

impl World {
    fn put(&mut self, resource: &str, json: Value) {
        let text = |name: &str| json["metadata"][name].as_str().unwrap_or_default().to_owned();
        self.objects.insert((resource.to_owned(), text("namespace"), text("name")), json);
    }

    /// The default roles, one pod on `edge-1`, and a role and binding in `default`.
    fn usual() -> World {
        let mut world = World::default();
        let defaults = bootstrap::defaults();
        for role in defaults.cluster_roles {
            world.put("clusterroles.rbac.authorization.k8s.io", serde_json::to_value(role).unwrap());
        }
        for binding in defaults.cluster_role_bindings {
            world.put("clusterrolebindings.rbac.authorization.k8s.io", serde_json::to_value(binding).unwrap());
        }
        world.put_what_nodes_have();
        world.put(
            "roles.rbac.authorization.k8s.io",
            serde_json::json!({
                "metadata": { "namespace": "default", "name": "pod-reader" },
                "rules": [{ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"] }],
            }),
        );
        for (name, role, subject) in [
            ("readers", "pod-reader", serde_json::json!({ "kind": "User", "name": "jane" })),
            ("bots", "pod-reader", serde_json::json!({ "kind": "ServiceAccount", "name": "bot" })),
            ("broken", "gone", serde_json::json!({ "kind": "User", "name": "joe" })),
        ] {
            world.put(
                "rolebindings.rbac.authorization.k8s.io",
                serde_json::json!({
                    "metadata": { "namespace": "default", "name": name },
                    "roleRef": { "kind": "Role", "name": role }, "subjects": [subject],
                }),
            );
        }
        for (name, role, user) in [("viewers", "view", "vera"), ("editors", "edit", "ed"), ("admins", "admin", "ada")] {
            world.put(
                "rolebindings.rbac.authorization.k8s.io",
                serde_json::json!({
                    "metadata": { "namespace": "default", "name": name },
                    "roleRef": { "kind": "ClusterRole", "name": role }, "subjects": [{ "kind": "User", "name": user }],
                }),
            );
        }
        world
    }

    /// A pod on `edge-1`, one on `edge-2`, and other objects of each.
    fn put_what_nodes_have(&mut self) {
        self.put("pods", serde_json::json!({
            "metadata": { "namespace": "default", "name": "web" },
            "spec": {
                "nodeName": "edge-1",
                "serviceAccountName": "runner",
                "imagePullSecrets": [{ "name": "registry" }],
                "containers": [{
                    "env": [{ "valueFrom": { "secretKeyRef": { "name": "password", "key": "k" } } }],
                    "envFrom": [{ "configMapRef": { "name": "settings" } }],
                }],
                "volumes": [
                    { "name": "data", "persistentVolumeClaim": { "claimName": "claim" } },
                    { "name": "scratch", "ephemeral": {} },
                    { "name": "token", "projected": { "sources": [{ "configMap": { "name": "kube-root-ca.crt" } }] } },
                ],
            },
        }));
        self.put(
            "pods",
            serde_json::json!({
                "metadata": { "namespace": "default", "name": "other" },
                "spec": { "nodeName": "edge-2", "volumes": [{ "name": "s", "secret": { "secretName": "theirs" } }] },
            }),
        );
        self.put(
            "persistentvolumes",
            serde_json::json!({
                "metadata": { "name": "volume" }, "spec": { "claimRef": { "namespace": "default", "name": "claim" } },
            }),
        );
        for (resource, name, node) in [
            ("volumeattachments.storage.k8s.io", "ours", "edge-1"),
            ("volumeattachments.storage.k8s.io", "theirs", "edge-2"),
            ("resourceslices.resource.k8s.io", "theirs", "edge-2"),
        ] {
            self.put(resource, serde_json::json!({ "metadata": { "name": name }, "spec": { "nodeName": node } }));
        }
    }
}

impl Objects for World {
    fn uid(&self, resource: &str, namespace: &str, name: &str) -> Option<String> {
        self.get(resource, namespace, name).map(|_| "uid".to_owned())
    }

    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Bytes> {
        let found = self.objects.get(&(resource.to_owned(), namespace.to_owned(), name.to_owned()))?;
        Some(found.to_string().into())
    }

    fn all(&self, resource: &str) -> Vec<(String, Bytes)> {
        let of_resource = self.objects.iter().filter(|((own, _, _), _)| own == resource);
        of_resource.map(|((_, namespace, _), json)| (namespace.clone(), json.to_string().into())).collect()
    }

    fn version(&self, resource: &str) -> u64 {
        self.all(resource).len() as u64
    }

    fn any_pod_on_node(&self, namespace: &str, node: &str, found: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.objects.iter().any(|((resource, own, _), json)| {
            resource == "pods"
                && own == namespace
                && json["spec"]["nodeName"] == node
                && found(json.to_string().as_bytes())
        })
    }
}

/// `user [group…]`; each question is `verb [group:]resource[/sub] [ns/]name [?field=selector]` or `verb /path`.
fn check_access(user: &str, questions: &[&str], expected: Expect) {
    let authz = Authz::new(Arc::new(World::usual()));
    let mut words = user.split(' ');
    let name = words.next().unwrap();
    let mut groups: Vec<&str> = words.collect();
    if name != "system:anonymous" {
        groups.push("system:authenticated");
    }
    let user = UserInfo::new(name, &groups);
    let mut answers = String::new();
    for question in questions {
        let words: Vec<&str> = question.split(' ').collect();
        let mut asked = Attributes { verb: words[0], path: words[1], ..Attributes::default() };
        if !words[1].starts_with('/') {
            asked.resource_request = true;
            let (group, resource) = words[1].split_once(':').unwrap_or(("", words[1]));
            asked.group = group;
            (asked.resource, asked.subresource) = resource.split_once('/').unwrap_or((resource, ""));
            for word in &words[2..] {
                match (word.strip_prefix('?'), word.split_once('/')) {
                    (Some(selector), _) => asked.field_selector = selector,
                    (None, None) if *word == "why" => {}
                    (None, Some((namespace, name))) => (asked.namespace, asked.name) = (namespace, name),
                    (None, None) => asked.name = word,
                }
            }
        }
        let answer = match authz.authorize(&user, &asked) {
            Decision::Allow(reason) if words.contains(&"why") => reason,
            Decision::Allow(_) => "yes".to_owned(),
            Decision::NoOpinion(reason) | Decision::Deny(reason) => forbidden(&user, &asked, &reason).message,
        };
        answers += &format!("{question}: {answer}\n");
    }
    expected.assert_eq(&answers);
}

#[test]
fn who_has_no_role_may_only_look_at_what_is_served() {
    check_access(
        "nobody",
        &[
            "list pods default/",
            "get pods default/web",
            "get nodes n",
            "get pods/log default/web",
            "get /api",
            "get /metrics",
            "delete /api",
        ],
        expect![[r#"
            list pods default/: pods is forbidden: User "nobody" cannot list resource "pods" in API group "" in the namespace "default"
            get pods default/web: pods "web" is forbidden: User "nobody" cannot get resource "pods" in API group "" in the namespace "default"
            get nodes n: nodes "n" is forbidden: User "nobody" cannot get resource "nodes" in API group "" at the cluster scope
            get pods/log default/web: pods "web" is forbidden: User "nobody" cannot get resource "pods/log" in API group "" in the namespace "default"
            get /api: yes
            get /metrics: forbidden: User "nobody" cannot get path "/metrics"
            delete /api: forbidden: User "nobody" cannot delete path "/api"
        "#]],
    );
}

#[test]
fn without_credentials_only_health_version_and_joining_are_open() {
    check_access(
        "system:anonymous system:unauthenticated",
        &[
            "get /healthz",
            "get /version",
            "get /cacerts",
            "post /v1-coracle/node-certificate",
            "get /api",
            "list pods default/",
        ],
        expect![[r#"
            get /healthz: yes
            get /version: yes
            get /cacerts: yes
            post /v1-coracle/node-certificate: yes
            get /api: forbidden: User "system:anonymous" cannot get path "/api"
            list pods default/: pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "default"
        "#]],
    );
}

#[test]
fn masters_may_do_everything() {
    check_access(
        "admin system:masters",
        &["delete pods default/web", "get /metrics"],
        expect![[r#"
        delete pods default/web: yes
        get /metrics: yes
    "#]],
    );
}

#[test]
fn a_role_holds_in_its_namespace_and_for_whom_it_is_bound() {
    check_access(
        "jane",
        &["list pods default/", "list pods other/", "delete pods default/web"],
        expect![[r#"
        list pods default/: yes
        list pods other/: pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "other"
        delete pods default/web: pods "web" is forbidden: User "jane" cannot delete resource "pods" in API group "" in the namespace "default"
    "#]],
    );
    check_access(
        "system:serviceaccount:default:bot system:serviceaccounts",
        &["list pods default/"],
        expect![[r#"
        list pods default/: yes
    "#]],
    );
    check_access(
        "joe",
        &["list pods default/"],
        expect![[r#"
        list pods default/: pods is forbidden: User "joe" cannot list resource "pods" in API group "" in the namespace "default": RBAC: role.rbac.authorization.k8s.io "gone" not found
    "#]],
    );
}

#[test]
fn view_edit_and_admin_contain_each_other() {
    let questions = [
        "list pods default/",
        "get secrets default/s",
        "create apps:deployments default/",
        "create rbac.authorization.k8s.io:roles default/",
    ];
    check_access(
        "vera",
        &questions,
        expect![[r#"
        list pods default/: yes
        get secrets default/s: secrets "s" is forbidden: User "vera" cannot get resource "secrets" in API group "" in the namespace "default"
        create apps:deployments default/: deployments.apps is forbidden: User "vera" cannot create resource "deployments" in API group "apps" in the namespace "default"
        create rbac.authorization.k8s.io:roles default/: roles.rbac.authorization.k8s.io is forbidden: User "vera" cannot create resource "roles" in API group "rbac.authorization.k8s.io" in the namespace "default"
    "#]],
    );
    check_access(
        "ed",
        &questions,
        expect![[r#"
        list pods default/: yes
        get secrets default/s: yes
        create apps:deployments default/: yes
        create rbac.authorization.k8s.io:roles default/: roles.rbac.authorization.k8s.io is forbidden: User "ed" cannot create resource "roles" in API group "rbac.authorization.k8s.io" in the namespace "default"
    "#]],
    );
    check_access(
        "ada",
        &questions,
        expect![[r#"
        list pods default/: yes
        get secrets default/s: yes
        create apps:deployments default/: yes
        create rbac.authorization.k8s.io:roles default/: yes
    "#]],
    );
}

#[test]
fn a_node_reads_what_its_pods_refer_to_and_nothing_else() {
    check_access(
        "system:node:edge-1 system:nodes",
        &[
            "get secrets default/password",
            "get secrets default/registry",
            "get secrets default/theirs",
            "get secrets other/password",
            "list secrets default/",
            "get configmaps default/settings",
            "watch configmaps default/kube-root-ca.crt",
            "get configmaps default/other",
            "get persistentvolumeclaims default/claim",
            "get persistentvolumeclaims default/web-scratch",
            "get persistentvolumes volume",
            "create serviceaccounts/token default/runner",
            "create serviceaccounts/token default/other",
        ],
        expect![[r#"
            get secrets default/password: yes
            get secrets default/registry: yes
            get secrets default/theirs: secrets "theirs" is forbidden: User "system:node:edge-1" cannot get resource "secrets" in API group "" in the namespace "default": no relationship found between node 'edge-1' and this object
            get secrets other/password: secrets "password" is forbidden: User "system:node:edge-1" cannot get resource "secrets" in API group "" in the namespace "other": no relationship found between node 'edge-1' and this object
            list secrets default/: secrets is forbidden: User "system:node:edge-1" cannot list resource "secrets" in API group "" in the namespace "default": No Object name found
            get configmaps default/settings: yes
            watch configmaps default/kube-root-ca.crt: yes
            get configmaps default/other: configmaps "other" is forbidden: User "system:node:edge-1" cannot get resource "configmaps" in API group "" in the namespace "default": no relationship found between node 'edge-1' and this object
            get persistentvolumeclaims default/claim: yes
            get persistentvolumeclaims default/web-scratch: yes
            get persistentvolumes volume: yes
            create serviceaccounts/token default/runner: yes
            create serviceaccounts/token default/other: serviceaccounts "other" is forbidden: User "system:node:edge-1" cannot create resource "serviceaccounts/token" in API group "" in the namespace "default": no relationship found between node 'edge-1' and this object
        "#]],
    );
}

#[test]
fn a_node_keeps_to_its_own_pods_node_and_lease() {
    check_access(
        "system:node:edge-1 system:nodes",
        &[
            "list pods ?spec.nodeName=edge-1",
            "watch pods ?spec.nodeName=edge-2",
            "list pods ?status.phase!=a\\,spec.nodeName=edge-1",
            "list pods",
            "watch pods default/not-yet",
            "watch pods default/web ?metadata.name=web,spec.nodeName=edge-1",
            "get storage.k8s.io:volumeattachments ours",
            "get storage.k8s.io:volumeattachments theirs",
            "list resource.k8s.io:resourceslices",
            "list resource.k8s.io:resourceslices ?spec.nodeName=edge-1",
            "deletecollection resource.k8s.io:resourceslices",
            "delete resource.k8s.io:resourceslices theirs",
            "patch pods/status default/web",
            "patch pods/status default/other",
            "delete pods default/other",
            "create nodes",
            "patch nodes/status edge-1",
            "patch nodes/status edge-2",
            "get nodes edge-2",
            "delete nodes edge-1",
            "update coordination.k8s.io:leases kube-node-lease/edge-1",
            "update coordination.k8s.io:leases kube-node-lease/edge-2",
            "update coordination.k8s.io:leases kube-system/edge-1",
            "list services",
            "watch discovery.k8s.io:endpointslices",
            "create events default/",
            "create apps:deployments default/",
        ],
        expect![[r#"
            list pods ?spec.nodeName=edge-1: yes
            watch pods ?spec.nodeName=edge-2: pods is forbidden: User "system:node:edge-1" cannot watch resource "pods" in API group "" at the cluster scope: can only list/watch pods with spec.nodeName field selector
            list pods ?status.phase!=a\,spec.nodeName=edge-1: pods is forbidden: User "system:node:edge-1" cannot list resource "pods" in API group "" at the cluster scope: can only list/watch pods with spec.nodeName field selector
            list pods: pods is forbidden: User "system:node:edge-1" cannot list resource "pods" in API group "" at the cluster scope: can only list/watch pods with spec.nodeName field selector
            watch pods default/not-yet: pods "not-yet" is forbidden: User "system:node:edge-1" cannot watch resource "pods" in API group "" in the namespace "default": can only list/watch pods with spec.nodeName field selector
            watch pods default/web ?metadata.name=web,spec.nodeName=edge-1: yes
            get storage.k8s.io:volumeattachments ours: yes
            get storage.k8s.io:volumeattachments theirs: volumeattachments.storage.k8s.io "theirs" is forbidden: User "system:node:edge-1" cannot get resource "volumeattachments" in API group "storage.k8s.io" at the cluster scope: no relationship found between node 'edge-1' and this object
            list resource.k8s.io:resourceslices: resourceslices.resource.k8s.io is forbidden: User "system:node:edge-1" cannot list resource "resourceslices" in API group "resource.k8s.io" at the cluster scope: can only list/watch/deletecollection resourceslices with spec.nodeName field selector
            list resource.k8s.io:resourceslices ?spec.nodeName=edge-1: yes
            deletecollection resource.k8s.io:resourceslices: resourceslices.resource.k8s.io is forbidden: User "system:node:edge-1" cannot deletecollection resource "resourceslices" in API group "resource.k8s.io" at the cluster scope: can only list/watch/deletecollection resourceslices with spec.nodeName field selector
            delete resource.k8s.io:resourceslices theirs: resourceslices.resource.k8s.io "theirs" is forbidden: User "system:node:edge-1" cannot delete resource "resourceslices" in API group "resource.k8s.io" at the cluster scope: no relationship found between node 'edge-1' and this object
            patch pods/status default/web: yes
            patch pods/status default/other: pods "other" is forbidden: User "system:node:edge-1" cannot patch resource "pods/status" in API group "" in the namespace "default": no relationship found between node 'edge-1' and this object
            delete pods default/other: pods "other" is forbidden: User "system:node:edge-1" cannot delete resource "pods" in API group "" in the namespace "default": no relationship found between node 'edge-1' and this object
            create nodes: yes
            patch nodes/status edge-1: yes
            patch nodes/status edge-2: nodes "edge-2" is forbidden: User "system:node:edge-1" cannot patch resource "nodes/status" in API group "" at the cluster scope: node 'edge-1' can only read and write its own Node
            get nodes edge-2: nodes "edge-2" is forbidden: User "system:node:edge-1" cannot get resource "nodes" in API group "" at the cluster scope: node 'edge-1' can only read and write its own Node
            delete nodes edge-1: nodes "edge-1" is forbidden: User "system:node:edge-1" cannot delete resource "nodes" in API group "" at the cluster scope
            update coordination.k8s.io:leases kube-node-lease/edge-1: yes
            update coordination.k8s.io:leases kube-node-lease/edge-2: leases.coordination.k8s.io "edge-2" is forbidden: User "system:node:edge-1" cannot update resource "leases" in API group "coordination.k8s.io" in the namespace "kube-node-lease": can only access node lease with the same name as the requesting node
            update coordination.k8s.io:leases kube-system/edge-1: leases.coordination.k8s.io "edge-1" is forbidden: User "system:node:edge-1" cannot update resource "leases" in API group "coordination.k8s.io" in the namespace "kube-system": can only access leases in the "kube-node-lease" system namespace
            list services: yes
            watch discovery.k8s.io:endpointslices: yes
            create events default/: yes
            create apps:deployments default/: deployments.apps is forbidden: User "system:node:edge-1" cannot create resource "deployments" in API group "apps" in the namespace "default"
        "#]],
    );
}

#[test]
fn a_users_own_rules_can_be_listed() {
    let authz = Authz::new(Arc::new(World::usual()));
    let list = authz.rules(&UserInfo::new("jane", &[]), "default");
    expect![[r#"[{"apiGroups":[""],"resources":["pods"],"verbs":["get","list"]}]"#]]
        .assert_eq(&Value::from(list.resource_rules).to_string());
    let joe = authz.rules(&UserInfo::new("joe", &[]), "default");
    expect![[r#"true role.rbac.authorization.k8s.io "gone" not found"#]]
        .assert_eq(&format!("{} {}", joe.incomplete, joe.evaluation_error));
}

#[test]
fn an_allowed_request_says_which_binding_allows_it() {
    check_access(
        "jane",
        &["list pods default/ why"],
        expect![[r#"
        list pods default/ why: RBAC: allowed by RoleBinding "readers/default" of Role "pod-reader" to User "jane"
    "#]],
    );
    check_access(
        "system:serviceaccount:default:bot",
        &["list pods default/ why"],
        expect![[r#"
        list pods default/ why: RBAC: allowed by RoleBinding "bots/default" of Role "pod-reader" to ServiceAccount "bot/default"
    "#]],
    );
    check_access(
        "nobody",
        &["get /api why"],
        expect![[r#"
        get /api why: RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group "system:authenticated"
    "#]],
    );
}
