//! The syntax of a CronJob's schedule: five fields, or a word such as `@hourly`.

/// What is wrong with a schedule, in the words of the library that upstream uses; None if nothing is.
pub(super) fn problem(schedule: &str) -> Option<String> {
    let spec = match schedule.split_once(' ') {
        Some((zone, rest)) if zone.starts_with("TZ=") || zone.starts_with("CRON_TZ=") => rest.trim(),
        Some(_) | None => schedule,
    };
    if spec.is_empty() {
        return Some("empty spec string".to_owned());
    }
    if spec.starts_with('@') {
        return descriptor(spec);
    }
    let fields: Vec<&str> = spec.split_whitespace().collect();
    if fields.len() != 5 {
        let listed = fields.join(" ");
        return Some(format!("expected exactly 5 fields, found {}: [{listed}]", fields.len()));
    }
    fields.iter().zip(FIELDS).find_map(|(text, field)| text.split(',').find_map(|part| field.problem(part)))
}

fn descriptor(spec: &str) -> Option<String> {
    const WORDS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
    if WORDS.contains(&spec) {
        return None;
    }
    match spec.strip_prefix("@every ") {
        Some(duration) if is_duration(duration) => None,
        Some(duration) => {
            Some(format!("failed to parse duration @every {duration}: time: invalid duration {duration:?}"))
        }
        None => Some(format!("unrecognized descriptor: {spec}")),
    }
}

/// Go's durations: `1h30m`, `90s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let after = &rest[number..];
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h"]
            .into_iter()
            .filter(|unit| after.starts_with(unit))
            .max_by_key(|u| u.len());
        match unit {
            Some(unit) if number > 0 => rest = &after[unit.len()..],
            Some(_) | None => return false,
        }
    }
    !text.is_empty()
}

struct Field {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { min: 0, max: 59, names: &[] },
    Field { min: 0, max: 23, names: &[] },
    Field { min: 1, max: 31, names: &[] },
    Field { min: 1, max: 12, names: MONTHS },
    Field { min: 0, max: 6, names: DAYS },
];

impl Field {
    /// `*`, `?`, `a`, `a-b`, each with `/step`.
    fn problem(&self, part: &str) -> Option<String> {
        let (range, step) = match part.split_once('/') {
            Some((_, step)) if step.contains('/') => return Some(format!("too many slashes: {part}")),
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let (low, high) = match range.split_once('-') {
            _ if matches!(range, "*" | "?") => (Ok(self.min), Ok(self.max)),
            Some((_, high)) if high.contains('-') => return Some(format!("too many hyphens: {part}")),
            Some((low, high)) => (self.number(low), self.number(high)),
            None => {
                let one = self.number(range);
                (one.clone(), if step.is_some() { Ok(self.max) } else { one })
            }
        };
        let (low, high) = match (low, high) {
            (Ok(low), Ok(high)) => (low, high),
            (Err(error), _) | (_, Err(error)) => return Some(error),
        };
        let step = match step.map(parse).transpose() {
            Ok(step) => step.unwrap_or(1),
            Err(error) => return Some(error),
        };
        let (min, max) = (self.min, self.max);
        if low < min {
            Some(format!("beginning of range ({low}) below minimum ({min}): {part}"))
        } else if high > max {
            Some(format!("end of range ({high}) above maximum ({max}): {part}"))
        } else if low > high {
            Some(format!("beginning of range ({low}) beyond end of range ({high}): {part}"))
        } else if step == 0 {
            Some(format!("step of range should be a positive number: {part}"))
        } else {
            None
        }
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_lowercase();
        match self.names.iter().position(|name| *name == lower) {
            Some(at) => Ok(self.min + u32::try_from(at).unwrap_or(0)),
            None => parse(text),
        }
    }
}

fn parse(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(number) if number < 0 => Err(format!("negative number ({number}) not allowed: {text}")),
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(_) => Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")),
    }
}
