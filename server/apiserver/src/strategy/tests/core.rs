use expect_test::expect;

use super::{check_create, check_update, created};

#[test]
fn config_maps() {
    let map = "
apiVersion: v1
kind: ConfigMap
metadata: {name: c, namespace: ns}
immutable: true
data: {a: b}
";
    check_update(
        map,
        "",
        "{immutable: null, data: {a: c}}",
        expect![[r#"
        immutable: Forbidden: field is immutable when `immutable` is set
        data: Forbidden: field is immutable when `immutable` is set
    "#]],
    );
    check_update(
        map,
        "",
        "{metadata: {labels: {x: y}}}",
        expect![[r#"
        changed
    "#]],
    );
    let big = "x".repeat(1024 * 1024);
    check_create(
        &format!(
            "
apiVersion: v1
kind: ConfigMap
metadata: {{name: c, namespace: ns}}
data: {{a/b: x, c: {big}}}
binaryData: {{c: AAAA}}
"
        ),
        expect![[r#"
            data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
            data[c]: Invalid value: "c": duplicate of key present in binaryData
            []: Too long: may not be more than 1048576 bytes
        "#]],
    );
}

#[test]
fn secrets() {
    check_create(
        "
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: ns}
stringData: {a: hello}
data: {b: AA==}
",
        expect![[r#"
            data:
              a: aGVsbG8=
              b: AA==
            type: Opaque
        "#]],
    );
    check_create(
        "
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: ns}
type: kubernetes.io/tls
data: {tls.crt: AA==}
",
        expect![[r#"
            data[tls.key]: Required value
        "#]],
    );
    check_create(
        "
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: ns}
type: kubernetes.io/dockerconfigjson
stringData: {.dockerconfigjson: '{'}
",
        expect![[r#"
            data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": EOF while parsing an object at line 1 column 1
        "#]],
    );
    let secret = "
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: ns}
type: custom
";
    check_update(
        secret,
        "",
        "{type: other}",
        expect![[r#"
        type: Invalid value: "other": field is immutable
    "#]],
    );
}

#[test]
fn namespaces() {
    let ns = "
apiVersion: v1
kind: Namespace
metadata: {name: ns}
";
    check_create(
        ns,
        expect![[r#"
            spec:
              finalizers:
              - kubernetes
            status:
              phase: Active
        "#]],
    );
    assert_eq!(created(ns).unwrap().label("kubernetes.io/metadata.name"), Some("ns"));
    check_update(
        ns,
        "",
        "{spec: {finalizers: []}, status: {phase: Terminating}}",
        expect![[r#"
        unchanged
    "#]],
    );
    check_update(
        ns,
        "status",
        "{status: {phase: Terminating}}",
        expect![[r#"
        status.Phase: Invalid value: "Terminating": may not be 'Terminating' if `deletionTimestamp` is empty
    "#]],
    );
    check_update(
        ns,
        "finalize",
        "{spec: {finalizers: [odd]}}",
        expect![[r#"
        spec.finalizers[0]: Invalid value: "odd": finalizer name is neither a standard finalizer name nor is it fully qualified
    "#]],
    );
}

#[test]
fn nodes() {
    let node = "
apiVersion: v1
kind: Node
metadata: {name: n}
spec: {podCIDR: 127.42.0.0/20}
status: {capacity: {cpu: 2, pods: 110}}
";
    check_create(
        node,
        expect![[r#"
            spec:
              podCIDR: 127.42.0.0/20
              podCIDRs:
              - 127.42.0.0/20
            status:
              allocatable:
                cpu: '2'
                pods: '110'
              capacity:
                cpu: '2'
                pods: '110'
        "#]],
    );
    check_update(
        node,
        "",
        "{spec: {podCIDR: 127.42.16.0/20, podCIDRs: [127.42.16.0/20]}}",
        expect![[r#"
        spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid
    "#]],
    );
    check_update(
        node,
        "",
        "{spec: {taints: [{key: a, effect: NoExecute}, {key: a, effect: NoExecute}, {key: b, effect: X}]}}",
        expect![[r#"
        metadata.taints[1]: Duplicate value: {"effect":"NoExecute","key":"a"}: taints must be unique by key and effect pair
        metadata.taints[2].effect: Unsupported value: "X": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
    "#]],
    );
    check_update(
        node,
        "status",
        "{status: {capacity: {pods: 1500m}}}",
        expect![[r#"
        status.capacity.pods: Invalid value: "1500m": must be an integer
    "#]],
    );
}

#[test]
fn volume_claims() {
    let claim = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: ns}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
";
    check_create(
        claim,
        expect![[r#"
            spec:
              accessModes:
              - ReadWriteOnce
              resources:
                requests:
                  storage: 1Gi
              volumeMode: Filesystem
            status:
              phase: Pending
        "#]],
    );
    check_update(
        claim,
        "",
        "{spec: {resources: {requests: {storage: 2Gi}}}}",
        expect![[r#"
        spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims
    "#]],
    );
    check_update(
        claim,
        "",
        "{spec: {storageClassName: fast, volumeName: pv}}",
        expect![[r#"
        changed
    "#]],
    );
    check_create(
        "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: ns}
spec: {accessModes: [Sometimes]}
",
        expect![[r#"
            spec.accessModes: Unsupported value: "Sometimes": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"
            spec.resources[storage]: Required value
        "#]],
    );
}

#[test]
fn volumes() {
    let volume = "
apiVersion: v1
kind: PersistentVolume
metadata: {name: pv}
spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, hostPath: {path: /data}}
";
    check_create(
        volume,
        expect![[r#"
            spec:
              accessModes:
              - ReadWriteOnce
              capacity:
                storage: 1Gi
              hostPath:
                path: /data
                type: ''
              persistentVolumeReclaimPolicy: Retain
              volumeMode: Filesystem
            status:
              phase: Pending
        "#]],
    );
    check_update(
        volume,
        "",
        "{spec: {hostPath: {path: /other}}}",
        expect![[r#"
        spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation
    "#]],
    );
    check_create(
        "
apiVersion: v1
kind: PersistentVolume
metadata: {name: pv}
spec: {nfs: {server: a, path: /b}, hostPath: {path: /a/../b}}
",
        expect![[r#"
            spec.accessModes: Required value
            spec.capacity: Required value
            spec.nfs: Forbidden: may not specify more than 1 volume type
            spec.hostPath.path: Invalid value: "/a/../b": must not contain '..'
        "#]],
    );
}

#[test]
fn storage_classes() {
    let class = "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: fast}
provisioner: example.com/fast
";
    check_create(
        class,
        expect![[r#"
            provisioner: example.com/fast
            reclaimPolicy: Delete
            volumeBindingMode: Immediate
        "#]],
    );
    check_update(
        class,
        "",
        "{provisioner: other, reclaimPolicy: Retain}",
        expect![[r#"
        provisioner: Forbidden: updates to provisioner are forbidden.
        reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.
    "#]],
    );
}

#[test]
fn leases_and_events() {
    check_create(
        "
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: n, namespace: kube-node-lease}
spec: {leaseDurationSeconds: 0, leaseTransitions: -1}
",
        expect![[r#"
            spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0
            spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0
        "#]],
    );
    check_create(
        "
apiVersion: v1
kind: Event
metadata: {name: e, namespace: ns}
involvedObject: {namespace: other}
",
        expect![[r#"
            involvedObject.namespace: Invalid value: "other": does not match event.namespace
        "#]],
    );
}
