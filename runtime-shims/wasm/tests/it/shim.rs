//! Starts a shim in a directory of its own and speaks CRI to it.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coracle_cri::v1::*;
use coracle_cri::{Code, Endpoint, ImageClient, RuntimeClient, Status};
use coracle_shim_wasm::front::FrontConfig;
use coracle_shim_wasm::images::ImageStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// Compiling with an unoptimised compiler on a busy machine is slow; nothing here takes longer than this.
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Shim {
    pub dir: tempfile::TempDir,
    front: Option<Child>,
    pub options: Vec<String>,
    runtime: RuntimeClient,
    images: ImageClient,
    range: String,
}

/// A container to be made.
#[derive(Clone, Default)]
pub struct Guest {
    pub image: String,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub memory_bytes: i64,
    /// Microseconds of each 100 ms.
    pub cpu_quota: i64,
    pub cpu_shares: i64,
    pub working_dir: String,
    pub stdin: bool,
    pub stdin_once: bool,
    pub annotations: BTreeMap<String, String>,
}

pub fn guest(image: &str) -> Guest {
    Guest { image: image.to_owned(), ..Guest::default() }
}

impl Guest {
    pub fn args(mut self, args: &[&str]) -> Guest {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Guest {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn mount(mut self, host: &Path, container: &str, readonly: bool) -> Guest {
        self.mounts.push(Mount {
            host_path: host.to_string_lossy().into_owned(),
            container_path: container.to_owned(),
            readonly,
            ..Mount::default()
        });
        self
    }

    pub fn memory(mut self, bytes: i64) -> Guest {
        self.memory_bytes = bytes;
        self
    }
}

/// A pod with one container in it.
pub struct Pod {
    pub sandbox: String,
    pub container: String,
    pub ip: String,
}

impl Shim {
    /// A shim with the example guests and the test guests in its store.
    pub async fn start() -> Shim {
        Shim::start_with(&[]).await
    }

    /// With options on the front's command line.
    pub async fn start_with(options: &[&str]) -> Shim {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Tests of this crate run beside each other and beside other crates'.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let range = format!("127.{}.{}.0/24", 128 + std::process::id() % 100, number % 250);
        let dir = tempfile::tempdir().expect("a directory can be made");
        // Workers are another user when this is root, and go through it.
        let store = ImageStore::open(FrontConfig::image_dir(dir.path())).expect("the store opens");
        for (name, file) in crate::guests::files() {
            store.import(&file, Some(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let endpoint = Endpoint::unix(dir.path().join("wasm.sock"));
        let mut shim = Shim {
            runtime: endpoint.runtime(),
            images: endpoint.images(),
            dir,
            front: None,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            range: range.clone(),
        };
        shim.start_front().await;
        let network_config = Some(NetworkConfig { pod_cidr: range });
        let runtime_config = Some(RuntimeConfig { network_config });
        shim.runtime()
            .update_runtime_config(UpdateRuntimeConfigRequest { runtime_config })
            .await
            .expect("the range is taken");
        shim
    }

    pub async fn start_front(&mut self) {
        let front = Command::new(env!("CARGO_BIN_EXE_coracle-shim-wasm"))
            .arg("front")
            .arg(self.dir.path())
            .args(&self.options)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the shim starts");
        self.front = Some(front);
        let runtime = self.runtime();
        eventually("the shim answers", || {
            let mut runtime = runtime.clone();
            async move { runtime.version(VersionRequest::default()).await.ok() }
        })
        .await;
    }

    pub fn runtime(&self) -> RuntimeClient {
        self.runtime.clone()
    }

    pub fn images(&self) -> ImageClient {
        self.images.clone()
    }

    pub fn front_pid(&self) -> u32 {
        self.front.as_ref().and_then(Child::id).expect("the front runs")
    }

    pub fn range(&self) -> &str {
        &self.range
    }

    /// `kill -9`.
    pub async fn kill_front(&mut self) {
        let mut front = self.front.take().expect("the front runs");
        front.kill().await.expect("it can be killed");
    }

    /// Ctrl-C, and its exit code.
    pub async fn interrupt_front(&mut self) -> Option<i32> {
        self.end_front(rustix::process::Signal::INT).await
    }

    /// What an upgrade does: the front goes, its workers stay.
    pub async fn hand_over(&mut self) -> Option<i32> {
        self.end_front(rustix::process::Signal::HUP).await
    }

    async fn end_front(&mut self, how: rustix::process::Signal) -> Option<i32> {
        let mut front = self.front.take().expect("the front runs");
        signal(front.id().expect("it runs"), how);
        within("the front ends", front.wait()).await.expect("it can be waited for").code()
    }

    pub async fn sandbox(&self, name: &str, ports: &[i32], annotations: &[(&str, &str)]) -> String {
        self.try_sandbox(name, ports, annotations).await.expect("the sandbox starts")
    }

    pub async fn try_sandbox(&self, name: &str, ports: &[i32], annotations: &[(&str, &str)]) -> Result<String, Status> {
        self.run_sandbox(self.sandbox_config(name, ports, annotations)).await
    }

    /// With ports on the node too.
    pub async fn sandbox_on_node(&self, name: &str, port_mappings: Vec<PortMapping>) -> Result<String, Status> {
        self.run_sandbox(PodSandboxConfig { port_mappings, ..self.sandbox_config(name, &[], &[]) }).await
    }

    pub async fn sandbox_with_dns(&self, name: &str, server: &str, searches: &[&str]) -> String {
        let dns_config = DnsConfig {
            servers: vec![server.to_owned()],
            searches: searches.iter().map(|text| (*text).to_owned()).collect(),
            options: vec!["ndots:5".to_owned()],
        };
        let config = PodSandboxConfig { dns_config: Some(dns_config), ..self.sandbox_config(name, &[], &[]) };
        self.run_sandbox(config).await.expect("the sandbox starts")
    }

    pub async fn sandbox_in(&self, namespace: &str, name: &str) -> String {
        let mut config = self.sandbox_config(name, &[], &[]);
        config.metadata.as_mut().expect("it has").namespace = namespace.to_owned();
        self.run_sandbox(config).await.expect("the sandbox starts")
    }

    fn sandbox_config(&self, name: &str, ports: &[i32], annotations: &[(&str, &str)]) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                namespace: "default".to_owned(),
                uid: format!("uid-{name}"),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.dir.path().join("logs").join(name).to_string_lossy().into_owned(),
            port_mappings: ports
                .iter()
                .map(|port| PortMapping { container_port: *port, ..PortMapping::default() })
                .collect(),
            annotations: annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            ..PodSandboxConfig::default()
        }
    }

    async fn run_sandbox(&self, config: PodSandboxConfig) -> Result<String, Status> {
        self.run_sandbox_as("wasm", config).await
    }

    async fn run_sandbox_as(&self, handler: &str, config: PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        Ok(self.runtime().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    pub async fn ip(&self, sandbox: &str) -> String {
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: false };
        let status =
            self.runtime().pod_sandbox_status(request).await.expect("the sandbox is known").into_inner().status;
        status.and_then(|status| status.network).map(|network| network.ip).unwrap_or_default()
    }

    pub async fn create(&self, sandbox: &str, name: &str, guest: Guest) -> Result<String, Status> {
        let resources = LinuxContainerResources {
            memory_limit_in_bytes: guest.memory_bytes,
            cpu_quota: guest.cpu_quota,
            cpu_period: 100_000,
            cpu_shares: guest.cpu_shares,
            ..Default::default()
        };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: guest.image, ..ImageSpec::default() }),
            command: guest.command,
            args: guest.args,
            working_dir: guest.working_dir,
            stdin: guest.stdin,
            stdin_once: guest.stdin_once,
            envs: guest.env.into_iter().map(|(key, value)| KeyValue { key, value: value.into_bytes() }).collect(),
            mounts: guest.mounts,
            annotations: guest.annotations,
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig { resources: Some(resources), security_context: None }),
            ..ContainerConfig::default()
        };
        let request =
            CreateContainerRequest { pod_sandbox_id: sandbox.to_owned(), config: Some(config), sandbox_config: None };
        Ok(self.runtime().create_container(request).await?.into_inner().container_id)
    }

