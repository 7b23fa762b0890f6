//! Checks that many kinds share, in upstream's words. Each adds what is wrong to `errors`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use coracle_api::fields::{FieldError, FieldPath};
use coracle_api::names;
use coracle_api::quantity::Quantity;
use coracle_api::selector::LabelSelector as Selector;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use super::kind::Errors;

pub(super) const IMMUTABLE: &str = "field is immutable";
pub(super) const NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const NOT_POSITIVE: &str = "must be greater than 0";

pub(super) type Labels = BTreeMap<String, String>;
pub(super) type Quantities = BTreeMap<String, WireQuantity>;

/// The text of an optional field; absent is empty, as in Go.
pub(super) fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// Sets a field that is absent or empty.
pub(super) fn fill(slot: &mut Option<String>, value: &str) {
    if text(slot).is_empty() {
        *slot = Some(value.to_owned());
    }
}

/// Adds each message of a validator as an invalid value.
pub(super) fn problems(messages: Vec<String>, path: &FieldPath<'_>, value: impl Serialize, errors: &mut Errors) {
    errors.extend(messages.into_iter().map(|message| FieldError::invalid(path, &value, message)));
}

/// `prefix` names may end in what a generated suffix follows: the last dash counts as a letter.
pub(super) fn dns_label(value: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    problems(names::dns1123_label(value), path, value, errors);
}

pub(super) fn dns_subdomain(value: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    problems(names::dns1123_subdomain(value), path, value, errors);
}

pub(super) fn qualified_name(value: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    problems(names::qualified_name(value), path, value, errors);
}

/// A name that must be given and be a DNS subdomain.
pub(super) fn required_name(value: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        dns_subdomain(value, path, errors);
    }
}

pub(super) fn required_text(value: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
}

pub(super) fn nonnegative(value: impl Into<i64>, path: &FieldPath<'_>, errors: &mut Errors) {
    let value = value.into();
    if value < 0 {
        errors.push(FieldError::invalid(path, value, NEGATIVE));
    }
}

/// The same for a field that may be absent.
pub(super) fn nonnegative_opt<N: Into<i64> + Copy>(value: Option<N>, path: &FieldPath<'_>, errors: &mut Errors) {
    if let Some(value) = value {
        nonnegative(value, path, errors);
    }
}

