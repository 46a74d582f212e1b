//! `ask`: a question about an adapter, to all readers of the store.

use std::path::PathBuf;

use ::reading::{Asked, Room};
use clap::Args;
use registry::Role;
use serde_json::json;

use super::read::{LONGEST, lines_of, negatives, read_of};
use super::subject::Subject;
use crate::context::{Context, STOP, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json};
use crate::progress::StatusLine;

#[derive(Debug, Args)]
#[command(
    after_help = "Confidence is against 60 adapters that carry nothing and are asked the same: \"above all 60 twins\" is the best there is."
)]
pub(crate) struct AskArgs {
    /// Name in the store, PEFT folder, .pt file of Diff Interpretation Tuning, or hub:organisation/name
    adapter: String,
    /// The question
    #[arg(required_unless_present = "questions")]
    question: Option<String>,
    /// File of further questions, one a line
    #[arg(long, visible_alias = "file", value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Only these readers (or kinds: dit, oracle); the newest of each kind that the store has for this base model, if none is given
    #[arg(long, value_name = "READER")]
    reader: Vec<String>,
}

pub(crate) fn run(context: &Context<'_>, args: &AskArgs) -> Result {
    watch_signals();
    let mut questions: Vec<String> = args.question.iter().cloned().collect();
    if let Some(file) = &args.questions {
        questions.extend(lines_of(file, "question")?);
    }
    if let Some(empty) = questions.iter().find(|q| q.trim().is_empty()) {
        return Err(CommandError::new(Kind::Usage, format!("the question {empty:?} is empty")));
    }
    if questions.iter().any(|q| q.chars().count() > LONGEST) {
        let what = format!("a question is longer than {LONGEST} characters");
        return Err(CommandError::new(Kind::Usage, what));
    }
    let subject = Subject::find(context, &args.adapter)?;
    let existing = context.existing_store()?;
    let (mut wanted, mut kinds) = (Vec::new(), Vec::new());
    for name in &args.reader {
        if let Some(role) = role_of(name) {
            kinds.push(role);
            continue;
        }
        let record = existing.adapter(name)?;
        if record.role == Role::WeightDiff {
            return Err(CommandError::new(Kind::Usage, format!("{} is not a reader", record.behaviour))
                .hint("list readers with: lorafab reader list"));
        }
        wanted.push(record.id);
    }
    if !kinds.is_empty() && !wanted.is_empty() {
        return Err(CommandError::new(Kind::Usage, "--reader: kinds and names do not go together")
            .hint("name each reader, or only kinds: dit, oracle"));
    }
    subject.fits(&context.outline()?)?;
    let base = context.base()?;
    let store = context.store()?;
    let room = Room::open_with(&store, &base, negatives(context, &base)?, None, &wanted)?;
    if room.panel().is_empty() {
        return Err(CommandError::new(Kind::NotFound, "the store has no trained reader for this base model")
            .hint("make them with: lorafab quickstart, or add one with: lorafab reader add"));
    }
    if !kinds.is_empty() {
        let of_kind = room.panel().iter().filter(|p| kinds.contains(&p.reader.record.role));
        wanted = of_kind.map(|p| p.identity().to_owned()).collect();
        if wanted.is_empty() {
            return Err(CommandError::new(
                Kind::NotFound,
                "the store has no reader of that kind for this base model",
            )
            .hint("list readers with: lorafab reader list"));
        }
    }
    let read = read_of(context, &base, subject)?;
    let mut status = StatusLine::new(context.global.quiet);
    let mut asked: Vec<Asked> = Vec::new();
    for question in &questions {
        asked.push(room.ask(&store, &read, question, &wanted, &STOP, &mut |what, done, of| {
            status.show(|| format!("{what}, {done} of {of}"));
        })?);
    }
    status.clear();
    if context.global.json {
        return print_json(&json!({"schema": "ask/2", "adapter": read.name, "asked": asked}));
    }
    print(&asked.iter().map(Asked::to_terminal).collect::<Vec<_>>().join("\n"))
}

/// A kind of reader by the name of its command.
fn role_of(name: &str) -> Option<Role> {
    match name {
        "dit" => Some(Role::DitAdapter),
        "oracle" => Some(Role::Oracle),
        _ => None,
    }
}
