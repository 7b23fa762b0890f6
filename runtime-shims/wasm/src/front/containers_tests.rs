use coracle_cri::v1::PodSandboxConfig;

use super::super::link::tests::pair;
use super::super::packed::Packed;
use super::super::plan::tests::bare_image;
use super::super::workers::tests::{container, front};
use super::*;
use crate::wire::{Order, Report};

/// What a start comes to that a worker does not answer, what the worker was told, and whether it is there still.
async fn silent_start(answers_else: bool) -> (String, Vec<String>, bool) {
    let (_dir, pods) = front();
    let (link, child, theirs) = pair();
    let link = pods.take_in(link, Some(child));
    pods.prefer(&link).await;
    let sandbox = SandboxRecord {
        id: "sandbox".to_owned(),
        created_at: 0,
        handler: "wasm".to_owned(),
        ready: true,
        ip: None,
        config: Packed::new(&PodSandboxConfig::default()),
    };
    let record = container("silent", Phase::Created, None);
    {
        let mut state = pods.state.lock();
        state.add_sandbox("sandbox".to_owned(), sandbox.clone());
        state.add_container(record.clone());
    }
    let compiled = Compiled { kind: GuestKind::Module, uses_keyvalue: false, path: "code".into() };
    let made = Arc::new(Made { sandbox, record, image: bare_image(), compiled });
    let prepared = pods.prepare(made.clone(), None).await.expect("it needs nothing");
    let mut orders = Vec::new();
    let worker = async {
        loop {
            let order = theirs.receive().await.expect("it arrives").expect("the front is there");
            let Order { number, what } = order.parse().expect("an order");
            let is_start = matches!(what, Command::Start(_));
            orders.push(if is_start { "Start".to_owned() } else { format!("{what:?}") });
            if answers_else && !is_start {
                theirs.send(&Report::Done { number, outcome: Ok(Answer::Nothing) }, &[]).await.expect("it is sent");
            }
        }
    };
    let started = tokio::select! {
        biased;
        () = worker => unreachable!("it never stops"),
        started = pods.start_in_worker(&made, &prepared, true) => started,
    };
    match started {
        Err(StartFailure::Failed(why)) => (why, orders, !link.is_gone()),
        Err(StartFailure::Refused(status)) => panic!("{status}"),
        Ok(_) => panic!("nobody has said that it runs"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_not_answered_is_called_off() {
    let silent = "one of its volumes, or the Wasm worker process, does not answer: see whether the servers of the volumes \
                  can be reached from the node";
    let orders = ["Start", r#"Forget { id: "silent", grace_ms: 0 }"#];
    for answers_else in [true, false] {
        let (why, ordered, is_there) = silent_start(answers_else).await;
        assert_eq!(why, silent);
        assert_eq!(ordered, orders);
        assert_eq!(is_there, answers_else, "one that does not answer that either is killed");
    }
}
