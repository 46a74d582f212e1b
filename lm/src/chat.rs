//! Conversations as tokens, by the checkpoint's own Jinja template.
//!
//! The system prompt is always given (it may be empty): some templates insert one of their own when none is given, and
//! then two programs that "use the same prompt" do not. Only a template that fails on a system message gets none. Control tokens come
//! from the template only: those that stand in what is said stay text.

use crate::jinja::{Conversation, FUEL, Program, literals, with_program};
pub(crate) use crate::jinja::{WORDS, Words};
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

/// Where a template came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The model's own files.
    Model,
    /// Somebody gave it in place of the model's.
    Given,
    /// The model has none: lorafab's plain form of a dialogue, for base models.
    Plain,
}

/// The plain form: a line for the user, and the reply on lines of its own, so that it begins as a text begins. It ends with the model's
/// own end of a text, or where the model goes on as the user ([`PLAIN_STOP`]).
const PLAIN: &str = "{% for message in messages %}{% if message.role == 'user' %}{{ 'User: ' + message.content + '\\n' }}\
{% elif message.role == 'assistant' %}{{ 'Assistant:\\n' + message.content + eos_token + '\\n' }}\
{% elif message.content %}{{ message.content + '\\n\\n' }}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}";
/// What begins a line at which a reply of the plain form ends.
pub(crate) const PLAIN_STOP: &str = "User:";

/// A template, and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    text: String,
    origin: Origin,
}

impl Source {
    /// The template that somebody gave, else the model's own, else the plain form with what the tokenizer puts before a text.
    pub(crate) fn choose(given: Option<&str>, own: Option<String>, tokenizer: &Tokenizer) -> Self {
        if let Some(text) = given {
            return Self { text: text.to_owned(), origin: Origin::Given };
        }
        if let Some(text) = own {
            return Self { text, origin: Origin::Model };
        }
        let before = tokenizer.texts_before().concat();
        let start = if before.is_empty() {
            String::new()
        } else {
            format!("{{{{ {} }}}}", serde_json::Value::from(before))
        };
        Self { text: format!("{start}{PLAIN}"), origin: Origin::Plain }
    }
}

/// A checkpoint's chat template. It is run when it is read, on marks in place of what is said, and what comes out is kept. Then it is run
/// on texts with everything in them that it could look for. Where it only ever puts what is said in, with the white space around it or
/// without, it is never run again: no later text can make it do anything else. A template that does more with what is said is run on
/// each conversation, within the same bounds.
#[derive(Debug)]
pub struct ChatTemplate {
    source: Source,
    words: Words,
    /// An empty system prompt, a user turn as a mark and the opening of the reply, control tokens under their names; for templates that
    /// only put what is said in.
    prompt: Option<String>,
    /// Whether it takes away the white space around what is said.
    trims: bool,
    /// Whether it takes a system message.
    system: bool,
    /// The last control token before a reply and what follows it, named; and the space that the template puts before a reply.
    opening: String,
    lead: String,
    end_of_turn: u32,
    /// One more than the largest id of its control tokens.
    size: usize,
    digest: String,
}

const OPEN: char = '\u{f8f0}';
const CLOSE: char = '\u{f8f1}';
/// Breaks control tokens that stand in what is said while a template runs.
const GUARD: char = '\u{f8f5}';

fn mark(i: usize) -> String {
    format!("{OPEN}{i}{CLOSE}")
}

/// A system prompt, a user turn, and the opening of the reply.
fn asked(system: Option<&str>, user: &str) -> Conversation {
    let system = system.map(|s| Message::new(Role::System, s));
    (system.into_iter().chain([Message::new(Role::User, user)]).collect(), true)
}

/// What a template makes of the conversations that tell what it does.
#[derive(PartialEq)]
struct Seen {
    system: bool,
    /// A user turn "a" and a reply.
    whole: String,
    /// The prompt of the user's mark.
    short: String,
    /// The same under a system prompt.
    full: Option<String>,
    /// The prompt of the user turn "a".
    opened: String,
}

fn refused(what: &str) -> Error {
    Error::Request(format!("the chat template {what}"))
}

fn look(program: &Program<'_>, reply: &str) -> Result<Seen> {
    let with = |system: bool| -> Result<Seen> {
        let empty = system.then_some("");
        let mut whole = asked(empty, "a");
        whole.0.push(Message::new(Role::Assistant, reply));
        whole.1 = false;
        Ok(Seen {
            system,
            whole: program.run(&whole)?.0,
            short: program.run(&asked(empty, &mark(1)))?.0,
            full: if system { program.run(&asked(Some(&mark(0)), &mark(1))).ok().map(|f| f.0) } else { None },
            opened: program.run(&asked(empty, "a"))?.0,
        })
    };
    with(true).or_else(|e| with(false).map_err(|_| e))
}

