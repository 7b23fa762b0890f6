use coracle_cri::v1::{
    ContainerMetadata, DnsConfig, KeyValue, LinuxContainerConfig, LinuxContainerResources, PortMapping,
};
use expect_test::{Expect, expect};

use super::*;
use crate::images::Digest;

/// An image whose configuration says nothing.
pub(in crate::front) fn bare_image() -> Image {
    let digest = Digest::of(b"");
    Image {
        name: "docker.io/library/hello:dev".to_owned(),
        id: digest.clone(),
        wasm: digest,
        wasm_bytes: 0,
        size_bytes: 0,
        blobs: Vec::new(),
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        env: Vec::new(),
        working_dir: String::new(),
        programs: Default::default(),
        imported_at: 0,
    }
}

fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::to_owned).collect()
}

fn port(protocol: Protocol, number: &str) -> PortMapping {
    let container_port = number.parse().expect("a port");
    PortMapping { protocol: protocol.into(), container_port, ..PortMapping::default() }
}

/// Input as words: `kind=http ports=80,81 note:KEY=VALUE command=a,b args=c env:K=V image-entrypoint=… dir=… memory=…`.
fn plan(text: &str) -> Result<GuestPlan, String> {
    let metadata = Some(ContainerMetadata { name: "main".to_owned(), attempt: 0 });
    let mut config = ContainerConfig { metadata, ..ContainerConfig::default() };
    let (mut sandbox, mut image) = (PodSandboxConfig::default(), bare_image());
    let mut kind = GuestKind::Module;
    let mut taken: Vec<u16> = Vec::new();
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').expect("key=value");
        match key.split_once(':').unwrap_or((key, "")) {
            ("kind", _) if value == "http" => kind = GuestKind::Http,
            ("kind", _) => kind = GuestKind::Command,
            ("ports", _) => sandbox.port_mappings.extend(value.split(',').map(|number| port(Protocol::Tcp, number))),
            ("udp", _) => sandbox.port_mappings.push(port(Protocol::Udp, value)),
            ("taken", _) => taken = value.split(',').map(|port| port.parse().expect("a port")).collect(),
            ("note", name) => {
                sandbox.annotations.insert(format!("coracle.dev/{name}"), value.to_owned());
            }
            ("own-note", name) => {
                config.annotations.insert(format!("coracle.dev/{name}"), value.to_owned());
            }
            ("own-ports", _) => {
                config.annotations.insert(OWN_PORTS.to_owned(), value.to_owned());
            }
            ("kubelet", _) => {
                config.annotations.insert(OF_KUBELET.to_owned(), value.to_owned());
            }
            ("command", _) => config.command = list(value),
            ("args", _) => config.args = list(value),
            ("env", name) => config.envs.push(KeyValue { key: name.to_owned(), value: value.as_bytes().to_vec() }),
            ("bytes", name) => config.envs.push(KeyValue { key: name.to_owned(), value: vec![0xff] }),
            ("image-entrypoint", _) => image.entrypoint = list(value),
            ("image-cmd", _) => image.cmd = list(value),
            ("image-env", name) => image.env.push(format!("{name}={value}")),
            ("image-dir", _) => image.working_dir = value.to_owned(),
            ("stdin", _) => (config.stdin, config.stdin_once) = (true, value == "once"),
            ("dir", _) => config.working_dir = value.to_owned(),
            ("memory", _) => {
                let memory_limit_in_bytes = value.parse().expect("bytes");
                let resources = LinuxContainerResources { memory_limit_in_bytes, ..LinuxContainerResources::default() };
                config.linux = Some(LinuxContainerConfig { resources: Some(resources), security_context: None });
            }
            other => panic!("{other:?}"),
        }
    }
    plan_guest(&sandbox, &config, &image, kind, &taken)
}

fn check_plan(lines: &[&str], show: impl Fn(GuestPlan) -> String, expected: Expect) {
    let shown: String = lines
        .iter()
        .map(|line| format!("{line}\n  {}\n", plan(line).map_or_else(|why| format!("refused: {why}"), &show)))
        .collect();
    expected.assert_eq(&shown);
}

