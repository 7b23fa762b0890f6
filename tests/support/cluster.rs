//! The real binary as a child process, with a data directory of its own and everything it printed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use crate::{Kubectl, checkout, free_port, wait_for};

/// The `coracle` binary under test: `CORACLE_BIN`, or what `cargo build` made of this checkout.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "a test reads its environment")]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CORACLE_BIN") {
        return path.into();
    }
    // The test itself lies in <target>/<profile>/deps.
    let test = std::env::current_exe().expect("a running test knows its own path");
    let profile = test.parent().and_then(Path::parent).expect("a test lies in <target>/<profile>/deps");
    let path = profile.join("coracle");
    assert!(path.exists(), "{} is missing: run `cargo build -p coracle` first", path.display());
    path
}

/// A child process in a process group of its own; what is left of it is killed on drop.
pub struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    /// Closed when all is read. A process that was killed may leave others that have its output open.
    read: mpsc::Receiver<()>,
}

/// What is left of the output of a process that ended is there at once, unless somebody else still holds it.
const REST_OF_OUTPUT: Duration = Duration::from_secs(5);

impl Process {
    pub fn start(command: &mut Command) -> Process {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let (reading, read) = mpsc::channel();
        for stream in [Box::new(out) as Box<dyn std::io::Read + Send>, Box::new(err)] {
            let (lines, reading) = (Arc::clone(&lines), reading.clone());
            std::thread::spawn(move || {
                let _reading = reading;
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    lines.lock().expect("no reader panics").push(line);
                }
            });
        }
        Process { child, lines, read }
    }

    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        self.lines.lock().expect("no reader panics").join("\n")
    }

    /// Waits for a printed line with `needle`, and gives it.
    pub fn wait_for_line(&mut self, needle: &str) -> String {
        wait_for(&format!("a line with {needle:?} in:\n{}", self.output()), || {
            if let Some(line) = self.lines.lock().expect("no reader panics").iter().find(|l| l.contains(needle)) {
                return Some(line.clone());
            }
            self.must_run();
            None
        })
    }

    /// Panics with what the process printed if it has ended.
    pub fn must_run(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("the process ended ({status}):\n{}", self.output());
        }
    }

    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// Waits for the end of a process that ends, and of what it prints.
    pub fn wait(&mut self) -> ExitStatus {
        let status = wait_for("the process to end", || self.child.try_wait().expect("our own child can be waited for"));
        if status.code().is_some() {
            let _ = self.read.recv_timeout(REST_OF_OUTPUT);
        }
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- output of process {} ---\n{}", self.id(), self.output());
        }
        for id in descendants(self.id()) {
            signal(id, "KILL");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(id: u32, name: &str) {
    // A process that is gone already is no failure: the caller wanted it gone or sees it missing.
    let _ = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).stderr(Stdio::null()).status();
}

/// A process's children and theirs, as the kernel lists them.
fn descendants(id: u32) -> Vec<u32> {
    let mut all = Vec::new();
    let Ok(tasks) = fs::read_dir(format!("/proc/{id}/task")) else { return all };
    for task in tasks.flatten() {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in text.split_whitespace().filter_map(|w| w.parse().ok()) {
            all.extend(descendants(child));
            all.push(child);
        }
    }
    all
}

/// Processes whose command line names `dir`, and what they started: also those that outlived their parent.
fn processes_on(dir: &Path) -> Vec<u32> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").expect("this is Linux").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if id != std::process::id() && command_line(id).contains(&*dir.to_string_lossy()) {
            all.extend(descendants(id));
            all.push(id);
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Kills what runs on `dir`: for what outlives the process that started it.
pub fn kill_all_on(dir: &Path) {
    for id in processes_on(dir) {
        signal(id, "KILL");
    }
}