/// How a template treats what is said, if it only puts it in: whether it trims it.
fn puts_in(program: &Program<'_>, template: &str, seen: &Seen) -> Result<Option<bool>> {
    let user = mark(1);
    let empty = seen.system.then_some("");
    let mut left = FUEL;
    let mut run = |said: &str| -> Result<Option<String>> {
        let (text, used) = program.run(&asked(empty, said))?;
        left = left.saturating_sub(used);
        Ok((left > 0).then_some(text))
    };
    let with_space = run(&format!(" \n{user} \n"))?;
    let trims = with_space.as_ref() == Some(&seen.short);
    let fits = |text: Option<String>, said: &str| {
        let said = if trims { said.trim() } else { said };
        text.is_some_and(|text| text == seen.short.replace(&user, said))
    };
    let long = "some words more ".repeat(500);
    for said in [
        format!(" \n{user} \n"),
        format!("{OPEN}1, and some words more{CLOSE}"),
        format!("<b>1 & 'two'</b> \"x\" \\ \\n {{}} %é\u{1f41d} ABC abc 123\n\n- a\n\tb {user} C"),
        format!("{long}{user}{long}x"),
    ] {
        if !fits(run(&said)?, &said) {
            return Ok(None);
        }
    }
    for literal in literals(template) {
        let said = format!("{literal}{user} {literal} {user}{literal}");
        if !run(&said).is_ok_and(|text| fits(text, &said)) {
            return Ok(None);
        }
    }
    Ok(Some(trims))
}

impl ChatTemplate {
    /// Runs a template and finds out what it makes of a conversation.
    pub(crate) fn new(source: Source, words: Words, tokenizer: &Tokenizer) -> Result<Self> {
        if source.origin == Origin::Plain && !words.contains_key("eos_token") {
            let what = "the model has no chat template, and names no eos_token for the end of a reply in a plain form; give a template";
            return Err(Error::Request(what.into()));
        }
        let reply = format!("{OPEN}reply{CLOSE}");
        let template = source.text.as_str();
        let (seen, trims) = with_program(template, &words, |program| {
            let seen = look(program, &reply)?;
            if seen.short.matches(&mark(1)).count() != 1 {
                return Err(refused("does not say what the user says, once"));
            }
            let trims = puts_in(program, template, &seen)?;
            Ok((seen, trims))
        })?;
        let after = seen.whole.split(&reply).nth(1).unwrap_or_default();
        // One that closes a reply with no token leaves its end to the end of a text.
        let eos = || words.get("eos_token").and_then(|t| tokenizer.special_tokens().get(t)).copied();
        let Some(end_of_turn) = tokenizer.first_special(after).map(|(_, _, id)| id).or_else(eos) else {
            return Err(refused("closes a reply with no control token, and the model names no eos_token"));
        };
        let lead = seen.whole.strip_prefix(&seen.opened).and_then(|rest| rest.split(&reply).next());
        let lead = lead.filter(|l| l.trim().is_empty()).unwrap_or_default().to_owned();
        let largest =
            controls(tokenizer, &seen.whole).chain(controls(tokenizer, &seen.short)).max().unwrap_or(0);
        let opening = tokenizer.named(after_last(tokenizer, &seen.opened));
        // What a template makes of named tokens is a part of what it is; one that uses none has the digest that it always had.
        // One that cannot do without them uses them. So is what it makes of what only this crate decides.
        let ours = template.contains("strftime_now") || template.contains("enable_thinking");
        let uses = !words.is_empty()
            && with_program(template, &Words::new(), |program| look(program, &reply)).ok().as_ref()
                != Some(&seen);
        let mut hasher = blake3::Hasher::new();
        hasher.update(template.as_bytes());
        if uses || ours {
            hasher.update(seen.short.as_bytes());
            hasher.update(seen.whole.as_bytes());
        }
        if !lead.is_empty() && !tokenizer.spaced() {
            hasher.update(lead.as_bytes());
        }
        Ok(Self {
            prompt: trims.map(|_| tokenizer.named(&seen.short)),
            trims: trims.unwrap_or_default(),
            system: seen.system,
            opening,
            lead,
            end_of_turn,
            size: largest.max(end_of_turn) as usize + 1,
            digest: hasher.finalize().to_hex().to_string(),
            source,
            words,
        })
    }

