//! `dit train|ask`.

use compare::readers::Session;

use super::readers::{ANSWER_TOKENS, ask, describe, supervision, train_dit};
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
            let s = supervision(&store, &base, &args.family, None, false, args.seed)?;
            context.say(&describe(&s));
            let reader =
                train_dit(context, &mut store, &s, false, args.steps, args.seed, Session::alone(&STOP))?;
            print_result(context.global.json, "reader/1", "id", &reader.record.id)
        }
        DitCommand::Ask(args) => ask(context, args, &["dit"], |base, reader, diff, question| {
            Ok(dit::ask(base, Some(diff), &reader.adapter, question, ANSWER_TOKENS)?)
        }),
    }
}
