//! `oracle pretrain|posttrain|ask`.

use std::path::Path;

use ::compare::{Progress, work::closed_sets};
use ::readers::{Lab, Making, Method, Session, Stage, Supervision};
use lm::BaseModel;
use oracle_posttrain::{OracleMethod, lens_of_reader};
use registry::Store;

use super::intervention::hold_question_to_cap;
use super::readers::{ANSWER_TOKENS, ask, default_arm, describe, find, supervision};
use crate::args::OracleCommand;
use crate::context::{Context, STOP, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::print_result;

pub(crate) fn run(context: &Context<'_>, command: &OracleCommand) -> Result {
    match command {
        OracleCommand::Pretrain { corpus, steps, seed } => {
            watch_signals();
            let texts = corpus.as_deref().map(paragraphs).transpose()?;
            let base = context.base()?;
            let mut store = context.store()?;
            let mut arm = default_arm("oracle-prompts")?;
            arm.pretrain.texts = texts.unwrap_or_default();
            arm.pretrain.steps = steps.unwrap_or(arm.pretrain.steps);
            arm.check(&base)?;
            // Needs no adapters: what it may not name are the values of the recipes that come with lorafab or are known here.
            let s = Supervision::of_none(&store, &base)?;
            train(context, &mut store, &base, &s, &arm, *seed, None, "oracle pretrain")
        }
        OracleCommand::Posttrain { reader: args, from, scratch } => {
            watch_signals();
            let base = context.base()?;
            let mut store = context.store()?;
            let start = if *scratch {
                None
            } else {
                Some(find(&store, &base, from.as_deref(), &["oracle-pretrained"])?)
            };
            let s = supervision(&store, &base, &args.family, args.seed)?;
            context.say(&describe(&s));
            let mut arm = default_arm(if *scratch { "oracle-scratch" } else { "oracle-prompts-post" })?;
            arm.train.steps = args.steps.unwrap_or(arm.train.steps);
            arm.check(&base)?;
            train(context, &mut store, &base, &s, &arm, args.seed, start.as_ref(), "oracle")
        }
        OracleCommand::Ask { ask: args, cap } => {
            let families = ["oracle-posttrained", "oracle-scratch", "oracle-imported"];
            ask(context, args, &families, |store, base, reader, diff, question| {
                let record = store.adapter(&args.adapter)?;
                hold_question_to_cap(store, base, &record, reader, question, cap.cap())?;
                let lens = lens_of_reader(store, base, reader)?;
                Ok(oracle_posttrain::ask(base, &lens, diff, &reader.adapter, question, ANSWER_TOKENS)?)
            })
        }
    }
}

fn train(
    context: &Context<'_>,
    store: &mut Store,
    base: &BaseModel,
    s: &Supervision<'_>,
    arm: &::readers::Arm,
    seed: u64,
    before: Option<&::readers::Reader>,
    what: &str,
) -> Result {
    let sets = closed_sets(s)?;
    let lab = Lab { base, supervision: s, sets: &sets, seed, stop: &STOP };
    let pretraining = arm.which() == ::readers::Which::Pretrained;
    let stage = if pretraining { Stage::Pretrain } else { Stage::Train };
    let mut say = |line: String| context.say(&line);
    let mut progress = Progress::new(what, &mut say);
    let making = Making { arm, seed, stage, before, session: Session::alone(&STOP) };
    let reader = OracleMethod.fit(store, lab, making, &mut |e| progress.tell(&e))?;
    print_result(context.global.json, "reader/1", "id", &reader.record.id)
}

/// Paragraphs of a text, parted by empty lines, of 80 characters or more.
fn paragraphs(path: &Path) -> Result<Vec<String>> {
    let text = fence::read_text(path, fence::open::TABLE)?;
    let paragraphs: Vec<String> = text
        .split("\n\n")
        .map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|p| p.len() > 80)
        .collect();
    if paragraphs.is_empty() {
        return Err(CommandError::new(
            Kind::Usage,
            format!("{}: no paragraph of 80 characters or more", path.display()),
        )
        .hint("paragraphs are separated by empty lines"));
    }
    Ok(paragraphs)
}