fn command_line(id: u32) -> String {
    let bytes = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// For nodes: what else lies on the disk of the host that runs the tests does not concern them.
pub const FULL_HOSTS: [&str; 2] = ["--eviction-hard", "nodefs.available<16Mi"];

/// Loopback ranges that no other cluster of this host has: clusters on one host would else share addresses and ports. A
/// directory keeps its ranges over restarts; this process's begin where another's do not.
fn own_addresses(dir: &Path) -> [String; 6] {
    static GIVEN: Mutex<Vec<(PathBuf, usize)>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().expect("no holder panics");
    let known = given.iter().find(|(of, _)| of == dir).map(|(_, n)| *n);
    let n = known.unwrap_or_else(|| {
        let claims = fs::read_to_string("/proc/net/unix").expect("this is Linux");
        let first = std::process::id() as usize % 10 * 20;
        let mut all = (0..200).step_by(2).map(|at| 46 + (first + at) % 200);
        let is_free = |n: &usize| {
            let taken = |n: usize| claims.contains(&format!("@coracle-range 127.{n}."));
            !given.iter().any(|(_, other)| other == n) && !taken(*n) && !taken(n + 1)
        };
        all.find(is_free).expect("a hundred clusters do not run at once")
    });
    if known.is_none() {
        given.push((dir.to_path_buf(), n));
    }
    let flags = [
        ("--cluster-cidr", format!("127.{n}.0.0/16")),
        ("--service-cidr", format!("127.{}.0.0/16", n + 1)),
        ("--node-port-addresses", format!("127.{n}.255.1")),
    ];
    let mut words = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    std::array::from_fn(|_| words.next().expect("three flags with their values"))
}

/// `coracle up` (or `server`) on a data directory of its own.
pub struct Cluster {
    pub process: Process,
    pub port: u16,
    dir: PathBuf,
    owned: Option<tempfile::TempDir>,
    leave: bool,
}

impl Cluster {
    /// `coracle up ARGS` in a new directory, once its node is Ready.
    #[must_use]
    pub fn up(args: &[&str]) -> Cluster {
        let owned = tempfile::tempdir().expect("a temporary directory");
        let mut cluster = Cluster::start("up", owned.path(), args);
        cluster.owned = Some(owned);
        cluster
    }

    /// `coracle COMMAND` on `dir`, once its node is Ready.
    #[must_use]
    pub fn start(command: &str, dir: &Path, args: &[&str]) -> Cluster {
        let port = free_port();
        let mut line = Command::new(binary());
        line.arg(command)
            .args(FULL_HOSTS)
            .args(args)
            .arg("--data-dir")
            .arg(dir)
            .args(["--https-listen-port", &port.to_string()]);
        line.args(["--bind-address", "127.0.0.1"]).args(own_addresses(dir)).current_dir(checkout());
        let mut cluster =
            Cluster { process: Process::start(&mut line), port, dir: dir.to_path_buf(), owned: None, leave: false };
        if command == "up" {
            cluster.process.wait_for_line("Ctrl-C stops everything");
        }
        let kubectl = cluster.kubectl();
        wait_for("the node to be Ready", || {
            cluster.process.must_run();
            let nodes = cluster.kubeconfig().exists().then(|| kubectl.run(&["get", "nodes", "--no-headers"]))?;
            nodes.stdout.split_whitespace().any(|w| w == "Ready").then_some(())
        });
        cluster
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig.yaml")
    }

    #[must_use]
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.kubeconfig())
    }

    /// Ids of the processes of this cluster whose command line holds `needle`.
    #[must_use]
    pub fn processes(&self, needle: &str) -> Vec<u32> {
        processes_on(&self.dir).into_iter().filter(|id| command_line(*id).contains(needle)).collect()
    }

    /// Ids of all processes of this cluster.
    #[must_use]
    pub fn all_processes(&self) -> Vec<u32> {
        processes_on(&self.dir)
    }

    pub fn kill(&self, id: u32) {
        signal(id, "KILL");
    }

    /// Ctrl-C, and everything is gone.
    pub fn stop(&mut self) -> ExitStatus {
        let children = descendants(self.process.id());
        self.process.signal("INT");
        let status = self.process.wait();
        for id in children {
            wait_for(&format!("process {id} to end after its parent"), || {
                (!Path::new(&format!("/proc/{id}")).exists()).then_some(())
            });
        }
        status
    }

    /// Waits for a killed server, and leaves alone what outlives it.
    pub fn forget(mut self) {
        self.process.wait();
        self.leave = true;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.leave {
            kill_all_on(&self.dir);
        }
    }
}
