//! The whole cluster in one test: a server and three agents on one thread and paused time, with lost requests, cut
//! watches, killed agents, power cuts and a killed server. A failure prints its seed; `CORACLE_SEED=N` replays it.

mod faults;
mod invariants;
mod scenario;
mod world;

use scenario::run;

/// Seeds of an ordinary run; `CORACLE_SEEDS=N` asks for more.
const SEEDS: u64 = 50;

#[allow(clippy::disallowed_methods, reason = "a test reads its environment")]
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name} is no number: {v}")))
}

/// Runs the seeds on as many threads as there are cores: each world is single-threaded and knows no other.
#[test]
fn every_seed_converges() {
    let seeds: Vec<u64> = match asked("CORACLE_SEED") {
        Some(seed) => vec![seed],
        None => (0..asked("CORACLE_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failures = std::sync::Mutex::new(Vec::new());
    let faults = std::sync::Mutex::new(std::collections::BTreeMap::<&'static str, u32>::new());
    std::thread::scope(|threads| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            threads.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let outcome = run(*seed);
                    for (kind, count) in outcome.faults {
                        *faults.lock().unwrap().entry(kind).or_default() += count;
                    }
                    if let Some(failure) = outcome.failure {
                        let tail = outcome.trace.iter().rev().take(40).rev().cloned().collect::<Vec<_>>().join("\n");
                        failures.lock().unwrap().push(format!("seed {seed}: {failure}\nlast requests:\n{tail}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} seeds\n{}", failures.len(), seeds.len(), failures.join("\n\n"));
    // A fault layer that injects nothing would let everything pass.
    let faults = faults.into_inner().unwrap();
    println!("faults over {} seeds: {faults:?}", seeds.len());
    if seeds.len() >= 10 {
        for kind in ["lost before", "lost after", "cut", "expired", "partitioned"] {
            assert!(faults.get(kind).is_some_and(|n| *n > 0), "no fault of kind {kind:?} was injected: {faults:?}");
        }
    }
}

#[test]
fn one_seed_gives_one_trace() {
    let (first, second) = (run(7), run(7));
    let differ = first.trace.iter().zip(&second.trace).position(|(a, b)| a != b);
    if let Some(at) = differ {
        panic!("the runs differ at request {at}:\n  {}\n  {}", first.trace[at], second.trace[at]);
    }
    assert_eq!(first.trace.len(), second.trace.len());
    assert!(first.trace.len() > 100, "a run makes requests");
}
