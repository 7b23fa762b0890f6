//! Label selectors: the query syntax (`a=b,c in (d, e),!f`) and the structured form of objects.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use super::ParseSelectorError;
use crate::names;

type Labels = BTreeMap<String, String>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted, without repeats.
    pub values: Vec<String>,
}

/// All requirements must hold. `everything()` has none; `nothing()` can't be satisfied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    never: bool,
}

impl Default for LabelSelector {
    fn default() -> Self {
        Self::everything()
    }
}

impl LabelSelector {
    pub const fn everything() -> Self {
        Self { requirements: Vec::new(), never: false }
    }

    pub const fn nothing() -> Self {
        Self { requirements: Vec::new(), never: true }
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.never
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        !self.never && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// As `matches`, for an object that may have no labels at all.
    pub fn matches_opt(&self, labels: Option<&Labels>) -> bool {
        match labels {
            Some(labels) => self.matches(labels),
            None => !self.never && self.requirements.iter().all(|r| r.holds(None)),
        }
    }

    /// A Service's or ReplicationController's plain selector: an empty one selects nothing.
    pub fn from_map(map: &Labels) -> Self {
        if map.is_empty() {
            return Self::nothing();
        }
        let requirements = map.iter().map(|(key, value)| Requirement::equals(key, value)).collect();
        Self { requirements, never: false }
    }

    /// The selector of a Deployment and its like. Empty selects everything, absent (`None`) nothing.
    pub fn from_object(selector: Option<&meta::LabelSelector>) -> Result<Self, ParseSelectorError> {
        let Some(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements: Vec<Requirement> =
            selector.match_labels.iter().flatten().map(|(key, value)| Requirement::equals(key, value)).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(ParseSelectorError(format!("{other:?} is not a valid label selector operator"))),
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        Ok(Self { requirements, never: false })
    }
}

impl Requirement {
    fn equals(key: &str, value: &str) -> Self {
        Self { key: key.to_owned(), operator: Operator::In, values: vec![value.to_owned()] }
    }

    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, ParseSelectorError> {
        let problem = |field: &str, value: &str, detail: &str| {
            Err(ParseSelectorError(format!("{field}: Invalid value: {value}: {detail}")))
        };
        let shown = || serde_json::Value::from(values.clone()).to_string();
        if let [first, ..] = names::label_key(key).as_slice() {
            return problem("key", &format!("{key:?}"), first);
        }
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                return problem("values", "[]", "for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                return problem("values", &shown(), "values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => match values.as_slice() {
                [one] if one.parse::<i64>().is_ok() => {}
                [one] => {
                    let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                    return problem("values[0]", &format!("{one:?}"), detail);
                }
                _ => return problem("values", &shown(), "for 'Gt', 'Lt' operators, exactly one value is required"),
            },
            Operator::In | Operator::NotIn | Operator::Exists | Operator::DoesNotExist => {}
        }
        for (i, value) in values.iter().enumerate() {
            if let [first, ..] = names::label_value(value).as_slice() {
                return problem(&format!("values[{i}][{key}]"), &format!("{value:?}"), first);
            }
        }
        values.sort();
        values.dedup();
        Ok(Self { key: key.to_owned(), operator, values })
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.holds(labels.get(&self.key).map(String::as_str))
    }

    /// Whether it holds when the label has this value (or is absent).
    pub fn holds(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| v == value);
        match (self.operator, value) {
            (Operator::In, Some(value)) => listed(value),
            (Operator::NotIn, Some(value)) => !listed(value),
            (Operator::NotIn | Operator::DoesNotExist, None) | (Operator::Exists, Some(_)) => true,
            (Operator::DoesNotExist, Some(_)) => false,
            (Operator::GreaterThan, Some(value)) => self.compare(value).is_some_and(|o| o.is_gt()),
            (Operator::LessThan, Some(value)) => self.compare(value).is_some_and(|o| o.is_lt()),
            (Operator::In | Operator::Exists | Operator::GreaterThan | Operator::LessThan, None) => false,
        }
    }

    fn compare(&self, value: &str) -> Option<std::cmp::Ordering> {
        let bound: i64 = self.values.first()?.parse().ok()?;
        Some(value.parse::<i64>().ok()?.cmp(&bound))
    }
}

impl fmt::Display for LabelSelector {
    /// The query syntax; reads back as an equal selector.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In if self.values.len() == 1 => write!(f, "{key}={values}"),
            Operator::NotIn if self.values.len() == 1 => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl FromStr for LabelSelector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parser = Parser { rest: text };
        let mut requirements = Vec::new();
        loop {
            match parser.next() {
                Token::End => break,
                Token::Not => {
                    let key = parser.key()?;
                    requirements.push(parser.checked(&key, Operator::DoesNotExist, vec![])?);
                }
                Token::Word(key) => {
                    let requirement = parser.requirement(key)?;
                    requirements.push(requirement);
                }
                other => return Err(unable(&format!("found '{other}', expected: !, identifier, or 'end of string'"))),
            }
            match parser.next() {
                Token::End => break,
                Token::Comma => match parser.peek() {
                    Token::Word(_) | Token::Not => {}
                    other => return Err(unable(&format!("found '{other}', expected: identifier after ','"))),
                },
                other => return Err(unable(&format!("found '{other}', expected: ',' or 'end of string'"))),
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, never: false })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Comma,
    Open,
    Close,
    Greater,
    Less,
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Token::Word(word) => word,
            Token::Not => "!",
            Token::Equals => "=",
            Token::DoubleEquals => "==",
            Token::NotEquals => "!=",
            Token::Comma => ",",
            Token::Open => "(",
            Token::Close => ")",
            Token::Greater => ">",
            Token::Less => "<",
            Token::End => "",
        })
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Token<'a> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        const SIGNS: [(&str, Token<'static>); 9] = [
            ("==", Token::DoubleEquals),
            ("!=", Token::NotEquals),
            ("=", Token::Equals),
            ("!", Token::Not),
            (",", Token::Comma),
            ("(", Token::Open),
            (")", Token::Close),
            (">", Token::Greater),
            ("<", Token::Less),
        ];
        if self.rest.is_empty() {
            return Token::End;
        }
        for (sign, token) in SIGNS {
            if let Some(rest) = self.rest.strip_prefix(sign) {
                self.rest = rest;
                return token;
            }
        }
        let end = self.rest.find([' ', '\t', '\r', '\n', '=', '!', ',', '(', ')', '>', '<']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Token::Word(word)
    }

    fn peek(&self) -> Token<'a> {
        Parser { rest: self.rest }.next()
    }

    fn key(&mut self) -> Result<String, ParseSelectorError> {
        match self.next() {
            Token::Word(word) => Ok(word.to_owned()),
            other => Err(unable(&format!("found '{other}', expected: identifier"))),
        }
    }

    fn requirement(&mut self, key: &str) -> Result<Requirement, ParseSelectorError> {
        match self.peek() {
            Token::End | Token::Comma => return self.checked(key, Operator::Exists, vec![]),
            _ => {}
        }
        // A key is checked before what follows it, as upstream does.
        if let [first, ..] = names::label_key(key).as_slice() {
            return Err(unable(&format!("key: Invalid value: {key:?}: {first}")));
        }
        let operator = match self.next() {
            Token::Equals | Token::DoubleEquals => return self.one_value(key, Operator::In),
            Token::NotEquals => return self.one_value(key, Operator::NotIn),
            Token::Greater => return self.one_value(key, Operator::GreaterThan),
            Token::Less => return self.one_value(key, Operator::LessThan),
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            other => {
                let expected = "in, notin, =, ==, !=, gt, lt";
                return Err(unable(&format!("found '{other}', expected: {expected}")));
            }
        };
        let values = self.values()?;
        self.checked(key, operator, values)
    }

    fn one_value(&mut self, key: &str, operator: Operator) -> Result<Requirement, ParseSelectorError> {
        let value = match self.peek() {
            Token::End | Token::Comma => "",
            Token::Word(word) => {
                self.next();
                word
            }
            other => return Err(unable(&format!("found '{other}', expected: identifier"))),
        };
        self.checked(key, operator, vec![value.to_owned()])
    }

    fn values(&mut self) -> Result<Vec<String>, ParseSelectorError> {
        match self.next() {
            Token::Open => {}
            other => return Err(unable(&format!("found '{other}' expected: '('"))),
        }
        let mut values = Vec::new();
        let mut last = "";
        loop {
            match self.next() {
                Token::Word(word) => last = word,
                Token::Comma => values.push(std::mem::take(&mut last).to_owned()),
                Token::Close => {
                    values.push(last.to_owned());
                    return Ok(values);
                }
                other => return Err(unable(&format!("found '{other}', expected: ',', ')' or identifier"))),
            }
        }
    }

    fn checked(&self, key: &str, operator: Operator, values: Vec<String>) -> Result<Requirement, ParseSelectorError> {
        Requirement::new(key, operator, values).map_err(|e| unable(&e.0))
    }
}

fn unable(why: &str) -> ParseSelectorError {
    ParseSelectorError(format!("unable to parse requirement: {why}"))
}
