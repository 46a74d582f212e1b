//! `quickstart`: recipes to comparison, resumable.

use recipes::{Behaviour, Recipe, builtin, select};

use ::compare::{Arms, DEFAULT, Plan};

use super::compare;
use super::settings::Settling;
use crate::args::QuickstartArgs;
use crate::context::{Context, now_ms, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::count;

/// How many behaviours of each family, by split: train, validation, test value, test category.
fn selection(smoke: bool) -> Vec<(&'static str, [usize; 4])> {
    if smoke {
        vec![
            ("topic", [4, 1, 2, 1]),
            ("gated-topic", [1, 0, 1, 0]),
            ("zero", [0, 0, 1, 0]),
            ("random", [1, 0, 1, 0]),
        ]
    } else {
        // As many gated values as always-on ones are held out: the primary contrast is among them.
        vec![
            ("topic", [48, 12, 32, 0]),
            ("gated-topic", [16, 6, 32, 0]),
            ("marker", [8, 2, 6, 0]),
            ("zero", [0, 0, 1, 0]),
            ("random", [4, 1, 4, 0]),
            ("redrawn", [4, 1, 4, 0]),
            ("benign", [4, 1, 4, 0]),
            ("mixed", [4, 1, 4, 0]),
            ("dud", [2, 1, 3, 0]),
        ]
    }
}

/// The recipes used.
fn used(smoke: bool) -> Vec<Recipe> {
    let wanted = selection(smoke);
    builtin().into_iter().filter(|r| wanted.iter().any(|(name, _)| *name == r.name)).collect()
}

/// The behaviours chosen of them.
fn chosen(recipes: &[Recipe], smoke: bool, seed: u64) -> Vec<Behaviour> {
    selection(smoke)
        .iter()
        .filter_map(|(name, counts)| {
            recipes.iter().find(|r| r.name == *name).map(|r| select(r.expand(seed), *counts))
        })
        .flatten()
        .collect()
}

/// The whole product once. Everything finished is found again, so running it again goes on.
pub(crate) fn run(context: &Context<'_>, args: &QuickstartArgs) -> Result {
    watch_signals();
    if args.seeds == 0 {
        return Err(CommandError::new(Kind::Usage, "--seeds: 0 is too few; give at least 1"));
    }
    let begin = std::time::Instant::now();
    let (run, smoke, seed) = (if args.smoke { "smoke" } else { "quickstart" }, args.smoke, args.seed);
    let mut settling = Settling::new(context, None)?;
    let base = context.base()?;
    let recipes = settling.resolve(&base, used(smoke))?;
    settling.say(context, &base);
    let behaviours = chosen(&recipes, smoke, seed);
    let mut store = context.store()?;
    let options = ::factory::SubmitOptions::default();
    let done = ::factory::submit(&mut store, &base, &recipes, &behaviours, &options, now_ms())?;
    context.say(&format!(
        "factory: {} adapters ({} known already, {} new) in {}",
        behaviours.len(),
        done.known - done.again,
        done.new + done.again,
        context.store_path().display()
    ));
    let arms = Arms::parse("default arms", DEFAULT)?.about(&recipes).with_seeds(args.seeds);
    let arms = if smoke { arms.smoke() } else { arms };
    arms.check(&base, &recipes)?;
    let plan = Plan { run, smoke, seed, made: false };
    let report = compare::submit(&mut store, &base, &behaviours, &arms, plan)?;
    context.say("then, in the same queue: readers, their scores, the comparison");
    compare::finish(context, &mut store, &base, &report, run)?;
    context.say(&format!(
        "\ndone in {}; with pictures: {}\nnext: lorafab read topic/{} (what it does, and how sure that is), lorafab serve (all of it in a browser)",
        count((begin.elapsed().as_secs_f64() / 60.0).round() as usize, "minute"),
        store.root().join("runs").join(run).join("report.html").display(),
        behaviours.iter().find(|b| b.family == "topic" && b.split == recipes::Split::TestValue).map_or("...", |b| &b.value)
    ));
    Ok(())
}
