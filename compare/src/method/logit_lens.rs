//! The logit lens of the mean activation difference: no training at all. Which layer, and whether centred, is chosen on
//! validation adapters and said.

use std::collections::BTreeMap;

use oracle_posttrain::{ActivationKind, Collector, Shown};
use readers::{Answer, Arm, Case, Lab, Method, Reader, Result, Scored, pick};
use registry::Store;

use super::mean_diff::MeanDiffs;
use super::nothing::with_nothing;

/// `W_U (g * d)`: the difference `d` through the final norm's weight `g` and the unembedding; candidates by their first token.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogitLens;

impl Method for LogitLens {
    fn name(&self) -> &'static str {
        "logit-lens"
    }

    fn about(&self) -> &'static str {
        "the mean activation difference through the unembedding; layer, centring or last logits chosen on validation adapters"
    }

    fn depths(&self, _arm: &Arm) -> Vec<f64> {
        vec![0.8, 0.9, 0.97]
    }

    fn score(
        &self,
        store: &Store,
        lab: Lab<'_>,
        arm: &Arm,
        _reader: Option<&Reader>,
        cases: &[Case],
    ) -> Result<Scored> {
        let diffs = MeanDiffs::read(store, lab, arm, &self.depths(arm), cases)?;
        let mut variants: Vec<(String, Vec<Vec<f32>>)> = Vec::new();
        for (at, layer) in diffs.collector.layers.iter().enumerate() {
            let raw: Vec<Vec<f32>> = cases.iter().map(|c| diffs.of(c, at)).collect();
            let centres = diffs.centres(lab, at);
            let centred: Vec<Vec<f32>> = raw
                .iter()
                .zip(cases)
                .map(|(d, c)| match centres.get(&c.family) {
                    Some(centre) => d.iter().zip(centre).map(|(x, m)| x - m).collect(),
                    None => d.clone(),
                })
                .collect();
            for (how, vectors) in [("raw", raw), ("centred", centred)] {
                variants.push((format!("block {layer}, {how}"), lens(lab, cases, &vectors)?));
            }
        }
        let last = lab.base.architecture.layers.len() - 1;
        if let Some(at) = diffs.collector.layers.iter().position(|l| *l == last)
            && diffs.collector.kind == ActivationKind::Diff
        {
            variants.push(("last logits".into(), last_logits(lab, &diffs, at, cases)?));
        }
        let (names, scores): (Vec<String>, Vec<Vec<Vec<f32>>>) =
            variants.into_iter().map(|(n, s)| (n, with_nothing(cases, lab.sets, s))).unzip();
        let best = pick(cases, lab.sets, &scores);
        let answers = scores[best]
            .iter()
            .map(|s| Answer { scores: s.clone(), answer_nats: None, reply: None })
            .collect();
        Ok(Scored { answers, chosen: BTreeMap::from([("lens".to_owned(), names[best].clone())]) })
    }
}

/// The values' first tokens of a case's family, without "nothing".
fn first_tokens(lab: Lab<'_>, case: &Case) -> Vec<u32> {
    let mut tokens = lab.sets.get(&case.family).map(readers::ClosedSet::first_tokens).unwrap_or_default();
    tokens.pop();
    tokens
}

fn lens(lab: Lab<'_>, cases: &[Case], vectors: &[Vec<f32>]) -> Result<Vec<Vec<f32>>> {
    let mut out = Vec::with_capacity(cases.len());
    // A family's questions are asked one after the other: one product for each run of them.
    for group in cases.iter().zip(vectors).collect::<Vec<_>>().chunk_by(|a, b| a.0.family == b.0.family) {
        let tokens = first_tokens(lab, group[0].0);
        let vectors: Vec<Vec<f32>> = group.iter().map(|(_, v)| (*v).clone()).collect();
        out.extend(lab.base.decoder.lens_logits(&vectors, &tokens)?);
    }
    Ok(out)
}

/// Mean over contexts and positions of log p with the adapter minus log p without it, at the last layer.
fn last_logits(lab: Lab<'_>, diffs: &MeanDiffs, at: usize, cases: &[Case]) -> Result<Vec<Vec<f32>>> {
    let c = &diffs.collector;
    let rows = at * c.last..(at + 1) * c.last;
    let mut known: BTreeMap<(String, String), Vec<f32>> = BTreeMap::new();
    // The clean model at each set of prompts: once in neutral contexts, once a subject in others.
    let mut cleans: BTreeMap<Vec<String>, Shown> = BTreeMap::new();
    let mut out = Vec::with_capacity(cases.len());
    for case in cases {
        let tokens = first_tokens(lab, case);
        let Some(subject) = &case.subject else {
            out.push(vec![0.0; tokens.len()]);
            continue;
        };
        let name = oracle_posttrain::key(subject, case.context);
        let asked = (name.clone(), case.family.clone());
        if let Some(scores) = known.get(&asked) {
            out.push(scores.clone());
            continue;
        }
        let (prompts, _) = lab
            .supervision
            .read_at(subject, &c.prompts[..c.asked], case.context)
            .unwrap_or_else(|| (c.prompts[..c.asked].to_vec(), None));
        if !cleans.contains_key(&prompts) {
            let clean = Collector { layers: vec![c.layers[at]], ..c.at(prompts.clone()) }.clean(lab.base)?;
            cleans.insert(prompts.clone(), clean);
        }
        let shown = &diffs.seen[&name];
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for (p, base) in &cleans[&prompts] {
            for (b, d) in base.iter().zip(&shown[p][rows.clone()]) {
                without.push(b.clone());
                with.push(b.iter().zip(d).map(|(b, d)| b + d).collect::<Vec<f32>>());
            }
        }
        let n = with.len().max(1) as f32;
        let on = lab.base.decoder.next_log_probs(&with, &tokens)?;
        let off = lab.base.decoder.next_log_probs(&without, &tokens)?;
        let scores: Vec<f32> = (0..tokens.len())
            .map(|t| on.iter().zip(&off).map(|(a, b)| a[t] - b[t]).sum::<f32>() / n)
            .collect();
        known.insert(asked, scores.clone());
        out.push(scores);
    }
    Ok(out)
}
