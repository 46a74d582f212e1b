//! `recipe tune`: finds the training settings of a recipe on a base model, and files them for `factory submit`.

use factory::settings::{Shelf, file, place_of};
use factory::tune::{Axes, Event, Options, Outcome, Search, Setting, Trial};
use lm::Outline;
use serde_json::{Value, json};

use super::recipe;
use crate::args::TuneArgs;
use crate::context::{Context, STOP, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::output::{count, print, print_json, table};
use crate::progress::{StatusLine, minutes};

pub(super) fn run(context: &Context<'_>, args: &TuneArgs) -> Result {
    let recipe = recipe::load(&args.recipe)?;
    let options = Options {
        behaviours: args.behaviours,
        seed: args.seed,
        pack: args.pack,
        axes: Axes {
            learning_rates: args.learning_rate.clone(),
            steps: args.steps.clone(),
            rows: args.rows.clone(),
        },
        around: !args.coarse,
        max_flops: args.max_tflop * 1e12,
        also: args.also.iter().map(|r| recipe::load(r)).collect::<Result<_>>()?,
    };
    let outline = context.outline()?;
    let search = Search::new(&outline, &recipe, &options)?;
    if args.dry_run {
        return plan(context, &outline, &search);
    }
    watch_signals();
    let store = context.store()?;
    let together: Vec<_> = std::iter::once(&recipe).chain(&options.also).collect();
    let place = place_of(store.root(), &outline, &recipe.name);
    Shelf::open(store.root())?.check_filing(&place, &outline, &together)?;
    let base = context.base()?;
    if search.behaviours.len() < args.behaviours {
        context.say(&format!(
            "warning: {} has {} in its validation split, not {}",
            recipe.name,
            count(search.behaviours.len(), "behaviour"),
            args.behaviours
        ));
    }
    let mut line = StatusLine::new(context.global.quiet);
    let outcome = search.run(&store, &base, &STOP, &mut |event| show(context, &mut line, event))?;
    line.clear();
    drop(line);
    let when = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let settings = search.file(&base, &outcome, &when, env!("CARGO_PKG_VERSION"));
    let before = place.exists();
    let filed = settings.as_ref().map(|s| file(store.root(), &base, s)).transpose()?;
    let filed = filed.map(|path| path.display().to_string());
    if context.global.json {
        let trials: Vec<Value> = outcome.trials.iter().map(|t| trial_json(&search, t)).collect();
        print_json(
            &json!({"schema": "recipe-tune/1", "recipe": recipe.name, "version": recipe.version, "model": base.placeless_name(),
            "seed": args.seed, "behaviours": search.behaviours.iter().map(|b| &b.id).collect::<Vec<_>>(),
            "trials": trials, "chosen": outcome.chosen, "stopped": outcome.stopped, "settings_file": filed}),
        )?;
    } else if !outcome.trials.is_empty() {
        print(&shown(&search, &outcome))?;
    }
    if outcome.stopped {
        return Err(CommandError::new(
            Kind::Interrupted,
            "stopped before all settings were tried; what was tried is remembered",
        )
        .hint("run the same command again to go on"));
    }
    let (Some(path), Some(chosen)) = (filed, outcome.chosen) else {
        return Err(CommandError::new(
            Kind::Negative,
            format!(
                "no setting was learned by any of {} of {}; no settings were written",
                count(search.behaviours.len(), "behaviour"),
                recipe.name
            ),
        )
        .hint("try others: --learning-rate, --steps, --rows (see how far the gate came in the table)"));
    };
    let chosen = &outcome.trials[chosen];
    if 2 * chosen.figures.learned < search.behaviours.len() {
        context.say(&format!(
            "warning: even the best setting was learned by {} of {} only; others may do better: --learning-rate, --steps, --rows",
            chosen.figures.learned,
            count(search.behaviours.len(), "behaviour")
        ));
    }
    if let Some(edge) = edge(&outcome, chosen) {
        context
            .say(&format!("the chosen rate is the {edge} that was tried: try further with --learning-rate"));
    }
    let again = if before { ", in place of earlier ones" } else { "" };
    context.say(&format!(
        "settings of {} on {} are written to {path}{again}\nnext: lorafab factory submit {}",
        recipe.name,
        base.placeless_name(),
        args.recipe
    ));
    Ok(())
}

/// Whether the chosen rate lies at an end of those that were tried.
fn edge(outcome: &Outcome, chosen: &Trial) -> Option<&'static str> {
    let rate = chosen.setting.learning_rate;
    let others = || outcome.trials.iter().map(|t| t.setting.learning_rate).filter(|r| *r != rate);
    if others().next().is_none() {
        None
    } else if others().all(|r| r > rate) {
        Some("lowest")
    } else if others().all(|r| r < rate) {
        Some("highest")
    } else {
        None
    }
}

