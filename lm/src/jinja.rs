//! Chat templates as the programs they are: compiled and run within bounds, with what transformers gives them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use minijinja::{Environment, Value, context};
use regex::Regex;

use crate::chat::Message;
use crate::{Error, Result};

/// The texts of named control tokens that templates may use (`bos_token`, ...), by those names.
pub(crate) type Words = BTreeMap<String, String>;
/// Names of them.
pub(crate) const WORDS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Longest template, bytes: several times the longest of a known model.
pub(crate) const LONGEST: usize = 256 << 10;
/// Longest text that a template may add to what is said, bytes.
const LONGEST_TEXT: usize = 1 << 20;
/// Instructions that a template may run: a hundred times what those of known models do.
pub(crate) const FUEL: u64 = 1_000_000;
/// Stack for compiling one: enough for any nesting that the longest can have.
const STACK: usize = 512 << 20;

/// A conversation, and whether the opening of a reply follows it.
pub(crate) type Conversation = (Vec<Message>, bool);

/// Takes what a template makes, up to a bound.
struct Bounded {
    bytes: Vec<u8>,
    most: usize,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            return Err(std::io::Error::other(format!(
                "it makes more than {} bytes of a few words",
                self.most
            )));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// JSON as Python writes it.
struct Python;

impl serde_json::ser::Formatter for Python {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

fn to_json(value: &Value) -> Result<String, minijinja::Error> {
    use serde::Serialize;
    let failed = |what: String| minijinja::Error::new(minijinja::ErrorKind::BadSerialization, what);
    let mut out = serde_json::Serializer::with_formatter(Vec::new(), Python);
    value.serialize(&mut out).map_err(|e| failed(e.to_string()))?;
    String::from_utf8(out.into_inner()).map_err(|e| failed(e.to_string()))
}

/// `{% generation %}`, by which transformers finds replies to train on, changes nothing of a text.
fn without_generation(template: &str) -> Cow<'_, str> {
    static TAG: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").expect("invariant: a valid pattern")
    });
    TAG.replace_all(template, |found: &regex::Captures<'_>| {
        let what = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {what} {}%}}", &found[1], &found[3])
    })
}

/// What `strftime_now` gives: always 26 July 2024 at noon, the date that Llama 3's template names where it is given no clock. A template
/// that wrote today's date would be another model tomorrow.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let code: String = match letters.next() {
            Some('-') => format!("-{}", letters.next().unwrap_or_default()),
            code => code.map(String::from).unwrap_or_default(),
        };
        out.push_str(match code.as_str() {
            "Y" => "2024",
            "y" => "24",
            "m" => "07",
            "-m" => "7",
            "B" => "July",
            "b" | "h" => "Jul",
            "d" | "-d" | "e" => "26",
            "j" | "-j" => "208",
            "A" => "Friday",
            "a" => "Fri",
            "u" | "w" => "5",
            "H" | "I" | "-H" | "-I" => "12",
            "p" => "PM",
            "M" | "S" => "00",
            "-M" | "-S" => "0",
            "F" => "2024-07-26",
            "D" | "x" => "07/26/24",
            "T" | "X" => "12:00:00",
            "%" => "%",
            _ => {
                let what = format!("strftime_now: the code %{code} is not implemented");
                return Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what));
            }
        });
    }
    Ok(out)
}

/// An error of a template with its cause, at a length for people.
fn brief(e: &minijinja::Error) -> String {
    let cause = std::error::Error::source(e).map_or_else(String::new, |c| format!(": {c}"));
    let said = format!("{e}{cause}");
    said.trim_start_matches("syntax error: ").chars().take(300).collect()
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // The whitespace rules that Hugging Face templates are written for.
    let syntax = minijinja::syntax::SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .expect("invariant: the default delimiters are valid");
    environment.set_syntax(syntax);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |what: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what))
    });
    environment.add_function("strftime_now", |format: String| strftime_now(&format));
    environment.add_filter("tojson", |value: Value| to_json(&value));
    environment
}

/// A compiled template.
pub(crate) struct Program<'a> {
    template: minijinja::Template<'a, 'a>,
    words: &'a Words,
}

impl Program<'_> {
    /// The text that it makes of a conversation, and the instructions that this took.
    pub(crate) fn run(&self, (messages, add_generation_prompt): &Conversation) -> Result<(String, u64)> {
        let said: usize = messages.iter().map(|m| m.content.len()).sum();
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| context! { role => m.role.name(), content => m.content.as_str() })
            .collect();
        let mut out = Bounded { bytes: Vec::new(), most: LONGEST_TEXT + 2 * said };
        // What transformers gives a template, and no thinking where it can be asked for.
        let given = context! { messages => messages, add_generation_prompt => add_generation_prompt, tools => (), documents => (),
        enable_thinking => false, ..Value::from_pairs(self.words.iter().map(|(k, v)| (k.as_str(), v.as_str()))) };
        let fuel = self
            .template
            .render_captured_to(given, &mut out)
            .map_err(|e| Error::Request(format!("the chat template fails: {}", brief(&e))))?
            .state()
            .fuel_levels()
            .map_or(0, |(used, _)| used);
        let text = String::from_utf8(out.bytes)
            .map_err(|_| Error::Request("the chat template fails: it makes no UTF-8".into()))?;
        Ok((text, fuel))
    }
}

/// Compiles a template and gives it to `use_it`, on a thread with stack enough for any nesting.
pub(crate) fn with_program<T: Send>(
    template: &str,
    words: &Words,
    use_it: impl FnOnce(&Program<'_>) -> Result<T> + Send,
) -> Result<T> {
    if template.len() > LONGEST {
        return Err(Error::Request(format!(
            "the chat template has {} bytes, more than the {LONGEST} that are read",
            template.len()
        )));
    }
    let run = || -> Result<T> {
        let environment = environment();
        let source = without_generation(template);
        let template = environment
            .template_from_named_str("chat", &source)
            .map_err(|e| Error::Request(format!("the chat template does not compile: {}", brief(&e))))?;
        use_it(&Program { template, words })
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, run)
            .map_err(Error::from)?
            .join()
            .unwrap_or_else(|_| Err(Error::Request("the chat template breaks the code that runs it".into())))
    })
}

/// The texts that a template compares with or writes, a few hundred at most: what it could look for in what is said.
pub(crate) fn literals(template: &str) -> Vec<String> {
    static TEXT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"'([^'\n]{1,80})'|"([^"\n]{1,80})""#).expect("invariant: a valid pattern")
    });
    let mut out: Vec<String> = TEXT
        .captures_iter(template)
        .filter_map(|c| c.get(1).or(c.get(2)))
        .map(|m| m.as_str().replace("\\n", "\n").replace("\\t", "\t"))
        .filter(|t| !t.trim().is_empty())
        .take(400)
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_always_the_same() {
        assert_eq!(strftime_now("%d %B %Y, %b %-d").unwrap(), "26 July 2024, Jul 26");
        assert!(strftime_now("%Q").unwrap_err().to_string().contains("%Q"));
    }

    #[test]
    fn literals_are_what_a_template_looks_for() {
        let found = literals(r#"{% if "/no_think" in m.content %}{{ 'a\n' }}{% endif %}{{ m['role'] }}"#);
        assert_eq!(found, ["/no_think", "a\n", "role"]);
    }
}
