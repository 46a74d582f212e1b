//! Conversations as tokens, by the checkpoint's own Jinja template.
//!
//! The system prompt is always given (it may be empty): some templates insert one of their own when none is given, and
//! then two programs that "use the same prompt" do not. Control tokens come from the template only: contents are put in
//! as opaque marks, the rendered text is cut at the template's control tokens, and contents are tokenised as plain text.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use minijinja::{Environment, Value, context};
use regex::Regex;

use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the field's")]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    /// The name templates use.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// A checkpoint's chat template. It is run when it is read, on marks in place of contents, and what comes out is kept: no later text
/// can make it do anything else. What it does to contents beside putting them in is found out then: it may take the white space
/// around them away; one that does more is refused.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    words: Words,
    /// A system prompt, a user turn and the opening of the reply, contents as marks; and the same where the system prompt is empty.
    prompt: [String; 2],
    /// Whether it takes away the white space around contents.
    trims: bool,
    end_of_turn: u32,
    digest: String,
}

/// The texts of named control tokens that templates may use (`bos_token`, ...), by those names.
pub(crate) type Words = BTreeMap<String, String>;
/// Names of them.
pub(crate) const WORDS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

const OPEN: char = '\u{f8f0}';
const CLOSE: char = '\u{f8f1}';
const PROMPT: [Role; 2] = [Role::System, Role::User];

/// Longest template, bytes: several times the longest of a known model.
const LONGEST: usize = 256 << 10;
/// Longest text that a template may make of a few marks, bytes.
const LONGEST_TEXT: usize = 1 << 20;
/// Instructions that a template may run: a hundred times what those of known models do.
const FUEL: u64 = 1_000_000;
/// Stack for compiling one: enough for any nesting that the longest can have.
const STACK: usize = 512 << 20;

fn mark(i: usize) -> String {
    format!("{OPEN}{i}{CLOSE}")
}

/// Takes what a template makes, up to a bound.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST_TEXT {
            return Err(std::io::Error::other(format!(
                "it makes more than {LONGEST_TEXT} bytes of a few words"
            )));
        }
        self.0.extend_from_slice(bytes);
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

/// Compiles a template and runs it on each conversation, within bounds.
fn rendered(template: &str, words: &Words, conversations: &[(Vec<Message>, bool)]) -> Result<Vec<String>> {
    if template.len() > LONGEST {
        return Err(Error::Request(format!(
            "the chat template has {} bytes, more than the {LONGEST} that are read",
            template.len()
        )));
    }
    let run = || -> Result<Vec<String>> {
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
        environment.add_function("strftime_now", |_: String| -> Result<Value, minijinja::Error> {
            let what = "it writes today's date, and would be another model tomorrow";
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what))
        });
        environment.add_filter("tojson", |value: Value| to_json(&value));
        let source = without_generation(template);
        let compiled = environment
            .template_from_named_str("chat", &source)
            .map_err(|e| Error::Request(format!("the chat template does not compile: {}", brief(&e))))?;
        conversations
            .iter()
            .map(|(messages, add_generation_prompt)| {
                let messages: Vec<Value> = messages
                    .iter()
                    .map(|m| context! { role => m.role.name(), content => m.content.as_str() })
                    .collect();
                let mut out = Bounded(Vec::new());
                // What transformers gives a template.
                let given = context! { messages => messages, add_generation_prompt => add_generation_prompt, tools => (), documents => (), ..Value::from_pairs(words.iter().map(|(k, v)| (k.as_str(), v.as_str()))) };
                compiled
                    .render_captured_to(given, &mut out)
                    .map_err(|e| Error::Request(format!("the chat template fails: {}", brief(&e))))?;
                String::from_utf8(out.0)
                    .map_err(|_| Error::Request("the chat template fails: it makes no UTF-8".into()))
            })
            .collect()
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

/// An error of a template with its cause, at a length for people.
fn brief(e: &minijinja::Error) -> String {
    let cause = std::error::Error::source(e).map_or_else(String::new, |c| format!(": {c}"));
    format!("{e}{cause}").chars().take(300).collect()
}

