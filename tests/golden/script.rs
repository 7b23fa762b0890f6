//! Reads scripts. Knows their grammar and nothing of what a step does.

#[derive(Debug)]
pub(crate) enum Step {
    Heading(String),
    Request(Request),
    /// Name and groups, or `anonymous`, or `bearer` and a token.
    As(Vec<String>),
    Wait(u64),
    Keep {
        name: String,
        field: String,
    },
    Watch {
        name: String,
        request: Request,
    },
    Next(String),
    Times(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// The line as it stands in the script.
    pub(crate) line: String,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// The fields of the answer to show; all if there are none.
    pub(crate) shown: Vec<String>,
}

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// Methods that stand for a PATCH with this Content-Type.
const PATCHES: [(&str, &str); 3] = [
    ("MERGE", "application/merge-patch+json"),
    ("STRATEGIC", "application/strategic-merge-patch+json"),
    ("JSONPATCH", "application/json-patch+json"),
];

pub(crate) fn parse(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim().is_empty() || (line.starts_with('#') && !line.starts_with("###")) {
            continue;
        }
        let mut below = Vec::new();
        while let Some(next) = lines.next_if(|next| !begins(next)) {
            below.push(next);
        }
        steps.push(step(line, &below));
    }
    steps
}

fn begins(line: &str) -> bool {
    let word = line.split(' ').next().unwrap_or_default();
    line.starts_with("###")
        || METHODS.contains(&word)
        || PATCHES.iter().any(|(name, _)| *name == word)
        || matches!(word, "AS" | "WAIT" | "KEEP" | "WATCH" | "NEXT" | "TIMES")
}

fn step(line: &str, below: &[&str]) -> Step {
    assert!(begins(line), "no step of a script: {line}");
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let two = || rest.split_once(' ').unwrap_or_else(|| panic!("two words are needed: {line}"));
    let number = || rest.parse::<u64>().unwrap_or_else(|_| panic!("a number is needed: {line}"));
    let step = match word {
        "###" => Step::Heading(line.to_owned()),
        "AS" => Step::As(rest.split(' ').map(str::to_owned).collect()),
        "WAIT" => Step::Wait(number()),
        "TIMES" => Step::Times(number() as usize),
        "NEXT" => Step::Next(rest.to_owned()),
        "KEEP" => Step::Keep { name: two().0.to_owned(), field: two().1.to_owned() },
        "WATCH" => {
            let (name, rest) = two();
            return Step::Watch { name: name.to_owned(), request: request(line, "GET", rest, below) };
        }
        method => return Step::Request(request(line, method, rest, below)),
    };
    assert!(
        below.iter().all(|line| line.trim().is_empty() || line.starts_with('#')),
        "belongs to no request: {below:?}"
    );
    step
}

fn request(line: &str, method: &str, rest: &str, below: &[&str]) -> Request {
    let (target, shown) = rest.split_once(" | ").unwrap_or((rest, ""));
    let is_header = |line: &&str| {
        let name = line.split_once(": ").map_or("", |(name, _)| name);
        name.starts_with(|c: char| c.is_ascii_uppercase()) && !name.contains(|c: char| c.is_whitespace() || c == '"')
    };
    let count = below.iter().take_while(|line| is_header(line)).count();
    let mut headers: Vec<(String, String)> = below[..count]
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let patch = PATCHES.iter().find(|(name, _)| *name == method);
    let body = below[count..].join("\n");
    let is_raw = headers.iter().any(|(name, _)| name == "Content-Type");
    let body = if is_raw || body.trim().is_empty() { body.trim().to_owned() } else { to_json(&body) };
    if let Some((_, media_type)) = patch {
        headers.push(("Content-Type".to_owned(), (*media_type).to_owned()));
    }
    Request {
        line: line.to_owned(),
        method: if patch.is_some() { "PATCH" } else { method }.to_owned(),
        target: target.to_owned(),
        headers,
        body,
        shown: shown.split(' ').filter(|field| !field.is_empty()).map(str::to_owned).collect(),
    }
}

/// The body as a client sends it. Numbers and quotes come out as the YAML has them.
fn to_json(yaml: &str) -> String {
    let value: serde_json::Value = serde_norway::from_str(yaml).unwrap_or_else(|error| panic!("{error}:\n{yaml}"));
    value.to_string()
}