    /// The messages that the template is given.
    fn given(&self, messages: &[Message]) -> Result<Vec<Message>> {
        let mut given = messages.to_vec();
        if !self.system {
            if given.iter().any(|m| m.role == Role::System && !m.content.is_empty()) {
                return Err(refused("has no place for a system message"));
            }
            given.retain(|m| m.role != Role::System);
        }
        Ok(given)
    }

    fn run(&self, messages: Vec<Message>, add_generation_prompt: bool) -> Result<String> {
        let conversation = (messages, add_generation_prompt);
        with_program(&self.source.text, &self.words, |program| Ok(program.run(&conversation)?.0))
    }

    /// The conversation as text, for looking at; tokens are made by [`ChatTemplate::encode`].
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.run(self.given(messages)?, add_generation_prompt)
    }

    /// The conversation as tokens.
    ///
    /// # Errors
    /// If the template fails on it, or has no place for its system message, or a text cannot be tokenised.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>> {
        messages.iter().try_for_each(|m| Tokenizer::check(&m.content))?;
        if let (Some(prompt), [system, user], true) = (&self.prompt, messages, add_generation_prompt)
            && (system.role, system.content.as_str(), user.role) == (Role::System, "", Role::User)
        {
            let said = if self.trims { user.content.trim() } else { &user.content };
            return tokenizer.encode_named(&prompt.replacen(&mark(1), said, 1));
        }
        let mut given = self.given(messages)?;
        for message in &mut given {
            message.content = guarded(tokenizer, &message.content)?;
        }
        let text = self.run(given, add_generation_prompt)?;
        tokenizer.encode_named(&tokenizer.named(&text).replace(GUARD, ""))
    }

    /// A system prompt (given, maybe empty), one user turn, and the opening of the reply.
    pub fn encode_prompt(&self, tokenizer: &Tokenizer, system: &str, user: &str) -> Result<Vec<u32>> {
        self.encode(tokenizer, &[Message::new(Role::System, system), Message::new(Role::User, user)], true)
    }

    /// A reply as it follows a prompt, with its end: the space that the template puts before one, and the tokens that it has there.
    ///
    /// # Errors
    /// If the text cannot be tokenised.
    pub fn encode_reply(&self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        Tokenizer::check(text)?;
        let lead = if text.starts_with(&self.lead) { "" } else { self.lead.as_str() };
        let mut tokens = tokenizer.encode_named(&format!("{lead}{text}"))?;
        if tokenizer.spaced() {
            let before = tokenizer.encode_named(&self.opening)?;
            let both = tokenizer.encode_named(&format!("{}{lead}{text}", self.opening))?;
            if let Some(rest) = both.strip_prefix(&before[..]) {
                tokens = rest.to_vec();
            }
        }
        tokens.push(self.end_of_turn);
        Ok(tokens)
    }

    /// The token that closes a reply.
    pub fn end_of_turn(&self) -> u32 {
        self.end_of_turn
    }

    /// One more than the largest id of the control tokens that it writes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// What begins a line at which a reply ends, whatever its tokens; only the plain form has one.
    pub fn stop_line(&self) -> Option<&'static str> {
        (self.source.origin == Origin::Plain).then_some(PLAIN_STOP)
    }

    /// Where it came from.
    pub fn origin(&self) -> Origin {
        self.source.origin
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source.text
    }

    /// blake3 of the template's text, and of what it makes where more than its text decides that (named tokens, the date).
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// The ids of the control tokens in a text.
fn controls<'a>(tokenizer: &'a Tokenizer, text: &'a str) -> impl Iterator<Item = u32> + 'a {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, end, id) = tokenizer.first_special(rest)?;
        rest = &rest[end..];
        Some(id)
    })
}

/// A text from its last control token on.
fn after_last<'a>(tokenizer: &Tokenizer, text: &'a str) -> &'a str {
    let (mut last, mut at) = (0, 0);
    while let Some((start, end, _)) = tokenizer.first_special(&text[at..]) {
        (last, at) = (at + start, at + end);
    }
    &text[last..]
}

/// A text in which no control token can be found.
fn guarded(tokenizer: &Tokenizer, text: &str) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((start, end, _)) = tokenizer.first_special(rest) {
        let first = rest[start..].chars().next().map_or(1, char::len_utf8);
        if start + first == end {
            return Err(Error::Request(format!(
                "the chat template looks at what is said, and {:?} in it cannot be told from a control token",
                &rest[start..end]
            )));
        }
        out.push_str(&rest[..start + first]);
        out.push(GUARD);
        rest = &rest[start + first..];
    }
    out.push_str(rest);
    Ok(out)
}