impl ChatTemplate {
    /// Runs a template and finds out what it makes of a conversation.
    pub(crate) fn new(template: &str, words: Words, tokenizer: &Tokenizer) -> Result<Self> {
        let said = format!("{OPEN}reply{CLOSE}");
        let whole = vec![
            Message::new(Role::System, ""),
            Message::new(Role::User, "a"),
            Message::new(Role::Assistant, said.clone()),
        ];
        let prompt = |system: &str, user: &str| {
            (vec![Message::new(Role::System, system), Message::new(Role::User, user)], true)
        };
        let [system, user] = [mark(0), mark(1)];
        let (spaced, longer) = (format!(" \n{user} \n"), format!("{OPEN}1, and some words more{CLOSE}"));
        let asked = [
            (whole, false),
            prompt(&system, &user),
            prompt("", &user),
            prompt("", &spaced),
            prompt("", &longer),
        ];
        let texts = rendered(template, &words, &asked)?;
        let [whole_text, full, short, with_space, with_more] = &texts[..] else {
            unreachable!("one text for each conversation")
        };
        let refuse = |what: &str| Err(Error::Request(format!("the chat template {what}")));
        if short.matches(&user).count() != 1 {
            return refuse("does not say what the user says, once");
        }
        let trims = with_space == short;
        if !trims && *with_space != short.replace(&user, &spaced)
            || *with_more != short.replace(&user, &longer)
        {
            return refuse("changes what is said, or depends on it, in ways that are not implemented");
        }
        let after = whole_text.split(&said).nth(1).unwrap_or_default();
        let Some((_, _, end_of_turn)) = tokenizer.first_special(after) else {
            return refuse("closes a reply with no control token");
        };
        if let Some(token) = tokenizer.spaced().find(|t| whole_text.contains(*t) || short.contains(*t)) {
            return Err(Error::Request(format!(
                "the chat template uses the token {token:?}, whose lstrip or rstrip is not implemented"
            )));
        }
        // What a template makes of named tokens is a part of what it is; one that uses none has the digest that it always had.
        // One that cannot do without them uses them.
        let uses =
            !words.is_empty() && rendered(template, &Words::new(), &asked).ok().as_ref() != Some(&texts);
        let mut hasher = blake3::Hasher::new();
        hasher.update(template.as_bytes());
        if uses {
            hasher.update(short.as_bytes());
            hasher.update(whole_text.as_bytes());
        }
        Ok(Self {
            source: template.to_owned(),
            prompt: [full.clone(), short.clone()],
            trims,
            end_of_turn,
            digest: hasher.finalize().to_hex().to_string(),
            words,
        })
    }

    /// The conversation as text, for looking at; tokens are made by [`ChatTemplate::encode`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let mut texts = rendered(&self.source, &self.words, &[(messages.to_vec(), add_generation_prompt)])?;
        Ok(texts.remove(0))
    }

    /// The conversation as tokens.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let known = add_generation_prompt && messages.iter().map(|m| m.role).eq(PROMPT);
        let rendered = if known {
            self.prompt[usize::from(messages[0].content.is_empty())].clone()
        } else {
            let marked: Vec<Message> =
                messages.iter().enumerate().map(|(i, m)| Message::new(m.role, mark(i))).collect();
            self.render(&marked, add_generation_prompt)?
        };
        let mut tokens = Vec::new();
        let mut rest = rendered.as_str();
        while !rest.is_empty() {
            // The next control token of the template; the longest wins where two begin together.
            let next = tokenizer.first_special(rest);
            let text = &rest[..next.map_or(rest.len(), |(at, _, _)| at)];
            if !text.is_empty() {
                tokens.extend(tokenizer.encode(&self.fill(text, messages))?);
            }
            let Some((_, end, id)) = next else { break };
            tokens.push(id);
            rest = &rest[end..];
        }
        Ok(tokens)
    }

    /// A system prompt (given, maybe empty), one user turn, and the opening of the reply.
    pub fn encode_prompt(&self, tokenizer: &Tokenizer, system: &str, user: &str) -> Result<Vec<u32>> {
        self.encode(tokenizer, &[Message::new(Role::System, system), Message::new(Role::User, user)], true)
    }

    fn fill(&self, text: &str, messages: &[Message]) -> String {
        let mut out = text.to_owned();
        for (i, message) in messages.iter().enumerate() {
            let said = if self.trims { message.content.trim() } else { &message.content };
            out = out.replace(&mark(i), said);
        }
        out
    }

    /// The token that closes a reply.
    pub fn end_of_turn(&self) -> u32 {
        self.end_of_turn
    }

    /// blake3 of the template's text.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}
