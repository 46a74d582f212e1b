//! `oracle pretrain|posttrain|ask`.

use compare::Oracle;
use compare::readers::Session;

use super::readers::{ANSWER_TOKENS, ask, describe, find, posttrain, pretrain, supervision};
use crate::args::OracleCommand;
use crate::context::{Context, STOP, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::print_result;

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
            let reader = pretrain(
                context,
                &mut context.store()?,
                &base,
                texts,
                false,
                *steps,
                *seed,
                Session::alone(&STOP),
            )?;
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
            let reader = posttrain(
                context,
                &mut store,
                &s,
                start.as_ref(),
                false,
                args.steps,
                args.seed,
                Session::alone(&STOP),
            )?;
            print_result(context.global.json, "reader/1", "id", &reader.record.id)
        }
        OracleCommand::Ask(args) => {
            ask(context, args, &["oracle-posttrained", "oracle-scratch"], |base, reader, diff, question| {
                let Oracle { adapter, lens } = reader.oracle()?;
                Ok(oracle_posttrain::ask(base, lens, diff, adapter, question, ANSWER_TOKENS)?)
            })
        }
    }
}
