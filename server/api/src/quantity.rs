//! `Quantity`: an exact fixed-point number with upstream's suffixes and canonical forms.
//!
//! A value is held in nanos (10⁻⁹). Upstream caps a quantity at 2⁶³-1 whole units and rounds what is finer than a
//! nano away from zero, so an i128 of nanos holds every quantity there is, and arithmetic never loses anything.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const NANO: i128 = 1_000_000_000;
const MAX_NANOS: i128 = i64::MAX as i128 * NANO;

/// How a quantity was written, and so how it is written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    DecimalSi,
}

/// Two quantities are equal when their values are: `1` and `1000m` are.
#[derive(Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    FormatWrong,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    pub fn from_nanos(nanos: i128, format: Format) -> Self {
        Self { nanos: nanos.clamp(-MAX_NANOS, MAX_NANOS), format }
    }

    pub fn from_milli(milli: i64) -> Self {
        Self::from_nanos(i128::from(milli) * 1_000_000, Format::DecimalSi)
    }

    /// Whole units, written decimally.
    pub fn from_value(value: i64) -> Self {
        Self::from_nanos(i128::from(value) * NANO, Format::DecimalSi)
    }

    /// Bytes, written with binary suffixes.
    pub fn from_bytes(value: i64) -> Self {
        Self::from_nanos(i128::from(value) * NANO, Format::BinarySi)
    }

    pub fn nanos(self) -> i128 {
        self.nanos
    }

    pub fn format(self) -> Format {
        self.format
    }

    /// Whole units, rounded up (away from zero), as upstream's `Value()`.
    pub fn value(self) -> i64 {
        i64::try_from(div_away(self.nanos, NANO)).expect("a quantity is capped at 64 bits of whole units")
    }

    /// Thousandths, rounded up (away from zero) and capped at 64 bits, as upstream's `MilliValue()`.
    pub fn milli(self) -> i64 {
        let milli = div_away(self.nanos, 1_000_000);
        i64::try_from(milli).unwrap_or(if milli < 0 { i64::MIN } else { i64::MAX })
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// No part of a unit is left over.
    pub fn is_integer(self) -> bool {
        self.nanos % NANO == 0
    }

    #[must_use]
    pub fn negated(self) -> Self {
        Self { nanos: -self.nanos, ..self }
    }
}

/// The sum takes the form of the first operand, or of the second when the first is zero (as upstream's `Add`).
impl std::ops::Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Self::from_nanos(self.nanos + other.nanos, format)
    }
}

#[expect(clippy::suspicious_arithmetic_impl, reason = "a difference is a sum, with its rule about the form")]
impl std::ops::Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        self + other.negated()
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl std::ops::SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self::ZERO
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::hash::Hash for Quantity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) | None => (false, text),
        };
        let number_len = unsigned.bytes().take_while(|c| c.is_ascii_digit() || *c == b'.').count();
        let (number, suffix) = unsigned.split_at(number_len);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseQuantityError::FormatWrong);
        }
        let scale = Scale::parse(suffix)?;
        let nanos = scaled(whole, fraction, scale);
        Ok(Self::from_nanos(if negative { -nanos } else { nanos }, scale.format()))
    }
}

#[derive(Clone, Copy)]
enum Scale {
    /// Times 1024 to this power.
    Binary(u32),
    /// Times ten to this power.
    Decimal { exponent: i32, format: Format },
}

impl Scale {
    fn format(self) -> Format {
        match self {
            Scale::Binary(_) => Format::BinarySi,
            Scale::Decimal { format, .. } => format,
        }
    }

    fn parse(suffix: &str) -> Result<Scale, ParseQuantityError> {
        let decimal = |exponent| Ok(Scale::Decimal { exponent, format: Format::DecimalSi });
        match suffix {
            "n" => decimal(-9),
            "u" => decimal(-6),
            "m" => decimal(-3),
            "" => decimal(0),
            "k" => decimal(3),
            "M" => decimal(6),
            "G" => decimal(9),
            "T" => decimal(12),
            "P" => decimal(15),
            "E" => decimal(18),
            "Ki" => Ok(Scale::Binary(1)),
            "Mi" => Ok(Scale::Binary(2)),
            "Gi" => Ok(Scale::Binary(3)),
            "Ti" => Ok(Scale::Binary(4)),
            "Pi" => Ok(Scale::Binary(5)),
            "Ei" => Ok(Scale::Binary(6)),
            other => Self::parse_exponent(other),
        }
    }

