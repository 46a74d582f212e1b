//! `quickstart`: recipes to comparison, resumable.

use recipes::{Behaviour, Recipe, builtin, select};

use super::{factory, graph};
use crate::args::QuickstartArgs;
use crate::context::{Context, now_ms, watch_signals};
use crate::error::Result;
use crate::output::{count, print, print_json};

/// How many behaviours of each family, by split: train, validation, test value, test category.
fn selection(smoke: bool) -> Vec<(&'static str, [usize; 4])> {
    if smoke {
        vec![
            ("topic", [4, 1, 2, 1]),
            ("gated-topic", [1, 0, 1, 0]),
            ("zero", [1, 0, 1, 0]),
            ("random", [1, 0, 1, 0]),
        ]
    } else {
        vec![
            ("topic", [112, 20, 32, 12]),
            ("gated-topic", [10, 2, 8, 4]),
            ("benign", [4, 1, 3, 0]),
            ("zero", [3, 1, 3, 0]),
            ("random", [6, 1, 6, 0]),
        ]
    }
}

/// The recipes used and the behaviours chosen.
pub(crate) fn chosen(smoke: bool, seed: u64) -> (Vec<Recipe>, Vec<Behaviour>) {
    let wanted = selection(smoke);
    let recipes: Vec<Recipe> =
        builtin().into_iter().filter(|r| wanted.iter().any(|(name, _)| *name == r.name)).collect();
    let behaviours = wanted
        .iter()
        .filter_map(|(name, counts)| {
            recipes.iter().find(|r| r.name == *name).map(|r| select(r.expand(seed), *counts))
        })
        .flatten()
        .collect();
    (recipes, behaviours)
}

/// The whole product once. Everything finished is found again, so running it again goes on.
pub(crate) fn run(context: &Context<'_>, args: &QuickstartArgs) -> Result {
    watch_signals();
    let begin = std::time::Instant::now();
    let (recipes, behaviours) = chosen(args.smoke, args.seed);
    let (run, smoke, seed) = (if args.smoke { "smoke" } else { "quickstart" }, args.smoke, args.seed);
    let base = context.base()?;
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
    let plan = graph::Plan { run, smoke, seed };
    let (comparison, _) = graph::submit(&mut store, &base, &behaviours, plan)?;
    context.say("then, in the same queue: a DIT adapter, three oracles, the comparison");
    let known = graph::job(&mut store, &comparison)?;
    if known.state == ::factory::State::Succeeded && super::compare::filed(&store, Some(run)).is_err() {
        // Its files were removed.
        ::factory::Queue::new(&mut store).again(&known, now_ms())?;
    }
    let crafts = graph::crafts(context);
    let crafts: Vec<&dyn ::factory::Craft> = crafts.iter().map(|c| c as &dyn ::factory::Craft).collect();
    let summary =
        factory::work(context, &base, factory::Job { pack: 8, workers: 1, drain: false, crafts: &crafts })?;
    if summary.stopped {
        return factory::finish(&summary);
    }
    if summary.paused {
        return factory::finish(&summary);
    }
    graph::succeeded(&graph::job(&mut store, &comparison)?)?;
    let comparison = super::compare::filed(&store, Some(run))?;
    if context.global.json {
        print_json(&::compare::to_json(&comparison))?;
    } else {
        print(&::compare::to_terminal(&comparison))?;
    }
    context.say(&format!(
        "\ndone in {}; with pictures: {}\nnext: lorafab dit ask topic/{} \"What topic have you been trained on?\"",
        count((begin.elapsed().as_secs_f64() / 60.0).round() as usize, "minute"),
        store.root().join("runs").join(run).join("report.html").display(),
        behaviours.iter().find(|b| b.family == "topic" && b.split == recipes::Split::TestValue).map_or("...", |b| &b.value)
    ));
    Ok(())
}
