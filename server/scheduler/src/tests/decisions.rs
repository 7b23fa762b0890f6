//! Where pods go, and what is said when they go nowhere.

use expect_test::{Expect, expect};

use super::cluster::{cluster, info};
use crate::framework::Profile;
use crate::preempt::{Preemption, preempt};
use crate::schedule::{Decision, schedule};

/// Decides on each pod of `pods` in turn, and binds it.
fn check(nodes: &str, pods: &str, expect: Expect) {
    let mut cluster = cluster(nodes);
    let profile = Profile::standard();
    let mut out = String::new();
    for line in pods.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let pod = info(line);
        // Of equals the first: a test must not depend on chance.
        let mut chance = |_: u64| 0;
        let outcome = match schedule(&cluster.snapshot, &pod, &profile, &mut chance) {
            Decision::Bind(node) => {
                cluster.snapshot.assume(pod.clone(), &node);
                format!("-> {node}")
            }
            Decision::Unschedulable(diagnosis) if diagnosis.nodes == 0 => diagnosis.message(),
            Decision::Unschedulable(diagnosis) => {
                let found = preempt(&cluster.snapshot, &pod, &profile, &diagnosis, &cluster.budgets, &mut chance);
                match found {
                    Preemption::None(why) => format!("{} preemption: {why}", diagnosis.message()),
                    Preemption::Victims { node, victims } => {
                        let victims: Vec<&str> = victims.iter().map(|victim| &*victim.key.name).collect();
                        format!("{} {node} without {}", diagnosis.message(), victims.join(", "))
                    }
                }
            }
        };
        out.push_str(&format!("{}: {outcome}\n", pod.key.name));
    }
    expect.assert_eq(&out);
}

