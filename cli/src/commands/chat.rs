//! `chat`: a model with an adapter to talk to, the base model, or both one after the other.

use std::io::{BufRead, IsTerminal, Read};

use clap::Args;
use lm::{Adapter, BaseModel, Message, Request, Role, Row, Sampling};
use serde_json::{Value, json};

use super::readers::say_precisions;
use super::subject::{Held, Subject};
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json, print_part};

/// Most bytes of a prompt on stdin: more than any model's context holds.
const LONGEST: u64 = 16 << 20;

#[derive(Debug, Args)]
#[command(
    after_help = "Without a prompt on a terminal it is a session: /reset forgets the conversation, /quit or Ctrl-D ends it. Greedy unless --temperature is given."
)]
pub(crate) struct ChatArgs {
    /// Name of an adapter in the store, a PEFT folder, a .pt file of Diff Interpretation Tuning, or hub:organisation/name; none with --base
    #[arg(required_unless_present = "base")]
    adapter: Option<String>,
    /// What is said; without it stdin is read, or on a terminal a session begins
    prompt: Option<String>,
    /// Talk to the base model alone
    #[arg(long, conflicts_with = "both")]
    base: bool,
    /// Let the base model answer too, before the adapted one
    #[arg(long)]
    both: bool,
    /// Most tokens of a reply
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Temperature; 0 takes the likeliest token always
    #[arg(long, default_value_t = 0.0, value_name = "T", allow_negative_numbers = true, value_parser = temperature)]
    temperature: f64,
    /// Draw among this many likeliest tokens only; 0 is all
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: u32,
    /// Draw among the likeliest tokens that have this much probability together
    #[arg(long, default_value_t = 1.0, value_name = "P", value_parser = share)]
    top_p: f64,
    /// Seed of the draws
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// System prompt (adapters made here are trained with an empty one)
    #[arg(long, default_value = "", value_name = "TEXT")]
    system: String,
    /// Read a message a line as a session does, where stdin is no terminal
    #[arg(long, conflicts_with = "prompt")]
    session: bool,
}

fn temperature(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|t: &f64| t.is_finite() && *t >= 0.0);
    number.ok_or_else(|| "give a number of at least 0".into())
}

fn share(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|p: &f64| *p > 0.0 && *p <= 1.0);
    number.ok_or_else(|| "give a number above 0 and at most 1".into())
}

pub(crate) fn run(context: &Context<'_>, args: &ChatArgs) -> Result {
    let (adapter, prompt) = named(args)?;
    // Names and the prompt are looked at before a model is loaded.
    let subject = adapter.map(|name| Subject::find(context, name)).transpose()?;
    let terminal = std::io::stdin().is_terminal();
    let prompt = match prompt {
        Some(text) => Some(text.to_owned()),
        None if args.session || terminal => None,
        None => Some(piped()?),
    };
    if prompt.as_ref().is_some_and(|p| p.trim().is_empty()) {
        return Err(CommandError::new(Kind::Usage, "the prompt is empty"));
    }
    if prompt.is_none() && context.global.json {
        return Err(CommandError::new(Kind::Usage, "--json needs a prompt: a session has none")
            .hint("for example: lorafab --json chat topic/cats \"Tell me a story.\""));
    }
    if let Some(subject) = subject.as_ref().filter(|s| s.record().is_some()) {
        subject.fits(&context.outline()?)?;
    }
    let base = context.base()?;
    let held = subject.as_ref().map(|s| s.load(context, &base)).transpose()?;
    if let Some(held) = &held {
        say_precisions(context, base.precision, held.made_at);
        if let Some(warning) = &held.warning {
            context.say(&format!("warning: {warning}"));
        }
        if held.effect == Some(0.0) {
            context.say("warning: it changes no logit: what answers is the base model");
        }
    }
    let mut voices = Vec::new();
    if args.base || args.both {
        voices.push(Voice::new(&base, "base model", None, args));
    }
    if let (Some(subject), Some(held)) = (&subject, &held) {
        voices.push(Voice::new(&base, &subject.name, Some(&held.adapter), args));
    }
    match prompt {
        Some(prompt) => once(context, args, &mut voices, &prompt, subject.as_ref().zip(held.as_ref())),
        None => session(context, &mut voices, terminal),
    }
}

