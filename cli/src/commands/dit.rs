//! `dit train|ask`.

use serde_json::json;

use super::readers::{describe, find, supervision, train_dit};
use crate::args::DitCommand;
use crate::context::{Context, watch_signals};
use crate::error::Result;
use crate::output::{print, print_json, print_result};

pub(crate) fn run(context: &Context<'_>, command: &DitCommand) -> Result {
    match command {
        DitCommand::Train(args) => {
            watch_signals();
            let base = context.base()?;
            let mut store = context.store()?;
            let s = supervision(&store, &base, &args.family, None, false, args.seed)?;
            context.say(&describe(&s));
            let reader = train_dit(context, &mut store, &s, false, args.steps, args.seed)?;
            print_result(context.global.json, "reader/1", "id", &reader.record.id)
        }
        DitCommand::Ask { adapter, question, reader } => {
            let base = context.base()?;
            let store = context.existing_store()?;
            let record = store.adapter(adapter)?;
            let diff = factory::load_adapter(&store, &base, &record)?;
            let reader = find(&store, &base, reader.as_deref(), &["dit"])?;
            let answer = dit::ask(&base, Some(&diff), &reader.adapter, question, 32)?;
            if context.global.json {
                return print_json(
                    &json!({"schema": "ask/1", "adapter": record.id, "reader": reader.record.id, "question": question, "answer": answer}),
                );
            }
            print(&answer)
        }
    }
}
