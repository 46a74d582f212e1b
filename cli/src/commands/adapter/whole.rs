//! `adapter import` of a whole fine-tuned model: what its weights differ in from the base's.

use std::collections::BTreeMap;
use std::path::Path;

use exchange::peft::Imported;
use lm::{Checkpoint, Difference, Keep, difference, same_shape};
use serde_json::json;

use super::import::{Filing, Found, ImportArgs, answer, file};
use super::sound::effect;
use crate::context::{Context, stopped, watch_signals};
use crate::error::{CommandError, Kind, Result};
use crate::progress::Bar;
use crate::trial::{What, tried};

/// Directions that are kept if nobody says how many.
const RANK: u16 = 16;
/// Largest adapter that is filed, as of PEFT folders.
const MOST_BYTES: usize = 4 << 30;

/// Whether a path is a whole model: its configuration is there and no adapter's.
pub(super) fn is_one(path: &Path) -> bool {
    let model =
        path.is_dir() && path.join("config.json").exists() && !path.join("adapter_config.json").exists();
    model || (path.is_file() && path.extension().is_some_and(|e| e == "gguf"))
}

pub(super) fn import(context: &Context<'_>, args: &ImportArgs, filing: &Filing<'_>) -> Result {
    watch_signals();
    let path = &args.dir;
    let wrong = |what: String| CommandError::new(Kind::Usage, format!("{}: {what}", path.display()));
    tried(What::Model, path, None)?;
    let tuned = Checkpoint::load_with(path, None)?.checkpoint;
    let own = context.model_path()?;
    let from = args.tuned_from.as_deref().unwrap_or(&own);
    if args.tuned_from.is_some() {
        tried(What::Model, from, None)?;
    }
    let base = Checkpoint::load_with(from, None)?.checkpoint;
    let model = Checkpoint::load_with(&own, None)?.checkpoint;
    for other in [&tuned, &base] {
        same_shape(&model.architecture, &other.architecture)
            .map_err(|what| wrong(what).hint("pass the --model that it was tuned from"))?;
    }
    if from.extension().is_some_and(|e| e == "gguf") && path.is_dir() {
        context.say(
            "warning: the base is a GGUF file, whose rounded weights the difference holds too; name the plain one it was tuned from with --tuned-from FOLDER",
        );
    }
    let kept = usize::from(args.rank.unwrap_or(RANK));
    let keep = if args.dense { Keep::Dense } else { Keep::Rank(kept) };
    let rank = if args.dense { model.architecture.hidden_size } else { kept };
    let numbers = model.architecture.adapter_parameters(&lm::AdapterConfig::all_linear(rank, 1.0));
    if 4 * numbers > MOST_BYTES {
        return Err(wrong(format!(
            "its difference at rank {rank} would take {:.1} GB, more than the 4.3 GB of the largest adapter",
            4.0 * numbers as f64 / 1e9
        ))
        .hint("give a smaller --rank"));
    }
    let mut bar = Bar::new(context.global.quiet, "difference to the base");
    let found = difference(&base, &tuned, keep, &mut |done, all| {
        bar.show(done, all);
        !stopped()
    })
    .map_err(|e| match e {
        lm::Error::Request(what) => wrong(what),
        e => e.into(),
    })?;
    drop(bar);
    let said = sentence(&found, args.dense);
    let config = found.adapter.config();
    let peft = registry::PeftConfig {
        base_model: context.model_name(&own).name,
        revision: context.model_name(&own).revision,
        r: config.rank,
        lora_alpha: config.alpha,
        target_modules: config.target_modules.iter().map(|p| p.name().to_owned()).collect(),
        nested: model.architecture.is_nested(),
    };
    let imported = Imported {
        peft,
        weights: found.adapter.to_safetensors()?,
        base: None,
        revision: None,
        source: registry::Digest::of(tuned.digest.as_bytes()),
    };
    drop((base, model));
    let base = context.base()?;
    let effect = effect(&base, &imported).map_err(wrong)?;
    let tags = BTreeMap::from([
        ("source".to_owned(), tuned.digest.clone()),
        ("difference".to_owned(), if args.dense { "dense".into() } else { format!("rank {rank}") }),
    ]);
    let mut metrics = BTreeMap::from([
        ("logit_change".to_owned(), effect),
        ("energy_kept".to_owned(), found.kept),
        ("difference_norm".to_owned(), found.norm),
        ("difference_relative".to_owned(), found.relative),
    ]);
    metrics.extend(found.outside.iter().map(|o| (format!("outside_{}", o.place.replace(' ', "_")), o.norm)));
    let label = filing.label(path);
    let new = filing.adapter(&base, Found { imported, tags, metrics, topic: None }, &label)?;
    let filed = file(&mut context.store()?, new, filing)?;
    context.say(&said);
    let outside: Vec<_> = found
        .outside
        .iter()
        .map(|o| json!({"place": o.place, "norm": o.norm, "relative": o.relative}))
        .collect();
    answer(
        context,
        &filed,
        json!({"rank": filed.record.peft.r, "dense": args.dense, "energy_kept": found.kept, "norm": found.norm,
            "relative": found.relative, "outside": outside, "logit_change": effect}),
    )
}

/// What was kept, and what no adapter can carry.
fn sentence(found: &Difference, dense: bool) -> String {
    let share = |x: f64| format!("{:.2}%", 100.0 * x);
    let kept = if dense {
        format!("all of it is kept, as factors of rank {}", found.adapter.config().rank)
    } else {
        format!("rank {} keeps {} of its energy", found.adapter.config().rank, share(found.kept))
    };
    let outside: Vec<String> = found
        .outside
        .iter()
        .map(|o| format!("{} (norm {:.3}, {} of the base's)", o.place, o.norm, share(o.relative)))
        .collect();
    let outside = if outside.is_empty() {
        "nothing else differs".to_owned()
    } else {
        format!("not carried: the difference of {}", outside.join(", "))
    };
    format!(
        "the projections differ by a norm of {:.3} ({} of the base's); {kept}; {outside}",
        found.norm,
        share(found.relative)
    )
}