/// The adapter's name and the prompt: with `--base` the first word is the prompt.
fn named(args: &ChatArgs) -> Result<(Option<&str>, Option<&str>)> {
    let (adapter, prompt) = (args.adapter.as_deref(), args.prompt.as_deref());
    match (args.base, adapter, prompt) {
        (true, Some(_), Some(_)) => {
            Err(CommandError::new(Kind::Usage, "--base is the base model alone, without an adapter")
                .hint("leave the adapter out, or let both answer with --both"))
        }
        (true, ..) => Ok((None, adapter)),
        _ => Ok((adapter, prompt)),
    }
}

fn piped() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|e| CommandError::new(Kind::Usage, format!("stdin is no text: {e}")))?;
    Ok(text)
}

/// One model that is talked to, and what was said so far.
struct Voice<'a> {
    base: &'a BaseModel,
    name: String,
    adapter: Option<&'a Adapter>,
    settings: &'a ChatArgs,
    said: Vec<Message>,
}

/// What it answered.
struct Answer {
    text: String,
    tokens: usize,
    /// `end_of_turn` or `max_tokens`.
    stopped_by: &'static str,
}

impl Answer {
    fn json(&self) -> Value {
        json!({"reply": self.text, "tokens": self.tokens, "stopped_by": self.stopped_by})
    }
}

impl<'a> Voice<'a> {
    fn new(base: &'a BaseModel, name: &str, adapter: Option<&'a Adapter>, settings: &'a ChatArgs) -> Self {
        let mut voice = Self { base, name: name.to_owned(), adapter, settings, said: vec![] };
        voice.reset();
        voice
    }

    fn reset(&mut self) {
        self.said = vec![Message::new(Role::System, self.settings.system.as_str())];
    }

    /// Answers what is said now; `tell` is given the reply's text piece by piece. What failed was not said.
    fn answer(&mut self, prompt: &str, tell: &mut dyn FnMut(&str) -> Result) -> Result<Answer> {
        let before = self.said.len();
        self.said.push(Message::new(Role::User, prompt));
        let answer = self.answered(tell);
        match &answer {
            Ok(answer) => self.said.push(Message::new(Role::Assistant, answer.text.as_str())),
            Err(_) => self.said.truncate(before),
        }
        answer
    }

    fn answered(&self, tell: &mut dyn FnMut(&str) -> Result) -> Result<Answer> {
        let (base, s) = (self.base, self.settings);
        let tokens = base.chat.encode(&base.tokenizer, &self.said, true)?;
        let (limit, most) = (base.architecture.context, s.max_tokens as usize);
        if tokens.len().saturating_add(most) > limit {
            let what = format!(
                "the conversation has {} tokens, and a reply of up to {most} more would run past the model's context of {limit}",
                tokens.len()
            );
            return Err(CommandError::new(Kind::Usage, what).hint(
                "say less, or allow a shorter reply with --max-tokens; in a session /reset begins anew",
            ));
        }
        let sampling = Sampling { temperature: s.temperature, top_k: s.top_k, top_p: s.top_p };
        let adapters: Vec<&Adapter> = self.adapter.into_iter().collect();
        let prompt = Row::with_adapters(tokens, (0..adapters.len()).collect());
        let request = Request { prompt, max_new_tokens: most, sampling, seed: s.seed };
        let stop = base.stop();
        let mut stream = Stream { told: 0, outcome: Ok(()) };
        let reply = base.decoder.generate_telling(&adapters, &request, &stop, &mut |tokens| {
            // The line that would end a plain reply is taken back when it is whole: such replies are told at their end.
            if stop.line.is_none() {
                stream.tell(&base.tokenizer.decode(tokens).unwrap_or_default(), false, tell);
            }
        })?;
        let text = base.tokenizer.decode(&reply.tokens)?.trim().to_owned();
        stream.tell(&text, true, tell);
        stream.outcome?;
        let stopped_by = if reply.stopped_by.is_some() { "end_of_turn" } else { "max_tokens" };
        Ok(Answer { text, tokens: reply.tokens.len(), stopped_by })
    }
}

/// A growing text, told as far as it is sure to stay.
struct Stream {
    told: usize,
    outcome: Result,
}

