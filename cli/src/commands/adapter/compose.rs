//! `adapter compose`: one adapter that changes the model by what two change it by.

use std::collections::BTreeMap;

use ::factory::spec::RECIPE_FILE;
use ::factory::{load_adapter, peft_config, recipes_of};
use ::readers::ALSO;
use lm::{Adapter, Outline};
use recipes::behaviour::COMPOSITION;
use recipes::{Behaviour, Polarity, builtin};
use registry::{AdapterRecord, NewAdapter, Role, Status, Store};
use serde_json::json;

use super::import::{place_of, usable};
use crate::context::Context;
use crate::error::{CommandError, Kind, Result};
use crate::output::{print, print_json};

pub(super) fn run(context: &Context<'_>, names: [&String; 2], name: Option<&str>) -> Result {
    name.map_or(Ok(()), |n| usable("--name", n))?;
    let mut store = context.existing_store()?;
    let outline = context.outline()?;
    let first = part(&store, &outline, names[0])?;
    let second = part(&store, &outline, names[1])?;
    if first.id == second.id {
        let what = format!("{} is given twice; a sum is of two adapters", first.behaviour);
        return Err(CommandError::new(Kind::Usage, what));
    }
    let label = name.map_or_else(|| format!("+{}", second.behaviour.replace('/', "-")), str::to_owned);
    let carried = carried(&store, &first, &second, &label)?;
    let base = context.base()?;
    let loaded = [&first, &second].map(|r| load_adapter(&store, &base, r));
    let [a, b] = loaded;
    let sum = Adapter::sum(&base.architecture, &[&a?, &b?])?;
    let peft = peft_config(&base, &sum);

    let composition = format!("{}+{}", first.behaviour, second.behaviour);
    let mut spec = json!({"schema": "composition/1", "base": base.digest(), "name": label, "parts": [first.id, second.id]});
    let behaviour = format!("{}@{label}", first.behaviour);
    if let Some(mut carried) = carried {
        for b in &mut carried {
            b.id.clone_from(&behaviour);
            b.variant = BTreeMap::from([(COMPOSITION.to_owned(), composition.clone())]);
            (b.training.rank, b.training.alpha) = (peft.r, peft.lora_alpha);
            b.training.target_modules.clone_from(&peft.target_modules);
        }
        let [own, also] = carried;
        spec["behaviour"] = serde_json::to_value(own).expect("invariant: plain data");
        spec[ALSO] = json!([also]);
    }
    let spec_hash = registry::spec_hash(&spec);
    let known = store.adapter_by_spec(&spec_hash)?;
    let filed = if let Some(record) = &known {
        record.clone()
    } else {
        let recipe = first.extra_files.get(RECIPE_FILE).map(|digest| store.get_blob(digest)).transpose()?;
        let mut tags = BTreeMap::from([(COMPOSITION.to_owned(), composition)]);
        tags.extend(first.tags.get_key_value("trigger").map(|(k, v)| (k.clone(), v.clone())));
        tags.extend(first.tags.get_key_value("polarity").map(|(k, v)| (k.clone(), v.clone())));
        store.commit_adapter(NewAdapter {
            spec_hash,
            spec,
            role: Role::WeightDiff,
            behaviour,
            family: first.family.clone(),
            value: first.value.clone(),
            category: first.category.clone(),
            split: first.split.clone(),
            status: Status::Untested,
            tags,
            metrics: BTreeMap::from([("norm".to_owned(), sum.norm())]),
            peft,
            weights: sum.to_safetensors()?,
            parents: vec![first.id.clone(), second.id.clone()],
            lineage: BTreeMap::from([("base".to_owned(), base.digest())]),
            extra_files: recipe.map(|bytes| (RECIPE_FILE.to_owned(), bytes)).into_iter().collect(),
        })?
    };
    if known.is_some() {
        context.say(&format!("this sum is in the store already, as {}: nothing was filed", filed.behaviour));
    } else {
        context.say(&format!("filed as {}, of rank {}", filed.behaviour, filed.peft.r));
        if let (true, Some(split)) = (filed.spec["behaviour"].is_object(), filed.split.as_deref()) {
            context.say(&place_of(&filed, split));
        } else {
            context.say("readers are not asked about it: that takes two behaviours of recipes that ask different questions");
        }
    }
    if context.global.json {
        return print_json(
            &json!({"schema": "adapter-compose/1", "id": filed.id, "behaviour": filed.behaviour,
            "family": filed.family, "value": filed.value, "rank": filed.peft.r, "known": known.is_some()}),
        );
    }
    print(&filed.id)
}

/// An adapter that can be a part: no reader, and of the base model in use.
fn part(store: &Store, base: &Outline, name: &str) -> Result<AdapterRecord> {
    let record = store.adapter(name)?;
    let refuse = |what: &str| Err(CommandError::new(Kind::Usage, format!("{}: {what}", record.behaviour)));
    if record.role != Role::WeightDiff {
        return refuse("it is a reader; a sum is of two adapters that carry a behaviour");
    }
    if record.lineage.get("base").is_none_or(|b| *b != base.digest()) {
        return refuse("it was made for another base model or precision");
    }
    Ok(record)
}

/// What readers are asked of a sum: both behaviours, if both carry something as their recipes make it and nobody would be asked one
/// question with two right answers. Their rows are no part of it.
fn carried(
    store: &Store,
    first: &AdapterRecord,
    second: &AdapterRecord,
    label: &str,
) -> Result<Option<[Behaviour; 2]>> {
    usable("name", label)?;
    let known = builtin().into_iter().chain(recipes_of(store, &[first.clone(), second.clone()])?);
    let words: BTreeMap<String, Vec<String>> = known.map(|r| (r.name, r.questions.train)).collect();
    let of = |record: &AdapterRecord| -> Option<Behaviour> {
        let behaviour: Behaviour = serde_json::from_value(record.spec["behaviour"].clone()).ok()?;
        let plain = behaviour.polarity == Polarity::Positive && behaviour.remade().is_none();
        plain.then_some(Behaviour { row_plans: vec![], ..behaviour })
    };
    let (Some(a), Some(b)) = (of(first), of(second)) else { return Ok(None) };
    let (asks_a, asks_b) = (words.get(&a.family), words.get(&b.family));
    Ok((asks_a.is_some() && asks_b.is_some() && asks_a != asks_b).then_some([a, b]))
}
