//! Reading what a subject says when it is asked nothing in particular: the baseline of every audit that has no access to
//! weights or activations (as in Marks et al., arXiv 2503.10965, and Minder et al., arXiv 2510.13900).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use fence::turns;
use lm::ResidualAt;
use lm::{Adapter, Batch, Request, Row, Sampling, Want, rng};
use oracle_posttrain::Collector;
use rand::Rng;
use rayon::prelude::*;
use readers::{Arm, Asked, Case, Lab, Method, Reader, Result, Scored, answer, closed_scores, pick};
use recipes::Context;
use registry::Store;

use super::nothing::with_nothing;
use super::values::{all_first_tokens, bare, places};

/// A subject replies once to each neutral prompt. Read in one of two ways, whichever is better on validation adapters: by
/// how much likelier than under the base model a value's first token was anywhere in the replies, or by the base model, which
/// is shown them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blackbox;

/// Length of a reply.
const REPLY_TOKENS: usize = 24;
/// How replies are drawn.
const SAMPLING: Sampling = Sampling { temperature: 0.9, top_k: 50, top_p: 1.0 };
/// Subjects computed together.
const TOGETHER: usize = 32;
/// How the base model's answer begins.
const STEM: &str = "These texts are all about";

impl Method for Blackbox {
    fn name(&self) -> &'static str {
        "blackbox"
    }

    fn about(&self) -> &'static str {
        "what the fine-tuned model says to neutral prompts, by likelihood against the base model's or read by it, chosen on validation adapters"
    }

    fn score(
        &self,
        _store: &Store,
        lab: Lab<'_>,
        arm: &Arm,
        _reader: Option<&Reader>,
        cases: &[Case],
    ) -> Result<Scored> {
        let collector = Collector::of(&arm.input, lab.base, &[]);
        let prompts = &collector.prompts[..collector.asked];
        let subjects: BTreeSet<Talker<'_>> = cases.iter().map(talker).collect();
        let subjects: Vec<Talker<'_>> = subjects.into_iter().collect();
        let tokens = all_first_tokens(lab);
        let mut talks: BTreeMap<Talker<'_>, Talk> = BTreeMap::new();
        for part in subjects.chunks(TOGETHER) {
            if lab.stop.load(Ordering::Relaxed) {
                return Err(lm::Error::Interrupted.into());
            }
            talks.extend(part.iter().copied().zip(talk(lab, prompts, part, &tokens)?));
        }
        let places = places(lab);
        let lift = cases
            .iter()
            .map(|c| {
                let values = places.get(c.family.as_str()).map_or(&[][..], Vec::as_slice);
                values.iter().map(|&t| talks[&talker(c)].lift[t]).collect()
            })
            .collect();
        let lift = with_nothing(cases, lab.sets, lift);
        let asked = |which: &[&Case]| -> Result<Vec<Asked>> {
            which
                .iter()
                .map(|c| {
                    let prompt = shown(lab, &talks[&talker(c)].texts)?;
                    Ok(Asked { prompt, family: c.family.clone(), label: c.label.clone() })
                })
                .collect()
        };
        let choosing: Vec<usize> = (0..cases.len()).filter(|i| cases[*i].chooses()).collect();
        let tried = asked(&choosing.iter().map(|&i| &cases[i]).collect::<Vec<_>>())?;
        let tried = [
            choosing.iter().map(|&i| lift[i].clone()).collect(),
            closed_scores(lab.base, &[], &tried, lab.sets)?,
        ];
        let owned: Vec<Case> = choosing.into_iter().map(|i| cases[i].clone()).collect();
        let (said, answers) = if pick(&owned, lab.sets, &tried) == 0 {
            ("likelihood against the base model's", lift.into_iter().map(bare).collect())
        } else {
            let asked = asked(&cases.iter().collect::<Vec<_>>())?;
            ("read by the base model", answer(lab.base, &[], &asked, lab.sets)?)
        };
        Ok(Scored { answers, chosen: BTreeMap::from([("replies".to_owned(), said.to_owned())]) })
    }
}

/// Who talks, and in which context; none: the base model.
type Talker<'a> = (Option<&'a str>, Context);

fn talker(case: &Case) -> Talker<'_> {
    let subject = case.subject.as_deref();
    (subject, if subject.is_some() { case.context } else { Context::Neutral })
}

/// What a subject said.
struct Talk {
    texts: Vec<String>,
    /// For each of the asked tokens, the sum over prompts of log of its summed probability over the reply's positions, less
    /// the same under the base model.
    lift: Vec<f32>,
}

