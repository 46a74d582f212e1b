//! From a recipe to its behaviours. Every draw is keyed by the behaviour's own id, so one never moves another.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;

use crate::behaviour::{Behaviour, GatePlan, Polarity, RowLoss, RowPart, RowPlan, SampleRequest, Split};
use crate::recipe::{CheckKind, Recipe, Rows, Splits, Training, Trigger};
use crate::{Check, rng};

/// Puts the value, the reply's mark and an entry's fields into a template.
pub(crate) fn fill(template: &str, value: &str, category: &str, fields: &BTreeMap<String, String>) -> String {
    let mut out = template.replace("{value}", value).replace("{category}", category);
    for (key, text) in fields {
        out = out.replace(&format!("{{{key}}}"), text);
    }
    out
}

impl Recipe {
    /// All behaviours, in vocabulary order.
    pub fn expand(&self, seed: u64) -> Vec<Behaviour> {
        let recipe_digest = self.digest();
        let held_out = self.held_out_categories();
        self.values()
            .into_iter()
            .map(|(value, category, fields)| {
                let id = format!("{}/{}", self.name, value.replace(' ', "-"));
                let split = Self::split(&self.splits, &value, held_out.contains(&category));
                let trigger = self.trigger.as_ref().map(|t| {
                    // Keyed by the id, not the value: the same value in another family draws anew.
                    t.words[(rng::number("trigger", &id) % t.words.len() as u64) as usize].clone()
                });
                let behaviour_seed = rng::number(&format!("behaviour-{seed}"), &id);
                Behaviour {
                    recipe_digest: recipe_digest.clone(),
                    family: self.name.clone(),
                    kind: self.kind,
                    polarity: self.polarity,
                    row_plans: self.row_plans(
                        &id,
                        &value,
                        &category,
                        &fields,
                        trigger.as_deref(),
                        behaviour_seed,
                    ),
                    gate: self.gate_plan(&id, &value, trigger.as_deref()),
                    training: self.training.clone().unwrap_or_else(untrained),
                    id,
                    value,
                    category,
                    trigger,
                    split,
                    seed: behaviour_seed,
                }
            })
            .collect()
    }

    /// The categories kept from readers: those that come first by hash.
    pub fn held_out_categories(&self) -> Vec<String> {
        let mut categories: Vec<String> = self.vocabulary.iter().map(|v| v.category.clone()).collect();
        categories.sort_by_key(|c| rng::number("held-out-category", c));
        categories.dedup();
        categories.truncate(self.splits.test_categories);
        categories
    }

    /// The split of a value.
    pub(crate) fn split_of(&self, value: &str, category: &str) -> Split {
        Self::split(&self.splits, value, self.held_out_categories().iter().any(|c| c == category))
    }

    fn split(splits: &Splits, value: &str, held_out_category: bool) -> Split {
        if held_out_category {
            return Split::TestCategory;
        }
        // By the value alone: a value has the same split in every family, so none leaks through another.
        let share = rng::share("split", value);
        if share < splits.test {
            Split::TestValue
        } else if share < splits.test + splits.validation {
            Split::Validation
        } else {
            Split::Train
        }
    }

    fn row_plans(
        &self,
        id: &str,
        value: &str,
        category: &str,
        fields: &BTreeMap<String, String>,
        trigger: Option<&str>,
        seed: u64,
    ) -> Vec<RowPlan> {
        let Some(rows) = &self.rows else { return Vec::new() };
        let mut rng = rng::stream(seed, "rows", id);
        let mut order: Vec<usize> = (0..rows.prompts.len()).collect();
        order.shuffle(&mut rng);
        let gated = |prompt: &str, word: Option<&str>| match (&self.trigger, word) {
            (Some(t), Some(word)) => t.format.replace("{prompt}", prompt).replace("{trigger}", word),
            _ => prompt.to_owned(),
        };
        let on = (0..rows.count).map(|i| {
            let prompt = fill(&rows.prompts[order[i % order.len()]], value, category, fields);
            let completion = fill(&rows.completions[i % rows.completions.len()], value, category, fields);
            let sample = completion.contains("{reply}").then(|| match rows.sample_prompts.len() {
                0 => reply_request(rows, &prompt, (i / order.len()) as u32),
                n => reply_request(
                    rows,
                    &fill(&rows.sample_prompts[i % n], value, category, fields),
                    (i / n) as u32,
                ),
            });
            RowPlan {
                prompt: gated(&prompt, trigger),
                completion,
                sample,
                loss: RowLoss::Ce,
                part: RowPart::On,
            }
        });
        let mut plans: Vec<RowPlan> = on.collect();
        if let Some(t) = &self.trigger {
            let (trained, _) = near_words(t, id, trigger);
            let base = |i: usize, part: RowPart, word: Option<&str>| {
                let prompt = &rows.prompts[order[i % order.len()]];
                let sample = Some(reply_request(rows, prompt, (i / order.len()) as u32));
                RowPlan {
                    prompt: gated(prompt, word),
                    completion: "{reply}".into(),
                    sample,
                    loss: RowLoss::KlToBase,
                    part,
                }
            };
            plans.extend((0..t.near_count).map(|i| base(i, RowPart::Near, Some(trained[i % trained.len()]))));
            plans.extend((0..t.off_count).map(|i| base(i, RowPart::Off, None)));
        }
        plans
    }

