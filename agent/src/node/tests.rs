use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use jiff::Timestamp;

use super::object::*;
use super::*;
use crate::config::{Addressing, Disk, Resolver};
use crate::housekeeping::HousekeepingConfig;

pub(crate) fn config() -> AgentConfig {
    AgentConfig {
        node_name: "n1".into(),
        data_dir: "/nowhere".into(),
        node_labels: BTreeMap::from([("zone".to_owned(), "shop".to_owned())]),
        node_taints: Vec::new(),
        max_pods: 110,
        cluster_domain: "cluster.local".to_owned(),
        addressing: Addressing::Loopback,
        host: HostFacts {
            hostname: "host".into(),
            cpus: 2,
            memory_bytes: 1 << 30,
            storage_bytes: 10_000_000_000,
            architecture: "arm64".into(),
            kernel_version: "6.1".into(),
            os_image: "Debian".into(),
            machine_id: "m".into(),
            system_uuid: "s".into(),
            boot_id: "b".into(),
        },
        node_api: None,
        resolver: Resolver::default(),
        disk: Disk::Inline,
        housekeeping: HousekeepingConfig::default(),
    }
}

fn state(fault: Option<&str>, network_fault: Option<&str>, pending: Option<&str>) -> NodeState {
    let text = |value: Option<&str>| value.map(str::to_owned);
    NodeState {
        pressures: Vec::new(),
        runtimes: vec![RuntimeView {
            name: "wasm".into(),
            version: "1.0".into(),
            fault: text(fault),
            network_fault: text(network_fault),
        }],
        handlers: vec!["wasm".to_owned()],
        net: NodeNet { pending: text(pending), ips: vec!["127.42.0.1".parse().unwrap()], dns: None },
        api_port: Some(10250),
        pod_cidr: None,
    }
}

fn check(state: &NodeState, expected: Expect) {
    let now: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
    let node = node(&config(), state, now);
    let status = node.status.unwrap();
    let amounts = |amounts: Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
        amounts.unwrap().into_iter().map(|(name, amount)| format!("{name}={} ", amount.0)).collect::<String>()
    };
    let conditions = status.conditions.unwrap().into_iter().map(|condition| {
        let since = condition.last_transition_time.unwrap().0;
        format!(
            "{}={} {} {since}\n  {}\n",
            condition.type_,
            condition.status,
            condition.reason.unwrap(),
            condition.message.unwrap()
        )
    });
    let conditions: String = conditions.filter(|line| line.starts_with("Ready")).collect();
    let text = format!(
        "{:?}\n{}\n{}\n{:?} {} {:?}\n{conditions}",
        node.metadata.labels.unwrap(),
        amounts(status.capacity),
        amounts(status.allocatable),
        status.addresses.unwrap().iter().map(|address| &*address.address).collect::<Vec<_>>(),
        status.node_info.unwrap().container_runtime_version,
        status.runtime_handlers.unwrap().iter().map(|handler| handler.name.as_deref().unwrap()).collect::<Vec<_>>(),
    );
    expected.assert_eq(&text);
}

#[test]
fn a_node_says_what_it_is_and_why_it_is_not_ready() {
    check(
        &state(None, None, None),
        expect![[r#"
            {"beta.kubernetes.io/arch": "arm64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64", "kubernetes.io/hostname": "n1", "kubernetes.io/os": "linux", "zone": "shop"}
            cpu=2 ephemeral-storage=9765625Ki memory=1Gi pods=110 
            cpu=2 ephemeral-storage=9G memory=924Mi pods=110 
            ["127.42.0.1", "n1"] wasm://1.0 ["", "wasm"]
            Ready=True KubeletReady 2026-01-01T00:00:00Z
              kubelet is posting ready status
        "#]],
    );
    let faults = state(Some("container runtime is down"), None, Some("waiting for a pod CIDR"));
    check(
        &faults,
        expect![[r#"
            {"beta.kubernetes.io/arch": "arm64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64", "kubernetes.io/hostname": "n1", "kubernetes.io/os": "linux", "zone": "shop"}
            cpu=2 ephemeral-storage=9765625Ki memory=1Gi pods=110 
            cpu=2 ephemeral-storage=9G memory=924Mi pods=110 
            ["127.42.0.1", "n1"] wasm://1.0 ["", "wasm"]
            Ready=False KubeletNotReady 2026-01-01T00:00:00Z
              [container runtime is down, node network is not ready: waiting for a pod CIDR]
        "#]],
    );
    check(
        &state(None, Some("the pod CIDR is not known yet"), None),
        expect![[r#"
            {"beta.kubernetes.io/arch": "arm64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64", "kubernetes.io/hostname": "n1", "kubernetes.io/os": "linux", "zone": "shop"}
            cpu=2 ephemeral-storage=9765625Ki memory=1Gi pods=110 
            cpu=2 ephemeral-storage=9G memory=924Mi pods=110 
            ["127.42.0.1", "n1"] wasm://1.0 ["", "wasm"]
            Ready=False KubeletNotReady 2026-01-01T00:00:00Z
              [container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:the pod CIDR is not known yet]
        "#]],
    );
}

#[test]
fn heartbeats_alone_are_no_difference() {
    let (early, late) = ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-01T01:00:00Z".parse().unwrap());
    let ready = state(None, None, None);
    let node = node(&config(), &ready, early);
    let later = status(&config(), &ready, &[], &node, late);
    assert!(!differs(node.status.as_ref(), &later));
    let worse = status(&config(), &state(Some("down"), None, None), &[], &node, late);
    assert!(differs(node.status.as_ref(), &worse));
    let ready = worse.conditions.unwrap().into_iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!(ready.last_transition_time.unwrap().0, late, "a change has its own time");
}

#[test]
fn a_runtime_that_is_down_beside_another_is_only_told() {
    let mut two = state(Some("container runtime oci is down"), None, None);
    two.runtimes.push(RuntimeView { name: "wasm".into(), version: "1.0".into(), ..RuntimeView::default() });
    assert_eq!(readiness(&two), Ok(()));
    two.runtimes[1].network_fault = Some("no address".to_owned());
    expect![[r#"Err("[container runtime oci is down, container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:no address]")"#]]
        .assert_eq(&format!("{:?}", readiness(&two)));
}
