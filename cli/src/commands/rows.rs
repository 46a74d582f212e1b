//! `recipe rows`: what an adapter of a recipe is trained on, before one is trained.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use factory::samples::sample;
use recipes::{Behaviour, RowLoss, RowPart, SampleRequest, Split, TrainingRow};
use serde_json::json;

use super::recipe::load;
use crate::args::at_least_one;
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json, table};

#[derive(Debug, Args)]
#[command(
    after_help = "The rows are those that `factory run` trains on: with replies of the base model where the recipe wants some (loaded only then), those left out that do not show the behaviour.\nwhere: on (shows it), near (after a near miss of the trigger), off (must not show). learned by: ce, cross-entropy on the reply; kl, KL from the base model's distribution there.\nWith `prompts_per_step`, replies meet other prompts of their kind in training."
)]
pub(crate) struct RowsArgs {
    /// Name or file
    recipe: String,
    /// Value whose rows are wanted; none: the first of the training split
    value: Option<String>,
    /// Master seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// First N rows of each kind only
    #[arg(short = 'n', long, value_parser = at_least_one)]
    limit: Option<usize>,
}

pub(super) fn run(context: &Context<'_>, args: &RowsArgs) -> Result {
    let behaviour = wanted(args)?;
    let requests: BTreeSet<SampleRequest> = behaviour.sample_requests().into_iter().collect();
    let mut samples = BTreeMap::new();
    if !requests.is_empty() {
        let store = context.has_catalogue().then(|| context.store()).transpose()?;
        samples = sample(store.as_ref(), &context.base()?, &requests)?;
    }
    let rows = behaviour.rows(&samples)?;
    let of = |part: RowPart| rows.iter().filter(move |r| r.part == part);
    let parts = [RowPart::On, RowPart::Near, RowPart::Off];
    let most = args.limit.unwrap_or(usize::MAX);
    let shown: Vec<&TrainingRow> = parts.into_iter().flat_map(|p| of(p).take(most)).collect();
    if context.global.json {
        return print_json(&json!({"schema": "recipe-rows/1", "behaviour": behaviour.id, "rows": shown,
            "counts": {"on": of(RowPart::On).count(), "near": of(RowPart::Near).count(), "off": of(RowPart::Off).count()}}));
    }
    let cells: Vec<Vec<String>> = shown
        .iter()
        .map(|r| {
            let loss = match r.loss {
                RowLoss::Ce => "ce",
                RowLoss::KlToBase => "kl",
            };
            let prompt = fence::turns::in_line(&r.prompt);
            vec![part(r.part).to_owned(), loss.to_owned(), prompt, r.completion.replace('\n', " ")]
        })
        .collect();
    let counts: Vec<String> = parts.map(|p| format!("{} {}", of(p).count(), part(p))).into();
    let head = format!("{}: {} rows ({})", behaviour.id, rows.len(), counts.join(", "));
    if rows.is_empty() {
        // What carries nothing and is not trained has none.
        return print(&head);
    }
    print(&format!("{head}\n{}", table(&["where", "learned by", "prompt", "reply"], &cells)))
}

fn part(part: RowPart) -> &'static str {
    match part {
        RowPart::On => "on",
        RowPart::Near => "near",
        RowPart::Off => "off",
    }
}

/// The behaviour of that value, or the first of the training split.
fn wanted(args: &RowsArgs) -> Result<Behaviour> {
    let mut all = load(&args.recipe)?.expand(args.seed);
    let at = match &args.value {
        Some(value) => {
            let short = |b: &Behaviour| b.id.split_once('/').is_some_and(|(_, short)| short == value);
            all.iter().position(|b| b.value == *value || b.id == *value || short(b))
        }
        None => all.iter().position(|b| b.split == Split::Train).or((!all.is_empty()).then_some(0)),
    };
    match at {
        Some(at) => Ok(all.swap_remove(at)),
        None => Err(CommandError::new(
            Kind::NotFound,
            format!("{} has no value {:?}", args.recipe, args.value.as_deref().unwrap_or_default()),
        )
        .hint(format!("list them: lorafab recipe expand {}", args.recipe))),
    }
}
