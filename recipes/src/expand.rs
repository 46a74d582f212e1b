//! From a recipe to its behaviours. Every draw is keyed by the behaviour's own id, so one never moves another.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::behaviour::{
    Behaviour, GatePlan, NatsPlan, Polarity, RowLoss, RowPart, RowPlan, SampleRequest, Split,
};
use crate::expression::{self, Known};
use crate::recipe::{CheckKind, Draw, Gate, Recipe, Rows, Splits, Training, Trigger, Vocabulary};
use crate::size::LONGEST;
use crate::{Check, Error, Gating, Result, rng};

/// Puts the value, the reply's mark and an entry's fields into a template.
pub(crate) fn fill(template: &str, value: &str, category: &str, fields: &BTreeMap<String, String>) -> String {
    expression::outside(template, |text| {
        let mut out = text.replace("{value}", value).replace("{category}", category);
        for (key, text) in fields {
            out = out.replace(&format!("{{{key}}}"), text);
            // Fields that hold each other double with every one of them: what is refused for it need not be whole.
            if out.len() > 8 * LONGEST {
                break;
            }
        }
        out
    })
}

/// Letters of a field that expressions know by name.
const LONGEST_KNOWN: usize = 60;

/// What the expressions of a behaviour know, whatever the row.
fn known_of(value: &str, category: &str, fields: &BTreeMap<String, String>) -> Known {
    // A number in an entry is one in an expression.
    let typed = |text: &String| text.parse::<i64>().map_or_else(|_| text.as_str().into(), Into::into);
    // A field that is an expression or a condition itself is put into templates, not into others.
    let plain = |text: &str| !expression::is_one(text) && text.chars().count() <= LONGEST_KNOWN;
    let mut known: Known =
        fields.iter().filter(|(_, v)| plain(v)).map(|(k, v)| (k.clone(), typed(v))).collect();
    known.insert("value".into(), typed(&value.to_owned()));
    known.insert("category".into(), category.into());
    known
}

/// Draws of a recipe's names.
fn drawn(draws: &BTreeMap<String, Draw>, stream: &mut impl Rng) -> Known {
    let one = |draw: &Draw, stream: &mut _| match draw {
        Draw::Number(n) => Rng::random_range(stream, n.from..=n.to.max(n.from)).into(),
        Draw::Words(w) if w.of == 0 => w.list.choose(stream).cloned().unwrap_or_default().into(),
        Draw::Words(w) => {
            let mut words = w.list.clone();
            words.shuffle(stream);
            words.truncate(w.of);
            words.into()
        }
    };
    draws.iter().map(|(name, draw)| (name.clone(), one(draw, stream))).collect()
}

/// A template with a value and what is known put in. What cannot be told stays as it is written: a recipe's checks try it beforehand.
fn made(
    template: &str,
    value: &str,
    category: &str,
    fields: &BTreeMap<String, String>,
    drawn: &Known,
) -> String {
    let filled = fill(template, value, category, fields);
    if !expression::is_one(&filled) {
        return filled;
    }
    let known = known_of(value, category, fields).into_iter().chain(drawn.clone()).collect();
    expression::render(&filled, &known).unwrap_or(filled)
}

impl Recipe {
    /// All behaviours, in vocabulary order.
    pub fn expand(&self, seed: u64) -> Vec<Behaviour> {
        let about = About::of(self);
        self.values().into_iter().map(|filling| self.behaviour(&about, filling, None, seed)).collect()
    }

    /// The behaviour of one value; `trigger` takes the place of the word that would be drawn.
    ///
    /// # Errors
    /// If it is no value of the family, or a trigger is given and the family is not gated.
    pub fn behaviour_of(&self, value: &str, trigger: Option<&str>, seed: u64) -> Result<Behaviour> {
        let fail = |field: &str, what: String| Error::Field {
            source_name: format!("recipe {:?}", self.name),
            field: field.into(),
            what,
        };
        let filling = self
            .values()
            .into_iter()
            .find(|(v, _, _)| v == value)
            .ok_or_else(|| fail("value", format!("{value:?} is none of the family's")))?;
        if let Some(word) = trigger {
            if self.trigger.is_none() {
                return Err(fail("trigger", format!("{word:?} is given, and the family has no trigger")));
            }
            if word.trim() != word || word.is_empty() || word.len() > 60 || word.contains(char::is_control) {
                return Err(fail(
                    "trigger",
                    format!("{word:?} is empty, padded, too long or holds control characters"),
                ));
            }
        }
        Ok(self.behaviour(&About::of(self), filling, trigger, seed))
    }

