//! `oracle pretrain|posttrain|ask`.

use serde_json::json;

use super::readers::{describe, find, posttrain, pretrain, supervision};
use crate::args::OracleCommand;
use crate::context::{Context, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json, print_result};

pub(crate) fn run(context: &Context<'_>, command: &OracleCommand) -> Result {
    match command {
        OracleCommand::Pretrain { corpus, steps, seed } => {
            watch_signals();
            let texts = corpus.as_ref().map(|path| -> Result<Vec<String>> {
                let text = fs_err::read_to_string(path)?;
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
            });
            let texts = texts.transpose()?;
            let base = context.base()?;
            let reader = pretrain(context, &mut context.store()?, &base, texts, false, *steps, *seed)?;
            print_result(context.global.json, "reader/1", "id", &reader.record.id)
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
            let s = supervision(&store, &base, &args.family, None, false, args.seed)?;
            context.say(&describe(&s));
            let reader = posttrain(context, &mut store, &s, start.as_ref(), false, args.steps, args.seed)?;
            print_result(context.global.json, "reader/1", "id", &reader.record.id)
        }
        OracleCommand::Ask { adapter, question, reader } => {
            let base = context.base()?;
            let store = context.existing_store()?;
            let record = store.adapter(adapter)?;
            let diff = factory::load_adapter(&store, &base, &record)?;
            let reader = find(&store, &base, reader.as_deref(), &["oracle-posttrained", "oracle-scratch"])?;
            let oracle = reader.oracle()?;
            let answer = oracle_posttrain::ask(&base, oracle.collector, &diff, oracle.adapter, question, 32)?;
            if context.global.json {
                return print_json(
                    &json!({"schema": "ask/1", "adapter": record.id, "reader": reader.record.id, "question": question, "answer": answer}),
                );
            }
            print(&answer)
        }
    }
}