#[test]
fn without_nodes() {
    check(
        "",
        "pod a",
        expect![[r#"
        a: no nodes available to schedule pods
    "#]],
    );
}

#[test]
fn reasons_are_counted_as_upstream_words_them() {
    check(
        "node a taint=gpu:yes:NoSchedule
         node b cpu=1
         node c cpu=1 memory=1Gi
         node d cordoned
         node e label=zone:west",
        "pod p cpu=2 memory=2Gi
         pod q cpu=8
         pod r select=zone:east
         pod s needname=a|b
         pod t needname=nowhere
         pod u on=b cpu=2",
        expect![[r#"
            p: -> e
            q: 0/5 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 3 Insufficient cpu. preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling.
            r: 0/5 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 3 node(s) didn't match Pod's node affinity/selector. preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling.
            s: -> b
            t: 0/5 nodes are available: 5 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling.
            u: 0/5 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable, 3 node(s) didn't match the requested node name. preemption: 0/5 nodes are available: 5 Preemption is not helpful for scheduling.
        "#]],
    );
}

#[test]
fn resources_are_added_up_as_the_node_will_need_them() {
    check(
        "node a cpu=4 other=example.com/gpu:2 pods=6",
        "pod init cpu=1 init=3
         pod sidecar cpu=500m sidecar=500m init=1500m
         pod overhead cpu=500m overhead=500m
         pod gpu other=example.com/gpu:2
         pod gpu2 other=example.com/gpu:1
         pod gpu3 other=example.com/gpu:3
         pod unknown other=example.com/fpga:1
         pod small cpu=500m
         pod disk ephemeral-storage=20Gi
         pod rest cpu=500m
         pod more cpu=1m
         pod free
         pod many
         pod last
         pod too-many",
        expect![[r#"
            init: -> a
            sidecar: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            overhead: -> a
            gpu: -> a
            gpu2: 0/1 nodes are available: 1 Insufficient example.com/gpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            gpu3: 0/1 nodes are available: 1 Insufficient example.com/gpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.
            unknown: 0/1 nodes are available: 1 Insufficient example.com/fpga. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.
            small: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            disk: 0/1 nodes are available: 1 Insufficient ephemeral-storage. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.
            rest: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            more: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
            free: -> a
            many: -> a
            last: -> a
            too-many: 0/1 nodes are available: 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
        "#]],
    );
}

#[test]
fn the_emptiest_node_is_taken_and_cpu_and_memory_kept_in_balance() {
    check(
        "node a
         node b
         pod x on=a cpu=1 memory=1Gi",
        "pod p cpu=1 memory=1Gi
         pod q cpu=1 memory=1Gi
         pod r cpu=1 memory=1Gi
         pod s
         pod t",
        expect![[r#"
            p: -> b
            q: -> a
            r: -> b
            s: -> a
            t: -> b
        "#]],
    );
    check(
        "node a cpu=10 memory=10Gi
         node b cpu=10 memory=10Gi
         pod x on=a cpu=4
         pod y on=b memory=4Gi",
        "pod wants-memory cpu=10m memory=4Gi
         pod wants-cpu cpu=4 memory=10Mi",
        expect![[r#"
            wants-memory: -> a
            wants-cpu: -> b
        "#]],
    );
}

#[test]
fn taints_and_tolerations() {
    check(
        "node a taint=gpu:yes:NoSchedule
         node b taint=gpu:no:NoExecute
         node c cordoned
         node d cpu=1 taint=slow:yes:PreferNoSchedule",
        "pod equal cpu=2 tolerate=gpu:yes:NoSchedule
         pod exists cpu=2 tolerate=gpu
         pod wrong-effect cpu=2 tolerate=gpu:no:NoSchedule
         pod cordon cpu=2 tolerate=node.kubernetes.io/unschedulable
         pod none cpu=2
         pod disliked",
        expect![[r#"
            equal: -> a
            exists: -> b
            wrong-effect: 0/4 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable, 2 node(s) had untolerated taint(s). preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling.
            cordon: -> c
            none: 0/4 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable, 2 node(s) had untolerated taint(s). preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling.
            disliked: -> d
        "#]],
    );
    check(
        "node a taint=slow:yes:PreferNoSchedule
         node b
         pod x on=b cpu=2 memory=4Gi",
        "pod p
         pod q tolerate=slow",
        expect![[r#"
            p: -> b
            q: -> a
        "#]],
    );
}

#[test]
fn node_affinity_required_and_preferred() {
    check(
        "node a label=zone:east label=size:3
         node b label=zone:west label=size:9
         node c",
        "pod in need=zone,In,west|north
         pod notin need=zone,NotIn,east|west
         pod exists need=zone,Exists need=size,Gt,5
         pod less need=size,Lt,5
         pod absent need=zone,DoesNotExist
         pod none need=size,Gt,10
         pod odd need=zone,Gt,10
         pod like like=10,zone,In,west
         pod like2 like=10,zone,In,west like=20,zone,In,east
         pod named needname=c
         pod named2 needname=c select=zone:east",
        expect![[r#"
            in: -> b
            notin: -> c
            exists: -> b
            less: -> a
            absent: -> c
            none: 0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.
            odd: 0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.
            like: -> b
            like2: -> a
            named: -> c
            named2: 0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.
        "#]],
    );
}

#[test]
fn host_ports_are_not_shared() {
    check(
        "node a
         node b",
        "pod p port=80
         pod q port=80
         pod r port=80 port=81
         pod s port=81",
        expect![[r#"
            p: -> a
            q: -> b
            r: 0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.
            s: -> a
        "#]],
    );
}

#[test]
fn nodes_with_the_image_are_liked_the_more_the_larger_it_is() {
    check(
        "node a
         node b image=docker.io/big:latest:900000000
         node c image=docker.io/small:v1:1000000",
        "pod p image=docker.io/big
         pod q image=docker.io/small:v1",
        expect![[r#"
            p: -> b
            q: -> a
        "#]],
    );
}

#[test]
fn less_important_pods_give_way() {
    check(
        "node a
         node b
         node c taint=x:y:NoSchedule
         pod a1 on=a cpu=2 priority=1 started=1
         pod a2 on=a cpu=2 priority=5
         pod b1 on=b cpu=2 priority=1 started=9
         pod b2 on=b cpu=2 priority=2",
        "pod same cpu=1 priority=1
         pod high cpu=2 priority=10
         pod higher cpu=4 priority=10
         pod mid cpu=3 priority=3
         pod never cpu=2 priority=10 never
         pod huge cpu=9 priority=10
         pod unlike cpu=1 priority=10 select=k:v",
        expect![[r#"
            same: 0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod.
            high: 0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. b without b1
            higher: 0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. b without b2, b1
            mid: 0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. b without b2, b1
            never: 0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.
            huge: 0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.
            unlike: 0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't match Pod's node affinity/selector. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.
        "#]],
    );
}

#[test]
fn budgets_are_kept_where_another_choice_is_left() {
    check(
        "node a
         node b
         pod a1 on=a cpu=4 priority=1 labels=app:db
         pod b1 on=b cpu=4 priority=2
         budget db app:db allowed=0",
        "pod p cpu=4 priority=10",
        expect![[r#"
            p: 0/2 nodes are available: 2 Insufficient cpu. b without b1
        "#]],
    );
    check(
        "node a
         pod a1 on=a cpu=4 priority=1 labels=app:db
         budget db app:db allowed=0",
        "pod p cpu=4 priority=10",
        expect![[r#"
            p: 0/1 nodes are available: 1 Insufficient cpu. a without a1
        "#]],
    );
}

#[test]
fn room_that_was_made_is_kept_for_whom_it_was_made() {
    check(
        "node a
         node b cpu=1
         pod vip cpu=4 priority=10 nominated=a",
        "pod other cpu=2 priority=5
         pod greater cpu=2 priority=20
         pod small cpu=1 priority=5",
        expect![[r#"
            other: 0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling.
            greater: -> a
            small: -> b
        "#]],
    );
    check(
        "node a
         node b
         pod gone on=a cpu=4 priority=1 leaving",
        "pod waits cpu=4 priority=10 nominated=a
         pod waits-too cpu=5 priority=10 nominated=a
         pod eager cpu=4 priority=10 nominated=a",
        expect![[r#"
            waits: -> b
            waits-too: 0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.
            eager: 0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to a terminating pod on the nominated node.
        "#]],
    );
}

#[test]
fn large_clusters_are_sampled_from_a_random_start() {
    let nodes: String = (0..400).map(|number| format!("node n{number:03} cpu=1\n")).collect();
    let cluster = cluster(&nodes);
    let profile = Profile::standard();
    let mut looked_at = std::collections::BTreeSet::new();
    for start in [0, 100, 399] {
        let mut asked = Vec::new();
        let mut chance = |bound: u64| {
            asked.push(bound);
            if bound == 400 { start } else { 0 }
        };
        let Decision::Bind(node) = schedule(&cluster.snapshot, &info("pod p cpu=1"), &profile, &mut chance) else {
            panic!("all nodes do");
        };
        // 47 % of 400 nodes are enough; all of them are equally good.
        assert_eq!(asked, [400, 188]);
        looked_at.insert(node.to_string());
    }
    assert_eq!(looked_at.into_iter().collect::<Vec<_>>(), ["n000", "n100", "n399"]);
}