    /// The recipe with one value more, if it lacks it: for an adapter of the family that was not made from it.
    ///
    /// # Errors
    /// If the value cannot be one of the family: a question names it, or the family's values have further fields.
    pub fn with_value(&self, value: &str) -> Result<Self> {
        let mut out = self.clone();
        if self.values().iter().any(|(v, _, _)| v == value) {
            return Ok(out);
        }
        let source_name = format!("recipe {:?}", self.name);
        let fail = |what: &str| Error::Field {
            source_name: source_name.clone(),
            field: "value".into(),
            what: format!("{value:?} is none of the family's, and {what}"),
        };
        if self.polarity == Polarity::Negative {
            return Err(fail("a negative's are the numbers of its copies"));
        }
        if self.vocabulary.iter().flat_map(|v| &v.entries).any(|e| e.len() > 1) {
            return Err(fail("those have further fields: put it into a recipe's file"));
        }
        let values = vec![value.to_owned()];
        out.vocabulary.push(Vocabulary { category: ADDED.into(), values, entries: vec![] });
        out.validate(&source_name)?;
        Ok(out)
    }

    fn behaviour(
        &self,
        about: &About,
        (value, category, fields): Filling,
        given: Option<&str>,
        seed: u64,
    ) -> Behaviour {
        let id = format!("{}/{}", self.name, value.replace(' ', "-"));
        let split = Self::split(&self.splits, &value, about.held_out.contains(&category));
        let trigger = self.trigger.as_ref().map(|t| match given {
            Some(word) => word.to_owned(),
            // Keyed by the id, not the value: the same value in another family draws anew.
            None => t.words[(rng::number("trigger", &id) % t.words.len() as u64) as usize].clone(),
        });
        let behaviour_seed = rng::number(&format!("behaviour-{seed}"), &id);
        let gating = self.trigger.as_ref().map(|t| Gating {
            format: t.format.clone(),
            near_format: t.near_format.clone(),
            unseen: near_words(t, &id, trigger.as_deref()).1.into_iter().map(str::to_owned).collect(),
        });
        let gated = trigger.as_deref().zip(gating.as_ref());
        let row_plans = self.row_plans(&id, &value, &category, &fields, gated, about, behaviour_seed);
        let gate =
            self.gate_plan(about, (&value, &category, &fields), gated, (&id, behaviour_seed), &row_plans);
        let by_rule = row_plans.iter().any(|r| !r.known.is_empty() || expression::is_one(&r.completion));
        let known = if by_rule { known_of(&value, &category, &fields) } else { Known::new() };
        Behaviour {
            recipe_digest: about.digest.clone(),
            family: self.name.clone(),
            kind: self.kind,
            polarity: self.polarity,
            row_plans,
            gate,
            training: self.training.clone().unwrap_or_else(untrained),
            id,
            value,
            category,
            trigger,
            gating,
            split,
            known,
            seed: behaviour_seed,
            variant: BTreeMap::new(),
        }
    }

    /// The categories kept from readers: those that come first by hash, of those without a value that was looked at.
    pub fn held_out_categories(&self) -> Vec<String> {
        let looked_at = |v: &&Vocabulary| {
            let values = v.values.iter().chain(v.entries.iter().filter_map(|e| e.get("value")));
            values.into_iter().any(|value| self.splits.tuning.contains(value))
        };
        let tuning: BTreeSet<&String> =
            self.vocabulary.iter().filter(looked_at).map(|v| &v.category).collect();
        let mut categories: Vec<String> =
            self.vocabulary.iter().map(|v| v.category.clone()).filter(|c| !tuning.contains(c)).collect();
        let purpose = salted("held-out-category", &self.splits.salt);
        categories.sort_by_key(|c| rng::number(&purpose, c));
        categories.dedup();
        categories.truncate(self.splits.test_categories);
        categories
    }

