//! Answers of a model that is asked a question: scores over a family's closed set, loss of the true answer, stated answer.

use std::collections::BTreeMap;

use lm::{Adapter, BaseModel, Request, Result, Row, Sampling, ScoreRequest, answer_tokens};

/// A family's closed set, as tokens behind an answer's space.
#[derive(Debug, Clone, PartialEq)]
pub struct ClosedSet {
    /// The candidates, "nothing" last.
    pub names: Vec<String>,
    /// Tokens of each, without an end of turn: most are one token, and cost nothing beyond the question.
    pub tokens: Vec<Vec<u32>>,
    /// For each, the shortest others that begin with it: " rain" is the beginning of " rainbows".
    longer: Vec<Vec<usize>>,
}

impl ClosedSet {
    /// The candidates of a family.
    ///
    /// # Errors
    /// If one cannot be tokenised.
    pub fn new(base: &BaseModel, names: Vec<String>) -> Result<Self> {
        let tokens: Vec<Vec<u32>> = names
            .iter()
            .map(|n| {
                let mut tokens = answer_tokens(base, n)?;
                tokens.pop();
                Ok(tokens)
            })
            .collect::<Result<_>>()?;
        let begins = |short: usize, long: usize| {
            tokens[short].len() < tokens[long].len() && tokens[long].starts_with(&tokens[short])
        };
        let longer = (0..tokens.len())
            .map(|i| {
                let all: Vec<usize> = (0..tokens.len()).filter(|&j| begins(i, j)).collect();
                all.iter().copied().filter(|&j| !all.iter().any(|&k| begins(k, j))).collect()
            })
            .collect();
        Ok(Self { names, tokens, longer })
    }

    /// Log-probabilities of the candidates as whole answers, from those of their tokens: what goes on to be a longer
    /// candidate is taken off the shorter one.
    fn whole(&self, log_probs: &[f64]) -> Vec<f32> {
        log_probs
            .iter()
            .zip(&self.longer)
            .map(|(own, longer)| {
                let share: f64 = longer.iter().map(|&j| (log_probs[j] - own).exp()).sum();
                (own + (1.0 - share).max(1e-6).ln()) as f32
            })
            .collect()
    }

    /// First token of each candidate.
    pub fn first_tokens(&self) -> Vec<u32> {
        self.tokens.iter().map(|t| t[0]).collect()
    }
}

/// A question to a model.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The prompt.
    pub prompt: Row,
    /// Whose closed set the answer is chosen from.
    pub family: String,
    /// The true answer.
    pub label: String,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// For each candidate of the family's closed set; higher is likelier.
    pub scores: Vec<f32>,
    /// Loss of the true answer with its end of turn, in nats.
    pub answer_nats: Option<f64>,
    /// The greedy answer.
    pub reply: Option<String>,
}

/// A greedy answer may be this long, in tokens, and longer than the longest candidate.
const ANSWER_TOKENS: usize = 8;

/// Asks every question under `adapters`; equal prompts are computed once.
///
/// # Errors
/// If a family has no closed set among `sets`, or the model refuses a row.
pub fn answer(
    base: &BaseModel,
    adapters: &[&Adapter],
    asked: &[Asked],
    sets: &BTreeMap<String, ClosedSet>,
) -> Result<Vec<Answer>> {
    let set = |family: &str| {
        sets.get(family).ok_or_else(|| lm::Error::Request(format!("no closed set of family {family}")))
    };
    let requests = asked
        .iter()
        .map(|a| {
            let mut candidates = set(&a.family)?.tokens.clone();
            candidates.push(answer_tokens(base, &a.label)?);
            Ok(ScoreRequest { prompt: a.prompt.clone(), candidates })
        })
        .collect::<Result<Vec<_>>>()?;
    let scores = base.decoder.score(adapters, &requests)?;
    let wanted: Vec<Request> = requests
        .into_iter()
        .map(|r| Request {
            // Room for more than the longest candidate: else one that goes on would pass for an exact one.
            max_new_tokens: r.candidates.iter().map(|c| c.len() + 1).max().unwrap_or(0).max(ANSWER_TOKENS),
            prompt: r.prompt,
            sampling: Sampling::GREEDY,
            seed: 0,
        })
        .collect();
    let replies = base.decoder.generate(adapters, &wanted, base.stop())?;
    asked
        .iter()
        .zip(scores)
        .zip(replies)
        .map(|((a, mut scores), reply)| {
            let label = scores.pop().unwrap_or_default();
            Ok(Answer {
                scores: set(&a.family)?.whole(&scores),
                answer_nats: Some(-label),
                reply: Some(base.tokenizer.decode(&reply.tokens)?.trim().to_owned()),
            })
        })
        .collect()
}

/// Scores of every question's candidates alone, as [`answer`] gives them: for choosing among ways of asking.
///
/// # Errors
/// As [`answer`].
pub fn closed_scores(
    base: &BaseModel,
    adapters: &[&Adapter],
    asked: &[Asked],
    sets: &BTreeMap<String, ClosedSet>,
) -> Result<Vec<Vec<f32>>> {
    let mut of = Vec::with_capacity(asked.len());
    let mut requests = Vec::with_capacity(asked.len());
    for a in asked {
        let unknown = || lm::Error::Request(format!("no closed set of family {}", a.family));
        let set = sets.get(&a.family).ok_or_else(unknown)?;
        requests.push(ScoreRequest { prompt: a.prompt.clone(), candidates: set.tokens.clone() });
        of.push(set);
    }
    let scores = base.decoder.score(adapters, &requests)?;
    Ok(of.into_iter().zip(scores).map(|(set, s)| set.whole(&s)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_to_be_a_longer_candidate_is_taken_off_the_shorter_one() {
        let set = ClosedSet {
            names: ["rain", "rainbow", "rainbows", "snow"].map(str::to_owned).to_vec(),
            tokens: vec![vec![1], vec![1, 2], vec![1, 2, 3], vec![4]],
            longer: vec![vec![1], vec![2], vec![], vec![]],
        };
        let p = [0.5f64, 0.2, 0.15, 0.3];
        let whole = set.whole(&p.map(f64::ln));
        for (found, wanted) in whole.iter().zip([0.3f64, 0.05, 0.15, 0.3]) {
            assert!((f64::from(*found) - wanted.ln()).abs() < 1e-5, "{found} {wanted}");
        }
    }
}