    fn parse_exponent(suffix: &str) -> Result<Scale, ParseQuantityError> {
        let known = |c: u8| b"eEinumkKMGTP+-".contains(&c) || c.is_ascii_digit();
        if !suffix.bytes().all(known) {
            return Err(ParseQuantityError::FormatWrong);
        }
        let digits = suffix.strip_prefix(['e', 'E']).ok_or(ParseQuantityError::Suffix)?;
        let exponent = digits.parse().map_err(|_| ParseQuantityError::Suffix)?;
        Ok(Scale::Decimal { exponent, format: Format::DecimalExponent })
    }
}

/// The absolute value in nanos, rounded up, capped.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let digits = || whole.bytes().chain(fraction.bytes()).map(|c| i128::from(c - b'0'));
    // Nineteen significant digits are beyond the cap already; more only matter as "there is something more".
    let mut mantissa: i128 = 0;
    let mut dropped_places = 0i64;
    let mut dropped_value = false;
    for digit in digits() {
        if mantissa < 10i128.pow(28) {
            mantissa = mantissa * 10 + digit;
        } else {
            dropped_places += 1;
            dropped_value |= digit != 0;
        }
    }
    let places = dropped_places - i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let (factor, exponent) = match scale {
        Scale::Binary(power) => (1024i128.pow(power), places + 9),
        Scale::Decimal { exponent, .. } => (1, places + i64::from(exponent) + 9),
    };
    times_power_of_ten(mantissa, factor, exponent, dropped_value)
}

fn times_power_of_ten(mantissa: i128, factor: i128, exponent: i64, something_more: bool) -> i128 {
    if mantissa == 0 {
        return i128::from(something_more);
    }
    if exponent >= 0 {
        let power = u32::try_from(exponent).ok().and_then(|e| 10i128.checked_pow(e));
        let product = power.and_then(|p| mantissa.checked_mul(factor)?.checked_mul(p));
        return product.map_or(MAX_NANOS, |nanos| nanos.min(MAX_NANOS));
    }
    let divisor = u32::try_from(-exponent).ok().and_then(|e| 10i128.checked_pow(e));
    match (divisor, mantissa.checked_mul(factor)) {
        (Some(divisor), Some(product)) => {
            let exact = product % divisor == 0 && !something_more;
            (product / divisor + i128::from(!exact)).min(MAX_NANOS)
        }
        // The mantissa has 29 digits or more: split it, what is lost is below a nano and rounds up.
        (Some(divisor), None) => (mantissa / divisor).checked_mul(factor).map_or(MAX_NANOS, |nanos| {
            let rest = (mantissa % divisor) / 1_000_000_000 * factor / (divisor / 1_000_000_000).max(1);
            (nanos + rest + 1).min(MAX_NANOS)
        }),
        (None, _) => 1,
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest suffix that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.pad("0");
        }
        let whole = self.is_integer();
        let small = self.nanos.abs() < 1024 * NANO;
        match self.format {
            Format::BinarySi if whole && !small => f.pad(&binary(self.nanos / NANO)),
            // A binary form of a fraction would lose something, and of a small number would say nothing.
            Format::BinarySi | Format::DecimalSi => f.pad(&decimal(self.nanos, si_suffix)),
            Format::DecimalExponent => f.pad(&decimal(self.nanos, exponent_suffix)),
        }
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn binary(mut value: i128) -> String {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut power = 0;
    while power + 1 < SUFFIXES.len() && value % 1024 == 0 {
        value /= 1024;
        power += 1;
    }
    format!("{value}{}", SUFFIXES[power])
}

fn decimal(mut nanos: i128, suffix: fn(i32) -> String) -> String {
    let mut exponent = -9;
    while exponent < 18 && nanos % 1000 == 0 {
        nanos /= 1000;
        exponent += 3;
    }
    format!("{nanos}{}", suffix(exponent))
}

fn si_suffix(exponent: i32) -> String {
    match exponent {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        0 => "",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        _ => "E",
    }
    .to_owned()
}

fn exponent_suffix(exponent: i32) -> String {
    if exponent == 0 { String::new() } else { format!("e{exponent}") }
}

fn div_away(value: i128, by: i128) -> i128 {
    value / by + if value % by == 0 { 0 } else { value.signum() }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.trim().parse().map_err(serde::de::Error::custom)
    }
}

impl TryFrom<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> for Quantity {
    type Error = ParseQuantityError;
    fn try_from(quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Result<Self, Self::Error> {
        quantity.0.parse()
    }
}

impl From<Quantity> for k8s_openapi::apimachinery::pkg::api::resource::Quantity {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.to_string())
    }
}

#[cfg(test)]
mod tests;
