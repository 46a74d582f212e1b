//! The filter language of `adapter list --where`.
//!
//! ```text
//! filter  := any ("or" any)*
//! any     := one ("and" one)*
//! one     := "not" one | "(" filter ")" | "has" KEY
//!          | KEY ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=") VALUE
//!          | KEY ["not"] "in" "(" VALUE ("," VALUE)* ")"
//!          | KEY ["not"] "like" PATTERN
//! ```
//!
//! Keys are columns (family, value, category, status, split, role, rank, created, ...), tags (`tag.KEY` where another field has the
//! name) and metrics. Values are words, or text
//! in single or double quotes; in a pattern `*` stands for any text. Numbers compare as numbers where both sides are numbers, in a
//! list too. An adapter without the field passes only `!=`, `not in`, `not like` and `not`.

use rusqlite::types::Value as Sql;

use crate::window::Set;
use crate::{AdapterRecord, Error, Result};

#[derive(Debug, Clone, PartialEq)]
enum Expr {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Has(String),
    Compare(String, Op, String),
    In(String, Vec<String>),
    Like(String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Eq,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Op {
    fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Eq => order.is_eq(),
            Self::Lt => order.is_lt(),
            Self::Le => order.is_le(),
            Self::Gt => order.is_gt(),
            Self::Ge => order.is_ge(),
        }
    }

    fn sql(self) -> &'static str {
        match self {
            Self::Eq => "=",
            Self::Lt => "<",
            Self::Le => "<=",
            Self::Gt => ">",
            Self::Ge => ">=",
        }
    }
}

/// Gives the adapters of a selection (SQL and its parameters).
pub(crate) type Select<'a> = dyn FnMut(&str, Vec<Sql>) -> rusqlite::Result<Set> + 'a;

/// Conditions on adapters.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    root: Expr,
}

impl Default for Filter {
    fn default() -> Self {
        Self::all()
    }
}

/// How a filter nests at most: a guard against input that would exhaust the stack.
const MAX_DEPTH: usize = 64;
/// Words and signs of an expression: SQLite takes a thousand conditions at most.
const MAX_TOKENS: usize = 1500;

impl Filter {
    /// Everything.
    pub fn all() -> Self {
        Self { root: Expr::All(Vec::new()) }
    }

    /// Adds a condition that must hold as well.
    fn also(mut self, more: Expr) -> Self {
        match &mut self.root {
            Expr::All(list) => list.push(more),
            _ => self.root = Expr::All(vec![self.root, more]),
        }
        self
    }

    /// Adds `key = value`.
    pub fn equals(self, key: &str, value: &str) -> Self {
        self.also(Expr::Compare(AdapterRecord::filed_as(key).into(), Op::Eq, value.into()))
    }

    /// Adds that `key` begins with `start`.
    pub fn begins(self, key: &str, start: &str) -> Self {
        // A star in it would be any text; no name of ours has one, and a pattern cannot say one.
        self.also(Expr::Like(AdapterRecord::filed_as(key).into(), format!("{start}*")))
    }

    /// Adds a written expression.
    ///
    /// # Errors
    /// With the position of what cannot be read.
    pub fn and(self, expression: &str) -> Result<Self> {
        let tokens = tokenize(expression)?;
        let mut parser = Parser { expression, tokens: &tokens, at: 0 };
        let parsed = parser.any(0)?;
        if parser.at < tokens.len() {
            return Err(parser.fail("and, or, or the end"));
        }
        if tokens.len() > MAX_TOKENS {
            let what = format!(
                "a shorter expression (it has {} words and signs, more than {MAX_TOKENS})",
                tokens.len()
            );
            return Err(Error::Filter { expression: expression.chars().take(60).collect(), what, at: 1 });
        }
        Ok(self.also(parsed))
    }

