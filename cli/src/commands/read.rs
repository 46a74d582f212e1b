//! `read`: what an adapter does, and how sure that is.

use std::path::{Path, PathBuf};

use ::reading::{Many, Reading, Room, Subject as Read, keep, kept};
use clap::Args;
use lm::BaseModel;
use recipes::Recipe;
use registry::{AdapterRecord, Digest, Store};

use super::adapter::chosen;
use super::readers::say_precisions;
use super::settings::Settling;
use super::subject::{Place, Subject};
use crate::context::{Context, STOP, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json, write_out};
use crate::progress::StatusLine;

#[derive(Debug, Args)]
#[command(
    after_help = "The first reading of an adapter of a new shape trains 60 twins that carry nothing (minutes); they are kept. Readings are kept too."
)]
pub(crate) struct ReadArgs {
    /// Name in the store, PEFT folder, .pt file of Diff Interpretation Tuning, or hub:organisation/name; of several, a line each
    #[arg(required_unless_present = "all")]
    adapter: Vec<String>,
    /// Read all adapters of the store, or those that pass --where, and say how often the verdict names what they carry
    #[arg(long, conflicts_with = "adapter")]
    all: bool,
    /// Only adapters for which this holds, as in `adapter list`
    #[arg(long = "where", value_name = "EXPR", requires = "all")]
    conditions: Vec<String>,
    /// Own prompts in place of the neutral ones, one a line; what is held against twins stays the neutral ones
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Write the reading as a web page to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Read anew what the store keeps a reading of
    #[arg(long)]
    again: bool,
}

/// Longest of a user's own prompts and questions, in characters.
pub(crate) const LONGEST: usize = 4000;
/// Most of them.
const MOST_PROMPTS: usize = 64;

pub(crate) fn run(context: &Context<'_>, args: &ReadArgs) -> Result {
    watch_signals();
    let prompts = args.prompts.as_deref().map(|p| lines_of(p, "prompt")).transpose()?;
    // Names are looked up before a model is loaded.
    let subjects: Vec<Subject> = if args.all {
        all(&context.existing_store()?, &args.conditions)?
            .into_iter()
            .map(|r| Subject { name: r.behaviour.clone(), place: Place::Store(Box::new(r)) })
            .collect()
    } else {
        args.adapter.iter().map(|name| Subject::find(context, name)).collect::<Result<_>>()?
    };
    let many = args.all || subjects.len() > 1;
    let outline = context.outline()?;
    let mut fitting = Vec::new();
    for subject in subjects {
        match subject.fits(&outline) {
            Ok(()) => fitting.push(subject),
            Err(e) if !args.all => return Err(e),
            Err(_) => context.say(&format!("{} is of another base model and is not read", subject.name)),
        }
    }
    let base = context.base()?;
    // One that cannot be read is said before a store is made for its reading.
    let single = match fitting.pop() {
        Some(subject) if !many => Some(read_of(context, &base, subject)?),
        last => {
            fitting.extend(last);
            None
        }
    };
    let store = context.store()?;
    let negatives = negatives(context, &base)?;
    let mut room = Room::open(&store, &base, negatives, prompts)?;
    if room.panel().is_empty() {
        context.say(
            "note: no trained reader for this base model is in the store; make them with: lorafab quickstart",
        );
    }
    let mut readings = Vec::new();
    let mut status = StatusLine::new(context.global.quiet);
    if let Some(read) = single {
        readings.push(one(&store, &mut room, &read, args.again, "", &mut status)?);
    }
    let count = fitting.len();
    for (i, subject) in fitting.into_iter().enumerate() {
        let at = format!("{} of {count}: {}: ", i + 1, subject.name);
        let read = read_of(context, &base, subject)?;
        readings.push(one(&store, &mut room, &read, args.again, &at, &mut status)?);
    }
    status.clear();
    answer(context, args, many, readings)
}

