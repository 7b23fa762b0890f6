use coracle_cri::v1::ContainerConfig;
use tempfile::TempDir;

use super::super::FrontConfig;
use super::super::link::tests::pair;
use super::super::packed::Packed;
use super::super::programs::Program;
use super::super::records::{ContainerRecord, ImageRecord, Phase};
use super::*;
use crate::compile::Reexec;
use crate::engine::Profile;
use crate::images::Digest;
use crate::wire::{Answer, Channel, Command, Ended, Exit, Order, Report};

/// A front that can start nothing.
pub(in crate::front) fn front() -> (TempDir, Arc<Pods>) {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let nothing = || Reexec { program: "/nowhere".into(), args: Vec::new() };
    let config = FrontConfig::under(dir.path(), nothing(), nothing());
    let config = FrontConfig { engine: Some(Profile::Tight), build: "present".to_owned(), ..config };
    (dir, Pods::open(config).expect("it is open"))
}

pub(in crate::front) fn container(id: &str, phase: Phase, worker: Option<&Link>) -> ContainerRecord {
    let image = Digest::of(b"image");
    ContainerRecord {
        id: id.to_owned(),
        sandbox: "sandbox".to_owned(),
        created_at: 0,
        image: ImageRecord { name: "image".to_owned(), repo_digest: image.to_string(), id: image },
        program: Program::Own,
        http: None,
        phase,
        worker: worker.map(|link| link.record.id.clone()),
        config: Packed::new(&ContainerConfig::default()),
    }
}

/// A worker of an earlier build in which a container runs, and the worker's end of what they speak over.
fn worker_with(pods: &Arc<Pods>, id: &str) -> (Arc<Link>, Channel) {
    let (link, child, theirs) = pair();
    let link = pods.take_in(link, Some(child));
    let record = container(id, Phase::Running { started_at: 0 }, Some(&link));
    let mut state = pods.state.lock();
    state.add_container(record);
    state.containers.get_mut(id).expect("it was added").generation = Some(link.generation);
    drop(state);
    (link, theirs)
}

/// Says yes to all orders, which come here, and does nothing.
async fn obey(theirs: &Channel, mut orders: impl FnMut(Command)) {
    loop {
        let order = theirs.receive().await.expect("it arrives").expect("the front is there");
        let Order { number, what } = order.parse().expect("an order");
        orders(what);
        theirs.send(&Report::Done { number, outcome: Ok(Answer::Nothing) }, &[]).await.expect("it is sent");
    }
}

/// Looks after workers until `done`.
async fn looked_after(pods: &Arc<Pods>, worker: impl Future<Output = ()>, done: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = pods.clone().end_idle_workers() => unreachable!("the front does not stop"),
        () = pods.clone().record_ends() => unreachable!("the front does not stop"),
        () = worker => unreachable!("it never stops"),
        () = done => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_was_emptied_by_moves_and_does_not_end_is_killed() {
    let (_dir, pods) = front();
    let (link, theirs) = worker_with(&pods, "moved");
    let killed = async {
        pods.state.lock().containers.get_mut("moved").expect("it is there").generation = Some(link.generation + 1);
        pods.leave_old_workers().await;
        while !link.is_gone() {
            tokio::time::sleep(link::PATIENCE).await;
        }
    };
    let killed = async {
        tokio::time::timeout(Duration::from_millis(2 * DRAIN_MS), killed).await.expect("it is killed");
    };
    looked_after(&pods, obey(&theirs, drop), killed).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_stays_until_what_ended_there_is_on_record() {
    let (dir, pods) = front();
    let (link, theirs) = worker_with(&pods, "ended");
    // As bad as a full disk.
    let in_the_way = dir.path().join("wasm/state/containers/ended.new");
    fs::create_dir(&in_the_way).expect("it can be made");
    let orders = Mutex::new(Vec::new());
    let told = async {
        let ended = Ended { id: "ended".to_owned(), at: 1, exit: Exit::with_code(0) };
        assert!(!pods.reported(link.generation, ended), "the worker is to keep it");
        tokio::time::sleep(2 * pods.config.idle_worker).await;
        assert!(!link.is_retired() && !link.is_gone());
        assert_eq!(*orders.lock(), [""; 0]);
        fs::remove_dir(&in_the_way).expect("it is empty");
        while !link.is_gone() {
            tokio::time::sleep(link::PATIENCE).await;
        }
    };
    let told = async {
        tokio::time::timeout(5 * pods.config.idle_worker, told).await.expect("it is ended");
    };
    looked_after(&pods, obey(&theirs, |order| orders.lock().push(format!("{order:?}"))), told).await;
    assert_eq!(*orders.lock(), [r#"Acknowledge { ids: ["ended"] }"#, "Retire"]);
    let record = pods.records.containers().expect("they can be read").pop().expect("there is one");
    assert!(matches!(record.phase, Phase::Exited(end) if end.code == 0));
}
