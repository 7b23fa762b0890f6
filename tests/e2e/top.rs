//! `kubectl top`: what nodes and pods use, from the guest's thread to the user's table.

use coracle_tests::Cluster;

#[test]
fn top_shows_what_nodes_and_pods_use() {
    let cluster = Cluster::up(&["examples/hello"]);
    let k = cluster.kubectl();
    k.apply(
        r"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  runtimeClassName: wasm
  containers:
  - {name: web, image: 'hello:dev', imagePullPolicy: IfNotPresent, ports: [{containerPort: 8080}]}
",
    );
    k.ok(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    let nodes = k.ok(&["top", "node"]);
    let row: Vec<&str> = nodes.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert!(row.len() == 5 && row[1].ends_with('m') && row[3].ends_with("Mi"), "{nodes}");
    // A pod counts since its start, so the first answer has it.
    let pods = k.ok(&["top", "pod", "-A", "--containers"]);
    let row = pods.lines().find(|line| line.contains("web")).unwrap_or_default();
    assert_eq!(row.split_whitespace().take(3).collect::<Vec<_>>(), ["default", "web", "web"], "{pods}");
    assert!(k.ok(&["top", "pod", "web"]).contains("web"));
    assert!(k.ok(&["top", "pod", "-l", "app=web"]).contains("web"));
    assert!(!k.fails(&["top", "pod", "nobody"]).is_empty());
    let raw = k.ok(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/web"]);
    assert!(raw.contains("\"kind\":\"PodMetrics\"") && raw.contains("\"window\":"), "{raw}");
    let summary = k.ok(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/stats/summary", node(&nodes))]);
    assert!(summary.contains("\"workingSetBytes\"") && summary.contains("\"podRef\""), "{summary}");
}

fn node(table: &str) -> &str {
    table.lines().nth(1).and_then(|line| line.split_whitespace().next()).unwrap_or_default()
}
