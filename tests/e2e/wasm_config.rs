//! A guest's configuration, from a config map and a secret by an annotation to `wasi:config`.

use std::process::Command;

use coracle_tests::{Cluster, binary, checkout, wait_for};

fn pod(name: &str, annotations: &str, args: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, annotations: {{{annotations}}}}}
spec:
  runtimeClassName: wasm
  automountServiceAccountToken: false
  restartPolicy: Never
  containers:
  - {{name: main, image: 'state:dev', imagePullPolicy: IfNotPresent, args: [{args}]}}
"#
    )
}

#[test]
fn a_guest_reads_config_maps_and_secrets_that_an_annotation_names() {
    let cluster = Cluster::up(&["examples/hello"]);
    let guest = checkout().join("runtime-shims/wasm/tests/guests/state/state.wasm");
    let mut import = Command::new(binary());
    import.args(["image", "import", "--name", "state:dev", "--data-dir"]).arg(cluster.dir()).arg(guest);
    assert!(import.status().expect("it runs").success());
    let k = cluster.kubectl();
    k.ok(&["create", "configmap", "settings", "--from-literal=colour=blue", "--from-literal=size=small"]);
    k.ok(&["create", "secret", "generic", "keys", "--from-literal=colour=secret red"]);
    let asking = "'configs', 'config:nothing', 'read:/run/coracle/config/colour'";
    k.apply(&pod("both", "coracle.dev/config: 'configmap/settings,secret/keys'", asking));
    k.apply(&pod("own", "coracle.dev/config: 'secret/keys', coracle.dev/config.main: 'configmap/settings'", asking));
    k.apply(&pod("none", "note: 'nothing'", asking));
    let said = |name: &str| {
        let phase = "jsonpath={.status.phase}";
        let phase = wait_for("the pod to end", || {
            let phase = k.ok(&["get", "pod", name, "-o", phase]);
            (phase == "Succeeded" || phase == "Failed").then_some(phase)
        });
        let logs = k.ok(&["logs", name]);
        assert_eq!(phase, "Succeeded", "{logs}\n{}", k.ok(&["describe", "pod", name]));
        logs
    };
    // Of a key that several have the last one counts; as a file nobody sees it.
    let both = said("both");
    assert!(both.contains(r#"configs: Ok([("colour", "secret red"), ("size", "small")])"#), "{both}");
    assert!(both.contains("config:nothing: Ok(None)"), "{both}");
    assert!(both.contains("read:/run/coracle/config/colour: Err("), "{both}");
    let own = said("own");
    assert!(own.contains(r#"configs: Ok([("colour", "blue"), ("size", "small")])"#), "{own}");
    assert!(said("none").contains("configs: Ok([])"));
    // What it names and is not there is waited for, and said.
    k.apply(&pod("early", "coracle.dev/config: configmap/later", "'configs'"));
    wait_for("the pod to say what it lacks", || {
        let events = k.ok(&["get", "events", "--field-selector", "involvedObject.name=early"]);
        events.contains("configmap \"later\" not found").then_some(())
    });
    k.ok(&["create", "configmap", "later", "--from-literal=now=here"]);
    assert!(said("early").contains(r#"configs: Ok([("now", "here")])"#));
    let wrong = k.run_with_input(&["create", "-f", "-"], &pod("wrong", "coracle.dev/config: settings", "'configs'"));
    assert!(wrong.stderr.contains("must be a list such as configmap/NAME,secret/NAME"), "{wrong:?}");
}
