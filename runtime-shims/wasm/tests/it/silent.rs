//! Volumes whose server does not answer any more: a file system of this process that is asked and says nothing.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use coracle_cri::v1::LinuxContainerResources;
use tokio::sync::mpsc;

use crate::limits::limit_pod;
use crate::shim::{Shim, get, guest, refusal, within};

/// What the kernel asks, of `linux/fuse.h`.
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const ACCESS: u32 = 34;
const INTERRUPT: u32 = 36;
/// Newer than GETATTR, and not known here.
const STATX: u32 = 52;

/// A file system that knows what its root directory is, and no more until it is told to.
struct Silent {
    dir: PathBuf,
    asked: mpsc::UnboundedReceiver<u32>,
    server: Arc<Mutex<Server>>,
}

struct Server {
    device: File,
    /// What has not been answered; None once everything is.
    unanswered: Option<Vec<(u32, [u8; 8])>>,
}

impl Silent {
    /// None where that is not possible.
    fn mount(dir: &Path) -> Option<Silent> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
        std::fs::create_dir(dir).expect("it can be made");
        let mounted = Command::new("mount")
            .args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0,allow_other", "silent"])
            .arg(dir)
            .stdin(Stdio::from(device.try_clone().expect("it can be had twice")))
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return None;
        }
        let (tell, asked) = mpsc::unbounded_channel();
        let answers = device.try_clone().expect("it can be had twice");
        let server = Arc::new(Mutex::new(Server { device: answers, unanswered: Some(Vec::new()) }));
        let serving = server.clone();
        std::thread::spawn(move || serve(device, &serving, &tell));
        Some(Silent { dir: dir.to_owned(), asked, server })
    }

    /// From now on everything is answered, and what was asked before.
    fn speak(&self) {
        let mut server = self.server.lock().expect("nobody panics");
        for (what, id) in server.unanswered.take().unwrap_or_default() {
            server.answer(what, id);
        }
    }

    async fn is_asked(&mut self, what: u32) {
        within("it is asked", async { while self.asked.recv().await.expect("it is mounted") != what {} }).await;
    }
}

/// Nobody waits for it any more, also not who removes the directory it is in.
impl Drop for Silent {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-i", "-f", "-l"]).arg(&self.dir).status();
    }
}

fn serve(mut device: File, server: &Mutex<Server>, tell: &mpsc::UnboundedSender<u32>) {
    let mut request = vec![0; 1 << 20];
    while let Ok(length) = device.read(&mut request) {
        assert!(length >= 40, "a whole head");
        let what = u32::from_ne_bytes(request[4..8].try_into().expect("four bytes"));
        let id = request[8..16].try_into().expect("eight bytes");
        let mut server = server.lock().expect("nobody panics");
        match &mut server.unanswered {
            Some(unanswered) if ![INIT, GETATTR, STATX].contains(&what) => unanswered.push((what, id)),
            Some(_) | None => server.answer(what, id),
        }
        let _ = tell.send(what);
    }
}

impl Server {
    fn answer(&mut self, what: u32, id: [u8; 8]) {
        // In words of 32 bits.
        let said: Vec<u32> = match what {
            INIT => [&[7, 31, 0, 0, 0, 4096, 0, 0][..], &[0; 8]].concat(),
            GETATTR => {
                let (hour, root, mode) = (3600, 1, 0o40_777);
                [&[hour, 0, 0, 0, root][..], &[0; 14], &[mode, 2], &[0; 5]].concat()
            }
            OPENDIR => vec![0; 4],
            FORGET | INTERRUPT => return,
            _ => Vec::new(),
        };
        let length = u32::try_from(16 + 4 * said.len()).expect("it is short");
        let error = if what == STATX { -libc::ENOSYS } else { 0 };
        let mut reply = [length.to_ne_bytes(), error.to_ne_bytes()].concat();
        reply.extend_from_slice(&id);
        reply.extend(said.iter().flat_map(|word| word.to_ne_bytes()));
        // Who asked may have given up.
        let _ = self.device.write_all(&reply);
    }
}

#[tokio::test]
async fn a_volume_that_does_not_answer_holds_up_its_own_container_only() {
    let shim = Shim::start().await;
    let Some(mut silent) = Silent::mount(&shim.dir.path().join("silent")) else {
        return eprintln!("no file system of a process can be mounted here");
    };
    let hello = shim.run("hello", guest("hello:dev")).await;
    let worker = shim.worker_pid();
    let sandbox = shim.sandbox("waits", &[8080], &[]).await;
    let waits = guest("hello:dev").mount(&silent.dir, "/data", false);
    let waits = within("it is made", shim.create(&sandbox, "main", waits)).await.expect("it is made");
    let (shim, hello) = (&shim, &hello);
    let others = async move {
        silent.is_asked(ACCESS).await;
        let other = shim.run("other", guest("hello:dev")).await;
        assert_eq!(get(&other.ip, "/").await.0, 200);
        shim.stop(&hello.container, 5).await;
        assert_eq!(shim.ending(&hello.container).await, r#"0 Completed """#);
        drop(silent);
    };
    let both = async { tokio::join!(biased; shim.start_container(&waits), others) };
    let (started, ()) = within("all is over", both).await;
    let refused = refusal(started);
    // By the volume; or, where all this takes long, by the front.
    let told =
        ["Unknown: cannot start default/waits/main: ", "Unknown: one of its volumes, or the Wasm worker process, "];
    assert!(told.iter().any(|told| refused.starts_with(told)), "{refused}");
    assert_eq!(shim.worker_pid(), worker, "it is the same");
}

/// Its worker has the order by then, and the limits as they were.
#[tokio::test]
async fn a_limit_of_a_pod_holds_for_what_waits_for_its_volumes_in_the_worker() {
    let shim = Shim::start().await;
    let Some(mut silent) = Silent::mount(&shim.dir.path().join("silent")) else {
        return eprintln!("no file system of a process can be mounted here");
    };
    let page = 64 << 10;
    let sandbox = shim.sandbox("pod", &[], &[("coracle.dev/at-memory-limit", "refuse")]).await;
    let before = LinuxContainerResources { memory_limit_in_bytes: 32 * page, ..Default::default() };
    limit_pod(&shim, &sandbox, before).await;
    let grower = guest("grower").memory(64 * page).mount(&silent.dir, "/data", false);
    let grower = shim.create(&sandbox, "grower", grower).await.expect("it is made");
    let limiting = async {
        silent.is_asked(ACCESS).await;
        let after = LinuxContainerResources { memory_limit_in_bytes: 16 * page, ..Default::default() };
        limit_pod(&shim, &sandbox, after).await;
        silent.speak();
    };
    let (started, ()) = within("it starts", async { tokio::join!(shim.start_container(&grower), limiting) }).await;
    started.expect("it starts");
    assert_eq!(shim.ending(&grower).await, r#"16 Error """#);
}