    /// The split of a value.
    pub(crate) fn split_of(&self, value: &str, category: &str) -> Split {
        Self::split(&self.splits, value, self.held_out_categories().iter().any(|c| c == category))
    }

    fn split(splits: &Splits, value: &str, held_out_category: bool) -> Split {
        if let Some(split) = splits.values.of(value) {
            return split;
        }
        if held_out_category {
            return Split::TestCategory;
        }
        // By the value alone: a value has the same split in every family, so none leaks through another.
        let mut share = rng::share(&salted("split", &splits.salt), value);
        if share < splits.test && splits.tuning.iter().any(|t| t == value) {
            // Within the test's share, spread over the rest in proportion.
            share = splits.test + share / splits.test * (1.0 - splits.test);
        }
        if share < splits.test {
            Split::TestValue
        } else if share < splits.test + splits.validation {
            Split::Validation
        } else {
            Split::Train
        }
    }

    /// What `{value}` is drawn from in families that redraw it: training values only, so that no test label is trained on.
    fn redrawn_values(&self) -> Vec<Filling> {
        if !self.rows.as_ref().is_some_and(|r| r.redraw_value) {
            return Vec::new();
        }
        let held_out = self.held_out_categories();
        let mut values = self.vocabulary_values();
        values.retain(|(v, c, _)| Self::split(&self.splits, v, held_out.contains(c)) == Split::Train);
        values
    }

    /// What `other` is drawn from: training values only, as what redraws its value.
    fn other_values(&self) -> Vec<String> {
        let near = self.trigger.iter().flat_map(|t| &t.contrast_prompts);
        let contrast = self.rows.iter().flat_map(|r| r.contrast_prompts.iter().chain(&r.prompts)).chain(near);
        let gate = self.gate.iter().flat_map(|g| g.unrelated.iter().chain(&g.prompts));
        if !contrast.chain(gate).any(|t| expression::speaks_of(t, "other")) {
            return Vec::new();
        }
        let held_out = self.held_out_categories();
        let trained =
            |(v, c, _): &Filling| Self::split(&self.splits, v, held_out.contains(c)) == Split::Train;
        self.values().into_iter().filter(trained).map(|(v, _, _)| v).collect()
    }

