//! How a refusal names several things that others have named: few of them, and little of each.

/// What is named, and what is shown of each.
const NAMED: usize = 8;
const NAME_CHARS: usize = 100;

pub(crate) fn short(name: &str) -> String {
    match name.char_indices().nth(NAME_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

pub(crate) fn listed(names: &[impl AsRef<str>]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED).map(|name| short(name.as_ref())).collect();
    match names.len() {
        0 => "nothing".to_owned(),
        all if all <= NAMED => shown.join(", "),
        all => format!("{} and {} more", shown.join(", "), all - NAMED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_short_however_many_and_long_the_names_are() {
        assert_eq!(listed(&[""; 0]), "nothing");
        assert_eq!(listed(&["a", "b"]), "a, b");
        assert_eq!(listed(&["é".repeat(1000)]), format!("{}…", "é".repeat(100)));
        let many: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        assert_eq!(listed(&many), "0, 1, 2, 3, 4, 5, 6, 7 and 992 more");
    }
}