    /// The keys that it looks at.
    pub fn keys(&self) -> Vec<&str> {
        fn walk<'a>(e: &'a Expr, out: &mut Vec<&'a str>) {
            match e {
                Expr::All(list) | Expr::Any(list) => list.iter().for_each(|e| walk(e, out)),
                Expr::Not(e) => walk(e, out),
                Expr::Has(k) | Expr::Compare(k, ..) | Expr::In(k, _) | Expr::Like(k, _) => out.push(k),
            }
        }
        let mut out = Vec::new();
        walk(&self.root, &mut out);
        out
    }

    /// Keys that have to equal a value, and that value, where nothing passes without it.
    pub fn asked_for(&self) -> Vec<(&str, &str)> {
        fn walk<'a>(e: &'a Expr, out: &mut Vec<(&'a str, &'a str)>) {
            match e {
                Expr::All(list) => list.iter().for_each(|e| walk(e, out)),
                Expr::Compare(k, Op::Eq, v) if number(v).is_none() => out.push((k, v)),
                _ => {}
            }
        }
        let mut out = Vec::new();
        walk(&self.root, &mut out);
        out
    }

    /// The patterns that it holds.
    pub fn patterns(&self) -> Vec<&str> {
        fn walk<'a>(e: &'a Expr, out: &mut Vec<&'a str>) {
            match e {
                Expr::All(list) | Expr::Any(list) => list.iter().for_each(|e| walk(e, out)),
                Expr::Not(e) => walk(e, out),
                Expr::Like(_, p) => out.push(p),
                _ => {}
            }
        }
        let mut out = Vec::new();
        walk(&self.root, &mut out);
        out
    }

    /// Keys that are put in order with something that is no number, and that something.
    pub fn ordered_by_text(&self) -> Vec<(&str, &str)> {
        fn walk<'a>(e: &'a Expr, out: &mut Vec<(&'a str, &'a str)>) {
            match e {
                Expr::All(list) | Expr::Any(list) => list.iter().for_each(|e| walk(e, out)),
                Expr::Not(e) => walk(e, out),
                Expr::Compare(k, op, v) if *op != Op::Eq && number(v).is_none() => out.push((k, v)),
                _ => {}
            }
        }
        let mut out = Vec::new();
        walk(&self.root, &mut out);
        out
    }

    /// Whether a record passes.
    pub fn matches(&self, record: &AdapterRecord) -> bool {
        fn holds(e: &Expr, r: &AdapterRecord) -> bool {
            match e {
                Expr::All(list) => list.iter().all(|e| holds(e, r)),
                Expr::Any(list) => list.iter().any(|e| holds(e, r)),
                Expr::Not(e) => !holds(e, r),
                Expr::Has(key) => r.field(key).is_some(),
                Expr::In(key, values) => {
                    r.field(key).is_some_and(|f| values.iter().any(|v| order(&f, v).is_eq()))
                }
                Expr::Like(key, pattern) => r.field(key).is_some_and(|f| like(pattern, &f)),
                Expr::Compare(key, op, value) => r.field(key).is_some_and(|f| op.holds(order(&f, value))),
            }
        }
        holds(&self.root, record)
    }

    /// The same as a condition on `a.id` over the table `fields`, with its parameters appended.
    pub(crate) fn sql(&self, parameters: &mut Vec<Sql>) -> String {
        sql(&self.root, parameters)
    }

    /// The set of what passes, from the sets of those that pass a condition on one field.
    ///
    /// # Errors
    /// What `of` says.
    pub(crate) fn set(&self, of: &mut Select<'_>) -> rusqlite::Result<Set> {
        set(&self.root, of)
    }
}

/// A finite number as it is compared and filed. `-0` is 0.
pub(crate) fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|v| v.is_finite()).map(|v| v + 0.0)
}

/// How a field's text stands to a value: as numbers where both are.
fn order(found: &str, value: &str) -> std::cmp::Ordering {
    match (number(found), number(value)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => found.cmp(value),
    }
}