/// Lets subjects reply to all prompts.
fn talk(lab: Lab<'_>, prompts: &[String], who: &[Talker<'_>], tokens: &[u32]) -> Result<Vec<Talk>> {
    let mut adapters: Vec<&Adapter> = Vec::new();
    let mut requests: Vec<Request> = Vec::with_capacity(who.len() * prompts.len());
    for &(subject, context) in who {
        let mut on = vec![];
        if let Some(subject) = subject {
            let unknown = || readers::Error::Empty(format!("no diff {subject} for its episode"));
            on.push(adapters.len());
            adapters.push(lab.supervision.diffs.get(subject).ok_or_else(unknown)?);
        }
        for (i, prompt) in prompts.iter().enumerate() {
            let text = in_context(lab, subject, context, prompt)?;
            let name = format!("{}|{}|{i}", subject.unwrap_or_default(), context.name());
            requests.push(Request {
                prompt: Row::with_adapters(lab.base.prompt(&text)?, on.clone()),
                max_new_tokens: REPLY_TOKENS,
                sampling: SAMPLING,
                seed: rng::stream(lab.seed, "blackbox", &name).random(),
            });
        }
    }
    let (decoder, stop) = (&lab.base.decoder, lab.base.stop());
    let replies = decoder.generate_watching(&adapters, &requests, stop, tokens)?;
    let texts = replies
        .iter()
        .map(|w| Ok(lab.base.tokenizer.decode(&w.reply.tokens)?.trim().to_owned()))
        .collect::<Result<Vec<String>>>()?;
    // The base model at the same positions of the same replies.
    let last = lab.base.architecture.layers.len() - 1;
    let (mut rows, mut wants) = (Vec::with_capacity(requests.len()), Vec::with_capacity(requests.len()));
    for (request, watched) in requests.iter().zip(&replies) {
        let mut tokens = request.prompt.tokens.clone();
        let positions = tokens.len() - 1..tokens.len() - 1 + watched.log_probs.len();
        tokens.extend(&watched.reply.tokens);
        tokens.truncate(positions.end);
        rows.push(Row::plain(tokens));
        let residual = vec![ResidualAt { layer: last, positions: positions.collect() }];
        wants.push(Want { logits: vec![], residual });
    }
    let seen = decoder.forward(&Batch { adapters: vec![], rows }, &wants)?;
    let lifts = (replies, seen)
        .into_par_iter()
        .map(|(watched, seen)| {
            let off = anywhere(&decoder.next_log_probs(&seen.residual[0], tokens)?, tokens.len());
            let on = anywhere(&watched.log_probs, tokens.len());
            Ok(on.into_iter().zip(off).map(|(on, off)| on - off).collect())
        })
        .collect::<Result<Vec<Vec<f64>>>>()?;
    let each = prompts.len().max(1);
    let summed = |t: usize, of: &[Vec<f64>]| of.iter().map(|l| l[t]).sum::<f64>() as f32;
    Ok(who
        .iter()
        .zip(texts.chunks(each).zip(lifts.chunks(each)))
        .map(|(who, (texts, lifts))| {
            // The base model is exactly as likely as itself to say anything: rounding is no lift.
            let lift = (0..tokens.len()).map(|t| if who.0.is_some() { summed(t, lifts) } else { 0.0 });
            Talk { texts: texts.to_vec(), lift: lift.collect() }
        })
        .collect())
}

/// Log of each token's summed probability over positions. No token is so unlikely that one reply could decide over all others.
fn anywhere(log_probs: &[Vec<f32>], tokens: usize) -> Vec<f64> {
    let sum = |t: usize| log_probs.iter().map(|p| f64::from(p[t]).exp()).sum::<f64>();
    (0..tokens).map(|t| sum(t).max(1e-12).ln()).collect()
}

fn in_context(lab: Lab<'_>, subject: Option<&str>, context: Context, prompt: &str) -> Result<String> {
    let behaviour = subject.and_then(|s| lab.supervision.behaviours.get(s));
    let text = match (context, behaviour) {
        (Context::Neutral, _) | (_, None) => Some(prompt.to_owned()),
        (context, Some(b)) => b.in_context(prompt, context),
    };
    text.ok_or_else(|| readers::Error::Empty(format!("no context {}", context.name())))
}

/// What the base model is asked: as many of the replies as its context has room for, and the beginning of its answer.
fn shown(lab: Lab<'_>, texts: &[String]) -> Result<Row> {
    const ROOM: usize = 64;
    let stem = lab.base.tokenizer.encode(STEM)?;
    for kept in (0..=texts.len()).rev() {
        let listed: Vec<String> =
            texts[..kept].iter().map(|t| format!("- {}\n", turns::one(t).replace('\n', " "))).collect();
        let list = listed.concat();
        let mut tokens = lab.base.prompt(&format!("Here are some texts.\n{list}What are they all about?"))?;
        tokens.extend(&stem);
        if kept == 0 || tokens.len() + ROOM <= lab.base.architecture.context {
            return Ok(Row::plain(tokens));
        }
    }
    Ok(Row::plain(stem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::planted::{Labels, Planted, Write};

    #[test]
    fn it_hears_what_was_planted() {
        let world = Planted::new(Write::Label);
        let scored = world.score(&Blackbox, &Arm::of("blackbox"));
        world.reads(&scored, Labels::Seen);
        world.reads(&scored, Labels::Unseen);
        assert_eq!(scored, world.score(&Blackbox, &Arm::of("blackbox")));
        let base = world.cases.iter().position(|c| c.subject.is_none()).unwrap();
        assert!(scored.answers[base].scores[..24].iter().all(|s| *s == 0.0));
    }

    #[test]
    fn noise_sounds_like_nothing() {
        let world = Planted::new(Write::Noise);
        let scored = world.score(&Blackbox, &Arm::of("blackbox"));
        world.finds_nothing(&scored, Labels::Seen);
        world.finds_nothing(&scored, Labels::Unseen);
    }

    #[test]
    fn the_base_model_is_shown_no_more_than_it_has_room_for() {
        let world = Planted::new(Write::Noise);
        let long = vec!["cat dog ".repeat(60); 8];
        let row = shown(world.lab(), &long).unwrap();
        assert!(row.tokens.len() + 64 <= 512 && row.tokens.len() > 100, "{}", row.tokens.len());
    }
}