fn show(context: &Context<'_>, line: &mut StatusLine, event: &Event<'_>) {
    match event {
        Event::Step { setting, number, of, step, loss, tokens_per_sec, seconds_left } => line.show(|| {
            format!(
                "setting {number}/{of} ({})  step {step}/{}  loss {loss:.3}  {tokens_per_sec:.0} tok/s  eta {}",
                named(setting),
                setting.steps,
                minutes(*seconds_left)
            )
        }),
        Event::Tried { trial, number, of, known } => {
            line.clear();
            let f = &trial.figures;
            let known = if *known { " (tried before)" } else { "" };
            context.say(&format!(
                "setting {number}/{of} ({}): {}/{} learned, gate {:.2}{known}",
                named(&trial.setting),
                f.learned,
                f.behaviours,
                f.gate
            ));
        }
    }
}

fn named(setting: &Setting) -> String {
    format!("rate {}, {}, rows {}", setting.learning_rate, count(setting.steps, "step"), rows(setting))
}

/// Rows of a step: with the behaviour, near, off.
fn rows(setting: &Setting) -> String {
    match (setting.near_rows, setting.off_rows) {
        (0, 0) => setting.on_rows.to_string(),
        (near, off) => format!("{}+{near}+{off}", setting.on_rows),
    }
}

/// Whether a setting is the recipe's own.
fn is_own(search: &Search, setting: &Setting) -> bool {
    search.recipe.training.as_ref().is_some_and(|t| Setting::of(t) == *setting)
}

fn shown(search: &Search, outcome: &Outcome) -> String {
    let nats = outcome.trials.iter().any(|t| t.figures.leak_nats.is_some());
    let or_dash = |x: Option<f64>| x.map_or("–".to_owned(), |x| format!("{x:.2}"));
    let mut header = vec!["", ">rate", ">steps", ">rows", ">learned", ">gate", ">leak"];
    if nats {
        header.push(">leak nats");
    }
    header.extend([">damage", ">tokens", ">seconds"]);
    let line = |(i, t): (usize, &Trial)| {
        let (s, f) = (&t.setting, &t.figures);
        let mark = match (outcome.chosen == Some(i), is_own(search, s)) {
            (true, true) => "* own",
            (true, false) => "*",
            (false, true) => "own",
            (false, false) => "",
        };
        let mut row = vec![
            mark.to_owned(),
            s.learning_rate.to_string(),
            s.steps.to_string(),
            rows(s),
            format!("{}/{}", f.learned, f.behaviours),
            format!("{:.2}", f.gate),
            or_dash(f.leak),
        ];
        if nats {
            row.push(or_dash(f.leak_nats));
        }
        row.extend([or_dash(f.damage), format!("{:.0}", f.tokens), format!("{:.2}", f.seconds)]);
        row
    };
    let lines: Vec<Vec<String>> = outcome.trials.iter().enumerate().map(line).collect();
    let mut out = vec![table(&header, &lines)];
    let broken: usize = outcome.trials.iter().map(|t| t.figures.broken).sum();
    if broken > 0 {
        out.push(format!("{} went wrong (a loss that is no number)", count(broken, "training")));
    }
    let floor = outcome.trials.iter().map(|t| t.figures.floor).fold(0.0, f64::max);
    out.push(format!(
        "own: the recipe's; gate: replies that show the behaviour (without an adapter {floor:.2}); damage: KL to the base in nats a token; tokens, seconds: of one adapter"
    ));
    if outcome.chosen.is_some() {
        out.push("* chosen: learned by most (one fewer counts the same), then least leak (within .15), least damage, fewest tokens".into());
    }
    out.join("\n")
}

