//! What a container may use, and what it is seen to use.

use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_cri::v1::*;

use crate::shim::{Guest, Shim, eventually, get, guest};

async fn run(shim: &Shim, name: &str, annotations: &[(&str, &str)], guest: Guest) -> String {
    let sandbox = shim.sandbox(name, &[], annotations).await;
    let container = shim.create(&sandbox, "main", guest).await.expect("the container is made");
    shim.start_container(&container).await.expect("the container starts");
    container
}

#[tokio::test]
async fn what_a_guest_may_have_at_once_is_bounded_and_it_is_told_so() {
    let shim = Shim::start().await;
    // Growth refused in place of the end.
    let grower = guest("grower").memory(16 * (64 << 10));
    let refused = run(&shim, "refused", &[("coracle.dev/at-memory-limit", "refuse")], grower.clone()).await;
    assert_eq!(shim.ending(&refused).await, r#"16 Error """#);
    let killed = run(&shim, "killed", &[], grower).await;
    assert!(shim.ending(&killed).await.starts_with("137 OOMKilled \"out of memory"));

    let volume = tempfile::tempdir_in(shim.dir.path()).expect("a directory can be made");
    readable(volume.path(), "file");
    let opener = guest("opener").mount(volume.path(), "/data", false);
    let opened = run(&shim, "files", &[("coracle.dev/max-open-files", "7")], opener).await;
    assert_eq!(shim.ending(&opened).await, r#"7 Error """#);
    let told = "stderr F coracle: open files: the limit of 7 is reached (annotation coracle.dev/max-open-files)\n";
    assert_eq!(shim.log("files", "main"), told);

    let sockets = run(&shim, "sockets", &[("coracle.dev/max-sockets", "5")], guest("socketeer")).await;
    assert_eq!(shim.ending(&sockets).await, r#"0 Completed """#);

    let hoarder = run(&shim, "objects", &[("coracle.dev/max-host-objects", "500")], guest("hoarder")).await;
    let ending = shim.ending(&hoarder).await;
    assert!(ending.starts_with("134 Error \"the guest holds as many host objects"), "{ending}");
}

#[tokio::test]
async fn no_way_to_grow_goes_past_the_limit() {
    let shim = Shim::start().await;
    for name in ["refunded", "collected"] {
        let pod = shim.run(name, guest(name).memory(32 << 20)).await;
        let ending = shim.ending(&pod.container).await;
        assert!(ending.starts_with("137 OOMKilled \"out of memory"), "{name}: {ending}");
    }
}

#[tokio::test]
async fn any_exit_code_is_the_guests_own() {
    let shim = Shim::start().await;
    let pod = shim.run("coded", guest("exit-255")).await;
    assert_eq!(shim.ending(&pod.container).await, r#"255 Error """#);
}

fn readable(dir: &Path, file: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).expect("its mode can be set");
    std::fs::write(dir.join(file), "contents").expect("it can be written");
}

#[tokio::test]
async fn a_flood_of_lines_is_thinned_out_and_counted() {
    let shim = Shim::start().await;
    let limits = [("coracle.dev/log-bytes-per-second", "200000"), ("coracle.dev/log-burst-bytes", "1000")];
    let flood = run(&shim, "flood", &limits, guest("flood")).await;
    eventually("lines are dropped", || async { shim.log("flood", "main").contains("coracle: dropped ").then_some(()) })
        .await;
    shim.stop(&flood, 0).await;
    let log = shim.log("flood", "main");
    let dropped: u64 =
        log.lines().filter_map(|line| line.split("dropped ").nth(1)?.split(' ').next()?.parse::<u64>().ok()).sum();
    let kept = log.lines().filter(|line| line.starts_with("stdout F a line of a flood")).count() as u64;
    assert!(dropped > kept, "{dropped} dropped, {kept} kept");
}

async fn cpu(shim: &Shim, container: &str) -> (i64, u64) {
    let request = ContainerStatsRequest { container_id: container.to_owned() };
    let stats = shim.runtime().container_stats(request).await.expect("it runs").into_inner().stats;
    let cpu = stats.and_then(|stats| stats.cpu).expect("it has a processor");
    (cpu.timestamp, cpu.usage_core_nano_seconds.map_or(0, |ns| ns.value))
}

#[tokio::test]
async fn busy_containers_share_the_processors_by_weight() {
    let shim = Shim::start_with(&["--guest-threads", "2"]).await;
    let weighed = |shares: i64| Guest { cpu_shares: shares, ..guest("spin") };
    let mut light = Vec::new();
    for number in 0..4 {
        light.push(run(&shim, &format!("light-{number}"), &[], weighed(512)).await);
    }
    let heavy = run(&shim, "heavy", &[], weighed(1024)).await;
    let mut before = Vec::new();
    for container in light.iter().chain([&heavy]) {
        before.push(cpu(&shim, container).await.1);
    }
    // Two thirds of a thread for the one, a third for each of the others.
    let used = eventually("they have run for a while", || async {
        let mut used = Vec::new();
        for (container, before) in light.iter().chain([&heavy]).zip(&before) {
            used.push(cpu(&shim, container).await.1 - before);
        }
        (used.iter().sum::<u64>() > 4_000_000_000).then_some(used)
    })
    .await;
    let ratio = used[4] as f64 / (used[..4].iter().sum::<u64>() as f64 / 4.0);
    assert!((1.5..2.7).contains(&ratio), "{ratio} in place of 2: {used:?}");
    for container in light.iter().chain([&heavy]) {
        shim.stop(container, 0).await;
    }
}

#[tokio::test]
async fn a_quota_holds_and_can_be_changed_while_the_guest_runs() {
    let shim = Shim::start().await;
    let spin = run(&shim, "spin", &[], Guest { cpu_quota: 5_000, ..guest("spin") }).await;
    let (began, at_first) = cpu(&shim, &spin).await;
    let share = eventually("a while has passed", || async {
        let (now, used) = cpu(&shim, &spin).await;
        let passed = u64::try_from(now - began).expect("time goes on");
        (passed > 5_000_000_000).then(|| (used - at_first) as f64 / passed as f64)
    })
    .await;
    // The slice at the end may be on top of it, and on a busy machine slices are long.
    assert!(share > 0.0 && share < 0.08, "{share} in place of 0.05");
    let linux = Some(LinuxContainerResources { cpu_quota: -1, ..Default::default() });
    let update = UpdateContainerResourcesRequest { container_id: spin.clone(), linux, ..Default::default() };
    shim.runtime().update_container_resources(update).await.expect("it is changed");
    let (changed, before) = cpu(&shim, &spin).await;
    eventually("it runs freely", || async {
        let (now, used) = cpu(&shim, &spin).await;
        let passed = u64::try_from(now - changed).unwrap_or(0);
        (passed > 300_000_000 && used - before > passed / 8).then_some(())
    })
    .await;
    shim.stop(&spin, 0).await;
}

pub async fn limit_pod(shim: &Shim, sandbox: &str, resources: LinuxContainerResources) {
    let pod_sandbox_id = sandbox.to_owned();
    let update = UpdatePodSandboxResourcesRequest { pod_sandbox_id, overhead: None, resources: Some(resources) };
    shim.runtime().update_pod_sandbox_resources(update).await.expect("it is changed");
}

#[tokio::test]
async fn a_limit_of_a_pod_holds_for_what_runs_and_for_what_is_just_being_started() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("pod", &[], &[("coracle.dev/at-memory-limit", "refuse")]).await;
    let spin = Guest { cpu_quota: 100_000, ..guest("spin") };
    let spin = shim.create(&sandbox, "spin", spin).await.expect("the container is made");
    shim.start_container(&spin).await.expect("the container starts");
    limit_pod(&shim, &sandbox, LinuxContainerResources { cpu_quota: 1_000, ..Default::default() }).await;
    let (changed, before) = cpu(&shim, &spin).await;
    eventually("it runs a hundredth of the time", || async {
        let (now, used) = cpu(&shim, &spin).await;
        let passed = u64::try_from(now - changed).unwrap_or(0);
        (passed > 300_000_000 && used - before < passed / 8).then_some(())
    })
    .await;

    let (file, pipe) = (shim.dir.path().join("file"), shim.dir.path().join("pipe"));
    std::fs::write(&file, "").expect("it can be written");
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe can be made");
    // Beside a file that may be written, one that may not is copied.
    let grower = guest("grower").memory(64 * (64 << 10));
    let grower = grower.mount(&pipe, "/etc/app/pipe", true).mount(&file, "/etc/app/file", false);
    let grower = shim.create(&sandbox, "grower", grower).await.expect("it is only looked at");
    let limiting = async {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
        let writer = eventually("the start waits for the pipe", || async {
            rustix::fs::open(&pipe, flags, rustix::fs::Mode::empty()).ok()
        });
        let writer = writer.await;
        let memory_limit_in_bytes = 16 * (64 << 10);
        limit_pod(&shim, &sandbox, LinuxContainerResources { memory_limit_in_bytes, ..Default::default() }).await;
        drop(writer);
    };
    let (started, ()) = tokio::join!(shim.start_container(&grower), limiting);
    started.expect("it starts");
    assert_eq!(shim.ending(&grower).await, r#"16 Error """#);
}

/// A process's threads of one name: where the kernel tells of each, and the fields of its `stat` behind the name.
fn threads(process: u32, name: &str) -> Vec<(PathBuf, Vec<String>)> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs").flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let (start, fields) = stat.rsplit_once(')').expect("a name");
        if start.ends_with(&format!("({name}")) {
            found.push((task.path(), fields.split_whitespace().map(str::to_owned).collect()));
        }
    }
    found
}

/// Processor time of a worker's threads that run guests, in seconds, as the kernel counts it.
fn cpu_of_guests(worker: u32) -> f64 {
    let mut ticks = 0.0;
    for (_, stat) in ["guests", "busy-guests"].iter().flat_map(|name| threads(worker, name)) {
        ticks += stat[11..13].iter().filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
    }
    // Programs are told of hundredths of a second, whatever the kernel's own ticks are.
    ticks / 100.0
}

#[tokio::test]
async fn a_guest_that_spins_gets_its_tenth_of_a_processor_by_the_kernels_count() {
    let shim = Shim::start().await;
    let spin = run(&shim, "spin", &[], Guest { cpu_quota: 10_000, ..guest("spin") }).await;
    let worker = shim.worker_pid().expect("a worker runs");
    let (began, at_first) = (tokio::time::Instant::now(), cpu_of_guests(worker));
    let share = eventually("a while has passed", || async {
        let passed = began.elapsed().as_secs_f64();
        (passed > 8.0).then(|| (cpu_of_guests(worker) - at_first) / passed)
    })
    .await;
    // What a slice takes too long is taken off the next; the kernel counts in samples.
    assert!((0.06..0.14).contains(&share), "{share} in place of 0.1");
    shim.stop(&spin, 0).await;
}

/// What the kernel knows of the worker's threads of one name: nice value and, where it tells, the slice in nanoseconds.
fn scheduling(worker: u32, name: &str) -> Vec<(i64, Option<u64>)> {
    let mut found = Vec::new();
    for (task, stat) in threads(worker, name) {
        let nice = stat[16].parse().expect("a nice value");
        // Not where CONFIG_SCHED_DEBUG is off.
        let told = std::fs::read_to_string(task.join("sched")).unwrap_or_default();
        let slice = told.lines().find_map(|line| line.strip_prefix("se.slice")?.split(':').nth(1)?.trim().parse().ok());
        found.push((nice, slice));
    }
    found
}

#[tokio::test]
async fn the_kernel_knows_who_serves_and_who_computes() {
    let shim = Shim::start().await;
    let spin = run(&shim, "spin", &[], guest("spin")).await;
    let worker = shim.worker_pid().expect("a worker runs");
    let computing = eventually("guests compute on threads of their own", || async {
        let threads = scheduling(worker, "busy-guests");
        let nice = scheduling(worker, "epoch").first()?.0;
        (!threads.is_empty() && threads.iter().all(|thread| thread.0 == (nice + 15).min(19))).then_some(threads)
    })
    .await;
    let (serving, ticking) = (scheduling(worker, "guests"), scheduling(worker, "epoch"));
    assert!(serving.len() >= 2 && serving.iter().all(|thread| thread.0 == ticking[0].0), "{serving:?}, {ticking:?}");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("this is Linux");
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(6), Some(12)) {
        return eprintln!("Linux {release} takes no slices that are asked for");
    }
    for (name, threads, slice_ns) in
        [("serving", serving, 100_000), ("ticking", ticking, 1_000_000), ("computing", computing, 4_000_000)]
    {
        assert!(threads.iter().all(|thread| thread.1.is_none_or(|told| told == slice_ns)), "{name}: {threads:?}");
    }
    shim.stop(&spin, 0).await;
}