/// `*` is any text; everything else is itself.
fn like(pattern: &str, text: &str) -> bool {
    let parts: Vec<&str> = pattern.split('*').collect();
    let [first, middle @ .., last] = &parts[..] else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A condition on one field as conditions on rows of `fields`, of which exactly one holds of a row that passes; none if it is no such
/// condition. Each lies in one part of an index.
fn leaf(e: &Expr, p: &mut Vec<Sql>) -> Option<Vec<String>> {
    let mut put = |value: Sql| {
        p.push(value);
        format!("?{}", p.len())
    };
    Some(match e {
        Expr::All(_) | Expr::Any(_) | Expr::Not(_) => return None,
        Expr::Has(key) => vec![format!("key = {}", put(Sql::Text(key.clone())))],
        Expr::In(key, values) => {
            let key = put(Sql::Text(key.clone()));
            // A text that is a number is filed as one, so that each value is looked for in one column.
            let (mut texts, mut numbers) = (Vec::new(), Vec::new());
            for value in values {
                match number(value) {
                    Some(n) => numbers.push(put(Sql::Real(n))),
                    None => texts.push(put(Sql::Text(value.clone()))),
                }
            }
            vec![
                format!("key = {key} AND text IN ({})", texts.join(",")),
                format!("key = {key} AND number IN ({})", numbers.join(",")),
            ]
        }
        Expr::Like(key, pattern) => {
            // GLOB with everything but the star made literal.
            let glob: String = pattern
                .chars()
                .map(|c| if "?[]".contains(c) { format!("[{c}]") } else { c.to_string() })
                .collect();
            vec![format!("key = {} AND text GLOB {}", put(Sql::Text(key.clone())), put(Sql::Text(glob)))]
        }
        Expr::Compare(key, op, value) => {
            let (key, op) = (put(Sql::Text(key.clone())), op.sql());
            let text = put(Sql::Text(value.clone()));
            match number(value) {
                None => vec![format!("key = {key} AND text {op} {text}")],
                Some(n) => vec![
                    format!("key = {key} AND number {op} {}", put(Sql::Real(n))),
                    format!("key = {key} AND number IS NULL AND text {op} {text}"),
                ],
            }
        }
    })
}

/// The adapters that pass a condition on one field, each once.
fn rows(conditions: &[String]) -> String {
    let parts: Vec<String> =
        conditions.iter().map(|c| format!("SELECT adapter FROM fields WHERE {c}")).collect();
    parts.join(" UNION ALL ")
}

fn sql(e: &Expr, p: &mut Vec<Sql>) -> String {
    match e {
        Expr::All(list) if list.is_empty() => "1".into(),
        Expr::Any(list) if list.is_empty() => "0".into(),
        Expr::All(list) | Expr::Any(list) => {
            let joint = if matches!(e, Expr::All(_)) { " AND " } else { " OR " };
            format!("({})", list.iter().map(|e| sql(e, p)).collect::<Vec<_>>().join(joint))
        }
        Expr::Not(e) => format!("NOT {}", sql(e, p)),
        Expr::Has(_) | Expr::In(..) | Expr::Like(..) | Expr::Compare(..) => {
            format!("a.id IN ({})", rows(&leaf(e, p).unwrap_or_default()))
        }
    }
}

fn set(e: &Expr, of: &mut Select<'_>) -> rusqlite::Result<Set> {
    match e {
        Expr::All(list) => list.iter().try_fold(Set::all(), |a, e| Ok(a.and(set(e, of)?))),
        Expr::Any(list) => list.iter().try_fold(Set::none(), |a, e| Ok(a.or(set(e, of)?))),
        Expr::Not(e) => Ok(set(e, of)?.not()),
        Expr::Has(_) | Expr::In(..) | Expr::Like(..) | Expr::Compare(..) => {
            let mut parameters = Vec::new();
            let rows = rows(&leaf(e, &mut parameters).unwrap_or_default());
            of(&rows, parameters)
        }
    }
}

struct Parser<'a> {
    expression: &'a str,
    tokens: &'a [Token],
    at: usize,
}

