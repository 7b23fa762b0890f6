use expect_test::{Expect, expect};

use super::*;
use crate::testing::World;

fn plan(world: &str) -> BTreeMap<Listener, Backends> {
    let world = World::parse(world);
    let node_port_addresses = vec!["127.0.0.1".parse().unwrap(), "127.42.0.1".parse().unwrap()];
    desired(&world.services, &world.slices, &NodeFacts { name: "n1".into(), node_port_addresses })
}

fn show(listener: &Listener, backends: &Backends) -> String {
    let Backends { service, port_name, endpoints, affinity, uid: _ } = backends;
    let endpoints: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
    let affinity = affinity.map(|affinity| format!(" affinity {affinity:?}")).unwrap_or_default();
    format!("{listener} {service}[{port_name}] -> {}{affinity}\n", endpoints.join(" "))
}

fn check_plan(world: &str, expected: Expect) {
    expected.assert_eq(&plan(world).iter().map(|(l, b)| show(l, b)).collect::<String>());
}

#[test]
fn cluster_addresses_and_node_ports() {
    check_plan(
        "service a/web ip=127.43.0.5 type=NodePort port=http:80/TCP:30080 port=dns:53/UDP
         slice a/web port=http:8080/TCP port=dns:5353/UDP ep=127.42.0.3 ep=127.42.0.2
         slice a/web n=1 port=http:9090/TCP ep=127.42.0.4 ep=127.42.0.2
         slice b/web port=http:8080/TCP ep=127.42.0.9",
        expect![[r#"
            127.0.0.1:30080/TCP a/web[http] -> 127.42.0.2:8080 127.42.0.2:9090 127.42.0.3:8080 127.42.0.4:9090
            127.42.0.1:30080/TCP a/web[http] -> 127.42.0.2:8080 127.42.0.2:9090 127.42.0.3:8080 127.42.0.4:9090
            127.43.0.5:53/UDP a/web[dns] -> 127.42.0.2:5353 127.42.0.3:5353
            127.43.0.5:80/TCP a/web[http] -> 127.42.0.2:8080 127.42.0.2:9090 127.42.0.3:8080 127.42.0.4:9090
        "#]],
    );
}

#[test]
fn ready_ones_else_those_that_serve_while_they_terminate() {
    check_plan(
        "service a/some ip=127.43.0.1 port=80/TCP
         slice a/some port=80/TCP ep=127.42.0.2 ep=127.42.0.3,not ep=127.42.0.4,ending
         service a/ending ip=127.43.0.2 port=80/TCP
         slice a/ending port=80/TCP ep=127.42.0.3,not ep=127.42.0.4,ending
         service a/none ip=127.43.0.3 port=80/TCP
         slice a/none port=80/TCP ep=127.42.0.3,not
         service a/other-port ip=127.43.0.4 port=x:80/TCP
         slice a/other-port port=y:80/TCP ep=127.42.0.3",
        expect![[r#"
            127.43.0.1:80/TCP a/some[] -> 127.42.0.2:80
            127.43.0.2:80/TCP a/ending[] -> 127.42.0.4:80
        "#]],
    );
}

#[test]
fn local_policies_see_this_node_only() {
    let slice = "port=80/TCP ep=127.42.0.2,node=n1 ep=127.42.16.2,node=n2";
    check_plan(
        &format!(
            "service a/inside ip=127.43.0.1 type=NodePort internal=Local port=80/TCP:30001
             slice a/inside {slice}
             service a/outside ip=127.43.0.2 type=NodePort external=Local port=80/TCP:30002
             slice a/outside {slice}
             service a/elsewhere ip=127.43.0.3 internal=Local port=80/TCP
             slice a/elsewhere port=80/TCP ep=127.42.16.2,node=n2"
        ),
        expect![[r#"
            127.0.0.1:30001/TCP a/inside[] -> 127.42.0.2:80 127.42.16.2:80
            127.0.0.1:30002/TCP a/outside[] -> 127.42.0.2:80
            127.42.0.1:30001/TCP a/inside[] -> 127.42.0.2:80 127.42.16.2:80
            127.42.0.1:30002/TCP a/outside[] -> 127.42.0.2:80
            127.43.0.1:80/TCP a/inside[] -> 127.42.0.2:80
            127.43.0.2:80/TCP a/outside[] -> 127.42.0.2:80 127.42.16.2:80
        "#]],
    );
}

#[test]
fn what_is_not_proxied() {
    check_plan(
        "service a/headless ip=None port=80/TCP
         slice a/headless port=80/TCP ep=127.42.0.2
         service a/external type=ExternalName to=example.com port=80/TCP
         slice a/external port=80/TCP ep=127.42.0.2
         service a/waiting port=80/TCP
         slice a/waiting port=80/TCP ep=127.42.0.2
         service a/foreign ip=127.43.0.4 label=service.kubernetes.io/service-proxy-name port=80/TCP
         slice a/foreign port=80/TCP ep=127.42.0.2
         service a/sctp ip=127.43.0.5 port=80/SCTP
         slice a/sctp port=80/SCTP ep=127.42.0.2
         service a/not-node-port ip=127.43.0.6 port=80/TCP:30000
         slice a/not-node-port port=80/TCP ep=127.42.0.2",
        expect![[r#"
            127.43.0.6:80/TCP a/not-node-port[] -> 127.42.0.2:80
        "#]],
    );
}

#[test]
fn families_and_affinity() {
    check_plan(
        "service a/dual ip=127.43.0.1,fd00::1 affinity=600 port=80/TCP
         slice a/dual n=4 port=80/TCP ep=127.42.0.2
         slice a/dual n=6 port=80/TCP ep=fd00::2",
        expect![[r#"
            127.43.0.1:80/TCP a/dual[] -> 127.42.0.2:80 affinity 600s
            [fd00::1]:80/TCP a/dual[] -> [fd00::2]:80 affinity 600s
        "#]],
    );
}

#[test]
fn differences_are_steps() {
    let service = |name: &str, ip: u8, endpoints: &str| {
        format!("service a/{name} ip=127.43.0.{ip} port=80/TCP\nslice a/{name} port=80/TCP {endpoints}\n")
    };
    let old = plan(
        &(service("gone", 1, "ep=127.42.0.2")
            + &service("same", 2, "ep=127.42.0.2")
            + &service("more", 3, "ep=127.42.0.2")),
    );
    let new = plan(
        &(service("same", 2, "ep=127.42.0.2")
            + &service("more", 3, "ep=127.42.0.2 ep=127.42.0.3")
            + &service("new", 4, "ep=127.42.0.2")),
    );
    let steps = diff(&old, &new).into_iter().map(|change| match change {
        Change::Open(listener, backends) => format!("open {}", show(&listener, &backends)),
        Change::Update(listener, backends) => format!("update {}", show(&listener, &backends)),
        Change::Close(listener) => format!("close {listener}\n"),
    });
    expect![[r#"
        close 127.43.0.1:80/TCP
        update 127.43.0.3:80/TCP a/more[] -> 127.42.0.2:80 127.42.0.3:80
        open 127.43.0.4:80/TCP a/new[] -> 127.42.0.2:80
    "#]]
    .assert_eq(&steps.collect::<String>());
    assert_eq!(diff(&new, &new), []);
}
