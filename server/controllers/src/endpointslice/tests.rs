//! A Service, its pods and its slices in; what becomes of the slices out.

use std::sync::Arc;

use coracle_client::Pod;
use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::{Container, ContainerPort, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::plan::{NodeOf, Observed, Plan, plan};
use crate::testing::{Line, lines};

/// `ports=http:80:web,https:443:8443` is name, port and target.
pub(crate) fn service(line: &Line) -> Service {
    let port = |text: &str| {
        let mut parts = text.split(':');
        let (name, port) = (parts.next().unwrap(), parts.next().unwrap());
        let target = parts.next().map(|t| t.parse().map_or_else(|_| IntOrString::String(t.into()), IntOrString::Int));
        ServicePort {
            name: (!name.is_empty()).then(|| name.to_owned()),
            port: port.parse().unwrap(),
            target_port: target,
            ..ServicePort::default()
        }
    };
    Service {
        metadata: line.meta(),
        spec: Some(ServiceSpec {
            cluster_ip: Some(line.text("ip").unwrap_or("127.43.0.7").into()),
            ip_families: line.text("families").map(|f| f.split(',').map(str::to_owned).collect()),
            selector: Some(line.map("selector").unwrap_or_else(|| [("app".to_owned(), "web".to_owned())].into())),
            ports: line.text("ports").map(|ports| ports.split(',').map(port).collect()),
            publish_not_ready_addresses: line.has("notready").then_some(true),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// `http=8080` gives its container a port of that name.
pub(crate) fn pod(line: &Line) -> Arc<Pod> {
    let mut pod = line.pod();
    let port = ContainerPort {
        name: Some("http".into()),
        container_port: line.number("http").unwrap_or(0),
        ..ContainerPort::default()
    };
    let container =
        Container { name: "main".into(), ports: line.has("http").then(|| vec![port]), ..Container::default() };
    Arc::make_mut(pod.spec.as_mut().unwrap()).containers = vec![container];
    Arc::new(pod)
}

struct World {
    service: Service,
    pods: Vec<Arc<Pod>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl World {
    fn new(text: &str) -> Self {
        let lines = lines(text);
        let service = service(lines.iter().find(|l| l.kind == "svc").unwrap());
        Self { service, pods: lines.iter().filter(|l| l.kind == "pod").map(pod).collect(), slices: Vec::new() }
    }

    fn plan(&self) -> Plan {
        let node = |name: &str| match name.strip_prefix("gone") {
            Some(_) => NodeOf::Missing,
            None => NodeOf::Known { zone: name.split_once('.').map(|(_, zone)| zone.to_owned()) },
        };
        plan(&Observed { service: &self.service, pods: &self.pods, slices: &self.slices, node: &node })
    }

    /// Carries the plan out, as the server would.
    fn settle(mut self) -> Self {
        let plan = self.plan();
        self.slices.retain(|s| !plan.delete.iter().any(|d| d.metadata.name == s.metadata.name));
        for slice in plan.update {
            self.slices.retain(|s| s.metadata.name != slice.metadata.name);
            self.slices.push(Arc::new(slice));
        }
        for mut slice in plan.create {
            slice.metadata.name = Some(format!("web-{}", self.slices.len()));
            self.slices.push(Arc::new(slice));
        }
        self
    }

    /// The same slices in another situation.
    fn then(self, text: &str) -> Self {
        Self { slices: self.slices, ..Self::new(text) }
    }
}

fn check_plan(text: &str, expected: Expect) {
    expected.assert_eq(&World::new(text).plan().to_string());
}

fn check_change(before: &str, after: &str, expected: Expect) {
    expected.assert_eq(&World::new(before).settle().then(after).plan().to_string());
}

fn crowd(count: usize) -> String {
    (0..count).map(|i| format!("; pod p{i:03} ip=127.42.1.{i} ready")).collect()
}

#[test]
fn conditions_tell_ready_serving_and_terminating_apart() {
    check_plan(
        "svc web ports=:80:8080; pod a ip=127.42.1.1 ready node=n1.east; pod b ip=127.42.1.2 node=n1
         pod c ip=127.42.1.3 ready deleting; pod d ip=127.42.1.4 deleting; pod e ready; pod f ip=127.42.1.5 phase=Failed",
        expect![[r#"
            create IPv4 web- ports=8080/TCP
              127.42.1.1 ready serving node=n1.east zone=east
              127.42.1.2 node=n1
              127.42.1.3 serving terminating
              127.42.1.4 terminating
        "#]],
    );
    check_plan(
        "svc web ports=:80 notready; pod b ip=127.42.1.2; pod g ip=127.42.1.7 node=gone",
        expect![[r#"
        create IPv4 web- ports=80/TCP
          127.42.1.2 ready
          127.42.1.7 ready node=gone
    "#]],
    );
}

#[test]
fn pods_of_unknown_nodes_are_left_out() {
    check_plan(
        "svc web ports=:80; pod a ip=127.42.1.1 ready node=gone; pod b ip=127.42.1.2 ready node=n1",
        expect![[r#"
        create IPv4 web- ports=80/TCP
          127.42.1.2 ready serving node=n1
    "#]],
    );
}

#[test]
fn named_target_ports_split_by_number() {
    check_plan(
        "svc web ports=web:80:http,plain:81; pod a ip=127.42.1.1 ready http=8080; pod b ip=127.42.1.2 ready http=9090
         pod c ip=127.42.1.3 ready",
        expect![[r#"
            create IPv4 web- ports=plain:81/TCP
              127.42.1.3 ready serving
            create IPv4 web- ports=plain:81/TCP,web:8080/TCP
              127.42.1.1 ready serving
            create IPv4 web- ports=plain:81/TCP,web:9090/TCP
              127.42.1.2 ready serving
        "#]],
    );
}

#[test]
fn headless_services_keep_hostnames_and_may_have_no_ports() {
    check_plan(
        "svc db ip=None; pod db-0 ip=127.42.1.1 ready hostname=db-0 subdomain=db; pod x ip=127.42.1.2 ready hostname=x subdomain=other",
        expect![[r#"
            create IPv4 db- ports=
              127.42.1.1 ready serving hostname=db-0
              127.42.1.2 ready serving
        "#]],
    );
}

#[test]
fn families_have_slices_of_their_own() {
    check_plan(
        "svc web ports=:80 families=IPv4,IPv6; pod a ip=127.42.1.1,fd00::1 ready; pod b ip=127.42.1.2 ready",
        expect![[r#"
        create IPv4 web- ports=80/TCP
          127.42.1.1 ready serving
          127.42.1.2 ready serving
        create IPv6 web- ports=80/TCP
          fd00::1 ready serving
    "#]],
    );
}

#[test]
fn service_without_pods_has_one_empty_slice_and_keeps_it() {
    check_plan(
        "svc web ports=:80",
        expect![[r#"
        create IPv4 web- ports=
    "#]],
    );
    check_change("svc web ports=:80", "svc web ports=:80", expect![[""]]);
    check_change(
        "svc web ports=:80; pod a ip=127.42.1.1 ready",
        "svc web ports=:80",
        expect![[r#"
        update IPv4 web-0 ports=
    "#]],
    );
}

#[test]
fn only_what_changes_is_written() {
    check_change(
        "svc web ports=:80; pod a ip=127.42.1.1; pod b ip=127.42.1.2 ready",
        "svc web ports=:80; pod a ip=127.42.1.1 ready; pod b ip=127.42.1.2 ready",
        expect![[r#"
            update IPv4 web-0 ports=80/TCP
              127.42.1.1 ready serving
              127.42.1.2 ready serving
        "#]],
    );
    check_change(
        "svc web ports=:80; pod a ip=127.42.1.1 ready",
        "svc web ports=:80; pod a ip=127.42.1.1 ready",
        expect![[""]],
    );
    check_change(
        "svc web ports=:80; pod a ip=127.42.1.1 ready",
        "svc web ports=:81; pod a ip=127.42.1.1 ready",
        expect![[r#"
        update IPv4 web-0 ports=81/TCP
          127.42.1.1 ready serving
    "#]],
    );
    check_change(
        "svc web ports=:80; pod a ip=127.42.1.1 ready",
        "svc web ports=:80 labels=team:x; pod a ip=127.42.1.1 ready",
        expect![[r#"
            update IPv4 web-0 ports=80/TCP
              127.42.1.1 ready serving
        "#]],
    );
}

fn check_sizes(before: usize, after: usize, expected: Expect) {
    let full = World::new(&format!("svc web ports=:80{}", crowd(before))).settle();
    let plan = full.then(&format!("svc web ports=:80{}", crowd(after))).plan();
    let sizes =
        |slices: &[EndpointSlice]| slices.iter().map(|s| s.endpoints.iter().flatten().count()).collect::<Vec<_>>();
    expected.assert_eq(&format!(
        "create {:?} update {:?} delete {}",
        sizes(&plan.create),
        sizes(&plan.update),
        plan.delete.len()
    ));
}

#[test]
fn slices_hold_a_hundred_and_few_are_touched() {
    check_sizes(0, 250, expect!["create [100, 50] update [100] delete 0"]);
    check_sizes(250, 251, expect!["create [] update [51] delete 0"]);
    check_sizes(200, 201, expect!["create [1] update [] delete 0"]);
    check_sizes(250, 160, expect!["create [] update [71, 39] delete 0"]);
}