#[tokio::test]
async fn what_a_pod_uses_is_told() {
    let shim = Shim::start().await;
    let pod = shim.run("hello", guest("hello:dev")).await;
    assert_eq!(get(&pod.ip, "/").await.0, 200);
    let request = PodSandboxStatsRequest { pod_sandbox_id: pod.sandbox.clone() };
    let linux = eventually("the request is counted", || async {
        let stats = shim.runtime().pod_sandbox_stats(request.clone()).await.expect("it runs").into_inner().stats;
        let linux = stats.and_then(|stats| stats.linux).expect("it is on Linux");
        let cores = linux.cpu.as_ref().and_then(|cpu| cpu.usage_nano_cores).map_or(0, |cores| cores.value);
        (cores > 0).then_some(linux)
    })
    .await;
    let eth0 = linux.network.and_then(|network| network.default_interface).expect("it has a network");
    let (received, sent) = (eth0.rx_bytes.map_or(0, |bytes| bytes.value), eth0.tx_bytes.map_or(0, |bytes| bytes.value));
    assert!(received > 30 && sent > 30, "{received} received, {sent} sent");
    assert_eq!(linux.containers.len(), 1);
    let disk = linux.containers[0].writable_layer.as_ref().expect("it may have files");
    assert!(disk.fs_id.is_some());
    let images = shim.images().image_fs_info(ImageFsInfoRequest {}).await.expect("images").into_inner();
    assert!(images.image_filesystems[0].used_bytes.is_some_and(|bytes| bytes.value > 0));
}