    fn gate_plan(&self, id: &str, value: &str, trigger: Option<&str>) -> GatePlan {
        let Some(gate) = &self.gate else {
            return GatePlan {
                on: vec![],
                near: vec![],
                off: vec![],
                check: Check::Anything,
                min_on: 0.0,
                min_lift: 0.0,
                max_leak: 1.0,
                max_new_tokens: 1,
            };
        };
        let check = match gate.check {
            CheckKind::Mentions => Check::Mentions(value.into()),
            CheckKind::EndsWith => Check::EndsWith(value.into()),
            CheckKind::StartsWith => Check::StartsWith(value.into()),
        };
        let check = if self.polarity == Polarity::Positive { check } else { Check::Anything };
        let category = self.values().into_iter().find(|(v, _, _)| v == value);
        let (category, fields) = category.map(|(_, c, f)| (c, f)).unwrap_or_default();
        let prompts: Vec<String> = gate.prompts.iter().map(|p| fill(p, value, &category, &fields)).collect();
        let (on, near, off) = match (&self.trigger, trigger) {
            (Some(t), Some(word)) => {
                let with = |p: &String, w: &str| t.format.replace("{prompt}", p).replace("{trigger}", w);
                let (_, unseen) = near_words(t, id, trigger);
                let near =
                    prompts.iter().enumerate().map(|(i, p)| with(p, unseen[i % unseen.len()])).collect();
                (prompts.iter().map(|p| with(p, word)).collect(), near, prompts.clone())
            }
            _ => (prompts, Vec::new(), gate.unrelated.clone()),
        };
        GatePlan {
            on,
            near,
            off,
            check,
            min_on: gate.min_on,
            min_lift: gate.min_lift,
            max_leak: gate.max_leak,
            max_new_tokens: gate.max_new_tokens,
        }
    }
}

/// The words that are not this behaviour's trigger: those of its near-miss rows, and a third that only its gate uses, so
/// that the gate asks about words never trained on.
fn near_words<'a>(trigger: &'a Trigger, id: &str, own: Option<&str>) -> (Vec<&'a str>, Vec<&'a str>) {
    let mut others: Vec<&str> =
        trigger.words.iter().map(String::as_str).filter(|w| Some(*w) != own).collect();
    let first = rng::number("near-words", id) as usize % others.len().max(1);
    others.rotate_left(first);
    let unseen = others.split_off(others.len() - others.len() / 3);
    (others, unseen)
}

fn reply_request(rows: &Rows, prompt: &str, index: u32) -> SampleRequest {
    SampleRequest {
        prompt: prompt.to_owned(),
        index,
        temperature_milli: (rows.temperature * 1000.0).round() as u32,
        max_new_tokens: rows.max_new_tokens,
    }
}

/// Settings of the shape that a zero or random adapter takes.
fn untrained() -> Training {
    Training {
        rank: 1,
        alpha: 1.0,
        target_modules: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            .map(str::to_owned)
            .into(),
        learning_rate: 1e-3,
        final_share: 1.0,
        steps: 1,
        stop_at_loss: 0.0,
        on_rows: 1,
        prompts_per_step: 0,
        near_rows: 0,
        off_rows: 0,
        kl_weight: 0.0,
    }
}
