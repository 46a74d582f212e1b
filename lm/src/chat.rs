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

/// A checkpoint's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    end_of_turn: u32,
    digest: String,
}

const OPEN: char = '\u{f8f0}';
const CLOSE: char = '\u{f8f1}';

impl ChatTemplate {
    /// Compiles a template and finds the token that closes a reply.
    pub(crate) fn new(template: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let mut environment = Environment::new();
        // The whitespace rules that Hugging Face templates are written for.
        let syntax = minijinja::syntax::SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("invariant: the default delimiters are valid");
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |what: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, what))
        });
        environment
            .add_template_owned("chat", template.to_owned())
            .map_err(|e| Error::Request(format!("the chat template does not compile: {e}")))?;
        let digest = blake3::hash(template.as_bytes()).to_hex().to_string();
        let mut chat = Self { environment, end_of_turn: 0, digest };
        let mark = format!("{OPEN}reply{CLOSE}");
        let rendered = chat.render(
            &[
                Message::new(Role::System, ""),
                Message::new(Role::User, "a"),
                Message::new(Role::Assistant, mark.clone()),
            ],
            false,
        )?;
        let after = rendered.split(&mark).nth(1).unwrap_or_default();
        chat.end_of_turn = tokenizer
            .special_tokens()
            .iter()
            .filter_map(|(text, id)| after.find(text.as_str()).map(|at| (at, *id)))
            .min()
            .map(|(_, id)| id)
            .ok_or_else(|| Error::Request("the chat template closes a reply with no control token".into()))?;
        Ok(chat)
    }

    /// The conversation as text, for looking at; tokens are made by [`ChatTemplate::encode`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.environment.get_template("chat").expect("invariant: added at construction");
        let messages: Vec<Value> = messages
            .iter()
            .map(|m| context! { role => m.role.name(), content => m.content.as_str() })
            .collect();
        template
            .render(context! { messages => messages, add_generation_prompt => add_generation_prompt, bos_token => "", eos_token => "" })
            .map_err(|e| Error::Request(format!("the chat template fails: {e}")))
    }

    /// The conversation as tokens.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        let marked: Vec<Message> = messages
            .iter()
            .enumerate()
            .map(|(i, m)| Message::new(m.role, format!("{OPEN}{i}{CLOSE}")))
            .collect();
        let rendered = self.render(&marked, add_generation_prompt)?;
        let mut tokens = Vec::new();
        let mut rest = rendered.as_str();
        while !rest.is_empty() {
            // The next control token of the template; the longest wins where two begin together.
            let next = tokenizer
                .special_tokens()
                .iter()
                .filter_map(|(text, id)| {
                    rest.find(text.as_str()).map(|at| (at, std::cmp::Reverse(text.len()), text, *id))
                })
                .min();
            let (text, after) = match next {
                Some((at, _, text, id)) => (&rest[..at], Some((id, at + text.len()))),
                None => (rest, None),
            };
            if !text.is_empty() {
                tokens.extend(tokenizer.encode(&Self::fill(text, messages))?);
            }
            let Some((id, skip)) = after else { break };
            tokens.push(id);
            rest = &rest[skip..];
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
            out = out.replace(&format!("{OPEN}{i}{CLOSE}"), &message.content);
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
