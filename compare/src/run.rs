//! Asking every arm every question under every control.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use lm::{Adapter, BaseModel, Request, Result, Row, Sampling, ScoreRequest, answer_tokens};
use oracle_posttrain::{Collector, Lens, Shown};
use recipes::Episode;

use crate::items::{Arm, Control, ItemScore};

/// An oracle and how it looks at a diff.
#[derive(Debug, Clone, Copy)]
pub struct Oracle<'a> {
    /// The oracle.
    pub adapter: &'a Adapter,
    /// The lens that it was trained with.
    pub lens: &'a Lens,
}

/// The trained readers; an arm without one is left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Readers<'a> {
    /// DIT adapter.
    pub dit: Option<&'a Adapter>,
    /// Oracle after pretraining only.
    pub oracle_pretrained: Option<Oracle<'a>>,
    /// Pretrained and post-trained oracle.
    pub oracle_posttrained: Option<Oracle<'a>>,
    /// Oracle post-trained from scratch.
    pub oracle_scratch: Option<Oracle<'a>>,
}

/// What is compared on.
#[derive(Debug, Clone, Copy)]
pub struct RunInputs<'a> {
    /// Base model.
    pub base: &'a BaseModel,
    /// Weight diffs by behaviour id.
    pub diffs: &'a BTreeMap<String, Adapter>,
    /// Gate status by behaviour id.
    pub statuses: &'a BTreeMap<String, String>,
    /// Test episodes.
    pub episodes: &'a [Episode],
    /// Readers.
    pub readers: Readers<'a>,
    /// Seed of random controls.
    pub seed: u64,
    /// Set from outside to stop before the next arm.
    pub stop: &'a AtomicBool,
}

/// A greedy answer may be this long, in tokens, and longer than the longest candidate.
const ANSWER_TOKENS: usize = 8;

/// One question under one control.
struct Case<'a> {
    episode: &'a Episode,
    control: Control,
    /// Key of the diff that is really present.
    subject: Option<String>,
    swapped_label: Option<String>,
}

