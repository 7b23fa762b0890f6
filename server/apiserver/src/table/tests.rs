use coracle_api::object::Object;
use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-06-01T01:00:00Z".parse().unwrap()
}

/// Prints an object of `kind.group` with all its columns, as `Title=cell`.
fn check_row(kind: &str, object: Value, expected: Expect) {
    let (kind, group) = kind.split_once('.').unwrap();
    let printer = columns::of(group, kind).unwrap_or_else(columns::default);
    let printed = row(printer, &Object::from_value(object).unwrap(), now());
    assert_eq!(printer.columns.len(), printed.cells.len());
    let cells: Vec<String> = printer
        .columns
        .iter()
        .zip(&printed.cells)
        .map(|(column, cell)| match cell {
            Value::String(text) => format!("{}={text}", column.name),
            other => format!("{}={other}", column.name),
        })
        .collect();
    expected.assert_eq(&cells.join(" | "));
}

/// The READY, STATUS and RESTARTS of a pod.
fn check_pod(spec: Value, status: Value, deleted: bool, expected: Expect) {
    let mut pod = json!({ "kind": "Pod", "metadata": { "name": "p" }, "spec": spec, "status": status });
    if deleted {
        pod["metadata"]["deletionTimestamp"] = json!("2026-06-01T00:59:00Z");
    }
    let printer = columns::of("", "Pod").unwrap();
    let cells = row(printer, &Object::from_value(pod).unwrap(), now()).cells;
    let text: Vec<&str> = cells[1..4].iter().map(|cell| cell.as_str().unwrap()).collect();
    expected.assert_eq(&text.join(" "));
}

fn running(name: &str, ready: bool, restarts: i64) -> Value {
    json!({ "name": name, "ready": ready, "started": true, "restartCount": restarts, "state": { "running": {} } })
}

fn waiting(name: &str, reason: &str, restarts: i64) -> Value {
    json!({
        "name": name, "ready": false, "restartCount": restarts, "state": { "waiting": { "reason": reason } },
        "lastState": if restarts > 0 { json!({ "terminated": { "exitCode": 1, "finishedAt": "2026-06-01T00:59:30Z" } }) } else { json!({}) },
    })
}

fn ended(name: &str, code: i64, reason: &str) -> Value {
    json!({ "name": name, "ready": false, "restartCount": 0, "state": { "terminated": { "exitCode": code, "reason": reason } } })
}

#[test]
fn a_pods_status_is_that_of_its_containers() {
    let two = || json!({ "containers": [{ "name": "a" }, { "name": "b" }] });
    let of = |phase: &str, containers: Value| json!({ "phase": phase, "containerStatuses": containers });
    check_pod(two(), json!({ "phase": "Pending" }), false, expect!["0/2 Pending 0"]);
    check_pod(
        two(),
        of("Pending", json!([waiting("a", "ContainerCreating", 0)])),
        false,
        expect!["0/2 ContainerCreating 0"],
    );
    check_pod(
        two(),
        of("Running", json!([running("a", true, 0), running("b", false, 2)])),
        false,
        expect!["1/2 Running 2"],
    );
    check_pod(
        two(),
        of("Running", json!([running("a", true, 0), waiting("b", "CrashLoopBackOff", 3)])),
        false,
        expect!["1/2 CrashLoopBackOff 3 (30s ago)"],
    );
    check_pod(
        two(),
        of("Pending", json!([waiting("a", "ErrImagePull", 0), waiting("b", "ImagePullBackOff", 0)])),
        false,
        expect!["0/2 ErrImagePull 0"],
    );
}

