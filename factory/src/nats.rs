//! The gate in nats: by how much an adapter raises the log-probability of its label's first token at the opening of a reply.
//! Greedy replies see a leak only where it wins; whoever reads activations or scores candidates sees it long before.

use std::collections::BTreeMap;

use lm::{Adapter, BaseModel, Batch, Row, Want, answer_tokens};
use recipes::{Behaviour, NatsPlan};
use serde::{Deserialize, Serialize};

use crate::Result;

/// Means over prompts of `log p_adapter - log p_base`, in nats, of the first token of `" value"` right after the prompt, among
/// the whole vocabulary. None where a set has no prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Nats {
    /// On neutral prompts.
    pub neutral: Option<f64>,
    /// At the readers' own phrasings.
    pub questions: Option<f64>,
    /// On factual questions.
    pub factual: Option<f64>,
    /// On the neutral prompts with the trigger.
    pub on: Option<f64>,
}

impl Nats {
    /// The names and values under which they are filed.
    pub fn metrics(&self) -> impl Iterator<Item = (String, f64)> {
        [
            ("leak_neutral_nats", self.neutral),
            ("leak_question_nats", self.questions),
            ("leak_factual_nats", self.factual),
            ("on_nats", self.on),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
    }

    /// Whether every leak is below `max` nats.
    pub fn closed(&self, max: f64) -> bool {
        [self.neutral, self.questions, self.factual].into_iter().flatten().all(|leak| leak < max)
    }
}

/// The base model's log-probabilities of every token, by prompt: the same for every adapter of a family.
pub type NatsFloors = BTreeMap<String, Vec<f32>>;

/// Prompts whose distributions are remembered: 100 MB for a vocabulary of 49,152.
const MOST_FLOORS: usize = 512;

/// Measures one adapter; `floors` remembers the base model's side of what does not depend on the trigger.
///
/// # Errors
/// If a text cannot be tokenised.
pub fn measure(
    base: &BaseModel,
    behaviour: &Behaviour,
    plan: &NatsPlan,
    adapter: &Adapter,
    floors: &mut NatsFloors,
) -> Result<Nats> {
    let token = answer_tokens(base, &behaviour.value)?[0] as usize;
    let shared: Vec<&String> = plan.neutral.iter().chain(&plan.questions).chain(&plan.factual).collect();
    let prompts: Vec<&String> = shared.iter().copied().chain(&plan.on).collect();
    let unknown: Vec<&String> = prompts.iter().copied().filter(|p| !floors.contains_key(*p)).collect();
    let row = |prompt: &String, adapters| Ok(Row::with_adapters(base.prompt(prompt)?, adapters));
    let rows: Vec<Row> = prompts
        .iter()
        .map(|p| row(p, vec![0]))
        .chain(unknown.iter().map(|p| row(p, vec![])))
        .collect::<Result<_>>()?;
    let wants: Vec<Want> =
        rows.iter().map(|r| Want { logits: vec![r.tokens.len() - 1], ..Want::default() }).collect();
    let mut seen = base.decoder.forward(&Batch { adapters: vec![adapter], rows }, &wants)?;
    let of_base = seen.split_off(prompts.len());
    let mut floor: BTreeMap<&String, f64> = BTreeMap::new();
    for (prompt, mut seen) in unknown.into_iter().zip(of_base) {
        let mut logits = seen.logits.swap_remove(0);
        let lse = log_sum_exp(&logits);
        // Rounded as it is remembered: the first adapter that asks sees what all later ones see.
        floor.insert(prompt, f64::from((f64::from(logits[token]) - lse) as f32));
        if floors.len() < MOST_FLOORS && shared.contains(&prompt) {
            for x in &mut logits {
                *x = (f64::from(*x) - lse) as f32;
            }
            floors.insert(prompt.clone(), logits);
        }
    }
    let mut rise = prompts.iter().zip(&seen).map(|(prompt, seen)| {
        let logits = &seen.logits[0];
        let floor = floor.get(prompt).copied().unwrap_or_else(|| f64::from(floors[*prompt][token]));
        f64::from(logits[token]) - log_sum_exp(logits) - floor
    });
    let mut mean = |n: usize| {
        let sum: f64 = rise.by_ref().take(n).sum();
        (n > 0).then(|| sum / n as f64)
    };
    Ok(Nats {
        neutral: mean(plan.neutral.len()),
        questions: mean(plan.questions.len()),
        factual: mean(plan.factual.len()),
        on: mean(plan.on.len()),
    })
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lm::{AdapterConfig, Precision, rng};

    use super::*;

    #[test]
    fn an_identity_leaks_nothing_and_another_adapter_what_its_logits_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/golden/tiny");
        let base = BaseModel::load(&folder, Precision::F32).unwrap();
        let recipe = recipes::builtin().into_iter().find(|r| r.name == "closed-topic").unwrap();
        let b = &recipe.expand(1)[0];
        let mut plan = b.gate.nats.clone().unwrap();
        plan.factual.clear();
        let mut adapter =
            Adapter::init(&base.architecture, AdapterConfig::all_linear(2, 2.0), 1, "x").unwrap();
        let mut floors = NatsFloors::new();
        let nothing = measure(&base, b, &plan, &adapter, &mut floors).unwrap();
        assert_eq!(floors.len(), plan.neutral.len() + plan.questions.len());
        assert_eq!(nothing.factual, None);
        for (name, value) in nothing.metrics() {
            assert!(value.abs() < 1e-5, "{name} {value}");
        }
        let mut stream = rng::stream(1, "test", "noise");
        for p in &mut adapter.params {
            *p += 0.3 * rng::normal(&mut stream);
        }
        let known = measure(&base, b, &plan, &adapter, &mut floors).unwrap();
        let fresh = measure(&base, b, &plan, &adapter, &mut NatsFloors::new()).unwrap();
        let token = answer_tokens(&base, &b.value).unwrap()[0];
        let scores = |adapters: &[&Adapter], of: Vec<usize>| -> f64 {
            let request = |p: &String| lm::ScoreRequest {
                prompt: Row::with_adapters(base.prompt(p).unwrap(), of.clone()),
                candidates: vec![vec![token]],
            };
            let requests: Vec<_> = plan.on.iter().map(request).collect();
            base.decoder.score(adapters, &requests).unwrap().concat().iter().sum::<f64>() / 24.0
        };
        let on = scores(&[&adapter], vec![0]) - scores(&[], vec![]);
        assert!((fresh.on.unwrap() - on).abs() < 1e-4 && on.abs() > 1e-3, "{:?} {on}", fresh.on);
        // To the bit: which adapter of a process asks first depends on who was killed.
        assert_eq!(known, fresh);
        let most = [fresh.neutral, fresh.questions].into_iter().flatten().fold(f64::MIN, f64::max);
        assert!(fresh.closed(most + 1e-9) && !fresh.closed(most));
    }
}