fn trial_json(search: &Search, trial: &Trial) -> Value {
    let f = &trial.figures;
    json!({"setting": trial.setting, "own": is_own(search, &trial.setting), "learned": f.learned, "behaviours": f.behaviours,
        "learned_share": f.learned as f64 / f.behaviours.max(1) as f64, "broken": f.broken, "gate": f.gate, "floor": f.floor,
        "leak": f.leak, "leak_nats": f.leak_nats, "damage_nats_per_token": f.damage, "tokens_per_adapter": f.tokens,
        "seconds_per_adapter": f.seconds})
}

/// What would be tried and what it costs at most; nothing is written.
fn plan(context: &Context<'_>, outline: &Outline, search: &Search) -> Result {
    let n = search.behaviours.len();
    let costs = search.coarse.iter().map(|s| search.cost(outline, s)).collect::<factory::Result<Vec<_>>>()?;
    let sum = |f: &dyn Fn(&factory::StaticCost) -> f64| costs.iter().map(f).sum::<f64>() * n as f64;
    let (tokens, flops) = (sum(&|c| c.train_tokens), sum(&|c| c.flops));
    let further = search.further();
    // Around the costliest setting, moved up.
    let dearest = costs.iter().map(|c| c.flops).fold(0.0, f64::max) * (further * n) as f64 * 2.0;
    let rate = if context.has_catalogue() {
        factory::plan::seconds_per_token(&context.store()?, Some(&outline.digest()))?
    } else {
        0.0
    };
    let seconds = (rate > 0.0).then_some(tokens * rate);
    if context.global.json {
        let settings: Vec<Value> = search
            .coarse
            .iter()
            .zip(&costs)
            .map(|(s, c)| json!({"setting": s, "own": is_own(search, s), "cost_per_adapter": c}))
            .collect();
        return print_json(
            &json!({"schema": "recipe-tune-plan/1", "recipe": search.recipe.name, "model": outline.placeless_name(),
            "behaviours": search.behaviours.iter().map(|b| &b.id).collect::<Vec<_>>(), "coarse": settings,
            "coarse_tokens": tokens, "coarse_flops": flops, "coarse_seconds": seconds,
            "further_settings": further, "further_flops": dearest}),
        );
    }
    let rows: Vec<Vec<String>> = search
        .coarse
        .iter()
        .zip(&costs)
        .map(|(s, c)| {
            vec![
                if is_own(search, s) { "own".into() } else { String::new() },
                s.learning_rate.to_string(),
                s.steps.to_string(),
                rows(s),
                format!("{:.0}", c.train_tokens),
                format!("{:.2}", c.flops / 1e12),
            ]
        })
        .collect();
    let mut out = vec![table(&["", ">rate", ">steps", ">rows", ">tokens", ">TFLOP"], &rows)];
    out.push("tokens, TFLOP: of one adapter, at most".into());
    let time = seconds
        .map_or("nobody knows for how long: no adapter of this model is finished here".into(), |s| {
            format!("{} at the rate of finished adapters", minutes(s))
        });
    out.push(format!(
        "{} x {} = {}, {:.1} TFLOP at most; {time}",
        count(search.coarse.len(), "setting"),
        count(n, "behaviour"),
        count(search.coarse.len() * n, "adapter"),
        flops / 1e12
    ));
    if further > 0 {
        out.push(format!(
            "then at most {further} around the best: {}, {:.1} TFLOP at most",
            count(further * n, "adapter"),
            dearest / 1e12
        ));
    }
    out.push("nothing was tried or written".into());
    print(&out.join("\n"))
}
