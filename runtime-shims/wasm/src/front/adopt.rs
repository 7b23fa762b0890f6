//! What a front does about workers of the front before it: finds them, asks what became of the containers, and goes on
//! with those that run. Part of [`Pods`].
//!
//! Nothing runs twice: a container is served by the worker its record names, and what any other worker runs under its
//! name is ended. A worker that does not answer is killed before its containers are called lost.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::link::{Link, OrderError, PATIENCE};
use super::pods::{LOST, Pods};
use super::process::Process;
use super::records::{Phase, WorkerRecord};
use crate::wire::{Command, Ended, Welcome};

/// What is done about one container of a worker that was found.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It goes on as if nothing had been.
    RunsOn,
    Ended(Ended),
    /// It was never started, or its worker does not know it any more.
    Lost,
}

/// A worker's word, to be asked.
struct Word<'a> {
    running: HashSet<&'a str>,
    ended: HashMap<&'a str, &'a Ended>,
}

impl Word<'_> {
    fn of(welcome: &Welcome) -> Word<'_> {
        Word {
            running: welcome.running.iter().map(String::as_str).collect(),
            ended: welcome.ended.iter().map(|ended| (ended.id.as_str(), ended)).collect(),
        }
    }

    /// What became of a container that should run in this worker.
    fn on(&self, id: &str) -> Verdict {
        match self.ended.get(id) {
            Some(ended) => Verdict::Ended((*ended).clone()),
            None if self.running.contains(id) => Verdict::RunsOn,
            None => Verdict::Lost,
        }
    }
}

impl Pods {
    /// To be done before anything is served.
    pub(super) async fn adopt_workers(self: &Arc<Pods>) -> io::Result<()> {
        let records = WorkerRecord::load_all(&self.workers.dir)?;
        let found = futures::future::join_all(records.into_iter().map(|record| self.find_worker(record))).await;
        for found in found {
            if let Some((link, welcome)) = found? {
                self.adopt(link, welcome).await;
            }
        }
        self.lose_the_rest();
        Ok(())
    }

    async fn find_worker(&self, record: WorkerRecord) -> io::Result<Option<(Link, Welcome)>> {
        let dir = &self.workers.dir;
        let found = match Process::find(&record.process)? {
            None => None,
            Some(process) => {
                let generation = self.workers.next_generation();
                match Link::find(record.clone(), process, dir, &self.config.build, generation).await {
                    Ok(found) => Some(found),
                    Err((process, error)) => {
                        tracing::warn!(worker = record.id, %error, "a worker does not answer and is killed");
                        process.kill();
                        // Its containers may be started anew only when it is gone.
                        process.ended().await?;
                        None
                    }
                }
            }
        };
        if found.is_none() {
            self.workers.remove_files(&record);
        }
        Ok(found)
    }

    async fn adopt(self: &Arc<Pods>, link: Link, welcome: Welcome) {
        let (mut strays, mut lost) = (Vec::new(), Vec::new());
        let mut known = HashSet::new();
        {
            let word = Word::of(&welcome);
            let mut state = self.state.lock();
            for container in state.containers.values_mut() {
                let id = container.record.id.clone();
                if !container.is_running() || container.record.worker.as_ref() != Some(&link.record.id) {
                    continue;
                }
                known.insert(id.clone());
                container.generation = Some(link.generation);
                match word.on(&id) {
                    Verdict::RunsOn | Verdict::Ended(_) => {}
                    Verdict::Lost => lost.push(id),
                }
            }
            for id in welcome.running.iter().filter(|id| !known.contains(*id)) {
                // One that was moved may finish what it is at; one that is on no record must not go on.
                let moved = state.containers.get(id).is_some_and(|container| container.is_running());
                strays.push((id.clone(), moved));
            }
        }
        tracing::info!(
            worker = link.record.id,
            build = link.record.build,
            running = welcome.running.len(),
            ended = welcome.ended.len(),
            "worker found"
        );
        let generation = link.generation;
        let link = self.take_in(link, None);
        for ended in welcome.ended {
            let id = ended.id.clone();
            if self.reported(generation, ended) {
                link.acknowledge(id);
            }
        }
        for id in lost {
            self.ended(
                &id,
                LOST,
                "Error",
                "the Wasm runtime was restarted before the container had started".to_owned(),
            );
        }
        // All together, because nothing is served before.
        let ended = tokio::time::timeout(PATIENCE, end_strays(&link, strays)).await;
        if let Err(error) = ended.unwrap_or(Err(OrderError::Stuck)) {
            tracing::error!(worker = link.record.id, %error, "the worker is killed: it would run something twice");
            link.kill_and_wait().await;
            return;
        }
        if !link.is_retired() && self.is_current(&link).await {
            self.prefer(&link).await;
        }
    }

    /// Containers that should run and were found nowhere.
    fn lose_the_rest(&self) {
        let lost: Vec<String> = {
            let state = self.state.lock();
            let unclaimed = state
                .containers
                .values()
                .filter(|container| matches!(container.record.phase, Phase::Running { .. }))
                .filter(|container| container.generation.is_none());
            unclaimed.map(|container| container.record.id.clone()).collect()
        };
        for id in lost {
            let why = "the Wasm worker process ended while the Wasm runtime was restarted".to_owned();
            self.ended(&id, LOST, "Error", why);
        }
    }
}

/// Ends containers that should not run there. Those that were moved may finish what they are at.
async fn end_strays(link: &Link, strays: Vec<(String, bool)>) -> Result<(), OrderError> {
    for (id, moved) in strays {
        tracing::warn!(container = id, worker = link.record.id, "a container that should not run here is ended");
        let grace_ms = if moved { super::upgrade::DRAIN_MS } else { 0 };
        link.order(Command::Forget { id, grace_ms }, &[]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Exit;

    #[test]
    fn an_end_is_believed_before_anything_else() {
        let ended = Ended { id: "both".to_owned(), at: 7, exit: Exit::with_code(3) };
        let welcome = Welcome {
            version: 1,
            build: "b".to_owned(),
            retiring: false,
            running: vec!["runs".to_owned(), "both".to_owned()],
            ended: vec![ended.clone()],
        };
        let word = Word::of(&welcome);
        assert_eq!(word.on("runs"), Verdict::RunsOn);
        assert_eq!(word.on("both"), Verdict::Ended(ended));
        assert_eq!(word.on("neither"), Verdict::Lost);
    }
}
