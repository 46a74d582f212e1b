//! `dit train|ask`.

use ::compare::{Progress, work::closed_sets};
use ::readers::{Lab, Making, Method, Session, Stage};

use super::readers::{ANSWER_TOKENS, ask, default_arm, describe, supervision};
use crate::args::DitCommand;
use crate::context::{Context, STOP, watch_signals};
use crate::error::Result;
use crate::output::print_result;

pub(crate) fn run(context: &Context<'_>, command: &DitCommand) -> Result {
    match command {
        DitCommand::Train(args) => {
            watch_signals();
            let base = context.base()?;
            let mut store = context.store()?;
            let s = supervision(&store, &base, &args.family, args.seed)?;
            context.say(&describe(&s));
            let mut arm = default_arm("dit")?;
            arm.train.steps = args.steps.unwrap_or(arm.train.steps);
            arm.check(&base)?;
            let sets = closed_sets(&s)?;
            let lab = Lab { base: &base, supervision: &s, sets: &sets, seed: args.seed, stop: &STOP };
            let mut say = |line: String| context.say(&line);
            let mut progress = Progress::new("dit", &mut say);
            let making = Making {
                arm: &arm,
                seed: args.seed,
                stage: Stage::Train,
                before: None,
                session: Session::alone(&STOP),
            };
            let reader = dit::DitMethod.fit(&mut store, lab, making, &mut |e| progress.tell(&e))?;
            print_result(context.global.json, "reader/1", "id", &reader.record.id)
        }
        DitCommand::Ask(args) => {
            ask(context, args, &["dit", "dit-imported"], |_, base, reader, diff, question| {
                let diff = diff.scaled(dit::diff_scale(reader).unwrap_or(1.0));
                Ok(dit::ask(base, Some(&diff), &reader.adapter, question, ANSWER_TOKENS)?)
            })
        }
    }
}
