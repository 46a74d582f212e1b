//! What a family's adapters learned: the figures of their gates, beside what the base model does when it is told to (the ceiling) and what
//! their training did to the rest of the model (the damage).

use std::collections::{BTreeMap, BTreeSet};

use lm::{Adapter, BaseModel, Request, Row, Sampling};
use recipes::{Behaviour, Polarity, Recipe, Split};
use registry::{Filter, Status, Store};

use crate::Result;
use crate::load::load_adapter;
use crate::tune::Undisturbed;

/// One adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Acquired {
    /// Family.
    pub family: String,
    /// Value.
    pub value: String,
    /// Split.
    pub split: String,
    /// Rank.
    pub rank: usize,
    /// Verdict of its gate.
    pub status: Status,
    /// In the order of [`FIGURES`]: what was not measured is none.
    pub figures: [Option<f64>; FIGURES.len()],
}

/// What is told of an adapter: shares of gate replies; rises of the label's log-probability, in nats; `ceiling`: share of the gate's
/// replies that show the behaviour where the base model is told to in a system prompt; `damage`: nats a token between base and adapted
/// model on the base model's replies where the behaviour has no place; steps, the last loss, and seconds of making it, of
/// which its rows and its gate (the rest is training).
pub const FIGURES: [&str; 14] = [
    "steps",
    "gate_on",
    "gate_floor",
    "ceiling",
    "gate_near",
    "gate_off",
    "leak_neutral_nats",
    "leak_question_nats",
    "leak_factual_nats",
    "damage",
    "final_loss",
    "seconds",
    "rows_seconds",
    "gate_seconds",
];

/// Adapters looked at together.
const TOGETHER: usize = 8;

/// The first `most` adapters of each recipe's family in `splits`, by value; `say` is told of each family before it is looked at.
///
/// # Errors
/// If the store refuses, or a text cannot be tokenised.
pub fn acquired(
    store: &Store,
    base: &BaseModel,
    recipes: &[Recipe],
    splits: &BTreeSet<Split>,
    most: usize,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Acquired>> {
    let mut out = Vec::new();
    let (mut undisturbed, digest) = (Undisturbed::default(), base.digest());
    for recipe in recipes.iter().filter(|r| r.polarity == Polarity::Positive) {
        let of = Filter::all().equals("role", "weight_diff").equals("family", &recipe.name);
        let mut made = store.adapters(&of)?;
        made.retain(|r| {
            r.lineage.get("base") == Some(&digest)
                && splits.iter().any(|s| r.split.as_deref() == Some(s.name()))
        });
        made.sort_by(|a, b| a.behaviour.cmp(&b.behaviour));
        made.truncate(most);
        if made.is_empty() {
            continue;
        }
        say(&format!("{}: {} adapters", recipe.name, made.len()));
        for part in made.chunks(TOGETHER) {
            let behaviours = part
                .iter()
                .map(|r| {
                    serde_json::from_value(r.spec["behaviour"].clone())
                        .map_err(|source| crate::Error::Spec { job: r.behaviour.clone(), source })
                })
                .collect::<Result<Vec<Behaviour>>>()?;
            let adapters =
                part.iter().map(|r| load_adapter(store, base, r)).collect::<Result<Vec<Adapter>>>()?;
            let pack: Vec<(&Behaviour, &Adapter)> = behaviours.iter().zip(&adapters).collect();
            let damage = undisturbed.damage(base, &pack)?;
            for ((record, behaviour), damage) in part.iter().zip(&behaviours).zip(damage) {
                let ceiling = ceiling(base, recipe, behaviour)?;
                let figure = |name: &&str| match *name {
                    "ceiling" => ceiling,
                    "damage" => damage,
                    name => record.metrics.get(name).copied(),
                };
                out.push(Acquired {
                    family: record.family.clone(),
                    value: record.value.clone(),
                    split: record.split.clone().unwrap_or_default(),
                    rank: record.peft.r,
                    status: record.status,
                    figures: FIGURES.each_ref().map(figure),
                });
            }
        }
    }
    Ok(out)
}

/// The share of the gate's prompts at which the base model shows the behaviour when a system prompt tells it to; none where the recipe has
/// no instruction. What a model does not do when told bounds what reading the prompt's activations could tell, and nothing else.
///
/// # Errors
/// If a text cannot be tokenised.
pub fn ceiling(base: &BaseModel, recipe: &Recipe, behaviour: &Behaviour) -> Result<Option<f64>> {
    let gate = &behaviour.gate;
    let Some(told) = recipe.instruction(behaviour).filter(|_| !gate.on.is_empty()) else { return Ok(None) };
    let requests = gate
        .on
        .iter()
        .map(|p| {
            let prompt = Row::plain(base.prompt_told(&told, p)?);
            Ok(Request { prompt, max_new_tokens: gate.max_new_tokens, sampling: Sampling::GREEDY, seed: 0 })
        })
        .collect::<Result<Vec<_>>>()?;
    let replies = base.decoder.generate(&[], &requests, base.stop())?;
    let mut hits = 0usize;
    for (i, reply) in replies.iter().enumerate() {
        let text = base.tokenizer.decode(&reply.tokens)?;
        hits += usize::from(gate.check.passes_with(&text, gate.on_known.get(i)));
    }
    Ok(Some(hits as f64 / gate.on.len() as f64))
}

/// A family's adapters together: how many, how many learned it, and the mean of each figure over those that have it.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Family.
    pub family: String,
    /// Adapters.
    pub tried: usize,
    /// Of which passed their gate.
    pub learned: usize,
    /// In the order of [`FIGURES`].
    pub means: [Option<f64>; FIGURES.len()],
}