impl Parser<'_> {
    fn fail(&self, what: &str) -> Error {
        let place = self.tokens.get(self.at).map_or(self.expression.chars().count() + 1, |t| t.at);
        Error::Filter { expression: self.expression.into(), what: format!("expected {what}"), at: place }
    }

    fn is(&self, ahead: usize, kind: Kind, text: &str) -> bool {
        self.tokens.get(self.at + ahead).is_some_and(|t| t.kind == kind && t.text == text)
    }

    fn took(&mut self, kind: Kind, text: &str) -> bool {
        let found = self.is(0, kind, text);
        self.at += usize::from(found);
        found
    }

    fn key(&mut self) -> Result<String> {
        let key = self.word("a key")?;
        Ok(AdapterRecord::filed_as(&key).to_owned())
    }

    fn word(&mut self, what: &str) -> Result<String> {
        match self.tokens.get(self.at).filter(|t| t.kind != Kind::Symbol) {
            Some(t) => {
                self.at += 1;
                Ok(t.text.clone())
            }
            None => Err(self.fail(what)),
        }
    }

    fn any(&mut self, depth: usize) -> Result<Expr> {
        let mut list = vec![self.all(depth)?];
        while self.took(Kind::Word, "or") {
            list.push(self.all(depth)?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Expr::Any(list) })
    }

    fn all(&mut self, depth: usize) -> Result<Expr> {
        let mut list = vec![self.one(depth)?];
        while self.took(Kind::Word, "and") {
            list.push(self.one(depth)?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Expr::All(list) })
    }

    fn one(&mut self, depth: usize) -> Result<Expr> {
        if depth > MAX_DEPTH {
            return Err(self.fail("less nesting"));
        }
        // `not`, `has` and `(` begin a condition, unless they are themselves a key: `not = 1`.
        let operator_follows = self.tokens.get(self.at + 1).is_some_and(|t| {
            t.kind == Kind::Symbol && t.text != "("
                || t.kind == Kind::Word && ["in", "like"].contains(&&*t.text)
        });
        if !operator_follows {
            if self.took(Kind::Word, "not") {
                return Ok(Expr::Not(Box::new(self.one(depth + 1)?)));
            }
            if self.is(0, Kind::Word, "has") {
                self.at += 1;
                return Ok(Expr::Has(self.key()?));
            }
        }
        if self.took(Kind::Symbol, "(") {
            let inside = self.any(depth + 1)?;
            if !self.took(Kind::Symbol, ")") {
                return Err(self.fail("and, or, or )"));
            }
            return Ok(inside);
        }
        let key = self.key()?;
        let negated = self.took(Kind::Word, "not");
        let wrap = |e: Expr| if negated { Expr::Not(Box::new(e)) } else { e };
        if self.took(Kind::Word, "in") {
            if !self.took(Kind::Symbol, "(") {
                return Err(self.fail("("));
            }
            let mut values = vec![self.word("a value")?];
            while self.took(Kind::Symbol, ",") {
                values.push(self.word("a value")?);
            }
            if !self.took(Kind::Symbol, ")") {
                return Err(self.fail(", or )"));
            }
            return Ok(wrap(Expr::In(key, values)));
        }
        if self.took(Kind::Word, "like") {
            return Ok(wrap(Expr::Like(key, self.word("a pattern")?)));
        }
        let symbol = self.tokens.get(self.at).filter(|t| t.kind == Kind::Symbol && !negated);
        let (op, negate) = match symbol.map(|t| t.text.as_str()) {
            Some("=" | "==") => (Op::Eq, false),
            Some("!=") => (Op::Eq, true),
            Some("<") => (Op::Lt, false),
            Some("<=") => (Op::Le, false),
            Some(">") => (Op::Gt, false),
            Some(">=") => (Op::Ge, false),
            _ => return Err(self.fail("=, !=, <, <=, >, >=, in, like, not in or not like")),
        };
        self.at += 1;
        let compare = Expr::Compare(key, op, self.word("a value")?);
        Ok(if negate { Expr::Not(Box::new(compare)) } else { compare })
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
            let two = matches!((c, chars.get(i + 1)), ('<' | '>' | '!' | '=', Some('=')));
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
    use crate::store::tests::{new_adapter, record};
    use crate::{Listing, Store};

    #[test]
    fn expressions_select_by_columns_tags_and_metrics() {
        let mut r = record("topic/volcanoes");
        r.metrics.insert("gate_on".into(), 0.75);
        r.tags.insert("note".into(), "two words".into());
        let passes = |e: &str| Filter::all().and(e).unwrap().matches(&r);
        assert!(passes("family = topic and value in (cats, volcanoes)"));
        assert!(passes("gate_on >= 0.7 and gate_on<1"));
        assert!(passes("note = 'two words' and missing != 3 and value not in (cats)"));
        assert!(passes("gate_on in (1, 0.750)") && !passes("gate_on not in (7.5e-1)"));
        assert!(passes("(value = cats or value like 'vol*noes') and not (gate_on < .5)"));
        assert!(passes("has note and not has missing"));
        assert!(passes("family == topic") && !passes("family == other"));
        let filter = Filter::all()
            .and("family = topic and (value = cats or value like 'c%') and gate_on = 1")
            .unwrap();
        assert_eq!((filter.asked_for(), filter.patterns()), (vec![("family", "topic")], vec!["c%"]));
        assert!(passes("family = nothing or family = topic and gate_on > 0"));
        assert!(!passes("(family = topic or family = other) and missing = 1"));
        assert!(!passes("gate_on < 0.7"));
        assert!(!passes("missing = 3"));
        for (bad, expected) in [
            ("family", "!="),
            ("family = ", "a value"),
            ("a in (b", ", or )"),
            ("a = b c", "and"),
            ("a = 'b", "quote"),
            ("a ! b", "!="),
            ("(a = b", "or )"),
            ("a = b or", "a key"),
            (&"(".repeat(10_000), "nesting"),
        ] {
            let error = Filter::all().and(bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn patterns_match_as_globs_do() {
        for (pattern, text, yes) in [
            ("a*c", "abc", true),
            ("a*c", "ab", false),
            ("*", "", true),
            ("aa", "aa", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(like(pattern, text), yes, "{pattern} {text}");
        }
    }

    fn expression() -> impl Strategy<Value = String> {
        let key = prop::sample::select(vec!["value", "family", "n", "note", "missing", "rank"]);
        let values = vec![
            "cats",
            "dogs",
            "1",
            "2.5",
            "2.50",
            "25e-1",
            "-0",
            "0.00",
            "x",
            "'two words'",
            "10",
            "1e1",
            "'010'",
            "7.0",
            "nan",
            "inf",
        ];
        let value = prop::sample::select(values);
        let leaf = (
            key,
            prop::sample::select(vec!["=", "!=", "<", ">=", "in", "not in", "like", "not like"]),
            value.clone(),
            value,
        )
            .prop_map(|(k, op, v, w)| match op {
                "in" | "not in" => format!("{k} {op} ({v}, {w})"),
                "like" | "not like" => format!("{k} {op} '{}*'", v.trim_matches('\'')),
                _ => format!("{k} {op} {v}"),
            });
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} and {b})")),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} or {b})")),
                inner.prop_map(|a| format!("not ({a})")),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_expression_panics(text in ".{0,60}") {
            let _ = Filter::all().and(&text);
        }

        /// A list is the equalities with its members, for numbers in any spelling too.
        #[test]
        fn a_list_is_its_equalities(value in -20i32..20, other in -20i32..20, zeros in 0usize..3) {
            let mut r = record("topic/cats");
            r.metrics.insert("n".into(), f64::from(value) / 4.0);
            let listed = format!("{}{}", f64::from(other) / 4.0, if other % 4 == 0 { [".0", ".00", "e0"][zeros] } else { ["", "0", "00"][zeros] });
            let passes = |e: String| Filter::all().and(&e).unwrap().matches(&r);
            prop_assert_eq!(passes(format!("n in (x, {listed})")), value == other);
            prop_assert_eq!(passes(format!("n not in ({listed})")), value != other);
            prop_assert_eq!(passes(format!("n = {listed}")), value == other);
        }

        /// The database and plain Rust agree on what passes.
        #[test]
        fn sql_selects_what_matches_selects(text in expression()) {
            thread_local! {
                static STORE: (tempfile::TempDir, Store) = {
                    let folder = tempfile::tempdir().unwrap();
                    let mut store = Store::open(folder.path()).unwrap();
                    for (i, name) in ["topic/cats", "topic/dogs", "other/10", "other/x"].into_iter().enumerate() {
                        let mut new = new_adapter(name, vec![i as u8]);
                        new.metrics.insert("n".into(), [0.0, -0.0, 2.5, 10.0][i]);
                        if i % 2 == 0 {
                            new.tags.insert("note".into(), ["two words", "", "7", ""][i].into());
                        }
                        store.commit_adapter(new).unwrap();
                    }
                    (folder, store)
                };
            }
            STORE.with(|(_, store)| {
                let filter = Filter::all().and(&text).unwrap();
                let all = store.adapters(&Filter::all()).unwrap();
                let expected: Vec<_> = all.into_iter().filter(|r| filter.matches(r)).collect();
                prop_assert_eq!(&store.list(&filter, &Listing::default()).unwrap(), &expected);
                // Windows hold them all, in one order.
                for sort in [("n", false), ("note", true), ("behaviour", true), ("nothing", false)] {
                    let ids = |offset: usize, limit: usize| {
                        let page = store.window(&filter, sort, offset, limit, &["id"]).unwrap();
                        (page.total, page.rows.into_iter().map(|mut r| r.remove("id").unwrap()).collect::<Vec<_>>())
                    };
                    let (total, all) = ids(0, 9);
                    prop_assert_eq!(total, expected.len());
                    let wanted: std::collections::BTreeSet<&str> = expected.iter().map(|r| r.id.as_str()).collect();
                    prop_assert_eq!(all.len(), wanted.len());
                    prop_assert_eq!(all.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(), wanted);
                    prop_assert_eq!(ids(1, 2).1, all.iter().skip(1).take(2).cloned().collect::<Vec<_>>());
                }
                Ok(())
            })?;
        }
    }
}
