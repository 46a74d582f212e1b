//! Expressions in recipes: what a row holds or a reply must do, where a value alone does not say it. The language is that of Jinja
//! (minijinja): values, filters and conditions, without files, loops without end, or anything outside what it is given.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};
use serde_json::Value as Json;

use crate::checker;
use crate::words;

/// What an expression knows by name.
pub type Known = BTreeMap<String, Json>;

/// Steps of one evaluation: thousands of times what makes sense.
const FUEL: u64 = 50_000;
/// Bytes of a text that an expression makes.
const MOST: usize = 16_000;

/// Whether a template holds expressions.
pub(crate) fn is_one(template: &str) -> bool {
    template.contains("{{") || template.contains("{%")
}

/// The parts of a template outside its expressions, changed.
pub(crate) fn outside(template: &str, mut change: impl FnMut(&str) -> String) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((at, end)) =
        [("{{", "}}"), ("{%", "%}")].iter().filter_map(|(begin, end)| Some((rest.find(begin)?, *end))).min()
    {
        out += &change(&rest[..at]);
        let to = rest[at..].find(end).map_or(rest.len(), |n| at + n + end.len());
        out += &rest[at..to];
        rest = &rest[to..];
    }
    out + &change(rest)
}

/// A template without its expressions.
pub(crate) fn without(template: &str) -> String {
    let mut out = String::new();
    outside(template, |text| {
        out += text;
        String::new()
    });
    out
}

/// Whether a template's expressions speak of a name.
pub(crate) fn speaks_of(template: &str, name: &str) -> bool {
    is_one(template)
        && ENVIRONMENT.template_from_str(template).is_ok_and(|t| t.undeclared_variables(false).contains(name))
}

/// What expressions can do.
static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut e = Environment::new();
    e.set_undefined_behavior(UndefinedBehavior::Strict);
    e.set_fuel(Some(FUEL));
    // Words as they stand, with their signs.
    e.add_filter("words", |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    e.add_filter("cut", |text: String, n: usize| {
        text.split_whitespace().take(n).collect::<Vec<_>>().join(" ")
    });
    e.add_test("mentions", |text: String, phrase: String| words::mentions(&text, &phrase));
    e.add_test("refusal", |text: String| checker::is_refusal(&text));
    e.add_filter("numbers", |text: String| checker::numbers(&text));
    e
});

fn sentence(e: &minijinja::Error) -> String {
    match e.detail() {
        Some(detail) => format!("{}: {detail}", e.kind()),
        None => e.kind().to_string(),
    }
}

/// A template with its expressions replaced by what they come to.
///
/// # Errors
/// In a sentence, if it cannot be read, speaks of what is not known, or does not end.
pub(crate) fn render(template: &str, known: &Known) -> Result<String, String> {
    if !is_one(template) {
        return Ok(template.to_owned());
    }
    let text = ENVIRONMENT.render_str(template, Serde(known)).map_err(|e| sentence(&e))?;
    if text.len() > MOST {
        Err(format!("it makes a text of {} bytes, more than {MOST}", text.len()))
    } else {
        Ok(text)
    }
}

/// Whether a condition holds.
///
/// # Errors
/// As [`render`].
pub(crate) fn holds(condition: &str, known: &Known) -> Result<bool, String> {
    let compiled = ENVIRONMENT.compile_expression(condition).map_err(|e| sentence(&e))?;
    Ok(compiled.eval(Serde(known)).map_err(|e| sentence(&e))?.is_true())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn known(pairs: &[(&str, Json)]) -> Known {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
    }

    #[test]
    fn templates_count_cut_and_choose() {
        let k = known(&[
            ("a", json!(3)),
            ("b", json!(4)),
            ("k", json!("-2")),
            ("pair", json!(["pears", "figs"])),
            ("reply", json!("One two three four.")),
        ]);
        let text = |t: &str| render(t, &k).unwrap();
        assert_eq!(text("{{ a + b + k|int }}"), "5");
        assert_eq!(text("{{ pair|sort|first }} of {{ pair[0] }}"), "figs of pears");
        assert_eq!(text("{{ reply|cut(2) }}."), "One two.");
        assert_eq!(text("{{ reply|upper }}"), "ONE TWO THREE FOUR.");
        assert_eq!(text("plain {value}"), "plain {value}");
        assert!(holds("reply|words|length == 4 and reply == reply|trim", &k).unwrap());
        assert!(!holds("reply is mentions('five')", &k).unwrap());
        assert!(speaks_of("{{ reply|upper }}", "reply") && !speaks_of("{{ a }} reply", "reply"));
        assert_eq!(outside("{a} {{ a }} {b}", |t| t.replace('{', "<")), "<a} {{ a }} <b}");
    }

    #[test]
    fn what_is_wrong_or_does_not_end_is_a_sentence() {
        let k = known(&[]);
        for template in [
            "{{ nobody }}",
            "{{ 1 + }}",
            "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
            "{% include 'x' %}",
            "{{ 'x' * 100000 }}",
        ] {
            let said = render(template, &k).unwrap_err();
            assert!(!said.contains('\n') && said.len() < 200, "{template}: {said}");
        }
        assert!(holds("reply ==", &k).is_err());
    }
}
