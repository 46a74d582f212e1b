//! Conversations as tokens, by the checkpoint's own Jinja template.
//!
//! The system prompt is always given (it may be empty): some templates insert one of their own when none is given, and
//! then two programs that "use the same prompt" do not. Control tokens come from the template only: contents are put in
//! as opaque marks, the rendered text is cut at the template's control tokens, and contents are tokenised as plain text.

use minijinja::{Environment, Value, context};

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
/// can make it do anything else.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    /// A system prompt, a user turn and the opening of the reply, contents as marks.
    prompt: String,
    end_of_turn: u32,
    digest: String,
}

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
            return Err(std::io::Error::other(format!("it makes more than {LONGEST_TEXT} bytes of a few words")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Compiles a template and runs it on each conversation, within bounds.
fn rendered(template: &str, conversations: &[(Vec<Message>, bool)]) -> Result<Vec<String>> {
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
        let compiled = environment
            .template_from_named_str("chat", template)
            .map_err(|e| Error::Request(format!("the chat template does not compile: {}", brief(&e))))?;
        conversations
            .iter()
            .map(|(messages, add_generation_prompt)| {
                let messages: Vec<Value> = messages
                    .iter()
                    .map(|m| context! { role => m.role.name(), content => m.content.as_str() })
                    .collect();
                let mut out = Bounded(Vec::new());
                compiled
                    .render_captured_to(
                        context! { messages => messages, add_generation_prompt => add_generation_prompt, bos_token => "", eos_token => "" },
                        &mut out,
                    )
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
    /// Runs a template and finds the token that closes a reply.
    pub(crate) fn new(template: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let digest = blake3::hash(template.as_bytes()).to_hex().to_string();
        let said = format!("{OPEN}reply{CLOSE}");
        let whole = vec![
            Message::new(Role::System, ""),
            Message::new(Role::User, "a"),
            Message::new(Role::Assistant, said.clone()),
        ];
        let marked = PROMPT.iter().enumerate().map(|(i, role)| Message::new(*role, mark(i))).collect();
        let [whole, prompt] = rendered(template, &[(whole, false), (marked, true)])?
            .try_into()
            .expect("invariant: one text for each conversation");
        let after = whole.split(&said).nth(1).unwrap_or_default();
        let end_of_turn = tokenizer
            .first_special(after)
            .map(|(_, _, id)| id)
            .ok_or_else(|| Error::Request("the chat template closes a reply with no control token".into()))?;
        Ok(Self { source: template.to_owned(), prompt, end_of_turn, digest })
    }

    /// The conversation as text, for looking at; tokens are made by [`ChatTemplate::encode`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let mut texts = rendered(&self.source, &[(messages.to_vec(), add_generation_prompt)])?;
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
            self.prompt.clone()
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
                tokens.extend(tokenizer.encode(&Self::fill(text, messages))?);
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

    fn fill(text: &str, messages: &[Message]) -> String {
        let mut out = text.to_owned();
        for (i, message) in messages.iter().enumerate() {
            out = out.replace(&mark(i), &message.content);
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