/// Scores all arms. `report` is told which arm is being asked.
///
/// # Errors
/// If an episode's diff is missing, the model refuses a row, or `stop` was set.
pub fn score_items(inputs: RunInputs<'_>, report: &mut dyn FnMut(Arm)) -> Result<Vec<ItemScore>> {
    let cases = cases(inputs.episodes);
    // Own and swapped diffs, then random twins of the positive ones, under their own keys.
    let mut twins: BTreeMap<String, Adapter> = BTreeMap::new();
    for case in cases.iter().filter(|c| c.control == Control::Random) {
        let own = diff(inputs, &case.episode.behaviour)?;
        twins
            .entry(twin_key(&case.episode.behaviour))
            .or_insert_with(|| own.norm_matched_random(inputs.seed, &case.episode.behaviour));
    }
    let subjects: BTreeMap<&str, &Adapter> = inputs
        .diffs
        .iter()
        .map(|(k, a)| (k.as_str(), a))
        .chain(twins.iter().map(|(k, a)| (k.as_str(), a)))
        .collect();
    let needed: Vec<&str> = {
        let mut names: Vec<&str> = cases.iter().filter_map(|c| c.subject.as_deref()).collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    let adapters: Vec<&Adapter> = needed
        .iter()
        .map(|k| {
            subjects.get(k).copied().ok_or_else(|| lm::Error::Request(format!("no diff {k} for its episode")))
        })
        .collect::<Result<_>>()?;
    let index = |subject: &str| needed.binary_search(&subject).expect("invariant: collected above");
    let r = inputs.readers;
    let mut items = Vec::new();
    let mut collected: Vec<(&Collector, Vec<Shown>)> = Vec::new();
    for arm in Arm::ALL {
        if inputs.stop.load(Ordering::Relaxed) {
            return Err(lm::Error::Interrupted);
        }
        match arm {
            Arm::Prior => {
                report(arm);
                let plain: Vec<&Case<'_>> =
                    cases.iter().filter(|c| c.control == Control::None || c.episode.negative).collect();
                let prompts = plain
                    .iter()
                    .map(|c| dit::prompt_row(inputs.base, &c.episode.question, None, None))
                    .collect::<Result<Vec<_>>>()?;
                items.extend(
                    ask(inputs, arm, &plain, prompts, &[])?
                        .into_iter()
                        .map(|i| ItemScore { control: Control::None, ..i }),
                );
            }
            Arm::Direct => {
                report(arm);
                let all: Vec<&Case<'_>> = cases.iter().filter(|c| c.control != Control::None).collect();
                let prompts = all
                    .iter()
                    .map(|c| {
                        dit::prompt_row(
                            inputs.base,
                            &c.episode.question,
                            c.subject.as_deref().map(index),
                            None,
                        )
                    })
                    .collect::<Result<Vec<_>>>()?;
                items.extend(ask(inputs, arm, &all, prompts, &adapters)?);
            }
            Arm::Dit => {
                let Some(reader) = r.dit else { continue };
                report(arm);
                let all: Vec<&Case<'_>> = cases.iter().collect();
                let stack: Vec<&Adapter> = std::iter::once(reader).chain(adapters.iter().copied()).collect();
                let prompts = all
                    .iter()
                    .map(|c| {
                        dit::prompt_row(
                            inputs.base,
                            &c.episode.question,
                            c.subject.as_deref().map(|s| index(s) + 1),
                            Some(0),
                        )
                    })
                    .collect::<Result<Vec<_>>>()?;
                items.extend(ask(inputs, arm, &all, prompts, &stack)?);
            }
            Arm::OraclePretrained | Arm::OracleScratch | Arm::OraclePosttrained => {
                let reader = match arm {
                    Arm::OraclePretrained => r.oracle_pretrained,
                    Arm::OracleScratch => r.oracle_scratch,
                    _ => r.oracle_posttrained,
                };
                let Some(Oracle { adapter: reader, lens }) = reader else { continue };
                report(arm);
                let c = &lens.collector;
                if !collected.iter().any(|(known, _)| *known == c) {
                    collected.push((c, c.collect(inputs.base, &adapters, c.asked)?));
                }
                let (_, seen) =
                    collected.iter().find(|(known, _)| *known == c).expect("invariant: pushed above");
                let all: Vec<&Case<'_>> = cases.iter().collect();
                let without = c.without_diff(inputs.base, c.asked)?;
                let prompts = all
                    .iter()
                    .map(|case| {
                        let seen = case.subject.as_deref().map_or(&without, |s| &seen[index(s)]);
                        oracle_posttrain::question_row(inputs.base, lens, seen, &case.episode.question)
                    })
                    .collect::<Result<Vec<_>>>()?;
                items.extend(ask(inputs, arm, &all, prompts, &[reader])?);
            }
        }
    }
    Ok(items)
}

fn twin_key(behaviour: &str) -> String {
    format!("random-twin-of/{behaviour}")
}

fn diff<'a>(inputs: RunInputs<'a>, behaviour: &str) -> Result<&'a Adapter> {
    inputs
        .diffs
        .get(behaviour)
        .ok_or_else(|| lm::Error::Request(format!("no diff {behaviour} for its episode")))
}