    pub async fn start_container(&self, id: &str) -> Result<(), Status> {
        self.runtime().start_container(StartContainerRequest { container_id: id.to_owned() }).await.map(drop)
    }

    /// A pod of its own for the guest, started.
    pub async fn run(&self, name: &str, guest: Guest) -> Pod {
        let sandbox = self.sandbox(name, &[8080], &[]).await;
        let container = self.create(&sandbox, "main", guest).await.expect("the container is made");
        self.start_container(&container).await.expect("the container starts");
        let ip = self.ip(&sandbox).await;
        Pod { sandbox, container, ip }
    }

    pub async fn try_handler(&self, handler: &str, namespace: &str, name: &str) -> Result<String, Status> {
        let mut config = self.sandbox_config(name, &[8080], &[]);
        config.metadata =
            config.metadata.map(|metadata| PodSandboxMetadata { namespace: namespace.to_owned(), ..metadata });
        self.run_sandbox_as(handler, config).await
    }

    /// As [`Shim::run`], for a RuntimeClass handler.
    pub async fn run_as(&self, handler: &str, namespace: &str, name: &str, guest: Guest) -> Pod {
        let sandbox = self.try_handler(handler, namespace, name).await.expect("the sandbox starts");
        let container = self.create(&sandbox, "main", guest).await.expect("the container is made");
        self.start_container(&container).await.expect("the container starts");
        let ip = self.ip(&sandbox).await;
        Pod { sandbox, container, ip }
    }