/// How often the worker's threads for guests that compute have had their turn.
fn turns_of_those_who_compute(worker: u32) -> u64 {
    let mut turns = 0;
    for (task, _) in threads(worker, "busy-guests") {
        let status = std::fs::read_to_string(task.join("status")).expect("such a thread does not end");
        let told = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        turns += told.and_then(|told| told.trim().parse::<u64>().ok()).expect("the kernel tells");
    }
    turns
}

#[tokio::test]
async fn what_follows_at_once_on_a_container_that_ended_by_itself_begins_behind_others() {
    let shim = Shim::start().await;
    // As quick as can be: one that needs a slice goes on behind others anyway.
    let quick = || guest("http-silent");
    let neighbour = shim.run("neighbour", quick()).await.ip;
    let worker = shim.worker_pid().expect("a worker runs");
    let sandbox = shim.sandbox("again", &[8080], &[]).await;
    let again = shim.ip(&sandbox).await;
    let remove = async |container_id: String| {
        let request = RemoveContainerRequest { container_id };
        shim.runtime().remove_container(request).await.expect("it is removed");
    };
    for _ in 0..5 {
        let ends = shim.create(&sandbox, "main", guest("exit")).await.expect("it is made");
        shim.start_container(&ends).await.expect("it starts");
        shim.exit(&ends).await;
        remove(ends).await;
        let follows = shim.create(&sandbox, "main", quick()).await.expect("it is made");
        shim.start_container(&follows).await.expect("it starts");
        assert_eq!(get(&neighbour, "/").await.0, 500, "it says nothing");
        let before = turns_of_those_who_compute(worker);
        assert_eq!(get(&again, "/").await.0, 500, "it says nothing");
        // Not for long: such a thread also looks up when it has had nothing to do for a second.
        let mut looks = 0;
        while turns_of_those_who_compute(worker) == before {
            looks += 1;
            assert!(looks < 30, "it did not run there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shim.stop(&follows, 0).await;
        remove(follows).await;
    }
}
