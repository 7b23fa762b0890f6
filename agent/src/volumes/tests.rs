use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};

use super::*;

struct Bench {
    dir: tempfile::TempDir,
    map: BTreeMap<String, String>,
    now: i64,
}

impl Bench {
    fn new(pairs: &[(&str, &str)]) -> Self {
        let map = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { dir: tempfile::tempdir().unwrap(), map, now: 1_767_225_600 }
    }

    fn dirs(&self) -> PodDirs {
        PodDirs::new(self.dir.path(), "ns", "p", "u")
    }

    fn pod(volume: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"app": "web"}},
            "spec": {"containers": [], "volumes": [volume]},
        }))
        .unwrap()
    }

    fn set_up(&mut self, volume: Value) -> Result<(), VolumeError> {
        self.now += 1;
        let key = |kind, name: &str| SourceKey { kind, namespace: "ns".into(), name: name.into() };
        let map: ConfigMap = serde_json::from_value(json!({"data": self.map})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"key": "c2VjcmV0"}})).unwrap();
        let missing = SourceError::NotFound { kind: SourceKind::ConfigMap, name: "none".into() };
        let sources = BTreeMap::from([
            (key(SourceKind::ConfigMap, "map"), Ok(Arc::new(map.into()))),
            (key(SourceKind::ConfigMap, "none"), Err(missing)),
            (key(SourceKind::Secret, "secret"), Ok(Arc::new(secret.into()))),
        ]);
        let token = StoredToken {
            audience: String::new(),
            expiration_seconds: 3607,
            token: "TOKEN".into(),
            issued: Timestamp::UNIX_EPOCH,
            expires: Timestamp::UNIX_EPOCH,
        };
        set_up(&VolumeInput {
            pod: &Self::pod(volume),
            dirs: &self.dirs(),
            facts: &PodFacts::default(),
            sources: &sources,
            tokens: &BTreeMap::from([((String::new(), 3607), Ok(token))]),
            now: Timestamp::from_second(self.now).unwrap(),
        })
        .map(drop)
    }

    /// What a reader of the volumes sees.
    fn seen(&self) -> String {
        let mut lines = Vec::new();
        walk(&self.dirs().root.join("volumes"), "", &mut lines);
        lines.sort();
        lines.concat()
    }
}

fn walk(dir: &Path, below: &str, lines: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{below}/{}", entry.file_name().to_string_lossy());
        let meta = fs::metadata(entry.path()).unwrap();
        let mode = meta.permissions().mode() & 0o777;
        if fs::symlink_metadata(entry.path()).unwrap().is_symlink() {
            let to = fs::read_link(entry.path()).unwrap();
            lines.push(format!("{name} -> {}\n", to.display()));
        }
        if meta.is_file() {
            lines.push(format!("{name} {mode:o} {:?}\n", fs::read_to_string(entry.path()).unwrap()));
        } else if !entry.file_name().to_string_lossy().starts_with("..data") {
            lines.push(format!("{name} {mode:o}\n"));
            walk(&entry.path(), &name, lines);
        }
    }
}

fn check(volume: Value, expected: Expect) {
    let mut bench = Bench::new(&[("a", "1"), ("b", "2")]);
    let text = match bench.set_up(volume) {
        Ok(()) => bench.seen(),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&text);
}