    pub async fn status(&self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let response = self.runtime().container_status(request).await.expect("the container is known");
        response.into_inner().status.expect("it has a status")
    }

    /// Waits until the container has exited.
    pub async fn exit(&self, id: &str) -> ContainerStatus {
        eventually("the container exits", || async {
            let status = self.status(id).await;
            (status.state() == ContainerState::ContainerExited).then_some(status)
        })
        .await
    }

    /// Code, reason and the message's first line.
    pub async fn ending(&self, id: &str) -> String {
        let status = self.exit(id).await;
        format!("{} {} {:?}", status.exit_code, status.reason, status.message.lines().next().unwrap_or_default())
    }

    pub async fn stop(&self, id: &str, seconds: i64) {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: seconds };
        within("the container stops", self.runtime().stop_container(request)).await.expect("it stops");
    }

    pub async fn remove_pod(&self, sandbox: &str) {
        let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox.to_owned() };
        within("the pod is removed", self.runtime().remove_pod_sandbox(request)).await.expect("it is removed");
    }

    pub fn log_file(&self, pod: &str, container: &str) -> PathBuf {
        self.dir.path().join("logs").join(pod).join(format!("{container}.log"))
    }

    /// The log without its times.
    pub fn log(&self, pod: &str, container: &str) -> String {
        let text = std::fs::read_to_string(self.log_file(pod, container)).unwrap_or_default();
        text.lines().map(|line| format!("{}\n", line.split_once(' ').map_or(line, |(_, rest)| rest))).collect()
    }

    /// The process id of the only worker, if there is one.
    pub fn worker_pid(&self) -> Option<u32> {
        let workers = self.workers();
        assert!(workers.len() < 2, "one worker: {workers:?}");
        workers.into_iter().next()
    }

    /// The process ids of all workers that run, also of those that no front has started anew.
    pub fn workers(&self) -> Vec<u32> {
        workers_below(self.dir.path())
    }
}

/// Workers have their place among a process's arguments.
fn workers_below(dir: &Path) -> Vec<u32> {
    let place = dir.join("wasm/workers").to_string_lossy().into_owned();
    let processes = std::fs::read_dir("/proc").expect("this is Linux").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_worker = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        words.contains("\0worker\0") && words.contains(&place)
    };
    pids.filter(is_worker).collect()
}

/// Workers outlive their front, but not the test.
impl Drop for Shim {
    fn drop(&mut self) {
        if let Some(front) = &mut self.front {
            let _ = front.start_kill();
        }
        for pid in self.workers() {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
    }
}

/// How many files a process has open.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("the process can be signalled");
}

/// Waits for a condition.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    within(what, async {
        let mut pause = tokio::time::interval(Duration::from_millis(10));
        loop {
            pause.tick().await;
            if let Some(found) = check().await {
                return found;
            }
        }
    })
    .await
}

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain until {what}"),
    }
}

/// One request on a connection of its own: status and body.
pub async fn request(ip: &str, port: u16, head: &str, body: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect((ip, port)).await?;
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let text = format!("{head} HTTP/1.1\r\nhost: {ip}:{port}\r\nconnection: close\r\n{length}\r\n{body}");
    stream.write_all(text.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { unchunk(body) } else { body.to_owned() }))
}

pub async fn get(ip: &str, path: &str) -> (u16, String) {
    within("the request is answered", request(ip, 8080, &format!("GET {path}"), "")).await.expect("an answer")
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}

/// Code and message of a refusal.
pub fn refusal<T>(outcome: Result<T, Status>) -> String {
    match outcome {
        Ok(_) => "no refusal".to_owned(),
        Err(status) => format!("{:?}: {}", status.code() as Code, status.message()),
    }
}
