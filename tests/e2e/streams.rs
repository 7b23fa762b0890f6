//! Commands in Wasm containers, clients beside them and ports forwarded into their pods, by the unmodified `kubectl`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use coracle_tests::{Cluster, Kubectl, Process, binary, checkout, http_get, wait_for};

/// A pod of the guest that is many commands, with what they can find in it.
const TOOL: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: v1
kind: Pod
metadata: {name: tool}
spec:
  runtimeClassName: wasm
  containers:
  - name: tool
    image: tool:dev
    imagePullPolicy: Never
    stdin: true
    env: [{name: GREETING, value: hello}]
    resources: {limits: {memory: 64Mi}}
    readinessProbe: {exec: {command: [tool, exit, "0"]}, periodSeconds: 1}
    volumeMounts: [{name: settings, mountPath: /settings}]
  volumes: [{name: settings, configMap: {name: settings}}]
"#;

fn import(cluster: &Cluster, file: &str, name: &str) {
    let file = checkout().join(file);
    let mut command = Command::new(binary());
    command.args(["image", "import"]).arg(file).args(["--name", name, "--data-dir"]).arg(cluster.dir());
    let output = command.output().expect("coracle can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn start() -> (Cluster, Kubectl) {
    let cluster = Cluster::up(&[]);
    import(&cluster, "runtime-shims/wasm/tests/guests/tool/tool.wasm", "tool:dev");
    import(&cluster, "examples/hello/hello.wasm", "hello:dev");
    let k = cluster.kubectl();
    k.apply(TOOL);
    // Ready by a command that is run in it.
    k.ok(&["wait", "--for=condition=Ready", "pod/tool", "--timeout=60s"]);
    (cluster, k)
}

/// What a command prints that is typed to, and how it ends.
fn typed(k: &Kubectl, args: &[&str], text: &str) -> (i32, String) {
    let mut command = k.command(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl starts");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it is read");
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn commands_run_in_a_container() {
    let (_cluster, k) = start();
    let args = k.ok(&["exec", "tool", "--", "tool", "args", "x"]);
    assert_eq!(args, "[\"tool\", \"args\", \"x\"] GREETING=Some(\"hello\")\n");
    assert_eq!(k.ok(&["exec", "tool", "--", "tool", "read", "/settings/colour"]), "blue");
    assert_eq!(typed(&k, &["exec", "tool", "--", "tool", "exit", "7"], "").0, 7);
    let (code, said) = typed(&k, &["exec", "-i", "tool", "--", "tool", "cat"], "typed\n");
    assert_eq!((code, said.as_str()), (0, "typed\n6 bytes\n"));
    let (code, said) = typed(&k, &["exec", "tool", "--", "tool", "grab"], "");
    assert_eq!(code, 137, "the container's limit is the command's: {said}");
    assert!(k.fails(&["exec", "tool", "--", "sh"]).contains("a Wasm container has no shell"));
    assert!(k.fails(&["cp", "tool:/settings/colour", "colour"]).contains("a Wasm container has no shell"));
    assert_eq!(k.ok(&["get", "pod", "tool", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"]), "0");
}

#[test]
fn a_terminal_is_one_to_both_sides() {
    let (_cluster, k) = start();
    // `script` gives kubectl a terminal to ask for one with.
    let exec = |words: &str| {
        let command = k.command(&["exec", "-it", "tool", "--", "tool", words]);
        let program = command.get_program().to_string_lossy().into_owned();
        let line = format!("{program} exec -it tool -- tool {words}");
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]);
        for (key, value) in command.get_envs() {
            script.env(key, value.unwrap_or_default());
        }
        script
    };
    let output = exec("terminal").stdin(Stdio::null()).output().expect("script is there");
    assert!(String::from_utf8_lossy(&output.stdout).contains("true true"), "{output:?}");
}

#[test]
fn clients_attach_and_ports_are_forwarded() {
    let (_cluster, k) = start();
    let mut attach = k.command(&["attach", "-i", "tool"]);
    let mut attached =
        attach.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("kubectl starts");
    attached.stdin.as_mut().expect("piped").write_all(b"a word\n").expect("it is read");
    wait_for("the container to have read it", || k.ok(&["logs", "tool"]).contains("read a word").then_some(()));
    k.ok(&["delete", "pod", "tool", "--grace-period=1"]);
    let output = attached.wait_with_output().expect("it ends with the container");
    assert!(String::from_utf8_lossy(&output.stdout).contains("read a word"), "{output:?}");

    // Not the port that is taken where none is named.
    k.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  runtimeClassName: wasm\n  containers:\n  - {name: \
         web, image: 'hello:dev', imagePullPolicy: Never, ports: [{containerPort: 9090}]}\n",
    );
    k.ok(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    let ip = k.ok(&["get", "pod", "web", "-o", "jsonpath={.status.podIP}"]);
    let own = format!("{ip}:9090").parse().expect("an address");
    wait_for("the guest to answer on its port", || http_get(own, "/").ok().filter(|(status, _)| *status == 200));
    let mut forward = Process::start(&mut k.command(&["port-forward", "pod/web", ":9090"]));
    let line = forward.wait_for_line("Forwarding from 127.0.0.1:");
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).expect("a port");
    let (status, _) = http_get(format!("127.0.0.1:{port}").parse().expect("an address"), "/").expect("it answers");
    assert_eq!(status, 200);
}

#[test]
fn a_container_whose_command_says_that_it_is_ill_is_started_again() {
    let (_cluster, k) = start();
    let ill = TOOL.replace("name: tool}\nspec", "name: ill}\nspec").replace("readinessProbe", "livenessProbe");
    let ill = ill.replace(
        "[tool, exit, \"0\"]}, periodSeconds: 1",
        "[tool, exit, \"3\"]}, periodSeconds: 1, failureThreshold: 1",
    );
    k.apply(&ill);
    wait_for("it to be started again", || {
        let count = k.ok(&["get", "pod", "ill", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"]);
        count.parse::<u32>().is_ok_and(|count| count > 0).then_some(())
    });
    assert!(k.ok(&["get", "events"]).contains("Liveness probe failed"));
}