#[test]
fn command_and_args_override_the_image_as_kubernetes_says() {
    check_plan(
        &[
            "kind=command",
            "kind=command args=x,y",
            "kind=command image-entrypoint=/app.wasm image-cmd=serve",
            "kind=command image-entrypoint=/app.wasm image-cmd=serve args=x",
            "kind=command image-entrypoint=/app.wasm image-cmd=serve command=other",
            "kind=command image-entrypoint=/app.wasm image-cmd=serve command=other args=x",
            "kind=command image-cmd=app.wasm,serve",
            "kind=command image-cmd=app.wasm,serve args=x",
        ],
        |plan| plan.args.join(" "),
        expect![[r#"
            kind=command
              hello.wasm
            kind=command args=x,y
              hello.wasm x y
            kind=command image-entrypoint=/app.wasm image-cmd=serve
              /app.wasm serve
            kind=command image-entrypoint=/app.wasm image-cmd=serve args=x
              /app.wasm x
            kind=command image-entrypoint=/app.wasm image-cmd=serve command=other
              other
            kind=command image-entrypoint=/app.wasm image-cmd=serve command=other args=x
              other x
            kind=command image-cmd=app.wasm,serve
              app.wasm serve
            kind=command image-cmd=app.wasm,serve args=x
              app.wasm serve x
        "#]],
    );
}

#[test]
fn environment_directory_and_memory() {
    check_plan(
        &[
            "kind=command image-env:PATH=/bin image-env:A=image env:A=pod env:B=2",
            "kind=command bytes:RAW=",
            "kind=command image-dir=/srv memory=1024",
            "kind=command image-dir=/srv dir=/other memory=-1",
            "kind=command dir=relative",
            "kind=command dir=/data env:PWD=/other",
        ],
        |plan| format!("{:?} {:?} {:?}", plan.env, plan.working_dir, plan.memory_bytes),
        expect![[r#"
            kind=command image-env:PATH=/bin image-env:A=image env:A=pod env:B=2
              [("PATH", "/bin"), ("A", "pod"), ("B", "2")] None None
            kind=command bytes:RAW=
              refused: env RAW: its value is not UTF-8, which WASI cannot carry
            kind=command image-dir=/srv memory=1024
              [("PWD", "/srv")] Some("/srv") Some(1024)
            kind=command image-dir=/srv dir=/other memory=-1
              [("PWD", "/other")] Some("/other") None
            kind=command dir=relative
              refused: workingDir "relative": must be an absolute path
            kind=command dir=/data env:PWD=/other
              [("PWD", "/other")] Some("/data") None
        "#]],
    );
}

#[test]
fn standard_input() {
    check_plan(
        &["kind=command", "kind=command stdin=open", "kind=command stdin=once"],
        |plan| format!("{:?}", plan.stdin),
        expect![[r#"
            kind=command
              Closed
            kind=command stdin=open
              Open { once: false }
            kind=command stdin=once
              Open { once: true }
        "#]],
    );
}

#[test]
fn the_http_port() {
    check_plan(
        &[
            "kind=command ports=80",
            "kind=http",
            "kind=http udp=53 ports=80,81",
            "kind=http ports=80,81 taken=80",
            r#"kind=http ports=80,81 own-ports=[{"containerPort":53,"protocol":"UDP"},{"name":"http","containerPort":81}]"#,
            "kind=http ports=80,81 kubelet=0",
            "kind=http ports=80 own-ports=80",
            "kind=http ports=80 note:http-port=90",
            "kind=http ports=80 note:http-port=90 note:http-port.main=91",
            "kind=http ports=80 note:http-port.main=91 own-note:http-port=92",
            "kind=http note:http-port=0",
            "kind=http note:http-port=http",
            "kind=http taken=8080",
            "kind=http note:http-concurrency=4 note:http-timeout-seconds=10",
            "kind=http note:http-concurrency=0",
        ],
        |plan| match plan.http {
            Some(http) => format!("port {} concurrency {} timeout {} ms", http.port, http.concurrency, http.timeout_ms),
            None => "no HTTP".to_owned(),
        },
        expect![[r#"
            kind=command ports=80
              no HTTP
            kind=http
              port 8080 concurrency 128 timeout 300000 ms
            kind=http udp=53 ports=80,81
              port 80 concurrency 128 timeout 300000 ms
            kind=http ports=80,81 taken=80
              port 81 concurrency 128 timeout 300000 ms
            kind=http ports=80,81 own-ports=[{"containerPort":53,"protocol":"UDP"},{"name":"http","containerPort":81}]
              port 81 concurrency 128 timeout 300000 ms
            kind=http ports=80,81 kubelet=0
              port 8080 concurrency 128 timeout 300000 ms
            kind=http ports=80 own-ports=80
              port 80 concurrency 128 timeout 300000 ms
            kind=http ports=80 note:http-port=90
              port 90 concurrency 128 timeout 300000 ms
            kind=http ports=80 note:http-port=90 note:http-port.main=91
              port 91 concurrency 128 timeout 300000 ms
            kind=http ports=80 note:http-port.main=91 own-note:http-port=92
              port 92 concurrency 128 timeout 300000 ms
            kind=http note:http-port=0
              refused: annotation coracle.dev/http-port: "0" is no port (1 to 65535)
            kind=http note:http-port=http
              refused: annotation coracle.dev/http-port: "http" is no port (1 to 65535)
            kind=http taken=8080
              refused: port 8080 is another container's of this pod; give this one its own in annotation coracle.dev/http-port.main
            kind=http note:http-concurrency=4 note:http-timeout-seconds=10
              port 8080 concurrency 4 timeout 10000 ms
            kind=http note:http-concurrency=0
              refused: annotation coracle.dev/http-concurrency: "0" is no number from 1 to 10000
        "#]],
    );
}

#[test]
fn names_are_looked_up_where_the_sandbox_says() {
    let with = |servers: &[&str], options: &[&str]| PodSandboxConfig {
        dns_config: Some(DnsConfig {
            servers: servers.iter().map(|text| (*text).to_owned()).collect(),
            searches: vec!["default.svc.cluster.local".to_owned()],
            options: options.iter().map(|text| (*text).to_owned()).collect(),
        }),
        ..PodSandboxConfig::default()
    };
    let net = plan_net(&with(&["127.42.0.1:1053", "10.0.0.10", "[::1]:53", "fd00::a"], &["ndots:5"]), None);
    expect![[r#"["127.42.0.1:1053", "10.0.0.10:53", "[::1]:53", "[fd00::a]:53"] ndots 5"#]].assert_eq(
        &net.map(|net| {
            let servers: Vec<String> = net.dns_servers.iter().map(ToString::to_string).collect();
            format!("{servers:?} ndots {}", net.dns_ndots)
        })
        .unwrap_or_else(|why| why),
    );
    let refused = plan_net(&with(&["dns.example"], &[]), None).map(|_| ()).unwrap_err();
    assert_eq!(refused, "DNS server \"dns.example\": not an address, nor an address and port");
}