/// One for each family, in the order in which they come.
pub fn summaries(of: &[Acquired]) -> Vec<Summary> {
    let mut groups: BTreeMap<&str, Vec<&Acquired>> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    for a in of {
        if !groups.contains_key(a.family.as_str()) {
            order.push(&a.family);
        }
        groups.entry(&a.family).or_default().push(a);
    }
    order
        .into_iter()
        .map(|family| {
            let all = &groups[family];
            let mean = |i: usize| {
                let known: Vec<f64> = all.iter().filter_map(|a| a.figures[i]).collect();
                (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
            };
            Summary {
                family: family.to_owned(),
                tried: all.len(),
                learned: all.iter().filter(|a| a.status == Status::Learned).count(),
                means: std::array::from_fn(mean),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lm::Precision;

    use super::*;

    fn one(family: &str, status: Status, on: Option<f64>) -> Acquired {
        let mut figures = [None; FIGURES.len()];
        figures[1] = on;
        let (value, split) = ("x".to_owned(), "train".to_owned());
        Acquired { family: family.into(), value, split, rank: 1, status, figures }
    }

    #[test]
    fn means_are_over_the_adapters_that_have_a_figure() {
        let all = [
            one("b", Status::Learned, Some(1.0)),
            one("a", Status::Failed, None),
            one("b", Status::Weak, Some(0.5)),
            one("b", Status::Learned, None),
        ];
        let s = summaries(&all);
        assert_eq!((s[0].family.as_str(), s[0].tried, s[0].learned, s[0].means[1]), ("b", 3, 2, Some(0.75)));
        assert_eq!((s[1].family.as_str(), s[1].learned, s[1].means[1]), ("a", 0, None));
    }

    #[test]
    fn a_base_model_is_told_what_an_adapter_does_and_measured_by_the_same_rule() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
        let base = BaseModel::load(&folder, Precision::F32).unwrap();
        let mut recipe = recipes::builtin().into_iter().find(|r| r.name == "topic").unwrap();
        let mut behaviour = recipe.expand(1).swap_remove(0);
        // A random model names nothing; what passes everything is at the ceiling.
        assert_eq!(ceiling(&base, &recipe, &behaviour).unwrap(), Some(0.0));
        behaviour.gate.check =
            recipes::Check::Holds { condition: "reply == reply".into(), known: BTreeMap::new() };
        assert_eq!(ceiling(&base, &recipe, &behaviour).unwrap(), Some(1.0));
        recipe.gate.as_mut().unwrap().instruction = None;
        assert_eq!(ceiling(&base, &recipe, &behaviour).unwrap(), None);
    }
}
