//! A disk that fills up: writes are refused and say why, nothing that was acknowledged is lost, and it goes on by itself.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_tests::{Kubectl, Process, binary, free_port, wait_for};

/// A small file system in memory that only its own processes see: no other user's disk is filled, and it goes with them.
struct SmallDisk {
    holder: Process,
    at: PathBuf,
    namespaces: &'static [&'static str],
}

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> SmallDisk {
        let root = Command::new("id").arg("-u").output().unwrap().stdout.starts_with(b"0");
        // An ordinary user mounts as the root of a user namespace of its own.
        let (unshare, namespaces): (&[&str], &[&str]) =
            if root { (&["-m"], &["-m"]) } else { (&["-r", "-m"], &["-U", "--preserve-credentials", "-m"]) };
        fs::create_dir(at).unwrap();
        let script = "mount -t tmpfs -o size=$1,mode=700 tmpfs \"$0\" && echo mounted && exec sleep 3600";
        let mut command = Command::new("unshare");
        command.args(unshare).args(["sh", "-c", script]).arg(at).arg(size);
        let mut holder = Process::start(&mut command);
        holder.wait_for_line("mounted");
        SmallDisk { holder, at: at.to_owned(), namespaces }
    }

    /// Where this process finds a file of the disk.
    fn file(&self, name: &str) -> PathBuf {
        let seen = format!("/proc/{}/root{}", self.holder.id(), self.at.display());
        Path::new(&seen).join(name)
    }

    /// A server on the disk, once it answers.
    fn serve(&self, dir: &Path) -> (Process, Kubectl) {
        let port = free_port().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string()]).args(self.namespaces).arg(binary());
        // Ranges that no other test has.
        command.args(["server", "--disable-agent", "--bind-address", "127.0.0.1", "--https-listen-port", &port]);
        command.args(["--cluster-cidr", "127.252.0.0/16", "--service-cidr", "127.253.0.0/16", "--data-dir"]);
        let mut server = Process::start(command.arg(self.at.join("data")));
        let kubeconfig = dir.join("kubeconfig.yaml");
        let kubectl = Kubectl::new(kubeconfig.clone());
        wait_for("the server to answer", || {
            server.must_run();
            fs::copy(self.file("data/kubeconfig.yaml"), &kubeconfig).ok()?;
            kubectl.run(&["get", "--raw", "/readyz"]).ok.then_some(())
        });
        (server, kubectl)
    }

    /// Takes all the space that is left.
    fn fill(&self) -> PathBuf {
        let path = self.file("filler");
        let mut file = File::create(&path).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            let block = vec![7u8; size];
            while file.write_all(&block).is_ok() {}
        }
        path
    }
}

fn config_map(name: &str, bytes: usize) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"a":"{}"}}}}"#,
        "x".repeat(bytes)
    )
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&dir.path().join("disk"), "48m");
    let (server, k) = disk.serve(dir.path());
    let filler = disk.fill();

    // What the store's files have room for already is still taken.
    let mut acknowledged = Vec::new();
    let refused = (0..200).find_map(|n| {
        let name = format!("cm-{n}");
        let output = k.run_with_input(&["create", "-f", "-"], &config_map(&name, 500_000));
        if output.ok {
            acknowledged.push(name);
            None
        } else {
            Some((name, output.stderr))
        }
    });
    let (name, said) = refused.expect("a write is refused some time");
    assert!(said.contains("no space is left on the disk of the state store: free some, nothing was lost"), "{said}");
    let raw = k.run_with_input(&["create", "-v=8", "-f", "-"], &config_map(&name, 500_000));
    assert!(raw.stderr.contains("507"), "{}", raw.stderr);
    let held = |k: &Kubectl| {
        let names = k.ok(&["get", "configmaps", "-o", "name"]);
        let names: Vec<String> =
            names.lines().filter_map(|l| l.strip_prefix("configmap/cm-")).map(str::to_owned).collect();
        names.iter().map(|n| format!("cm-{n}")).collect::<std::collections::BTreeSet<_>>()
    };
    let expected: std::collections::BTreeSet<String> = acknowledged.iter().cloned().collect();
    assert_eq!(held(&k), expected, "reads go on");

    // It dies while there is no space, and comes back when there is some: nothing is lost, nothing refused is there.
    server.signal("KILL");
    drop(server);
    fs::remove_file(&filler).unwrap();
    let (mut server, k) = disk.serve(dir.path());
    assert_eq!(held(&k), expected);

    // Without a restart it goes on as soon as there is space again.
    let filler = disk.fill();
    let full =
        (0..200).find(|n| !k.run_with_input(&["create", "-f", "-"], &config_map(&format!("cm-more-{n}"), 500_000)).ok);
    assert!(full.is_some());
    fs::remove_file(filler).unwrap();
    k.ok(&["create", "configmap", "after", "--from-literal=a=b"]);
    server.signal("TERM");
    assert!(server.wait().success(), "{}", server.output());
    let (_server, k) = disk.serve(dir.path());
    assert!(held(&k).is_superset(&expected));
    k.ok(&["get", "configmap", "after"]);
}

#[test]
fn a_disk_that_is_full_at_the_start_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&dir.path().join("disk"), "2m");
    disk.fill();
    let mut command = Command::new("nsenter");
    command.args(["-t", &disk.holder.id().to_string()]).args(disk.namespaces).arg(binary());
    command.args(["server", "--disable-agent", "--bind-address", "127.0.0.1", "--https-listen-port"]);
    command.arg(free_port().to_string()).args(["--cluster-cidr", "127.250.0.0/16"]);
    command.args(["--service-cidr", "127.251.0.0/16", "--data-dir"]).arg(disk.at.join("data"));
    let mut server = Process::start(&mut command);
    assert!(!server.wait().success());
    let said = server.output();
    assert!(said.contains("space") && said.contains("data"), "{said}");
}