/// Required, and one of a few words.
pub(super) fn one_of(value: &str, supported: &[&str], path: &FieldPath<'_>, errors: &mut Errors) {
    if value.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if !supported.contains(&value) {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

/// One of a few words where it is given at all.
pub(super) fn one_of_opt(value: &Option<String>, supported: &[&str], path: &FieldPath<'_>, errors: &mut Errors) {
    if let Some(value) = value
        && !supported.contains(&value.as_str())
    {
        errors.push(FieldError::not_supported(path, value, supported));
    }
}

pub(super) fn immutable<T: PartialEq + Serialize>(new: &T, old: &T, path: &FieldPath<'_>, errors: &mut Errors) {
    if new != old {
        errors.push(FieldError::invalid(path, new, IMMUTABLE));
    }
}

pub(super) fn labels(labels: Option<&Labels>, path: &FieldPath<'_>, errors: &mut Errors) {
    for (key, value) in labels.into_iter().flatten() {
        problems(names::label_key(key), path, key, errors);
        problems(names::label_value(value), path, value, errors);
    }
}

pub(super) fn label_selector(selector: &LabelSelector, path: &FieldPath<'_>, errors: &mut Errors) {
    labels(selector.match_labels.as_ref(), &path.child("matchLabels"), errors);
    let list = path.child("matchExpressions");
    for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let at = list.index(i);
        let values = expression.values.as_deref().unwrap_or_default();
        let values_path = at.child("values");
        match expression.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(&values_path, detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(&values_path, detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(FieldError::invalid(&at.child("operator"), other, "not a valid selector operator")),
        }
        problems(names::label_key(&expression.key), &at.child("key"), &expression.key, errors);
        for (v, value) in values.iter().enumerate() {
            problems(names::label_value(value), &values_path.index(v), value, errors);
        }
    }
}

/// An empty selector, which k8s_openapi's types can't tell from an absent one.
pub(super) fn is_blank(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether a selector selects these labels; a selector that can't be read selects nothing.
pub(super) fn selects(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    !is_blank(selector) && Selector::from_object(Some(selector)).is_ok_and(|s| s.matches_opt(labels))
}

pub(super) fn is_ip(value: &str) -> bool {
    value.parse::<IpAddr>().is_ok()
}

pub(super) fn ip(value: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    if !is_ip(value) {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid(path, value, detail));
    }
}

pub(super) fn cidr(value: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    if value.parse::<ipnet::IpNet>().is_err() {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(FieldError::invalid(path, value, detail));
    }
}

/// Addresses that no endpoint or external address may have.
pub(super) fn non_special_ip(value: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    let Ok(address) = value.parse::<IpAddr>() else { return };
    let mut invalid = |detail: &str| errors.push(FieldError::invalid(path, value, detail));
    if address.is_unspecified() {
        invalid(&format!("may not be unspecified ({value})"));
    }
    // Loopback addresses, which upstream refuses, are what pods have where the node agent is no root.
    match address {
        IpAddr::V4(v4) if v4.is_link_local() => {
            invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
        }
        IpAddr::V4(v4) if v4.octets()[..3] == [224, 0, 0] => {
            invalid("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
        }
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
}

pub(super) fn port_number(value: i32, path: &FieldPath<'_>, errors: &mut Errors) {
    problems(names::port_number(i64::from(value)), path, value, errors);
}

pub(super) fn port_or_name(port: &IntOrString, path: &FieldPath<'_>, errors: &mut Errors) {
    match port {
        IntOrString::Int(number) => port_number(*number, path, errors),
        IntOrString::String(name) => problems(names::port_name(name), path, name, errors),
    }
}

/// A count or a percentage, not negative.
pub(super) fn count_or_percent(value: &IntOrString, path: &FieldPath<'_>, errors: &mut Errors) {
    match value {
        IntOrString::Int(number) => nonnegative(*number, path, errors),
        IntOrString::String(text) if percent(text).is_none() => {
            let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
            errors.push(FieldError::invalid(path, text, detail));
        }
        IntOrString::String(_) => {}
    }
}

pub(super) fn at_most_100_percent(value: &IntOrString, path: &FieldPath<'_>, errors: &mut Errors) {
    if let IntOrString::String(text) = value
        && percent(text).is_some_and(|p| p > 100)
    {
        errors.push(FieldError::invalid(path, text, "must not be greater than 100%"));
    }
}

/// The number before `%`, or the count itself.
pub(super) fn count_value(value: &IntOrString) -> u64 {
    match value {
        IntOrString::Int(number) => u64::try_from(*number).unwrap_or(0),
        IntOrString::String(text) => percent(text).unwrap_or(0),
    }
}

fn percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%')?;
    let ok = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    ok.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// A quantity as a number. Decoding has let only quantities through.
pub(super) fn number(quantity: &WireQuantity) -> Quantity {
    Quantity::try_from(quantity).unwrap_or_default()
}

pub(super) fn nonnegative_quantity(value: &WireQuantity, path: &FieldPath<'_>, errors: &mut Errors) {
    if number(value).is_negative() {
        errors.push(FieldError::invalid(path, &value.0, NEGATIVE));
    }
}

/// A path inside a volume: relative, and it does not climb out.
pub(super) fn local_path(value: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    if value.starts_with('/') {
        errors.push(FieldError::invalid(path, value, "must be a relative path"));
    }
    no_backsteps(value, path, errors);
}

pub(super) fn local_non_reserved_path(value: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    local_path(value, path, errors);
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errors.push(FieldError::invalid(path, value, "must not start with '..'"));
    }
}

pub(super) fn no_backsteps(value: &str, path: &FieldPath<'_>, errors: &mut Errors) {
    if value.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, value, "must not contain '..'"));
    }
}

/// A file's permissions.
pub(super) fn file_mode(mode: Option<i32>, path: &FieldPath<'_>, errors: &mut Errors) {
    if let Some(mode) = mode
        && !(0..=0o777).contains(&mode)
    {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path, mode, detail));
    }
}
