use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;

fn node(resolver: &Resolver) -> NodeView<'_> {
    NodeView {
        node_name: "n1",
        cluster_domain: "cluster.local",
        cluster_dns: Some("127.42.0.1:1053".parse().unwrap()),
        resolver,
        memory_bytes: 1 << 30,
    }
}

fn pod(spec: Value) -> Pod {
    let meta = json!({"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "web"}});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

fn check_dns(spec: Value, expected: Expect) {
    let resolver =
        Resolver { servers: vec!["9.9.9.9".into()], searches: vec!["lan".into()], options: vec!["edns0".into()] };
    let dirs = PodDirs::new("/data".as_ref(), "ns", "p", "u");
    let text = match sandbox(&pod(spec), &node(&resolver), &dirs, 0) {
        Ok(config) => {
            let dns = config.dns_config.unwrap();
            format!("{} {:?} {:?} {:?}", config.hostname, dns.servers, dns.searches, dns.options)
        }
        Err(error) => error,
    };
    expected.assert_eq(&text);
}

#[test]
fn dns_and_hostname_follow_the_policies() {
    check_dns(
        json!({"containers": []}),
        expect![[
            r#"p ["127.42.0.1:1053"] ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"] ["ndots:5"]"#
        ]],
    );
    check_dns(json!({"containers": [], "dnsPolicy": "Default"}), expect![[r#"p ["9.9.9.9"] ["lan"] ["edns0"]"#]]);
    check_dns(json!({"containers": [], "hostNetwork": true}), expect![[r#"n1 ["9.9.9.9"] ["lan"] ["edns0"]"#]]);
    check_dns(
        json!({"containers": [], "dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
        expect![[
            r#"n1 ["127.42.0.1:1053"] ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"] ["ndots:5"]"#
        ]],
    );
    let own = json!({"nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]});
    check_dns(
        json!({"containers": [], "dnsPolicy": "None", "dnsConfig": own.clone()}),
        expect![[r#"p ["1.1.1.1"] ["x"] ["ndots:2"]"#]],
    );
    check_dns(
        json!({"containers": [], "dnsConfig": own, "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}),
        expect![[
            r#"h.s.ns.svc.cluster.local ["127.42.0.1:1053", "1.1.1.1"] ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan", "x"] ["ndots:2"]"#
        ]],
    );
}

fn check_container(extra: Value, expected: Expect) {
    let mut value = json!({"name": "c", "image": "img", "command": ["run", "$(WHO)"], "args": ["$(NOPE)"]});
    for (key, field) in extra.as_object().unwrap() {
        value[key] = field.clone();
    }
    let pod = pod(json!({"containers": [value]}));
    let resolver = Resolver::default();
    let env = BTreeMap::from([("WHO".to_owned(), "world".to_owned())]);
    let made = container(ContainerInput {
        pod: &pod,
        container: &pod.spec.as_ref().unwrap().containers[0],
        attempt: 2,
        image: &ImageInfo { reference: "sha256:1".into(), id: "sha256:1".into() },
        handler: "wasm",
        env: &env,
        mounts: Vec::new(),
        node: &node(&resolver),
    });
    let text = match made {
        Ok(config) => {
            let linux = config.linux.unwrap();
            let (resources, security) = (linux.resources.unwrap(), linux.security_context.unwrap());
            format!(
                "{:?} {:?} {} {:?}\nshares={} quota={} memory={} oom={} user={:?} ro={}\n",
                config.command,
                config.args,
                config.log_path,
                config.labels,
                resources.cpu_shares,
                resources.cpu_quota,
                resources.memory_limit_in_bytes,
                resources.oom_score_adj,
                security.run_as_user.map(|user| user.value),
                security.readonly_rootfs,
            )
        }
        Err(error) => error,
    };
    expected.assert_eq(&text);
}

#[test]
fn containers_carry_resources_security_and_identity() {
    check_container(
        json!({}),
        expect![[r#"
        ["run", "world"] ["$(NOPE)"] c/2.log {"io.kubernetes.container.name": "c", "io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.uid": "u"}
        shares=2 quota=0 memory=0 oom=1000 user=None ro=false
    "#]],
    );
    let resources = json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}});
    let security = json!({"runAsUser": 7, "readOnlyRootFilesystem": true});
    check_container(
        json!({"resources": resources, "securityContext": security}),
        expect![[r#"
        ["run", "world"] ["$(NOPE)"] c/2.log {"io.kubernetes.container.name": "c", "io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.uid": "u"}
        shares=256 quota=50000 memory=67108864 oom=969 user=Some(7) ro=true
    "#]],
    );
    check_container(
        json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": true}}),
        expect!["container's runAsUser breaks non-root policy (container: c)"],
    );
}

#[test]
fn a_runtime_hears_of_every_port_and_whose_it_is() {
    let pod = pod(json!({"containers": [
        {"name": "web", "ports": [{"name": "http", "containerPort": 9090}, {"containerPort": 53, "protocol": "UDP"}]},
        {"name": "plain"},
        {"name": "host", "ports": [{"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}]},
    ]}));
    let (resolver, dirs) = (Resolver::default(), PodDirs::new("/data".as_ref(), "ns", "p", "u"));
    let made = sandbox(&pod, &node(&resolver), &dirs, 0).unwrap();
    let mut text = String::new();
    for port in made.port_mappings {
        let protocol = port.protocol();
        text += &format!("{} {protocol:?} host {:?}:{}\n", port.container_port, port.host_ip, port.host_port);
    }
    let spec = pod.spec.clone().unwrap();
    for container in &spec.containers {
        let annotations = annotations(&spec, container, 0);
        text += &format!("{}: {:?}\n", container.name, annotations.get("io.kubernetes.container.ports"));
    }
    expect![[r#"
        9090 Tcp host "":0
        53 Udp host "":0
        80 Tcp host "127.0.0.1":8080
        web: Some("[{\"containerPort\":9090,\"name\":\"http\"},{\"containerPort\":53,\"protocol\":\"UDP\"}]")
        plain: None
        host: Some("[{\"containerPort\":80,\"hostIP\":\"127.0.0.1\",\"hostPort\":8080}]")
    "#]]
    .assert_eq(&text);
}