fn answer(context: &Context<'_>, args: &ReadArgs, many: bool, mut readings: Vec<Reading>) -> Result {
    if many {
        let many = Many::of(&readings);
        if let Some(file) = &args.html {
            write_out(file, ::reading::html::many(&many).as_bytes())?;
            context.say(&format!("a page of it: {}", file.display()));
        }
        return if context.global.json {
            print_json(&serde_json::to_value(&many).unwrap_or_default())
        } else {
            print(&many.to_terminal())
        };
    }
    let reading = readings.remove(0);
    if let Some(file) = &args.html {
        write_out(file, ::reading::html::one(&reading).as_bytes())?;
        context.say(&format!("a page of it: {}", file.display()));
    }
    if context.global.json {
        return print_json(&serde_json::to_value(&reading).unwrap_or_default());
    }
    print(&::reading::to_terminal(&reading))
}

/// One reading: the kept one, or a new one, which is kept.
fn one(
    store: &Store,
    room: &mut Room<'_>,
    read: &Read,
    again: bool,
    at: &str,
    status: &mut StatusLine,
) -> Result<Reading> {
    if !again && let Some(known) = kept(store, &room.digest(read))? {
        return Ok(room.fresh(store, read, known)?);
    }
    let reading = room.read(store, read, &STOP, &mut |what, done, of| {
        status.show(|| if of > 0 { format!("{at}{what}, {done} of {of}") } else { format!("{at}{what}") });
    })?;
    keep(store, &reading)?;
    Ok(reading)
}

/// A subject, loaded; what is odd about it is said.
pub(crate) fn read_of(context: &Context<'_>, base: &BaseModel, subject: Subject) -> Result<Read> {
    let held = subject.load(context, base)?;
    if let Some(warning) = &held.warning {
        context.say(&format!("warning: {warning}. If that is another model, this reading means nothing."));
    }
    say_precisions(context, base.precision, held.made_at);
    let record = subject.record().cloned();
    let weights = match (&record, &held.imported) {
        (Some(record), _) => record.weights.clone(),
        (None, Some(imported)) => Digest::of(&imported.weights),
        (None, None) => Digest::of(&held.adapter.to_safetensors()?),
    };
    Ok(Read { name: subject.name, adapter: held.adapter, record, weights })
}

/// Families that twins are trained as, with the settings of this model.
pub(crate) fn negatives(context: &Context<'_>, base: &BaseModel) -> Result<Vec<Recipe>> {
    let wanted = ["benign", "mixed", "dud"];
    let own = recipes::builtin().into_iter().filter(|r| wanted.contains(&r.name.as_str())).collect();
    Settling::new(context, None)?.resolve(base, own)
}

/// The adapters that carry a behaviour, or nothing, and pass the conditions; readers are none.
fn all(store: &Store, conditions: &[String]) -> Result<Vec<AdapterRecord>> {
    let conditions: Vec<String> =
        conditions.iter().cloned().chain(["role = weight_diff".to_owned()]).collect();
    chosen(store, &conditions)
}

/// Lines of a file, each a prompt or a question.
pub(crate) fn lines_of(path: &Path, noun: &str) -> Result<Vec<String>> {
    let text = fence::read_text(path, fence::open::SMALL)?;
    let text = text.trim_start_matches('\u{feff}');
    let prompts: Vec<String> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
    let wrong = |what: String| CommandError::new(Kind::Usage, format!("{}: {what}", path.display()));
    if let Some(long) = prompts.iter().position(|p| p.chars().count() > LONGEST) {
        return Err(wrong(format!("its {noun} {} is longer than {LONGEST} characters", long + 1)));
    }
    match prompts.len() {
        0 => Err(wrong(format!("holds no {noun}")).hint(format!("one {noun} a line"))),
        n if n > MOST_PROMPTS => Err(wrong(format!("holds {n} {noun}s, more than {MOST_PROMPTS}"))),
        _ => Ok(prompts),
    }
}
