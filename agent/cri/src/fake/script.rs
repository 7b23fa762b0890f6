//! What a fake container does, written as text so that tests read as data.
//!
//! Clauses are separated by `;`:
//!
//! ```text
//! pull 200ms                    the pull takes this long
//! pull fails TEXT               every pull fails with TEXT
//! pull fails 2 times TEXT       the first two pulls fail
//! pull fails Unknown: TEXT      as a registry that does not answer, not as one that has no such image
//! pull fails Internal: TEXT     as a runtime that cannot do its work
//! pull never                    the pull hangs until its caller gives up
//! foreign                       its pull finds an image of another kind
//! memory 1234                   bytes each container uses
//! size 1234                     bytes of the image
//! create fails TEXT             CreateContainer fails
//! start 10ms                    StartContainer takes this long
//! start fails TEXT              StartContainer fails
//! start never                   StartContainer hangs until its caller gives up
//! log TEXT                      a line on stdout at each start
//! run                           runs until it is stopped (the default)
//! exit 1 after 5s oom message TEXT   ends by itself; `after`, `oom` and `message` are optional, in this order
//! then                          what follows is the next attempt's; the last one repeats
//! stop 2s                       after the stop signal it takes this long to exit with 0
//! stop ignored                  only the kill at the end of the grace period ends it (exit code 137)
//! exec 1 COMMAND LINE           what ExecSync of this command line exits with; `never` for one that does not end
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

/// What containers of one image do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    pub pull: Step,
    pub foreign: bool,
    pub size_bytes: u64,
    pub memory_bytes: u64,
    pub create: Step,
    pub start: Step,
    pub log: Vec<String>,
    /// Per attempt; the last repeats; empty means run until stopped.
    pub runs: Vec<Run>,
    pub stop: Stop,
    /// Exit codes of ExecSync by command line; None for one that does not end.
    pub exec: BTreeMap<String, Option<i32>>,
}

/// How one call goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Step {
    #[default]
    Ok,
    Takes(Duration),
    /// Fails the first `times` times, or always.
    Fails {
        times: Option<u32>,
        message: String,
    },
    Never,
}

/// How one run of a container ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Run {
    #[default]
    UntilStopped,
    Exits {
        code: i32,
        after: Duration,
        oom: bool,
        message: String,
    },
}

/// How a container takes the stop signal.
#[derive(Clone, Debug, PartialEq)]
pub enum Stop {
    After(Duration),
    Ignored,
}

impl Default for Stop {
    fn default() -> Self {
        Stop::After(Duration::ZERO)
    }
}

impl std::str::FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut script = Script { size_bytes: 1 << 20, ..Script::default() };
        let mut run = None;
        for clause in text.split(';').map(str::trim).filter(|clause| !clause.is_empty()) {
            let (word, rest) = clause.split_once(' ').unwrap_or((clause, ""));
            let rest = rest.trim();
            match word {
                "pull" => script.pull = step(rest)?,
                "memory" => script.memory_bytes = rest.parse().map_err(|_| format!("memory: {rest:?} is no number"))?,
                "foreign" => script.foreign = true,
                "size" => script.size_bytes = rest.parse().map_err(|_| format!("size: {rest:?} is no number"))?,
                "create" => script.create = step(rest)?,
                "start" => script.start = step(rest)?,
                "log" => script.log.push(rest.to_owned()),
                "run" => run = Some(Run::UntilStopped),
                "exit" => run = Some(exit(rest)?),
                "then" => script.runs.push(run.take().unwrap_or_default()),
                "stop" if rest == "ignored" => script.stop = Stop::Ignored,
                "stop" => script.stop = Stop::After(duration(rest)?),
                "exec" => {
                    let (code, command) = rest.split_once(' ').ok_or("exec: want CODE COMMAND")?;
                    let code = match code {
                        "never" => None,
                        code => Some(code.parse().map_err(|_| format!("exec: {code:?} is no exit code"))?),
                    };
                    script.exec.insert(command.trim().to_owned(), code);
                }
                _ => return Err(format!("unknown clause {clause:?}")),
            }
        }
        script.runs.extend(run);
        Ok(script)
    }
}

impl Script {
    /// The run of the `attempt`-th start, counted from 0.
    pub(super) fn run(&self, attempt: usize) -> Run {
        self.runs.get(attempt).or(self.runs.last()).cloned().unwrap_or_default()
    }
}

fn step(text: &str) -> Result<Step, String> {
    if text == "never" {
        return Ok(Step::Never);
    }
    let Some(rest) = text.strip_prefix("fails") else {
        return Ok(Step::Takes(duration(text)?));
    };
    let rest = rest.trim();
    if let Some((times, message)) = rest.split_once(" times ")
        && let Ok(times) = times.parse()
    {
        return Ok(Step::Fails { times: Some(times), message: message.to_owned() });
    }
    Ok(Step::Fails { times: None, message: rest.to_owned() })
}

fn exit(text: &str) -> Result<Run, String> {
    let (text, message) = match text.split_once("message ") {
        Some((head, message)) => (head.trim(), message.to_owned()),
        None => (text, String::new()),
    };
    let mut words = text.split_whitespace();
    let code = words.next().and_then(|word| word.parse().ok()).ok_or_else(|| format!("exit: no code in {text:?}"))?;
    let (mut after, mut oom) = (Duration::ZERO, false);
    while let Some(word) = words.next() {
        match word {
            "after" => after = duration(words.next().unwrap_or_default())?,
            "oom" => oom = true,
            _ => return Err(format!("exit: unknown word {word:?}")),
        }
    }
    Ok(Run::Exits { code, after, oom, message })
}

fn duration(text: &str) -> Result<Duration, String> {
    let fault = || format!("{text:?} is no duration such as 5s or 200ms");
    if let Some(millis) = text.strip_suffix("ms") {
        return millis.parse().map(Duration::from_millis).map_err(|_| fault());
    }
    text.strip_suffix('s').and_then(|secs| secs.parse().ok()).map(Duration::from_secs).ok_or_else(fault)
}