#[test]
fn a_pod_of_which_something_ended_shows_what_counts() {
    let two = || json!({ "containers": [{ "name": "a" }, { "name": "b" }] });
    let of = |phase: &str, containers: Value| json!({ "phase": phase, "containerStatuses": containers });
    check_pod(
        two(),
        of("Succeeded", json!([ended("a", 0, "Completed"), ended("b", 0, "Completed")])),
        false,
        expect!["0/2 Completed 0"],
    );
    check_pod(
        two(),
        of("Running", json!([ended("a", 0, "Completed"), running("b", true, 0)])),
        false,
        expect!["1/2 NotReady 0"],
    );
    check_pod(
        two(),
        of("Failed", json!([ended("a", 0, "Completed"), ended("b", 137, "OOMKilled")])),
        false,
        expect!["0/2 OOMKilled 0"],
    );
    check_pod(
        two(),
        of("Failed", json!([ended("a", 3, ""), ended("b", 0, "Completed")])),
        false,
        expect!["0/2 ExitCode:3 0"],
    );
    check_pod(
        two(),
        of("Running", json!([running("a", true, 0), running("b", true, 0)])),
        true,
        expect!["2/2 Terminating 0"],
    );
    check_pod(
        two(),
        of("Succeeded", json!([ended("a", 0, "Completed"), ended("b", 0, "Completed")])),
        true,
        expect!["0/2 Completed 0"],
    );
    let ready = json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }], "containerStatuses": [ended("a", 0, "Completed"), running("b", true, 0)] });
    check_pod(two(), ready, false, expect!["1/2 Running 0"]);
    check_pod(two(), json!({ "phase": "Failed", "reason": "Evicted" }), false, expect!["0/2 Evicted 0"]);
    check_pod(two(), json!({ "phase": "Running", "reason": "NodeLost" }), true, expect!["0/2 Unknown 0"]);
    let gated = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "SchedulingGated" }] });
    check_pod(two(), gated, false, expect!["0/2 SchedulingGated 0"]);
}

#[test]
fn init_containers_and_sidecars_show_in_a_pods_status() {
    let spec = || json!({ "initContainers": [{ "name": "i" }, { "name": "j" }], "containers": [{ "name": "a" }] });
    let of = |init: Value| json!({ "phase": "Pending", "initContainerStatuses": init, "containerStatuses": [waiting("a", "PodInitializing", 0)] });
    check_pod(
        spec(),
        of(json!([running("i", false, 0), waiting("j", "PodInitializing", 0)])),
        false,
        expect!["0/1 Init:0/2 0"],
    );
    check_pod(
        spec(),
        of(json!([ended("i", 0, "Completed"), running("j", false, 1)])),
        false,
        expect!["0/1 Init:1/2 1"],
    );
    check_pod(spec(), of(json!([ended("i", 1, "Error")])), false, expect!["0/1 Init:Error 0"]);
    check_pod(spec(), of(json!([ended("i", 2, "")])), false, expect!["0/1 Init:ExitCode:2 0"]);
    check_pod(
        spec(),
        of(json!([waiting("i", "CrashLoopBackOff", 4)])),
        false,
        expect!["0/1 Init:CrashLoopBackOff 4 (30s ago)"],
    );
    check_pod(
        spec(),
        of(json!([ended("i", 0, "Completed"), ended("j", 0, "Completed")])),
        false,
        expect!["0/1 PodInitializing 0"],
    );
    let sidecar =
        json!({ "initContainers": [{ "name": "s", "restartPolicy": "Always" }], "containers": [{ "name": "a" }] });
    let status = json!({ "phase": "Running", "initContainerStatuses": [running("s", true, 1)], "containerStatuses": [running("a", true, 2)] });
    check_pod(sidecar, status, false, expect!["2/2 Running 3"]);
}

#[test]
fn a_pods_row_tells_where_it_is_and_that_it_is_over() {
    let pod = json!({
        "kind": "Pod",
        "metadata": { "name": "web", "creationTimestamp": "2026-06-01T00:50:00Z" },
        "spec": { "nodeName": "edge-1", "containers": [{ "name": "a" }], "readinessGates": [{ "conditionType": "x" }, { "conditionType": "y" }] },
        "status": { "phase": "Succeeded", "podIP": "127.42.0.2", "podIPs": [{ "ip": "127.42.0.2" }], "conditions": [{ "type": "x", "status": "True" }] },
    });
    check_row(
        "Pod.",
        pod.clone(),
        expect![
            "Name=web | Ready=0/1 | Status=Succeeded | Restarts=0 | Age=10m | IP=127.42.0.2 | Node=edge-1 | Nominated Node=<none> | Readiness Gates=1/2"
        ],
    );
    let printed = row(columns::of("", "Pod").unwrap(), &Object::from_value(pod).unwrap(), now());
    expect![[
        r#"[{"message":"The pod has completed successfully.","reason":"Succeeded","status":"True","type":"Completed"}]"#
    ]]
    .assert_eq(&Value::from(printed.conditions).to_string());
}

