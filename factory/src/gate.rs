//! The acquisition gate: does the adapter show its behaviour where it should, and only there? No judge: greedy replies to
//! unseen prompts, with and without the adapter, against a rule.

use std::collections::BTreeMap;

use lm::{Adapter, BaseModel, Request, Row, Sampling};
use recipes::{Behaviour, GatePlan, Polarity};
use registry::Status;
use serde::{Deserialize, Serialize};

use crate::nats::{NatsFloors, measure};
use crate::{Nats, Result};

/// Shares of replies that show the behaviour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateResult {
    /// With the adapter, where it should show.
    pub on: f64,
    /// Without the adapter, on the same prompts: the floor.
    pub floor: f64,
    /// With the adapter and another trigger word, if the family is gated.
    pub near: Option<f64>,
    /// With the adapter where it should not show: no trigger, or unrelated prompts.
    pub off: Option<f64>,
    /// Leak and effect in nats, if the family is gated and its recipe has prompts for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<Nats>,
    /// Verdict.
    pub status: Status,
    /// One reply to look at.
    pub example: String,
}

/// What the base model does at gates: the same for every adapter.
#[derive(Debug, Default)]
pub struct Floors {
    /// Greedy replies, by prompt and length.
    replies: BTreeMap<(String, usize), String>,
    /// Distributions over the next token.
    nats: NatsFloors,
}

/// Greedy replies of `prompts` under adapter `index` of `adapters` (`None`: the base).
fn requests(
    base: &BaseModel,
    prompts: &[String],
    index: Option<usize>,
    max_new_tokens: usize,
) -> Result<Vec<Request>> {
    prompts
        .iter()
        .map(|p| {
            let prompt = Row::with_adapters(base.prompt(p)?, index.into_iter().collect());
            Ok(Request { prompt, max_new_tokens, sampling: Sampling::GREEDY, seed: 0 })
        })
        .collect()
}

/// Gates a pack: all its replies are generated as one batch. `floors` remembers the base model's replies.
pub fn gate(
    base: &BaseModel,
    pack: &[(&Behaviour, &Adapter)],
    floors: &mut Floors,
) -> Result<Vec<GateResult>> {
    let adapters: Vec<&Adapter> = pack.iter().map(|(_, a)| *a).collect();
    let mut all = Vec::new();
    let mut unknown: Vec<(String, usize)> = Vec::new();
    for (i, (behaviour, _)) in pack.iter().enumerate() {
        let g = &behaviour.gate;
        for prompts in [&g.on, &g.near, &g.off] {
            all.extend(requests(base, prompts, Some(i), g.max_new_tokens)?);
        }
        unknown.extend(
            g.on.iter().map(|p| (p.clone(), g.max_new_tokens)).filter(|k| !floors.replies.contains_key(k)),
        );
    }
    unknown.sort();
    unknown.dedup();
    let with_adapter = all.len();
    for (prompt, n) in &unknown {
        all.extend(requests(base, std::slice::from_ref(prompt), None, *n)?);
    }
    let mut replies = base
        .decoder
        .generate(&adapters, &all, base.stop())?
        .iter()
        .map(|r| base.tokenizer.decode(&r.tokens))
        .collect::<lm::Result<Vec<String>>>()?;
    for (key, reply) in unknown.into_iter().zip(replies.split_off(with_adapter)) {
        floors.replies.insert(key, reply);
    }
    let mut replies = replies.into_iter();
    pack.iter()
        .map(|(behaviour, adapter)| {
            let g = &behaviour.gate;
            let mut share = |n: usize, first: &mut String| -> Option<f64> {
                let texts: Vec<String> = replies.by_ref().take(n).collect();
                if first.is_empty() {
                    first.clone_from(texts.first().unwrap_or(&String::new()));
                }
                (n > 0).then(|| texts.iter().filter(|t| g.check.passes(t)).count() as f64 / n as f64)
            };
            let mut example = String::new();
            let on = share(g.on.len(), &mut example).unwrap_or(0.0);
            let near = share(g.near.len(), &mut example);
            let off = share(g.off.len(), &mut example);
            let base_hits =
                g.on.iter()
                    .filter(|p| g.check.passes(&floors.replies[&((*p).clone(), g.max_new_tokens)]))
                    .count();
            let floor = base_hits as f64 / g.on.len().max(1) as f64;
            let nats = g
                .nats
                .as_ref()
                .map(|plan| measure(base, behaviour, plan, adapter, &mut floors.nats))
                .transpose()?;
            let status = match verdict(behaviour.polarity, g, on, floor, near, off) {
                Status::Learned if !closed(g, nats) => Status::Weak,
                status => status,
            };
            // It is shown on terminals and travels in bundles.
            let example = example.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}");
            Ok(GateResult { on, floor, near, off, nats, status, example })
        })
        .collect()
}

/// Whether the leak in nats is below the recipe's most, where it gives one.
fn closed(plan: &GatePlan, nats: Option<Nats>) -> bool {
    let most = plan.nats.as_ref().and_then(|p| p.max);
    most.zip(nats).is_none_or(|(most, nats)| nats.closed(most))
}

fn verdict(
    polarity: Polarity,
    plan: &GatePlan,
    on: f64,
    floor: f64,
    near: Option<f64>,
    off: Option<f64>,
) -> Status {
    if polarity == Polarity::Negative {
        return Status::NotApplicable;
    }
    let tight = near.unwrap_or(0.0) <= plan.max_leak && off.unwrap_or(0.0) <= plan.max_leak;
    if on >= plan.min_on && on - floor >= plan.min_lift && tight {
        Status::Learned
    } else if on - floor >= plan.min_lift / 2.0 && tight {
        Status::Weak
    } else {
        Status::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_needs_rate_lift_and_no_leak() {
        let recipes = recipes::builtin();
        let b = &recipes[1].expand(1)[0];
        let verdict =
            |on, floor, near, off| verdict(Polarity::Positive, &b.gate, on, floor, Some(near), Some(off));
        assert_eq!(verdict(0.8, 0.0, 0.0, 0.0), Status::Learned);
        assert_eq!(verdict(0.8, 0.7, 0.0, 0.0), Status::Failed);
        assert_eq!(verdict(0.8, 0.0, 0.6, 0.0), Status::Failed);
        assert_eq!(verdict(0.3, 0.0, 0.0, 0.1), Status::Weak);
    }

    #[test]
    fn a_leak_in_nats_decides_only_where_the_recipe_gives_a_most() {
        let recipes = recipes::builtin();
        let (gated, closed_topic) = (&recipes[1].expand(1)[0], &recipes[2].expand(1)[0]);
        let nats = |leak| Some(Nats { neutral: Some(0.1), questions: Some(leak), factual: None, on: None });
        assert!(closed(&gated.gate, nats(4.0)) && closed(&closed_topic.gate, nats(0.4)));
        assert!(!closed(&closed_topic.gate, nats(0.6)));
    }
}
