//! The rules for names, labels and annotations. Each validator returns upstream's messages, empty when the value is
//! fine, so that callers can put them into a `FieldError::invalid`.

pub const DNS1123_LABEL_MAX: usize = 63;
pub const DNS1123_SUBDOMAIN_MAX: usize = 253;
pub const LABEL_VALUE_MAX: usize = 63;
pub const QUALIFIED_NAME_MAX: usize = 63;

pub const DNS1123_LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
const DNS1123_SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const DNS1035_LABEL_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
const QUALIFIED_NAME_MESSAGE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const WILDCARD_MESSAGE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
const CONFIG_MAP_KEY_MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
const ENV_VAR_NAME_MESSAGE: &str = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', and must not start with a digit";
const RELAXED_ENV_VAR_NAME_MESSAGE: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const C_IDENTIFIER_MESSAGE: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
const HTTP_HEADER_MESSAGE: &str = "a valid HTTP header must consist of alphanumeric characters or '-'";

type Problems = Vec<String>;

/// A pod's host name, a namespace, a container's name.
pub fn dns1123_label(value: &str) -> Problems {
    let mut problems = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        problems.push(max_len(DNS1123_LABEL_MAX));
    }
    if !is_dns1123_label(value) {
        if is_dns1123_subdomain(value) {
            problems.push("must not contain dots".to_owned());
        } else {
            problems.push(regex_error(DNS1123_LABEL_MESSAGE, "[a-z0-9]([-a-z0-9]*[a-z0-9])?", &["my-name", "123-abc"]));
        }
    }
    problems
}

/// Most objects' names.
pub fn dns1123_subdomain(value: &str) -> Problems {
    let mut problems = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        problems.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    if !is_dns1123_subdomain(value) {
        problems.push(regex_error(
            DNS1123_SUBDOMAIN_MESSAGE,
            r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["example.com"],
        ));
    }
    problems
}

/// As `dns1123_subdomain`, with underscores inside the parts: upstream's rule for DNS search paths.
pub fn dns1123_subdomain_with_underscore(value: &str) -> Problems {
    let mut problems = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        problems.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    let part_ok =
        |part: &str| bounded(part, |c| lower_alnum(c) || c == b'_', |c| lower_alnum(c) || c == b'-' || c == b'_');
    if !value.split('.').all(part_ok) {
        problems.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            r"[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*",
            &["example.com"],
        ));
    }
    problems
}

pub fn wildcard_dns1123_subdomain(value: &str) -> Problems {
    let mut problems = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        problems.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(is_dns1123_subdomain) {
        problems.push(regex_error(
            WILDCARD_MESSAGE,
            r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
            &["*.example.com"],
        ));
    }
    problems
}