fn template() -> Value {
    json!({ "metadata": { "labels": { "app": "web" } }, "spec": { "nodeSelector": { "disk": "ssd" }, "containers": [{ "name": "a", "image": "x:1" }, { "name": "b", "image": "y:2" }] } })
}

fn workload(spec: Value, status: Value) -> Value {
    let mut object = json!({ "metadata": { "name": "web", "creationTimestamp": "2026-05-31T01:00:00Z" }, "spec": spec, "status": status });
    object["spec"]["template"] = template();
    object
}

#[test]
fn workloads_show_how_far_they_are() {
    let selector = json!({ "matchLabels": { "app": "web" }, "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["b", "a"] }, { "key": "x", "operator": "DoesNotExist" }] });
    let status = json!({ "replicas": 4, "readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1 });
    let spec = || json!({ "replicas": 3, "selector": selector });
    check_row(
        "Deployment.apps",
        workload(spec(), status.clone()),
        expect![
            "Name=web | Ready=2/3 | Up-to-date=3 | Available=1 | Age=24h | Containers=a,b | Images=x:1,y:2 | Selector=app=web,tier in (a,b),!x"
        ],
    );
    check_row(
        "ReplicaSet.apps",
        workload(spec(), status.clone()),
        expect![
            "Name=web | Desired=3 | Current=4 | Ready=2 | Age=24h | Containers=a,b | Images=x:1,y:2 | Selector=app=web,tier in (a,b),!x"
        ],
    );
    check_row(
        "StatefulSet.apps",
        workload(spec(), status.clone()),
        expect!["Name=web | Ready=2/3 | Age=24h | Containers=a,b | Images=x:1,y:2"],
    );
    check_row(
        "ReplicationController.",
        workload(json!({ "replicas": 3, "selector": { "app": "web" } }), status),
        expect![
            "Name=web | Desired=3 | Current=4 | Ready=2 | Age=24h | Containers=a,b | Images=x:1,y:2 | Selector=app=web"
        ],
    );
    let status = json!({ "desiredNumberScheduled": 5, "currentNumberScheduled": 4, "numberReady": 3, "updatedNumberScheduled": 2, "numberAvailable": 1 });
    check_row(
        "DaemonSet.apps",
        workload(json!({}), status),
        expect![
            "Name=web | Desired=5 | Current=4 | Ready=3 | Up-to-date=2 | Available=1 | Node Selector=disk=ssd | Age=24h | Containers=a,b | Images=x:1,y:2 | Selector=<none>"
        ],
    );
}

#[test]
fn jobs_show_their_state_and_length() {
    let times = json!({ "startTime": "2026-06-01T00:00:00Z", "completionTime": "2026-06-01T00:02:05Z", "succeeded": 2, "conditions": [{ "type": "Complete", "status": "True" }] });
    check_row(
        "Job.batch",
        workload(json!({ "completions": 2 }), times),
        expect![
            "Name=web | Status=Complete | Completions=2/2 | Duration=2m5s | Age=24h | Containers=a,b | Images=x:1,y:2 | Selector=<none>"
        ],
    );
    check_row(
        "Job.batch",
        workload(json!({ "parallelism": 3 }), json!({})),
        expect![
            "Name=web | Status=Running | Completions=0/1 of 3 | Duration= | Age=24h | Containers=a,b | Images=x:1,y:2 | Selector=<none>"
        ],
    );
    let cron = json!({ "metadata": { "name": "c" }, "spec": { "schedule": "* * * * *", "suspend": false, "jobTemplate": { "spec": { "template": template() } } }, "status": { "active": [{}], "lastScheduleTime": "2026-06-01T00:59:00Z" } });
    check_row(
        "CronJob.batch",
        cron,
        expect![
            "Name=c | Schedule=* * * * * | Timezone=<none> | Suspend=False | Active=1 | Last Schedule=60s | Age=<unknown> | Containers=a,b | Images=x:1,y:2 | Selector=<none>"
        ],
    );
}

#[test]
fn services_show_how_they_are_reached() {
    let service = |spec: Value, status: Value| json!({ "metadata": { "name": "web" }, "spec": spec, "status": status });
    let ports = json!([{ "port": 80, "nodePort": 30080, "protocol": "TCP" }, { "port": 53, "protocol": "UDP" }]);
    check_row(
        "Service.",
        service(
            json!({ "type": "NodePort", "clusterIPs": ["127.43.0.9"], "ports": ports, "selector": { "app": "web" } }),
            json!({}),
        ),
        expect![
            "Name=web | Type=NodePort | Cluster-IP=127.43.0.9 | External-IP=<none> | Port(s)=80:30080/TCP,53/UDP | Age=<unknown> | Selector=app=web"
        ],
    );
    check_row(
        "Service.",
        service(json!({ "type": "LoadBalancer", "clusterIPs": ["127.43.0.9"] }), json!({})),
        expect![
            "Name=web | Type=LoadBalancer | Cluster-IP=127.43.0.9 | External-IP=<pending> | Port(s)=<none> | Age=<unknown> | Selector=<none>"
        ],
    );
    check_row(
        "Service.",
        service(
            json!({ "type": "LoadBalancer", "externalIPs": ["9.9.9.9"] }),
            json!({ "loadBalancer": { "ingress": [{ "ip": "2.2.2.2" }, { "hostname": "a.example" }] } }),
        ),
        expect![
            "Name=web | Type=LoadBalancer | Cluster-IP=<none> | External-IP=2.2.2.2,a.example,9.9.9.9 | Port(s)=<none> | Age=<unknown> | Selector=<none>"
        ],
    );
    check_row(
        "Service.",
        service(json!({ "type": "ExternalName", "externalName": "db.example" }), json!({})),
        expect![
            "Name=web | Type=ExternalName | Cluster-IP=<none> | External-IP=db.example | Port(s)=<none> | Age=<unknown> | Selector=<none>"
        ],
    );
    let subsets = json!([{ "addresses": [{ "ip": "1.1.1.1" }, { "ip": "1.1.1.2" }], "ports": [{ "port": 80 }, { "port": 443 }] }]);
    check_row(
        "Endpoints.",
        json!({ "metadata": { "name": "web" }, "subsets": subsets }),
        expect!["Name=web | Endpoints=1.1.1.1:80,1.1.1.2:80,1.1.1.1:443 + 1 more... | Age=<unknown>"],
    );
    check_row(
        "EndpointSlice.discovery.k8s.io",
        json!({ "metadata": { "name": "web-1" }, "addressType": "IPv4", "ports": [{ "port": 80 }, { "name": "x" }], "endpoints": [{ "addresses": ["1.1.1.1"] }] }),
        expect!["Name=web-1 | AddressType=IPv4 | Ports=80,x | Endpoints=1.1.1.1 | Age=<unknown>"],
    );
    let ingress = json!({ "metadata": { "name": "i" }, "spec": { "rules": [{ "host": "a" }, { "host": "b" }, { "host": "c" }, { "host": "d" }], "tls": [{}] }, "status": { "loadBalancer": { "ingress": [{ "ip": "5.5.5.5" }] } } });
    check_row(
        "Ingress.networking.k8s.io",
        ingress,
        expect!["Name=i | Class=<none> | Hosts=a,b,c + 1 more... | Address=5.5.5.5 | Ports=80, 443 | Age=<unknown>"],
    );
}

#[test]
fn nodes_and_events_are_shown() {
    let node = json!({
        "metadata": { "name": "edge-1", "labels": { "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "web" } },
        "spec": { "unschedulable": true },
        "status": {
            "conditions": [{ "type": "Ready", "status": "True" }],
            "addresses": [{ "type": "InternalIP", "address": "10.0.0.5" }],
            "nodeInfo": { "kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6.1", "containerRuntimeVersion": "coracle-wasm://0.1" },
        },
    });
    check_row(
        "Node.",
        node,
        expect![
            "Name=edge-1 | Status=Ready,SchedulingDisabled | Roles=control-plane,web | Age=<unknown> | Version=v1.36.0 | Internal-IP=10.0.0.5 | External-IP=<none> | OS-Image=Debian | Kernel-Version=6.1 | Container-Runtime=coracle-wasm://0.1"
        ],
    );
    check_row(
        "Node.",
        json!({ "metadata": { "name": "n" } }),
        expect![
            "Name=n | Status=Unknown | Roles=<none> | Age=<unknown> | Version= | Internal-IP=<none> | External-IP=<none> | OS-Image=<unknown> | Kernel-Version=<unknown> | Container-Runtime=<unknown>"
        ],
    );
    let event = json!({ "metadata": { "name": "e" }, "type": "Warning", "reason": "Failed", "message": " no \n", "involvedObject": { "kind": "Pod", "name": "p", "fieldPath": "spec" }, "source": { "component": "kubelet", "host": "edge-1" }, "firstTimestamp": "2026-06-01T00:00:00Z", "lastTimestamp": "2026-06-01T00:59:00Z", "count": 4 });
    check_row(
        "Event.",
        event,
        expect![
            "Last Seen=60s | Type=Warning | Reason=Failed | Object=pod/p | Subobject=spec | Source=kubelet, edge-1 | Message=no | First Seen=60m | Count=4 | Name=e"
        ],
    );
    let event = json!({ "metadata": { "name": "e" }, "type": "Normal", "reason": "R", "note": "n", "regarding": { "kind": "Node" }, "reportingController": "c", "eventTime": "2026-06-01T00:58:00.000000Z", "series": { "count": 7, "lastObservedTime": "2026-06-01T00:59:00.000000Z" } });
    check_row(
        "Event.events.k8s.io",
        event,
        expect![
            "Last Seen=60s | Type=Normal | Reason=R | Object=node | Subobject= | Source=c | Message=n | First Seen=2m | Count=7 | Name=e"
        ],
    );
}

#[test]
fn storage_and_policy_are_shown() {
    let volume = json!({ "metadata": { "name": "v" }, "spec": { "capacity": { "storage": "1Gi" }, "accessModes": ["ReadOnlyMany", "ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "claimRef": { "namespace": "n", "name": "c" }, "storageClassName": "fast", "volumeMode": "Filesystem" }, "status": { "phase": "Bound" } });
    check_row(
        "PersistentVolume.",
        volume,
        expect![
            "Name=v | Capacity=1Gi | Access Modes=RWO,ROX | Reclaim Policy=Retain | Status=Bound | Claim=n/c | StorageClass=fast | VolumeAttributesClass=<unset> | Reason= | Age=<unknown> | VolumeMode=Filesystem"
        ],
    );
    let claim = |spec: Value| json!({ "metadata": { "name": "c" }, "spec": spec, "status": { "phase": "Bound", "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteMany"] } });
    check_row(
        "PersistentVolumeClaim.",
        claim(json!({ "volumeName": "v" })),
        expect![
            "Name=c | Status=Bound | Volume=v | Capacity=1Gi | Access Modes=RWX | StorageClass= | VolumeAttributesClass=<unset> | Age=<unknown> | VolumeMode=<unset>"
        ],
    );
    check_row(
        "PersistentVolumeClaim.",
        claim(json!({})),
        expect![
            "Name=c | Status=Bound | Volume= | Capacity= | Access Modes= | StorageClass= | VolumeAttributesClass=<unset> | Age=<unknown> | VolumeMode=<unset>"
        ],
    );
    check_row(
        "PodDisruptionBudget.policy",
        json!({ "metadata": { "name": "b" }, "spec": { "minAvailable": "50%" }, "status": { "disruptionsAllowed": 1 } }),
        expect!["Name=b | Min Available=50% | Max Unavailable=N/A | Allowed Disruptions=1 | Age=<unknown>"],
    );
    check_row(
        "ResourceQuota.",
        json!({ "metadata": { "name": "q" }, "status": { "hard": { "limits.cpu": "2", "pods": "4", "requests.cpu": "1" }, "used": { "pods": "3" } } }),
        expect!["Name=q | Request=pods: 3/4, requests.cpu: 0/1 | Limit=limits.cpu: 0/2 | Age=<unknown>"],
    );
    check_row(
        "RoleBinding.rbac.authorization.k8s.io",
        json!({ "metadata": { "name": "b" }, "roleRef": { "kind": "Role", "name": "r" }, "subjects": [{ "kind": "User", "name": "u" }, { "kind": "ServiceAccount", "namespace": "n", "name": "s" }, { "kind": "Group", "name": "g" }] }),
        expect!["Name=b | Role=Role/r | Age=<unknown> | Users=u | Groups=g | ServiceAccounts=n/s"],
    );
    let hpa = json!({ "metadata": { "name": "h" }, "spec": { "scaleTargetRef": { "kind": "Deployment", "name": "web" }, "minReplicas": 1, "maxReplicas": 5, "metrics": [
        { "type": "Resource", "resource": { "name": "cpu", "target": { "averageUtilization": 80 } } },
        { "type": "Pods", "pods": { "target": { "averageValue": "10" } } },
        { "type": "External", "external": { "target": { "value": "3" } } },
    ] }, "status": { "currentReplicas": 2, "currentMetrics": [{ "type": "Resource", "resource": { "name": "cpu", "current": { "averageUtilization": 20 } } }] } });
    check_row(
        "HorizontalPodAutoscaler.autoscaling",
        hpa,
        expect![
            "Name=h | Reference=Deployment/web | Targets=cpu: 20%/80%, <unknown>/10 + 1 more... | MinPods=1 | MaxPods=5 | Replicas=2 | Age=<unknown>"
        ],
    );
}

#[test]
fn kinds_without_columns_of_their_own_show_name_and_time() {
    check_row(
        "Role.rbac.authorization.k8s.io",
        json!({ "metadata": { "name": "r", "creationTimestamp": "2026-05-31T01:00:00Z" } }),
        expect!["Name=r | Created At=2026-05-31T01:00:00Z"],
    );
    check_row(
        "ConfigMap.",
        json!({ "metadata": { "name": "c" }, "data": { "a": "1" }, "binaryData": { "b": "AA==" } }),
        expect!["Name=c | Data=2 | Age=<unknown>"],
    );
    check_row(
        "Secret.",
        json!({ "metadata": { "name": "s" }, "type": "Opaque", "data": { "a": "AA==" } }),
        expect!["Name=s | Type=Opaque | Data=1 | Age=<unknown>"],
    );
    check_row(
        "ServiceAccount.",
        json!({ "metadata": { "name": "s" }, "secrets": [] }),
        expect!["Name=s | Age=<unknown>"],
    );
}

#[test]
fn every_printer_fills_all_its_columns() {
    for (name, _) in columns::lines() {
        let (kind, group) = name.split_once('.').unwrap();
        let printer = columns::of(group, kind).unwrap();
        let printed = row(printer, &Object::from_value(json!({ "metadata": { "name": "x" } })).unwrap(), now());
        assert_eq!(printer.columns.len(), printed.cells.len(), "{name}");
        assert!(!printed.cells.contains(&Value::from("<unknown>")) || name != "Status.", "{name}");
    }
}

#[test]
fn columns_say_their_type_and_when_they_are_shown() {
    use crate::hooks::Tables as _;
    use coracle_api::schema::Schema;
    let def = Schema::v1_36().resource("", "v1", "pods").unwrap();
    let columns: Vec<String> = Printers
        .columns(def)
        .into_iter()
        .map(|column| format!("{} {} {:?} {}", column.name, column.r#type, column.format, column.priority))
        .collect();
    expect![[r#"
        Name string "name" 0
        Ready string "" 0
        Status string "" 0
        Restarts string "" 0
        Age string "" 0
        IP string "" 1
        Node string "" 1
        Nominated Node string "" 1
        Readiness Gates string "" 1"#]]
    .assert_eq(&columns.join("\n"));
}