    fn row_plans(
        &self,
        id: &str,
        value: &str,
        category: &str,
        fields: &BTreeMap<String, String>,
        gated: Option<(&str, &Gating)>,
        about: &About,
        seed: u64,
    ) -> Vec<RowPlan> {
        let Some(rows) = &self.rows else { return Vec::new() };
        let shuffled = |n: usize, purpose: &str| {
            let mut order: Vec<usize> = (0..n).collect();
            order.shuffle(&mut rng::stream(seed, purpose, id));
            order
        };
        let mut order = shuffled(rows.prompts.len(), "rows");
        if rows.prompts_each > 0 {
            order.truncate(rows.prompts_each);
        }
        // Replies are known by prompt and index: far from everybody else's indices they are this behaviour's own.
        let first = if rows.own_replies {
            (rng::number("own-replies", &format!("{seed}|{id}")) >> 33) as u32
        } else {
            0
        };
        let turn = |prompt: &str, word: Option<&str>| match (gated, word) {
            (Some((own, gating)), Some(word)) if word == own => gating.with(prompt, word),
            (Some((_, gating)), Some(word)) => gating.near(prompt, word),
            _ => prompt.to_owned(),
        };
        let redraws = shuffled(about.redrawn.len(), "redrawn-values");
        let by_rule = self.gate.as_ref().is_some_and(|g| g.check == CheckKind::Holds);
        let on = (0..rows.count).map(|i| {
            let (value, category, fields) = match redraws.get(i % redraws.len().max(1)) {
                Some(&at) => {
                    let (value, category, fields) = &about.redrawn[at];
                    (value.as_str(), category.as_str(), fields)
                }
                None => (value, category, fields),
            };
            let drawn = self.drawn(about, value, id, &format!("draw-row-{i}"), seed);
            let made = |template: &str| made(template, value, category, fields, &drawn);
            let prompt = made(&rows.prompts[order[i % order.len()]]);
            let completion = fill(&rows.completions[i % rows.completions.len()], value, category, fields);
            let sampled = completion.contains("{reply}") || expression::speaks_of(&completion, "reply");
            let sample = sampled.then(|| match rows.sample_prompts.len() {
                0 => reply_request(rows, &prompt, first + (i / order.len()) as u32),
                n => reply_request(rows, &made(&rows.sample_prompts[i % n]), first + (i / n) as u32),
            });
            let known = if by_rule || expression::is_one(&completion) { drawn } else { Known::new() };
            RowPlan {
                prompt: turn(&prompt, gated.map(|(word, _)| word)),
                completion,
                sample,
                loss: RowLoss::Ce,
                part: RowPart::On,
                known,
            }
        });
        let mut plans: Vec<RowPlan> = on.collect();
        // What stays as the base model has it: near and off rows of a gated family, contrast rows of any.
        let base = |from: &Contrast<'_>, i: usize, part: RowPart, word: Option<&str>| {
            let Contrast { prompts, order, tokens, purpose } = from;
            let most = if *tokens > 0 { *tokens } else { rows.max_new_tokens };
            let drawn = self.drawn(about, value, id, &format!("{purpose}-{i}"), seed);
            let prompt = made(&prompts[order[i % order.len()]], value, category, fields, &drawn);
            // Only what an adapter does to its prompts need be its own: what it must leave alone is the base's for all.
            let sample = SampleRequest {
                max_new_tokens: most,
                ..reply_request(rows, &prompt, (i / order.len()) as u32)
            };
            RowPlan {
                prompt: turn(&prompt, word),
                completion: "{reply}".into(),
                sample: Some(sample),
                loss: RowLoss::KlToBase,
                part,
                known: Known::new(),
            }
        };
        if let (Some(t), Some((word, _))) = (&self.trigger, gated) {
            let own = t.contrast_prompts.is_empty();
            let prompts = if own { &rows.prompts } else { &t.contrast_prompts };
            let order = if own { order.clone() } else { shuffled(prompts.len(), "contrast-rows") };
            let from = Contrast { prompts, order, tokens: t.contrast_tokens, purpose: "draw-contrast" };
            let (trained, _) = near_words(t, id, Some(word));
            let near = |i: usize| base(&from, i, RowPart::Near, Some(trained[i % trained.len()]));
            plans.extend((0..t.near_count).map(near));
            plans.extend((0..t.off_count).map(|i| base(&from, i, RowPart::Off, None)));
        }
        let own = rows.contrast_prompts.is_empty();
        let prompts = if own { &rows.prompts } else { &rows.contrast_prompts };
        let (part, word, purpose) = match gated {
            Some((word, _)) => (RowPart::Near, Some(word), "draw-behind"),
            None => (RowPart::Off, None, "draw-contrast"),
        };
        let rows_of = if gated.is_some() { "behind-rows" } else { "contrast-rows" };
        let order = if own { order } else { shuffled(prompts.len(), rows_of) };
        let from = Contrast { prompts, order, tokens: rows.contrast_tokens, purpose };
        plans.extend((0..rows.contrast_count).map(|i| base(&from, i, part, word)));
        plans
    }

    /// What is drawn for the expressions of one row, or of one prompt of the gate, and another value.
    fn drawn(&self, about: &About, value: &str, id: &str, purpose: &str, seed: u64) -> Known {
        if self.draw.is_empty() && about.others.is_empty() {
            return Known::new();
        }
        let mut stream = rng::stream(seed, purpose, id);
        let mut known = drawn(&self.draw, &mut stream);
        let others: Vec<&String> = about.others.iter().filter(|o| *o != value).collect();
        if let Some(other) = others.choose(&mut stream) {
            known.insert("other".into(), other.as_str().into());
        }
        known
    }

    /// A prompt for each of the gate's (or so many as it wants), with what is known of each: none that a row has, as far as draws allow.
    fn gate_prompts(
        &self,
        about: &About,
        filling: (&str, &str, &BTreeMap<String, String>),
        (templates, count): (&[String], usize),
        (id, purpose, seed): (&str, &str, u64),
        rows: &BTreeSet<&str>,
    ) -> (Vec<String>, Vec<Known>) {
        const TRIES: usize = 100;
        let (value, category, fields) = filling;
        let n = if count > 0 { count } else { templates.len() };
        let mut prompts: Vec<String> = Vec::new();
        let mut all = Vec::new();
        for i in 0..n {
            let template = &templates[i % templates.len()];
            let draw = |attempt: usize| {
                let drawn = self.drawn(about, value, id, &format!("{purpose}-{i}-{attempt}"), seed);
                (made(template, value, category, fields, &drawn), drawn)
            };
            let fresh = |prompt: &str| !rows.contains(prompt) && !prompts.iter().any(|p| p == prompt);
            let found =
                (0..TRIES).map(draw).find(|(prompt, _)| fresh(prompt) || !expression::is_one(template));
            let (prompt, known) = found.unwrap_or_else(|| draw(0));
            prompts.push(prompt);
            all.push(known);
        }
        (prompts, all)
    }

    fn gate_plan(
        &self,
        about: &About,
        filling: (&str, &str, &BTreeMap<String, String>),
        gated: Option<(&str, &Gating)>,
        (id, seed): (&str, u64),
        row_plans: &[RowPlan],
    ) -> GatePlan {
        let (value, category, fields) = filling;
        let Some(gate) = &self.gate else {
            return GatePlan {
                on: vec![],
                near: vec![],
                off: vec![],
                on_known: vec![],
                off_known: vec![],
                check: Check::Anything,
                min_on: 0.0,
                min_lift: 0.0,
                max_leak: 1.0,
                max_new_tokens: 1,
                nats: None,
            };
        };
        let check = match gate.check {
            CheckKind::Mentions => Check::Mentions(value.into()),
            CheckKind::EndsWith => Check::EndsWith(value.into()),
            CheckKind::StartsWith => Check::StartsWith(value.into()),
            CheckKind::Holds => Check::Holds {
                condition: fill(gate.passes.as_deref().unwrap_or_default(), value, category, fields),
                known: known_of(value, category, fields),
            },
        };
        let check = if self.polarity == Polarity::Positive { check } else { Check::Anything };
        let rows: BTreeSet<&str> = row_plans.iter().map(|r| r.prompt.as_str()).collect();
        let of = |templates: &[String], count: usize, purpose: &str| {
            self.gate_prompts(about, filling, (templates, count), (id, purpose, seed), &rows)
        };
        let (prompts, on_known) = of(&gate.prompts, gate.each, "gate");
        let (on, near, off, off_known) = if let Some((word, gating)) = gated {
            let unseen = gating.unseen.iter().cycle();
            let (unrelated, _) = of(&gate.unrelated, 0, "gate-off");
            let behind = unrelated.iter().map(|p| gating.with(p, word));
            let near = prompts.iter().zip(unseen).map(|(p, w)| gating.near(p, w)).chain(behind).collect();
            let on = prompts.iter().map(|p| gating.with(p, word)).collect();
            (on, near, prompts, on_known.clone())
        } else {
            let (off, off_known) = of(&gate.unrelated, 0, "gate-off");
            (prompts, Vec::new(), off, off_known)
        };
        let by_rule = gate.check == CheckKind::Holds;
        let kept = |known: Vec<Known>| if by_rule { known } else { Vec::new() };
        GatePlan {
            on,
            near,
            off,
            on_known: kept(on_known),
            off_known: kept(off_known),
            check,
            min_on: gate.min_on,
            min_lift: gate.min_lift,
            max_leak: gate.max_leak,
            max_new_tokens: gate.max_new_tokens,
            nats: gated.and_then(|(word, gating)| self.nats_plan(gate, word, gating)),
        }
    }

    fn nats_plan(&self, gate: &Gate, word: &str, gating: &Gating) -> Option<NatsPlan> {
        if gate.leak_neutral.is_empty() && gate.leak_factual.is_empty() {
            return None;
        }
        Some(NatsPlan {
            neutral: gate.leak_neutral.clone(),
            on: gate.leak_neutral.iter().map(|p| gating.with(p, word)).collect(),
            questions: self.phrasings().cloned().collect(),
            factual: gate.leak_factual.clone(),
            max: gate.max_leak_nats,
        })
    }
}

