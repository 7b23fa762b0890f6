//! A container's environment as it is kept: in one piece, because there are thousands of containers with dozens of
//! variables each.

/// Names and values in turn, each but the last followed by a zero byte, which none may contain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Environment(Box<str>);

impl Environment {
    /// Of variables of which none has a zero byte: the front takes no others.
    pub(super) fn new(variables: &[(String, String)]) -> Environment {
        let pieces: Vec<&str> = variables.iter().flat_map(|(name, value)| [name.as_str(), value]).collect();
        Environment(pieces.join("\0").into())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut pieces = self.0.split('\0');
        std::iter::from_fn(move || Some((pieces.next()?, pieces.next()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_comes_out() {
        let check = |variables: &[(&str, &str)]| {
            let owned: Vec<_> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(Environment::new(&owned).iter().collect::<Vec<_>>(), variables);
        };
        check(&[]);
        check(&[("A", "")]);
        check(&[("A", "a=b"), ("EMPTY", ""), ("LAST", "z\nü")]);
    }
}