#[test]
fn config_maps_are_seen_through_links() {
    check(
        json!({"name": "v", "configMap": {"name": "map"}}),
        expect![[r#"
        /kubernetes.io~configmap 755
        /kubernetes.io~configmap/v 755
        /kubernetes.io~configmap/v/..2026_01_01_00_00_01.000000000 755
        /kubernetes.io~configmap/v/..2026_01_01_00_00_01.000000000/a 644 "1"
        /kubernetes.io~configmap/v/..2026_01_01_00_00_01.000000000/b 644 "2"
        /kubernetes.io~configmap/v/..data -> ..2026_01_01_00_00_01.000000000
        /kubernetes.io~configmap/v/a -> ..data/a
        /kubernetes.io~configmap/v/a 644 "1"
        /kubernetes.io~configmap/v/b -> ..data/b
        /kubernetes.io~configmap/v/b 644 "2"
    "#]],
    );
}

#[test]
fn items_choose_keys_paths_and_modes() {
    let items = json!([{"key": "a", "path": "x/y/a.txt", "mode": 0o400}]);
    check(
        json!({"name": "v", "configMap": {"name": "map", "items": items, "defaultMode": 0o440}}),
        expect![[r#"
        /kubernetes.io~configmap 755
        /kubernetes.io~configmap/v 755
        /kubernetes.io~configmap/v/..2026_01_01_00_00_01.000000000 755
        /kubernetes.io~configmap/v/..2026_01_01_00_00_01.000000000/x 755
        /kubernetes.io~configmap/v/..2026_01_01_00_00_01.000000000/x/y 755
        /kubernetes.io~configmap/v/..2026_01_01_00_00_01.000000000/x/y/a.txt 400 "1"
        /kubernetes.io~configmap/v/..data -> ..2026_01_01_00_00_01.000000000
        /kubernetes.io~configmap/v/x -> ..data/x
        /kubernetes.io~configmap/v/x 755
        /kubernetes.io~configmap/v/x/y 755
        /kubernetes.io~configmap/v/x/y/a.txt 400 "1"
    "#]],
    );
}

#[test]
fn projections_are_put_together() {
    let sources = json!([
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "map", "items": [{"key": "a", "path": "ca.crt"}]}},
        {"secret": {"name": "secret"}},
        {"configMap": {"name": "none", "optional": true}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]);
    check(
        json!({"name": "v", "projected": {"sources": sources, "defaultMode": 0o600}}),
        expect![[r#"
        /kubernetes.io~projected 755
        /kubernetes.io~projected/v 755
        /kubernetes.io~projected/v/..2026_01_01_00_00_01.000000000 755
        /kubernetes.io~projected/v/..2026_01_01_00_00_01.000000000/ca.crt 600 "1"
        /kubernetes.io~projected/v/..2026_01_01_00_00_01.000000000/key 600 "secret"
        /kubernetes.io~projected/v/..2026_01_01_00_00_01.000000000/labels 600 "app=\"web\""
        /kubernetes.io~projected/v/..2026_01_01_00_00_01.000000000/token 600 "TOKEN"
        /kubernetes.io~projected/v/..data -> ..2026_01_01_00_00_01.000000000
        /kubernetes.io~projected/v/ca.crt -> ..data/ca.crt
        /kubernetes.io~projected/v/ca.crt 600 "1"
        /kubernetes.io~projected/v/key -> ..data/key
        /kubernetes.io~projected/v/key 600 "secret"
        /kubernetes.io~projected/v/labels -> ..data/labels
        /kubernetes.io~projected/v/labels 600 "app=\"web\""
        /kubernetes.io~projected/v/token -> ..data/token
        /kubernetes.io~projected/v/token 600 "TOKEN"
    "#]],
    );
}

#[test]
fn what_cannot_be_made_is_said_as_kubelet_says_it() {
    check(
        json!({"name": "v", "configMap": {"name": "none"}}),
        expect![[r#"MountVolume.SetUp failed for volume "v" : configmap "none" not found"#]],
    );
    let items = json!([{"key": "zz", "path": "a"}]);
    check(
        json!({"name": "v", "configMap": {"name": "map", "items": items}}),
        expect![[r#"MountVolume.SetUp failed for volume "v" : configmap references non-existent config key: zz"#]],
    );
    check(
        json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}),
        expect![[
            r#"MountVolume.SetUp failed for volume "v" : this node does not provide volumes of the type persistentVolumeClaim"#
        ]],
    );
    check(
        json!({"name": "v", "hostPath": {"path": "/no/such", "type": "Directory"}}),
        expect![[
            r#"MountVolume.SetUp failed for volume "v" : hostPath type check failed: /no/such is not a directory"#
        ]],
    );
    let items = json!([{"key": "a", "path": "../../etc/passwd"}]);
    check(
        json!({"name": "v", "configMap": {"name": "map", "items": items}}),
        expect![[r#"MountVolume.SetUp failed for volume "v" : invalid path "../../etc/passwd" in the volume"#]],
    );
}

#[test]
fn an_update_turns_all_files_at_once_and_nothing_is_written_twice() {
    let volume = json!({"name": "v", "configMap": {"name": "map"}});
    let mut bench = Bench::new(&[("a", "1"), ("b", "2")]);
    bench.set_up(volume.clone()).unwrap();
    let before = bench.seen();
    bench.set_up(volume.clone()).unwrap();
    assert_eq!(bench.seen(), before, "the same content makes no new folder");
    bench.map = BTreeMap::from([("a".to_owned(), "9".to_owned()), ("c".to_owned(), "3".to_owned())]);
    bench.set_up(volume).unwrap();
    expect![[r#"
        /kubernetes.io~configmap 755
        /kubernetes.io~configmap/v 755
        /kubernetes.io~configmap/v/..2026_01_01_00_00_03.000000000 755
        /kubernetes.io~configmap/v/..2026_01_01_00_00_03.000000000/a 644 "9"
        /kubernetes.io~configmap/v/..2026_01_01_00_00_03.000000000/c 644 "3"
        /kubernetes.io~configmap/v/..data -> ..2026_01_01_00_00_03.000000000
        /kubernetes.io~configmap/v/a -> ..data/a
        /kubernetes.io~configmap/v/a 644 "9"
        /kubernetes.io~configmap/v/c -> ..data/c
        /kubernetes.io~configmap/v/c 644 "3"
    "#]]
    .assert_eq(&bench.seen());
    tear_down(&bench.dirs()).unwrap();
    assert!(!bench.dirs().root.exists());
    tear_down(&bench.dirs()).unwrap();
}

fn check_mounts(volume: Value, mount: Value, expected: Expect) {
    let mut bench = Bench::new(&[("a", "1")]);
    bench.set_up(volume.clone()).unwrap();
    let container: k8s_openapi::api::core::v1::Container =
        serde_json::from_value(json!({"name": "c", "volumeMounts": [mount]})).unwrap();
    let env = BTreeMap::from([("POD".to_owned(), "p-1".to_owned())]);
    let text = match mounts(&Bench::pod(volume), &container, &bench.dirs(), &env) {
        Ok(mounts) => mounts
            .iter()
            .map(|m| format!("{} <- {} {}\n", m.container_path, m.host_path, if m.readonly { "ro" } else { "rw" }))
            .collect(),
        Err(error) => error,
    };
    let shown = text.replace(&bench.dir.path().canonicalize().unwrap().display().to_string(), "DIR");
    expected.assert_eq(&shown);
}

#[test]
fn mounts_name_folders_and_what_lies_in_them() {
    let empty = json!({"name": "v", "emptyDir": {}});
    check_mounts(
        empty.clone(),
        json!({"name": "v", "mountPath": "/data"}),
        expect![[r#"
        /data <- DIR/pods/u/volumes/kubernetes.io~empty-dir/v rw
        /etc/hosts <- DIR/pods/u/etc-hosts rw
    "#]],
    );
    check_mounts(
        empty.clone(),
        json!({"name": "v", "mountPath": "/d", "subPathExpr": "$(POD)/x"}),
        expect![[r#"
        /d <- DIR/pods/u/volumes/kubernetes.io~empty-dir/v/p-1/x rw
        /etc/hosts <- DIR/pods/u/etc-hosts rw
    "#]],
    );
    check_mounts(
        empty.clone(),
        json!({"name": "v", "mountPath": "/d", "subPath": "../x"}),
        expect![[r#"subPath "../x" must be a relative path without '..'"#]],
    );
    let map = json!({"name": "v", "configMap": {"name": "map"}});
    check_mounts(
        map,
        json!({"name": "v", "mountPath": "/etc/hosts", "subPath": "a"}),
        expect![[r#"
        /etc/hosts <- DIR/pods/u/volume-subpaths/v/c/0 ro
    "#]],
    );
    check_mounts(
        empty,
        json!({"name": "w", "mountPath": "/d"}),
        expect![[r#"cannot find volume "w" to mount into container "c""#]],
    );
}

#[test]
fn hosts_files_name_the_pod_and_its_aliases() {
    let mut pod = Bench::pod(json!({"name": "v", "emptyDir": {}}));
    let aliases = json!([{"ip": "10.0.0.1", "hostnames": ["a", "b"]}]);
    Arc::make_mut(pod.spec.as_mut().unwrap()).host_aliases = Some(serde_json::from_value(aliases).unwrap());
    expect![[r#"
        # Kubernetes-managed hosts file.
        127.0.0.1	localhost
        ::1	localhost ip6-localhost ip6-loopback
        fe00::0	ip6-localnet
        fe00::0	ip6-mcastprefix
        fe00::1	ip6-allnodes
        fe00::2	ip6-allrouters
        127.42.0.2	p.sub.ns.svc.cluster.local	p

        # Entries added by HostAliases.
        10.0.0.1	a	b
    "#]]
    .assert_eq(&hosts_file(&pod, &["127.42.0.2".to_owned()], "p", "sub.ns.svc.cluster.local"));
}