impl Stream {
    fn tell(&mut self, text: &str, ended: bool, tell: &mut dyn FnMut(&str) -> Result) {
        // White space at the end may be the reply's end; a character may still lack bytes.
        let text = text.trim();
        let sure = if ended { text } else { text.trim_end_matches('\u{fffd}').trim_end() };
        if let Some(new) = sure.get(self.told..).filter(|new| !new.is_empty() && self.outcome.is_ok()) {
            self.outcome = tell(new);
            self.told = sure.len();
        }
    }
}

fn say_end(context: &Context<'_>, name: &str, answer: &Answer) {
    if answer.text.is_empty() {
        let why = match answer.tokens {
            0 => "it ends before its first word".to_owned(),
            n => format!("its {n} tokens make no word"),
        };
        context.say(&format!("{name}: the reply is empty: {why}"));
    } else if answer.stopped_by == "max_tokens" {
        context.say(&format!("{name}: cut off after {} tokens (--max-tokens)", answer.tokens));
    }
}

/// Lets all answer on stdout, each under its name if there are several.
fn spoken(context: &Context<'_>, voices: &mut [Voice<'_>], prompt: &str) -> Result {
    let several = voices.len() > 1;
    for (i, voice) in voices.iter_mut().enumerate() {
        if several {
            print(&format!("{}[{}]", if i == 0 { "" } else { "\n" }, fence::shown(&voice.name)))?;
        }
        let answer = voice.answer(prompt, &mut |text| print_part(text))?;
        print("")?;
        say_end(context, &voice.name, &answer);
    }
    Ok(())
}

fn once(
    context: &Context<'_>,
    args: &ChatArgs,
    voices: &mut [Voice<'_>],
    prompt: &str,
    subject: Option<(&Subject, &Held)>,
) -> Result {
    if !context.global.json {
        return spoken(context, voices, prompt);
    }
    let mut answers = Vec::new();
    for voice in voices.iter_mut() {
        let answer = voice.answer(prompt, &mut |_| Ok(()))?;
        say_end(context, &voice.name, &answer);
        answers.push(answer);
    }
    // One of the store has an id; of another the digest of its weights file tells which it was.
    let adapter = subject.map(|(s, held)| {
        let source = held.imported.as_ref().map(|i| i.source.to_string());
        json!({"name": s.name, "id": s.record().map(|r| &r.id), "source": source})
    });
    let mut found = json!({"schema": "chat/1", "adapter": adapter, "prompt": prompt, "system": args.system,
        "temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p, "seed": args.seed});
    // The adapted model's is the answer; with --both the base model's stands beside it.
    let last = answers.pop().map(|a| a.json());
    if let (Some(found), Some(Value::Object(last))) = (found.as_object_mut(), last) {
        found.extend(last);
        found.extend(answers.pop().map(|a| ("base".to_owned(), a.json())));
    }
    print_json(&found)
}

fn session(context: &Context<'_>, voices: &mut [Voice<'_>], terminal: bool) -> Result {
    let names: Vec<&str> = voices.iter().map(|v| v.name.as_str()).collect();
    context.say(&format!("{}; /reset begins anew, /quit or Ctrl-D ends", fence::shown(&names.join(" and "))));
    let mut lines = std::io::stdin().lock();
    loop {
        if terminal {
            print_part("> ")?;
        }
        let mut line = String::new();
        let read = lines
            .by_ref()
            .take(LONGEST)
            .read_line(&mut line)
            .map_err(|e| CommandError::new(Kind::Usage, format!("stdin is no text: {e}")))?;
        if read == 0 {
            return if terminal { print("") } else { Ok(()) };
        }
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => return Ok(()),
            "/reset" => {
                voices.iter_mut().for_each(Voice::reset);
                context.say("the conversation is forgotten");
            }
            command if command.starts_with('/') && !command.contains(' ') => {
                context.say(&format!("{}: there are /reset and /quit", fence::shown(command)));
            }
            said => match spoken(context, voices, said) {
                // What the model cannot take is said, and the session goes on.
                Err(e) if e.kind == Kind::Usage => {
                    context.say(&format!("error: {}", fence::shown(&e.message)));
                }
                other => other?,
            },
        }
    }
}
