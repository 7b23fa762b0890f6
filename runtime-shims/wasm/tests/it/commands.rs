//! Guests that run from start to end: what they get, what they say, how they end.

use coracle_cri::v1::{ContainerState, RemoveImageRequest};
use expect_test::expect;

use crate::shim::{Guest, Shim, guest, refusal};

#[tokio::test]
async fn a_module_gets_arguments_environment_and_volumes_and_its_end_is_seen() {
    let shim = Shim::start().await;
    let config = shim.dir.path().join("config");
    std::fs::create_dir(&config).expect("a directory can be made");
    std::fs::write(config.join("message"), "from a config map\n").expect("it can be written");
    let worker = guest("worker:dev").args(&["--flag", "value"]).env("ROUNDS", "2").env("INTERVAL_SECONDS", "0").mount(
        &config,
        "/etc/worker",
        true,
    );
    let pod = shim.run("worker", worker).await;
    assert_eq!(shim.ending(&pod.container).await, r#"0 Completed """#);
    expect![[r#"
        stdout F worker starts: file /etc/worker/message, arguments ["--flag", "value"]
        stdout F round 1: from a config map
        stdout F round 2: from a config map
        stdout F worker is done
    "#]]
    .assert_eq(&shim.log("worker", "main"));
    let status = shim.status(&pod.container).await;
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    assert!(status.image_ref.starts_with("docker.io/library/worker@sha256:"), "{}", status.image_ref);
}

#[tokio::test]
async fn endings_are_told_apart() {
    let shim = Shim::start().await;
    let mut endings = String::new();
    for image in ["exit", "trap", "recursion", "command-fails", "chatter"] {
        let pod = shim.run(image, guest(image)).await;
        endings.push_str(&format!("{image}: {}\n", shim.ending(&pod.container).await));
    }
    let missing = guest("worker:dev").env("MESSAGE_FILE", "/nowhere/file");
    let pod = shim.run("missing", missing).await;
    endings.push_str(&format!("missing: {}\n", shim.ending(&pod.container).await));
    expect![[r#"
        exit: 42 Error ""
        trap: 134 Error "wasm trap: wasm `unreachable` instruction executed"
        recursion: 134 Error "wasm trap: call stack exhausted"
        command-fails: 1 Error ""
        chatter: 0 Completed ""
        missing: 2 Error ""
    "#]]
    .assert_eq(&endings);
    expect![[r#"
        stdout F out
        stdout F out again
        stderr F err
        stderr F no newline
    "#]]
    .assert_eq(&shim.log("chatter", "main"));
    // What a user of `kubectl logs` needs to find the fault.
    let log = shim.log("trap", "main");
    assert!(log.contains("stderr F wasm trap: wasm `unreachable` instruction executed"), "{log}");
    assert!(log.contains("!deep"), "the backtrace names functions: {log}");
}

#[tokio::test]
async fn memory_beyond_the_limit_ends_a_guest_as_the_kernel_would() {
    let shim = Shim::start().await;
    for image in ["bomb", "table-bomb"] {
        let pod = shim.run(image, guest(image).memory(16 << 20)).await;
        let status = shim.exit(&pod.container).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{image}: {}", status.message);
        assert!(status.message.contains("the limit is 16777216"), "{}", status.message);
    }
}

#[tokio::test]
async fn stopping_ends_even_a_guest_that_never_yields() {
    let shim = Shim::start().await;
    let pod = shim.run("spin", guest("spin")).await;
    shim.stop(&pod.container, 30).await;
    assert_eq!(shim.ending(&pod.container).await, r#"143 Error """#);
    let pod = shim.run("spin-killed", guest("spin")).await;
    shim.stop(&pod.container, 0).await;
    assert_eq!(shim.ending(&pod.container).await, r#"137 Error """#);
    // Again, and once more for what is gone: both are fine.
    shim.stop(&pod.container, 0).await;
    shim.remove_pod(&pod.sandbox).await;
    shim.stop(&pod.container, 0).await;
    shim.remove_pod(&pod.sandbox).await;
}

#[tokio::test]
async fn a_guest_that_reads_its_input_is_told_by_its_end_and_ends_by_itself() {
    let shim = Shim::start().await;
    let listening = |image: &str| crate::shim::Guest { stdin: true, ..guest(image) };
    let listens = |name: &'static str| {
        let shim = &shim;
        crate::shim::eventually("it listens", move || async move {
            shim.log(name, "main").contains("listening").then_some(())
        })
    };
    let pod = shim.run("listener", listening("listener")).await;
    listens("listener").await;
    assert_eq!(shim.status(&pod.container).await.state(), ContainerState::ContainerRunning);
    shim.stop(&pod.container, 60).await;
    assert_eq!(shim.ending(&pod.container).await, r#"7 Error """#);
    assert!(shim.log("listener", "main").ends_with("told to stop\n"));
    // Told, it does not end: then the grace does.
    let pod = shim.run("stubborn", listening("stubborn")).await;
    listens("stubborn").await;
    shim.stop(&pod.container, 1).await;
    assert_eq!(shim.ending(&pod.container).await, r#"137 Error """#);
    assert!(shim.log("stubborn", "main").ends_with("told to stop\n"));
    // It has an input and does not look at it.
    let pod = shim.run("spin", listening("spin")).await;
    shim.stop(&pod.container, 60).await;
    assert_eq!(shim.ending(&pod.container).await, r#"143 Error """#);
    // Without `stdin: true` the input is at its end from the start.
    let pod = shim.run("closed", guest("listener")).await;
    assert_eq!(shim.ending(&pod.container).await, r#"7 Error """#);
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_with_the_reason() {
    let shim = Shim::start().await;
    let sandbox = shim.sandbox("refused", &[], &[]).await;
    let mut refusals = String::new();
    for image in ["library", "neither", "nowhere:1"] {
        let outcome = shim.create(&sandbox, image, guest(image)).await;
        refusals.push_str(&format!("{}\n", refusal(outcome)));
    }
    let relative = crate::shim::Guest { working_dir: "here".to_owned(), ..guest("exit") };
    refusals.push_str(&format!("{}\n", refusal(shim.create(&sandbox, "relative", relative).await)));
    expect![[r#"
        InvalidArgument: cannot run image "docker.io/library/library:latest": the module has no `_start` to run (it exports add); build it as a program, not as a library
        InvalidArgument: cannot run image "docker.io/library/neither:latest": the component exports neither wasi:http/incoming-handler@0.2 nor wasi:cli/run@0.2, nor wasi:http/handler@0.3 nor wasi:cli/run@0.3 (it exports nothing)
        NotFound: image "nowhere:1": not found
        InvalidArgument: workingDir "here": must be an absolute path
    "#]]
    .assert_eq(&refusals);
    // Imports are resolved when it starts.
    let stranger = shim.create(&sandbox, "stranger", guest("stranger")).await.expect("it compiles");
    expect![[r#"Unknown: cannot start default/refused/stranger: unknown import: `env::summon` has not been defined"#]]
        .assert_eq(&refusal(shim.start_container(&stranger).await));
    let status = shim.status(&stranger).await;
    assert_eq!(status.state(), ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("env::summon"), "{}", status.message);
}

#[tokio::test]
async fn a_command_may_name_another_program_of_the_image() {
    let mut shim = Shim::start().await;
    crate::images::import_several(&shim);
    let sandbox = shim.sandbox("several", &[], &[]).await;
    let with = |command: &[&str]| Guest {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..guest("several:1").args(&["exit", "3"])
    };
    let mut told = String::new();
    for command in [&["/usr/bin/exit.wasm"][..], &["exit"], &["/srv/app"], &["app"], &[], &["/bin/migrate"]] {
        let id = shim.create(&sandbox, &format!("c{}", told.len()), with(command)).await.expect("it is made");
        let started = shim.start_container(&id).await;
        let started = if started.is_err() { refusal(started) } else { "started".to_owned() };
        told.push_str(&format!("{command:?}: {started}, {}\n", shim.ending(&id).await));
    }
    expect![[r#"
        ["/usr/bin/exit.wasm"]: started, 42 Error ""
        ["exit"]: started, 42 Error ""
        ["/srv/app"]: started, 3 Error ""
        ["app"]: started, 3 Error ""
        []: started, 3 Error ""
        ["/bin/migrate"]: Unknown: exec: "/bin/migrate": executable file not found in $PATH: a Wasm container has no shell, it runs app.wasm (its own program, with other arguments); files of the image: /opt/not-wasm.wasm, /srv/app.wasm, /usr/bin/exit.wasm, /usr/bin/web.wasm, 128 StartError "exec: \"/bin/migrate\": executable file not found in $PATH: a Wasm container has no shell, it runs app.wasm (its own program, with other arguments); files of the image: /opt/not-wasm.wasm, /srv/app.wasm, /usr/bin/exit.wasm, /usr/bin/web.wasm"
    "#]].assert_eq(&told);
    let broken = shim.create(&sandbox, "broken", with(&["/opt/not-wasm.wasm"])).await;
    let refused = refusal(broken);
    assert!(refused.starts_with("InvalidArgument: cannot run image"), "{refused}");
    // The next front runs what this one has found, of whatever image has the name by then.
    let exit = shim.create(&sandbox, "exit", with(&["exit"])).await.expect("it is made");
    shim.kill_front().await;
    shim.start_front().await;
    let removed = RemoveImageRequest { image: crate::images::spec("several:1") };
    shim.images().remove_image(removed).await.expect("it is removed");
    shim.start_container(&exit).await.expect("it starts");
    assert_eq!(shim.ending(&exit).await, r#"42 Error """#);
}

#[tokio::test]
async fn where_there_is_one_program_any_command_is_a_name_for_it() {
    let shim = Shim::start().await;
    let tool = std::fs::read(crate::guests::file("tool")).expect("it is there");
    crate::images::import_files(&shim, "one:1", &[("srv/app.wasm", &tool), ("etc/settings", b"")]);
    for image in ["one:1", "tool"] {
        let named = Guest { command: vec!["/bin/anything".to_owned()], ..guest(image).args(&["exit", "3"]) };
        let pod = shim.run(&image.replace(':', "-"), named).await;
        assert_eq!(shim.ending(&pod.container).await, r#"3 Error """#, "{image}");
    }
}

#[tokio::test]
async fn a_rotated_log_goes_on_in_a_new_file() {
    use coracle_cri::v1::ReopenContainerLogRequest;
    let shim = Shim::start().await;
    let pod = shim.run("flood", guest("flood")).await;
    let file = shim.log_file("flood", "main");
    let rotated = file.with_extension("log.1");
    std::fs::rename(&file, &rotated).expect("the log is there");
    let request = ReopenContainerLogRequest { container_id: pod.container.clone() };
    shim.runtime().reopen_container_log(request).await.expect("it is reopened");
    crate::shim::eventually("the new file has lines", || async {
        std::fs::metadata(&file).ok().filter(|meta| meta.len() > 0)
    })
    .await;
    shim.stop(&pod.container, 0).await;
    let line = "stdout F a line of a flood that does not end by itself";
    let all =
        std::fs::read_to_string(&rotated).expect("it is there") + &std::fs::read_to_string(&file).expect("it is there");
    assert!(all.lines().all(|text| text.ends_with(line)), "no line is cut");
}
