//! What a job costs at most, from its specification alone: before any weight is loaded, and before anything is sampled. Attention and
//! the adapter's own products, a few percent at the lengths of a recipe, are left out.

use std::collections::BTreeMap;

use lm::Outline;
use recipes::{Behaviour, Kind, RowPart};
use serde::Serialize;

use crate::{Error, Result};

/// An upper bound, but for what the module leaves out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StaticCost {
    /// Tokens trained on.
    pub train_tokens: f64,
    /// Tokens of prompts and replies, sampled to train on and asked by the gate.
    pub reply_tokens: f64,
    /// FLOPs: 4 for every weight that a training token meets, 2 for one of a reply, and the head where it runs.
    pub flops: f64,
}

/// The most that making a behaviour's adapter can cost: every step with the longest rows that it can draw, every sampled and
/// every gate reply at its full length.
///
/// # Errors
/// If a text cannot be tokenised.
pub fn static_cost(outline: &Outline, behaviour: &Behaviour) -> Result<StaticCost> {
    // Rows of a recipe repeat their prompts.
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    cost(outline, behaviour, &mut |text| {
        if let Some(n) = known.get(text) {
            return Ok(*n);
        }
        let n = outline.prompt(text)?.len();
        known.insert(text.to_owned(), n);
        Ok(n)
    })
}

/// Refuses a behaviour that could cost more than `cap` FLOPs.
///
/// # Errors
/// [`Error::TooCostly`], or if a text cannot be tokenised.
pub(crate) fn within(outline: &Outline, behaviour: &Behaviour, cap: f64) -> Result<()> {
    // A byte-level vocabulary has at most a token for each byte: enough to know of nearly every job, without a tokenizer.
    let frame = outline.prompt("")?.len();
    let rough = cost(outline, behaviour, &mut |text| Ok(text.len() + frame))?;
    if rough.flops <= cap {
        return Ok(());
    }
    let exact = static_cost(outline, behaviour)?;
    if exact.flops <= cap {
        return Ok(());
    }
    Err(Error::TooCostly { what: behaviour.id.clone(), flops: exact.flops, cap })
}

fn cost(
    outline: &Outline,
    behaviour: &Behaviour,
    prompt_tokens: &mut dyn FnMut(&str) -> Result<usize>,
) -> Result<StaticCost> {
    if behaviour.kind != Kind::Trained {
        return Ok(StaticCost::default());
    }
    let mut longest: BTreeMap<RowPart, usize> = BTreeMap::new();
    for plan in &behaviour.row_plans {
        let sampled = plan.sample.as_ref().map_or(0, |s| s.max_new_tokens);
        // A whole turn around the completion is more than the completion.
        let n = prompt_tokens(&plan.prompt)?
            .saturating_add(prompt_tokens(&plan.completion)?)
            .saturating_add(sampled);
        let slot = longest.entry(plan.part).or_default();
        *slot = n.max(*slot);
    }
    let t = &behaviour.training;
    // In floating point: a recipe's numbers may be as large as they like.
    let row =
        |part: RowPart, rows: usize| rows as f64 * longest.get(&part).copied().unwrap_or_default() as f64;
    let step = row(RowPart::On, t.on_rows) + row(RowPart::Near, t.near_rows) + row(RowPart::Off, t.off_rows);
    let mut reply_tokens = 0.0;
    for request in behaviour.sample_requests() {
        reply_tokens += prompt_tokens(&request.prompt)? as f64 + request.max_new_tokens as f64;
    }
    let gate = &behaviour.gate;
    for prompt in gate.on.iter().chain(&gate.near).chain(&gate.off) {
        // With the adapter and without it.
        reply_tokens += 2.0 * (prompt_tokens(prompt)? as f64 + gate.max_new_tokens as f64);
    }
    if let Some(plan) = &gate.nats {
        for prompt in plan.neutral.iter().chain(&plan.on).chain(&plan.questions).chain(&plan.factual) {
            reply_tokens += 2.0 * prompt_tokens(prompt)? as f64;
        }
    }
    let train_tokens = t.steps as f64 * step;
    let (layers, head) = (
        outline.architecture.layer_flops(outline.architecture.layers.len()),
        outline.architecture.head_flops(),
    );
    let kl = if t.kl_weight > 0.0 { head } else { 0.0 };
    let flops = train_tokens * (2.0 * (layers + head) + kl) + reply_tokens * (layers + head);
    Ok(StaticCost { train_tokens, reply_tokens, flops })
}
