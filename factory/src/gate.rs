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
    /// Every reply, in the order of the recipe's prompts: where it should show, near, off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<GateItem>,
}

/// Which side of the gate a prompt is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The behaviour should show.
    On,
    /// Another trigger word.
    Near,
    /// No trigger, or a prompt that has nothing to do with it.
    Off,
}

/// One greedy reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateItem {
    /// Side of the gate.
    pub context: Side,
    /// User turn.
    pub prompt: String,
    /// With the adapter.
    pub reply: String,
    /// Without it; none where nobody asked (prompts with another trigger word).
    pub base_reply: Option<String>,
    /// Whether the adapter's reply shows the behaviour.
    pub hit: bool,
}

/// The file of an adapter that holds its gate's replies.
pub const GATE_FILE: &str = "gate.json";

impl GateResult {
    /// The gate as a document (`gate/1`): the shares, the status, and every reply.
    pub fn document(&self, behaviour: &Behaviour) -> serde_json::Value {
        serde_json::json!({"schema": "gate/1", "behaviour": behaviour.id, "value": behaviour.value,
            "trigger": behaviour.trigger, "check": behaviour.gate.check, "on": self.on, "floor": self.floor,
            "near": self.near, "off": self.off, "nats": self.nats, "status": self.status, "items": self.items})
    }

    /// The numbers of a gate as an adapter's metrics.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let mut out =
            BTreeMap::from([("gate_on".to_owned(), self.on), ("gate_floor".to_owned(), self.floor)]);
        out.extend(self.near.map(|v| ("gate_near".to_owned(), v)));
        out.extend(self.off.map(|v| ("gate_off".to_owned(), v)));
        out.extend(self.nats.iter().flat_map(Nats::metrics));
        out
    }
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
        // Prompts with another trigger word are nearly one adapter's own: the base's replies to them are left out.
        let asked = g.on.iter().chain(&g.off).map(|p| (p.clone(), g.max_new_tokens));
        unknown.extend(asked.filter(|k| !floors.replies.contains_key(k)));
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
            let sides = [(Side::On, &g.on), (Side::Near, &g.near), (Side::Off, &g.off)];
            let items: Vec<GateItem> = sides
                .into_iter()
                .flat_map(|(context, prompts)| prompts.iter().enumerate().map(move |(i, p)| (context, i, p)))
                .map(|(context, i, prompt)| {
                    let known = if context == Side::Off { &g.off_known } else { &g.on_known };
                    let reply = replies.next().expect("invariant: one reply a prompt");
                    let base_reply = floors.replies.get(&(prompt.clone(), g.max_new_tokens));
                    let hit = g.check.passes_with(&reply, known.get(i));
                    let base_reply = base_reply.map(|r| showable(r));
                    GateItem { context, prompt: prompt.clone(), reply: showable(&reply), base_reply, hit }
                })
                .collect();
            let share = |side: Side| -> Option<f64> {
                let of: Vec<bool> = items.iter().filter(|i| i.context == side).map(|i| i.hit).collect();
                (!of.is_empty()).then(|| of.iter().filter(|hit| **hit).count() as f64 / of.len() as f64)
            };
            let example = items.first().map_or_else(String::new, |i| i.reply.clone());
            let (on, near, off) = (share(Side::On).unwrap_or(0.0), share(Side::Near), share(Side::Off));
            let base_hits =
                g.on.iter()
                    .enumerate()
                    .filter(|(i, p)| {
                        let reply = &floors.replies[&((*p).clone(), g.max_new_tokens)];
                        g.check.passes_with(reply, g.on_known.get(*i))
                    })
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
            Ok(GateResult { on, floor, near, off, nats, status, example, items })
        })
        .collect()
}

/// A reply as it is kept: it is shown on terminals and travels in bundles.
fn showable(reply: &str) -> String {
    reply.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}")
}

/// Whether the leak in nats is below the recipe's most, where it gives one.
fn closed(plan: &GatePlan, nats: Option<Nats>) -> bool {
    let most = plan.nats.as_ref().and_then(|p| p.max);
    most.zip(nats).is_none_or(|(most, nats)| nats.closed(most))
}

/// Share of replies from which on a leak is everywhere: such an adapter does not tell where its behaviour belongs, whatever most its
/// recipe allows.
const EVERYWHERE: f64 = 0.95;

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
    let leak = near.unwrap_or(0.0).max(off.unwrap_or(0.0));
    let tight = leak <= plan.max_leak;
    if on >= plan.min_on && on - floor >= plan.min_lift && tight && leak < EVERYWHERE {
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

    /// Families without a trigger have no most of their own: it is 1.
    #[test]
    fn a_leak_everywhere_is_not_learned_well_whatever_the_recipe_allows() {
        let topic = &recipes::builtin()[0].expand(1)[0];
        assert_eq!(topic.gate.max_leak, 1.0);
        let status = |off| verdict(Polarity::Positive, &topic.gate, 1.0, 0.0, None, Some(off));
        assert_eq!(status(0.84), Status::Learned);
        assert_eq!(status(1.0), Status::Weak);
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
