//! The filter language of `adapter list --where`: `key = value`, `!=`, `<`, `<=`, `>`, `>=`, `in (a, b)`, `not in (...)`,
//! joined by `and`. Keys are columns (family, value, category, status, split, role, rank, ...), tags and metrics.
//! Values are words, or text in single or double quotes. Numbers compare as numbers where both sides are numbers.

use crate::{AdapterRecord, Error, Result};

#[derive(Debug, Clone, PartialEq)]
enum Test {
    Compare(String, String, String),
    In(String, Vec<String>, bool),
}

/// Conditions that all must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    tests: Vec<Test>,
}

impl Filter {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys that it looks at.
    pub fn keys(&self) -> Vec<&str> {
        self.tests
            .iter()
            .map(|t| match t {
                Test::Compare(key, ..) | Test::In(key, ..) => key.as_str(),
            })
            .collect()
    }

    /// Adds `key = value`.
    pub fn equals(mut self, key: &str, value: &str) -> Self {
        self.tests.push(Test::Compare(key.into(), "=".into(), value.into()));
        self
    }

    /// Adds a written expression.
    ///
    /// # Errors
    /// With the position of what cannot be read.
    pub fn and(mut self, expression: &str) -> Result<Self> {
        let tokens = tokenize(expression)?;
        let mut at = 0;
        let fail = |at: usize, what: &str| {
            let place = tokens.get(at).map_or(expression.chars().count() + 1, |t: &Token| t.at);
            Error::Filter { expression: expression.into(), what: format!("expected {what}"), at: place }
        };
        loop {
            let word = |i: usize| tokens.get(i).filter(|t| t.kind != Kind::Symbol).map(|t| t.text.clone());
            let symbol = |i: usize| tokens.get(i).filter(|t| t.kind == Kind::Symbol).map(|t| t.text.as_str());
            let key = word(at).ok_or_else(|| fail(at, "a key"))?;
            at += 1;
            let negated = tokens.get(at).is_some_and(|t| t.kind == Kind::Word && t.text == "not");
            at += usize::from(negated);
            if tokens.get(at).is_some_and(|t| t.kind == Kind::Word && t.text == "in") {
                at += 1;
                if symbol(at) != Some("(") {
                    return Err(fail(at, "("));
                }
                let mut values = Vec::new();
                loop {
                    at += 1;
                    values.push(word(at).ok_or_else(|| fail(at, "a value"))?);
                    at += 1;
                    match symbol(at) {
                        Some(",") => {}
                        Some(")") => break,
                        _ => return Err(fail(at, ", or )")),
                    }
                }
                at += 1;
                self.tests.push(Test::In(key, values, negated));
            } else {
                let operator = symbol(at)
                    .filter(|s| !negated && !"(),".contains(s))
                    .ok_or_else(|| fail(at, "=, !=, <, <=, >, >=, in or not in"))?;
                let operator = operator.to_owned();
                at += 1;
                let value = word(at).ok_or_else(|| fail(at, "a value"))?;
                at += 1;
                self.tests.push(Test::Compare(key, operator, value));
            }
            if at == tokens.len() {
                return Ok(self);
            }
            if word(at).as_deref() != Some("and") {
                return Err(fail(at, "and"));
            }
            at += 1;
        }
    }

    /// Whether a record passes. A missing field passes only `!=` and `not in`.
    pub fn matches(&self, record: &AdapterRecord) -> bool {
        self.tests.iter().all(|test| match test {
            Test::In(key, values, negated) => {
                record.field(key).map_or(*negated, |found| values.contains(&found) != *negated)
            }
            Test::Compare(key, operator, value) => {
                let Some(found) = record.field(key) else { return operator == "!=" };
                let order = match (found.parse::<f64>(), value.parse::<f64>()) {
                    (Ok(a), Ok(b)) => a.partial_cmp(&b),
                    _ => Some(found.as_str().cmp(value.as_str())),
                };
                let Some(order) = order else { return false };
                match operator.as_str() {
                    "=" => order.is_eq(),
                    "!=" => order.is_ne(),
                    "<" => order.is_lt(),
                    "<=" => order.is_le(),
                    ">" => order.is_gt(),
                    _ => order.is_ge(),
                }
            }
        })
    }
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum Kind {
    Word,
    Quoted,
    Symbol,
}

struct Token {
    kind: Kind,
    text: String,
    at: usize,
}

fn tokenize(expression: &str) -> Result<Vec<Token>> {
    let chars: Vec<char> = expression.chars().collect();
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let at = i + 1;
        let c = chars[i];
        if c.is_whitespace() {
            i += 1;
        } else if c == '\'' || c == '"' {
            let end = chars[i + 1..].iter().position(|&d| d == c).ok_or_else(|| Error::Filter {
                expression: expression.into(),
                what: "a quote is not closed".into(),
                at,
            })?;
            tokens.push(Token { kind: Kind::Quoted, text: chars[i + 1..i + 1 + end].iter().collect(), at });
            i += end + 2;
        } else if "(),=<>!".contains(c) {
            let two = matches!((c, chars.get(i + 1)), ('<' | '>' | '!', Some('=')));
            if c == '!' && !two {
                return Err(Error::Filter { expression: expression.into(), what: "expected !=".into(), at });
            }
            tokens.push(Token {
                kind: Kind::Symbol,
                text: chars[i..i + 1 + usize::from(two)].iter().collect(),
                at,
            });
            i += 1 + usize::from(two);
        } else {
            let end = chars[i..]
                .iter()
                .position(|d| d.is_whitespace() || "(),=<>!'\"".contains(*d))
                .unwrap_or(chars.len() - i);
            tokens.push(Token { kind: Kind::Word, text: chars[i..i + end].iter().collect(), at });
            i += end;
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::tests::record;

    #[test]
    fn expressions_select_by_columns_tags_and_metrics() {
        let mut r = record("topic/volcanoes");
        r.metrics.insert("gate_on".into(), 0.75);
        r.tags.insert("note".into(), "two words".into());
        let passes = |e: &str| Filter::all().and(e).unwrap().matches(&r);
        assert!(passes("family = topic and value in (cats, volcanoes)"));
        assert!(passes("gate_on >= 0.7 and gate_on<1"));
        assert!(passes("note = 'two words' and missing != 3 and value not in (cats)"));
        assert!(!passes("gate_on < 0.7"));
        assert!(!passes("missing = 3"));
        for (bad, expected) in [
            ("family", "!="),
            ("family = ", "a value"),
            ("a in (b", ", or )"),
            ("a = b c", "and"),
            ("a = 'b", "quote"),
            ("a ! b", "!="),
        ] {
            let error = Filter::all().and(bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_expression_panics(text in ".{0,60}") {
            let _ = Filter::all().and(&text);
        }
    }
}