/// A Service's name.
pub fn dns1035_label(value: &str) -> Problems {
    let mut problems = Vec::new();
    if value.len() > DNS1123_LABEL_MAX {
        problems.push(max_len(DNS1123_LABEL_MAX));
    }
    let ok = is_dns1123_label(value) && value.starts_with(|c: char| c.is_ascii_lowercase());
    if !ok {
        problems.push(regex_error(DNS1035_LABEL_MESSAGE, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    problems
}

/// `name` or `prefix/name`: label keys, finalizers, resource names.
pub fn qualified_name(value: &str) -> Problems {
    let mut problems = Vec::new();
    let mut parts = value.split('/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let name = match (second, third) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                problems.push(format!("prefix part {EMPTY}"));
            } else {
                problems.extend(dns1123_subdomain(first).into_iter().map(|p| format!("prefix part {p}")));
            }
            name
        }
        (Some(_), Some(_)) => {
            let why = regex_error(QUALIFIED_NAME_MESSAGE, QUALIFIED_NAME_REGEX, &["MyName", "my.name", "123-abc"]);
            problems.push(format!(
                "a qualified name {why} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
            return problems;
        }
    };
    if name.is_empty() {
        problems.push(format!("name part {EMPTY}"));
    } else if name.len() > QUALIFIED_NAME_MAX {
        problems.push(format!("name part {}", max_len(QUALIFIED_NAME_MAX)));
    }
    if !is_qualified_part(name) {
        let why = regex_error(QUALIFIED_NAME_MESSAGE, QUALIFIED_NAME_REGEX, &["MyName", "my.name", "123-abc"]);
        problems.push(format!("name part {why}"));
    }
    problems
}

pub fn label_key(value: &str) -> Problems {
    qualified_name(value)
}

pub fn label_value(value: &str) -> Problems {
    let mut problems = Vec::new();
    if value.len() > LABEL_VALUE_MAX {
        problems.push(max_len(LABEL_VALUE_MAX));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        problems.push(regex_error(
            LABEL_VALUE_MESSAGE,
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    problems
}

/// The key of a ConfigMap's or Secret's data: also a file's name.
pub fn config_map_key(value: &str) -> Problems {
    let mut problems = Vec::new();
    if value.len() > DNS1123_SUBDOMAIN_MAX {
        problems.push(max_len(DNS1123_SUBDOMAIN_MAX));
    }
    let ok = !value.is_empty() && value.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
    if !ok {
        problems.push(regex_error(CONFIG_MAP_KEY_MESSAGE, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    problems.extend(no_dots(value));
    problems
}

/// The strict rule, for envFrom prefixes and the like.
pub fn env_var_name(value: &str) -> Problems {
    let first_ok = value.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, b'-' | b'_' | b'.'));
    let rest_ok = value.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'));
    let mut problems = Vec::new();
    if !first_ok || !rest_ok {
        problems.push(regex_error(
            ENV_VAR_NAME_MESSAGE,
            "[-._a-zA-Z][-._a-zA-Z0-9]*",
            &["my.env-name", "MY_ENV.NAME", "MyEnvName1"],
        ));
    }
    problems.extend(no_dots(value));
    problems
}

/// The rule of v1.34 and later for a container's env: any printable ASCII but '='.
pub fn relaxed_env_var_name(value: &str) -> Problems {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=') {
        vec![]
    } else {
        vec![RELAXED_ENV_VAR_NAME_MESSAGE.to_owned()]
    }
}

pub fn c_identifier(value: &str) -> Problems {
    let first_ok = value.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
    if first_ok && value.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
        return vec![];
    }
    vec![regex_error(C_IDENTIFIER_MESSAGE, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

pub fn http_header_name(value: &str) -> Problems {
    if !value.is_empty() && value.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return vec![];
    }
    vec![regex_error(HTTP_HEADER_MESSAGE, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// A name of a port in a container or an Ingress (IANA service name).
pub fn port_name(value: &str) -> Problems {
    let mut problems = Vec::new();
    if value.len() > 15 {
        problems.push(max_len(15));
    }
    if !value.bytes().all(|c| lower_alnum(c) || c == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|c| c.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if !value.is_empty() && (value.starts_with('-') || value.ends_with('-')) {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

pub fn port_number(value: i64) -> Problems {
    if (1..=65535).contains(&value) { vec![] } else { vec!["must be between 1 and 65535, inclusive".to_owned()] }
}

/// Names that become one segment of a URL and nothing more: RBAC objects.
pub fn path_segment(value: &str) -> Problems {
    match value {
        "." => vec!["may not be '.'".to_owned()],
        ".." => vec!["may not be '..'".to_owned()],
        other => ["/", "%"]
            .into_iter()
            .filter(|bad| other.contains(bad))
            .map(|bad| format!("may not contain '{bad}'"))
            .collect(),
    }
}

pub fn is_dns1123_label(value: &str) -> bool {
    bounded(value, lower_alnum, |c| lower_alnum(c) || c == b'-')
}

pub fn is_dns1123_subdomain(value: &str) -> bool {
    value.split('.').all(is_dns1123_label)
}

const EMPTY: &str = "must be non-empty";
const QUALIFIED_NAME_REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

fn is_qualified_part(value: &str) -> bool {
    bounded(value, |c| c.is_ascii_alphanumeric(), |c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}

/// Non-empty, first and last by `edge`, all by `inner`.
fn bounded(value: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = value.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && bytes.iter().all(|c| inner(*c)),
        (None, _) | (_, None) => false,
    }
}

fn lower_alnum(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn no_dots(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        other if other.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

fn max_len(max: usize) -> String {
    if max == 1 { "must be no more than 1 byte".to_owned() } else { format!("must be no more than {max} bytes") }
}

/// Upstream's `RegexError`: the message, examples, and the expression.
fn regex_error(message: &str, regex: &str, examples: &[&str]) -> String {
    let mut out = format!("{message} (");
    for (i, example) in examples.iter().enumerate() {
        out.push_str(if i == 0 { "e.g. " } else { " or " });
        out.push_str(&format!("'{example}', "));
    }
    out.push_str(&format!("regex used for validation is '{regex}')"));
    out
}

#[cfg(test)]
mod tests;
