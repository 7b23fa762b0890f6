//! The commands a user types, one after the other, against one cluster.

use coracle_tests::{Cluster, Kubectl, wait_for};

fn hello(replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, labels: {{app: web}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      runtimeClassName: wasm
      containers:
      - name: web
        image: hello:dev
        imagePullPolicy: IfNotPresent
        ports: [{{containerPort: 8080, name: http}}]
        env: [{{name: GREETING, value: one}}]
"#
    )
}

fn start() -> (Cluster, Kubectl) {
    let cluster = Cluster::up(&["examples/hello"]);
    let kubectl = cluster.kubectl();
    kubectl.apply(&hello(2));
    kubectl.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    (cluster, kubectl)
}

#[test]
fn looks_at_things() {
    let (_cluster, k) = start();
    let pods = k.ok(&["get", "pods", "-l", "app=web"]);
    let header = pods.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(header, "NAME READY STATUS RESTARTS AGE");
    assert_eq!(pods.matches("Running").count(), 2, "{pods}");
    let wide = k.ok(&["get", "pods", "-o", "wide", "-A"]);
    assert!(wide.contains("NODE") && wide.contains(" 127."), "{wide}");
    assert!(k.ok(&["get", "deploy", "web", "-o", "yaml"]).contains("deployment.kubernetes.io/revision: \"1\""));
    assert!(k.ok(&["get", "deploy", "web", "-o", "json"]).contains("\"availableReplicas\": 2"));
    let generations = "jsonpath={.metadata.generation} {.status.observedGeneration}";
    assert_eq!(
        k.ok(&["get", "deploy", "web", "-o", generations]),
        "1 1",
        "its revision is no change of what is asked for"
    );
    let role = k.ok(&["describe", "clusterrole", "admin"]);
    assert!(role.contains("deployments.apps") && role.contains("deletecollection get list watch]"), "{role}");
    let by_node = k.ok(&["get", "pods", "--field-selector", "status.phase=Running", "-o", "name"]);
    assert!(by_node.contains("pod/web-"), "{by_node}");
    assert!(k.ok(&["get", "nodes", "-o", "wide"]).contains("Ready"));
    let all = k.ok(&["get", "all"]);
    assert!(all.contains("deployment.apps/web") && all.contains("replicaset.apps/web-"), "{all}");
    assert!(k.ok(&["get", "events"]).contains("ScalingReplicaSet"));
    assert!(k.ok(&["cluster-info"]).contains("is running at"));
    let resources = k.ok(&["api-resources"]);
    assert!(resources.contains("deployments") && resources.contains("runtimeclasses"), "{resources}");
    let explained = k.ok(&["explain", "pod.spec.containers"]);
    assert!(explained.contains("image"), "{explained}");
    assert!(k.ok(&["explain", "deployment.spec.strategy"]).contains("rollingUpdate"));
    let described = k.ok(&["describe", "deployment", "web"]);
    assert!(described.contains("Scaled up replica set web-"), "{described}");
    let pod = k.ok(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}"]);
    let described = k.ok(&["describe", "pod", &pod]);
    for part in ["Successfully assigned", "Started", "Container ID:", "QoS Class:", "Ready:          True"] {
        assert!(described.contains(part), "no {part:?} in\n{described}");
    }
    assert!(k.ok(&["describe", "node"]).contains("Allocated resources"));
    assert!(k.fails(&["get", "pod", "nobody"]).contains("pods \"nobody\" not found"));
}

#[test]
fn rolls_out_and_back() {
    let (_cluster, k) = start();
    k.ok(&["scale", "deployment/web", "--replicas=3"]);
    k.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(k.ok(&["get", "deploy", "web", "-o", "jsonpath={.status.readyReplicas}"]), "3");
    k.ok(&["set", "env", "deployment/web", "GREETING=two"]);
    k.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let history = k.ok(&["rollout", "history", "deployment/web"]);
    assert!(history.contains('1') && history.contains('2'), "{history}");
    let greeting = "jsonpath={.spec.template.spec.containers[0].env[0].value}";
    assert_eq!(k.ok(&["get", "deploy", "web", "-o", greeting]), "two");
    k.ok(&["rollout", "undo", "deployment/web"]);
    k.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(k.ok(&["get", "deploy", "web", "-o", greeting]), "one");
    let before = k.ok(&["get", "pods", "-l", "app=web", "-o", "name"]);
    k.ok(&["rollout", "restart", "deployment/web"]);
    k.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    wait_for("every pod to be a new one", || {
        let now = k.ok(&["get", "pods", "-l", "app=web", "-o", "name"]);
        (!now.lines().any(|l| before.contains(l))).then_some(())
    });
}