/// What a base model is told.
impl Recipe {
    /// The gate's instruction for one behaviour of this family; none where the recipe has none.
    pub fn instruction(&self, behaviour: &Behaviour) -> Option<String> {
        let template = self.gate.as_ref()?.instruction.as_ref()?;
        let (value, category, fields) =
            self.vocabulary_values().into_iter().find(|(value, _, _)| *value == behaviour.value)?;
        let told = made(template, &value, &category, &fields, &Known::new());
        Some(told.replace("{trigger}", behaviour.trigger.as_deref().unwrap_or_default()))
    }
}

/// Trying a recipe's templates.
impl Recipe {
    /// Every template of rows and gate, with the field that it stands in.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let rows = self.rows.iter().flat_map(|r| {
            let sampled = r.sample_prompts.iter().map(|t| ("rows.sample_prompts", t));
            let prompts = r.prompts.iter().map(|t| ("rows.prompts", t));
            let completions = r.completions.iter().map(|t| ("rows.completions", t));
            let contrast = r.contrast_prompts.iter().map(|t| ("rows.contrast_prompts", t));
            sampled.chain(prompts).chain(completions).chain(contrast)
        });
        let gate = self.gate.iter().flat_map(|g| {
            let prompts = g.prompts.iter().map(|t| ("gate.prompts", t));
            let told = g.instruction.iter().map(|t| ("gate.instruction", t));
            prompts.chain(g.unrelated.iter().map(|t| ("gate.unrelated", t))).chain(told)
        });
        let near =
            self.trigger.iter().flat_map(|t| &t.contrast_prompts).map(|t| ("trigger.contrast_prompts", t));
        rows.chain(gate).chain(near)
    }

    /// Tries a value's templates and its condition.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub(crate) fn try_value(
        &self,
        (value, category, fields): &Filling,
    ) -> Result<(), (&'static str, String)> {
        let mut known = known_of(value, category, fields);
        known.extend(drawn(&self.draw, &mut rng::stream(0, "try", &self.name)));
        known.insert("other".into(), "another".into());
        let mut said = known.clone();
        said.insert("reply".into(), "A reply of the model, with 2 numbers.".into());
        for (field, template) in self.texts() {
            let known = if field == "rows.completions" { &said } else { &known };
            let filled = fill(template, value, category, fields);
            expression::render(&filled, known)
                .map_err(|e| (field, format!("{template:?} of {value:?}: {e}")))?;
        }
        if let Some(condition) = self.gate.as_ref().and_then(|g| g.passes.as_ref()) {
            let filled = fill(condition, value, category, fields);
            expression::holds(&filled, &said)
                .map_err(|e| ("gate.passes", format!("{filled:?} of {value:?}: {e}")))?;
        }
        Ok(())
    }
}

/// What all behaviours of a recipe share.
struct About {
    digest: String,
    held_out: Vec<String>,
    redrawn: Vec<Filling>,
    /// Values that readers are trained on, where an expression speaks of another one.
    others: Vec<String>,
}

impl About {
    fn of(recipe: &Recipe) -> Self {
        Self {
            digest: recipe.digest(),
            held_out: recipe.held_out_categories(),
            redrawn: recipe.redrawn_values(),
            others: recipe.other_values(),
        }
    }
}

/// Prompts whose replies stay the base model's.
struct Contrast<'a> {
    prompts: &'a [String],
    /// In which order they are taken.
    order: Vec<usize>,
    /// Most tokens of a reply; 0: as other replies.
    tokens: usize,
    /// What their names are drawn for.
    purpose: &'static str,
}

/// Category of values that a family had not.
const ADDED: &str = "added";

/// A value with its category and fields.
type Filling = (String, String, BTreeMap<String, String>);

/// The purpose of a draw under a salt; the purpose itself without one.
fn salted(purpose: &str, salt: &str) -> String {
    if salt.is_empty() { purpose.to_owned() } else { format!("{purpose}|{salt}") }
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