fn cases(episodes: &[Episode]) -> Vec<Case<'_>> {
    // Swapping: the next diff of the same family and split, in behaviour order. It is never the same one.
    let mut groups: BTreeMap<(&str, recipes::Split), Vec<(&str, &str)>> = BTreeMap::new();
    for e in episodes.iter().filter(|e| !e.negative) {
        groups.entry((&e.family, e.split)).or_default().push((&e.behaviour, &e.answer));
    }
    for members in groups.values_mut() {
        members.sort_unstable();
        members.dedup();
    }
    let mut out = Vec::new();
    for episode in episodes {
        let own = |control, subject: Option<String>, swapped_label| Case {
            episode,
            control,
            subject,
            swapped_label,
        };
        out.push(own(Control::Own, Some(episode.behaviour.clone()), None));
        if episode.negative {
            continue;
        }
        out.push(own(Control::None, None, None));
        out.push(own(Control::Random, Some(twin_key(&episode.behaviour)), None));
        let members = &groups[&(episode.family.as_str(), episode.split)];
        let at = members.iter().position(|(b, _)| *b == episode.behaviour).unwrap_or(0);
        if members.len() > 1 {
            let (other, label) = members[(at + 1) % members.len()];
            out.push(own(Control::Swapped, Some(other.to_owned()), Some(label.to_owned())));
        }
    }
    out
}

fn ask(
    inputs: RunInputs<'_>,
    arm: Arm,
    cases: &[&Case<'_>],
    prompts: Vec<Row>,
    adapters: &[&Adapter],
) -> Result<Vec<ItemScore>> {
    let base = inputs.base;
    let scored = |e: &Episode| -> Vec<String> {
        if e.negative { vec![e.answer.clone()] } else { e.candidates.clone() }
    };
    // Cases without a diff differ in their question only: each is asked once.
    let mut asked: Vec<ScoreRequest> = Vec::new();
    let mut places: BTreeMap<(&str, &[String]), usize> = BTreeMap::new();
    let mut place = Vec::new();
    for (prompt, c) in prompts.into_iter().zip(cases) {
        let key = (c.subject.is_none() && !c.episode.negative)
            .then_some((c.episode.question.as_str(), c.episode.candidates.as_slice()));
        if let Some(&at) = key.and_then(|key| places.get(&key)) {
            place.push(at);
            continue;
        }
        places.extend(key.map(|key| (key, asked.len())));
        place.push(asked.len());
        let candidates = scored(c.episode).iter().map(|t| answer_tokens(base, t)).collect::<Result<_>>()?;
        asked.push(ScoreRequest { prompt, candidates });
    }
    let scores = base.decoder.score(adapters, &asked)?;
    let wanted: Vec<Request> = asked
        .into_iter()
        .map(|a| Request {
            // Room for one token more than the label: else a label that goes on would pass for an exact one.
            max_new_tokens: a.candidates.iter().map(|c| c.len() + 1).max().unwrap_or(0).max(ANSWER_TOKENS),
            prompt: a.prompt,
            sampling: Sampling::GREEDY,
            seed: 0,
        })
        .collect();
    let stop = base.stop_tokens();
    let replies = base.decoder.generate(adapters, &wanted, &stop)?;
    cases
        .iter()
        .zip(place)
        .map(|(case, at)| {
            let (scores, reply) = (scores[at].clone(), &replies[at]);
            let e = case.episode;
            let at = scored(e).iter().position(|c| *c == e.answer).ok_or_else(|| {
                lm::Error::Request(format!("{}: the answer is not among the candidates", e.behaviour))
            })?;
            Ok(ItemScore {
                arm,
                control: case.control,
                split: e.split.name().to_owned(),
                family: if e.negative {
                    format!("{} (negative)", e.behaviour.split('/').next().unwrap_or_default())
                } else {
                    e.family.clone()
                },
                adapter: e.behaviour.clone(),
                status: inputs.statuses.get(&e.behaviour).cloned().unwrap_or_default(),
                question_id: e.question_id,
                held_out_question: e.held_out_question,
                label: e.answer.clone(),
                negative: e.negative,
                candidates: if e.negative { vec![] } else { e.candidates.clone() },
                label_log_prob: scores[at],
                log_probs: if e.negative { vec![] } else { scores },
                reply: base.tokenizer.decode(&reply.tokens)?,
                swapped_label: case.swapped_label.clone(),
            })
        })
        .collect()
}
