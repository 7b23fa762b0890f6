//! A pod under constant light load beside a hostile one. It must not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coracle_cri::v1::ContainerState;
use tokio::task::JoinSet;

use crate::shim::{Pod, Shim, guest, request, within};

pub struct Neighbour {
    pod: Pod,
    front: u32,
    worker: u32,
    started_at: i64,
    over: Arc<AtomicBool>,
    load: JoinSet<usize>,
}

impl Neighbour {
    /// Starts a pod and asks it again and again, on a new connection each time.
    pub async fn start(shim: &Shim) -> Neighbour {
        let pod = shim.run("neighbour", guest("hello:dev")).await;
        let over = Arc::new(AtomicBool::new(false));
        let (ip, until) = (pod.ip.clone(), over.clone());
        let mut load = JoinSet::new();
        load.spawn(async move {
            let mut pause = tokio::time::interval(Duration::from_millis(20));
            let mut answers = 0;
            // Once more after the end, so that an end that harmed it is seen.
            loop {
                let last = until.load(Ordering::SeqCst);
                let answer = within("the neighbour answers", request(&ip, 8080, "GET /", "")).await;
                let (status, body) = answer.expect("the neighbour answers every request");
                assert_eq!((status, body.as_str()), (200, "Hello from a Wasm pod\n"));
                answers += 1;
                if last {
                    return answers;
                }
                pause.tick().await;
            }
        });
        let started_at = shim.status(&pod.container).await.started_at;
        let worker = shim.worker_pid().expect("a worker runs");
        Neighbour { pod, front: shim.front_pid(), worker, started_at, over, load }
    }

    /// Every request was answered, the pod runs as it ran, and the processes are the same.
    pub async fn unharmed(mut self, shim: &Shim) {
        self.over.store(true, Ordering::SeqCst);
        let answers = self.load.join_next().await.expect("there is one").expect("every request was answered");
        assert!(answers > 0);
        let status = shim.status(&self.pod.container).await;
        assert_eq!((status.state(), status.started_at), (ContainerState::ContainerRunning, self.started_at));
        assert_eq!(shim.worker_pid(), Some(self.worker), "the worker is the same");
        assert_eq!(shim.front_pid(), self.front, "the front is the same");
        let running = std::fs::read_to_string(format!("/proc/{}/stat", self.front)).expect("the front is there");
        assert!(!running.contains(") Z"), "the front runs");
    }
}