#[test]
fn changes_things() {
    let (_cluster, k) = start();
    k.ok(&["label", "deployment/web", "tier=front"]);
    k.ok(&["annotate", "deployment/web", "note=seen"]);
    let seen = k.ok(&["get", "deploy", "-l", "tier=front", "-o", "jsonpath={.items[*].metadata.annotations.note}"]);
    assert_eq!(seen, "seen");
    k.ok(&["label", "deployment/web", "tier-"]);
    k.ok(&["patch", "deployment", "web", "-p", r#"{"spec":{"minReadySeconds":1}}"#]);
    k.ok(&["patch", "deployment", "web", "--type=merge", "-p", r#"{"spec":{"minReadySeconds":0}}"#]);
    let op = r#"[{"op":"add","path":"/metadata/labels/x","value":"y"}]"#;
    k.ok(&["patch", "deployment", "web", "--type=json", "-p", op]);
    k.ok(&["create", "configmap", "settings", "--from-literal=a=b"]);
    k.ok(&["create", "namespace", "other"]);
    k.ok(&["create", "secret", "generic", "s", "--from-literal=p=q", "-n", "other"]);
    let mut edit = k.command(&["edit", "configmap", "settings"]);
    let edited = edit.env("EDITOR", "sed -i s/a:.b/a:\\ c/").output().unwrap();
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert_eq!(k.ok(&["get", "configmap", "settings", "-o", "jsonpath={.data.a}"]), "c");
    k.ok(&["expose", "deployment", "web", "--port=80", "--target-port=8080"]);
    wait_for("the service to have endpoints", || k.ok(&["get", "endpoints", "web"]).contains("127.").then_some(()));
    // Applying again changes what is new and keeps what others set.
    k.apply(&hello(1));
    assert_eq!(k.ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas} {.metadata.labels.x}"]), "1 y");
    assert!(k.apply(&hello(1)).contains("unchanged"));
    k.ok(&["delete", "deployment", "web", "--wait"]);
    wait_for("the pods to go with their owner", || {
        k.ok(&["get", "pods", "-l", "app=web", "-o", "name"]).is_empty().then_some(())
    });
    k.ok(&["delete", "namespace", "other", "--wait", "--timeout=60s"]);
    assert!(k.fails(&["get", "secret", "s", "-n", "other"]).contains("not found"));
}

#[test]
fn refuses_what_is_wrong() {
    let (_cluster, k) = start();
    let wrong = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatta: {a: b}\n";
    let output = k.run_with_input(&["create", "-f", "-"], wrong);
    assert!(!output.ok && output.stderr.contains("datta"), "{output:?}");
    // Older ones look for themselves, unless they are told not to.
    let unasked = &["create", "--validate=false", "-f", "-"];
    let output = k.run_with_input(unasked, "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {}\n");
    assert!(output.stderr.contains("spec.containers: Required value"), "{output:?}");
    let output = k.run_with_input(&["create", "-f", "-"], "apiVersion: v1\nkind: Pod\n  bad: [\n");
    assert!(!output.ok && output.stderr.contains("yaml"), "{output:?}");
    let name = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_A_Name}\n";
    assert!(k.run_with_input(&["create", "-f", "-"], name).stderr.contains("metadata.name: Invalid value"));
}

#[test]
fn follows_logs_and_watches() {
    let cluster = Cluster::up(&["examples/worker"]);
    let k = cluster.kubectl();
    k.ok(&["set", "env", "deployment/worker", "INTERVAL_SECONDS=1"]);
    k.ok(&["rollout", "status", "deployment/worker", "--timeout=60s"]);
    let lines = wait_for("some lines of log", || {
        let logs = k.ok(&["logs", "deployment/worker"]);
        (logs.lines().count() > 3).then_some(logs)
    });
    let tail = k.ok(&["logs", "deployment/worker", "--tail=2"]);
    assert_eq!(tail.lines().count(), 2, "{tail}");
    let stamped = k.ok(&["logs", "deployment/worker", "--timestamps", "--tail=1"]);
    assert!(stamped.starts_with("20") && stamped.contains("Z "), "{stamped}");
    assert!(!k.ok(&["logs", "deployment/worker", "--since=1h"]).is_empty());
    let mut follow = coracle_tests::Process::start(&mut k.command(&["logs", "-f", "deployment/worker"]));
    let first = lines.lines().next().unwrap_or_default();
    follow.wait_for_line(first);
    wait_for("a line that was not there before", || {
        (follow.output().lines().count() > lines.lines().count()).then_some(())
    });
    let mut watch = coracle_tests::Process::start(&mut k.command(&["get", "pods", "-w"]));
    watch.wait_for_line("Running");
    k.ok(&["delete", "pod", "-l", "app=worker", "--grace-period=0", "--force"]);
    watch.wait_for_line("Terminating");
}

#[test]
fn drains_a_node() {
    let (_cluster, k) = start();
    let node = k.ok(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let drain = ["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=5s"];
    let budget = r#"
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
"#;
    k.apply(budget);
    wait_for("the budget to be counted", || {
        (k.ok(&["get", "pdb", "web", "-o", "jsonpath={.status.currentHealthy}"]) == "2").then_some(())
    });
    let before = k.ok(&["get", "pods", "-l", "app=web", "-o", "name"]);
    let said = k.fails(&drain);
    assert!(said.contains("Cannot evict pod as it would violate the pod's disruption budget."), "{said}");
    assert_eq!(k.ok(&["get", "pods", "-l", "app=web", "-o", "name"]), before, "the budget keeps them");
    assert!(k.ok(&["get", "nodes"]).contains("SchedulingDisabled"));
    k.ok(&["delete", "pdb", "web"]);
    let drain = ["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s"];
    let said = k.ok(&drain);
    // The second in the words of kubectl 1.20.
    assert!(said.contains("drained") || said.contains(&format!("node/{node} evicted")), "{said}");
    let pods = k.ok(&["get", "pods", "-l", "app=web"]);
    assert_eq!(pods.matches("Pending").count(), 2, "{pods}");
    let events = k.ok(&["get", "events", "--field-selector", "reason=FailedScheduling"]);
    assert!(events.contains("0/1 nodes are available: 1 node(s) were unschedulable."), "{events}");
    k.ok(&["uncordon", &node]);
    k.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
}
