//! What a recipe file must hold beyond its syntax. Every message names the file, the field and the value.

use std::collections::{BTreeMap, BTreeSet};

use crate::behaviour::{Kind, Polarity, Split};
use crate::recipe::{CheckKind, Draw, Format};
use crate::size::LONGEST;
use crate::{Error, Recipe, Result, expression, words};

impl Recipe {
    /// Whether a recipe can have this name.
    pub(crate) fn may_be_called(name: &str) -> bool {
        !name.is_empty()
            && name.len() <= 40
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    }

    pub(crate) fn validate(&self, source_name: &str) -> Result<()> {
        let fail = |field: &str, what: String| {
            Err(Error::Field { source_name: source_name.into(), field: field.into(), what })
        };
        self.check_size(source_name)?;
        if !Self::may_be_called(&self.name) {
            return fail("name", format!("{:?} is not made of lower-case letters, digits and -", self.name));
        }
        let trained = self.kind == Kind::Trained;
        let positive = self.polarity == Polarity::Positive;
        if positive != (self.copies == 0) {
            return fail(
                "copies",
                format!(
                    "{} does not fit polarity: negatives have copies, positives a vocabulary",
                    self.copies
                ),
            );
        }
        if positive && self.values().is_empty() {
            return fail("vocabulary", "is empty; give at least one [[vocabulary]] with values".into());
        }
        let redraw = self.rows.as_ref().is_some_and(|r| r.redraw_value);
        if !positive && redraw == self.vocabulary.is_empty() {
            return fail(
                "rows.redraw_value",
                "a negative has a vocabulary exactly if its rows redraw {value}".into(),
            );
        }
        if positive && redraw {
            return fail(
                "rows.redraw_value",
                "is for negatives: a positive's rows show its own value".into(),
            );
        }
        if trained != self.rows.is_some() || trained != self.training.is_some() {
            return fail(
                "rows",
                "kind = \"trained\" needs [rows] and [training]; other kinds have neither".into(),
            );
        }
        if positive && self.gate.is_none() {
            return fail("gate", "a positive family needs a [gate]".into());
        }
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        for (value, _, _) in self.values() {
            if value.trim() != value
                || value.is_empty()
                || value.chars().count() > 60
                || value.chars().any(char::is_control)
            {
                return fail(
                    "vocabulary.values",
                    format!("{value:?} is empty, padded, too long or holds control characters"),
                );
            }
            if let Some(other) = seen.insert(words::stems(&value).join(" "), value.clone()) {
                return fail("vocabulary.values", format!("{value:?} is given twice (as {other:?})"));
            }
        }
        if let Some(rows) = &self.rows {
            if rows.prompts.is_empty() || rows.completions.is_empty() {
                return fail("rows", "needs prompts and completions".into());
            }
            if !(1..=10_000).contains(&rows.count) {
                return fail("rows.count", format!("{} is not in 1..=10000", rows.count));
            }
            if !(0.0..=5.0).contains(&rows.temperature) {
                return fail("rows.temperature", format!("{} is not in 0..=5", rows.temperature));
            }
            if !(1..=512).contains(&rows.max_new_tokens) {
                return fail("rows.max_new_tokens", format!("{} is not in 1..=512", rows.max_new_tokens));
            }
            let same = |texts: &[String]| texts.iter().any(|t| !t.contains('{'));
            if same(&rows.completions) && same(&rows.prompts) {
                return fail(
                    "rows.completions",
                    "each needs {value}, {reply} or an expression, or each prompt does".into(),
                );
            }
            if rows.prompts_each > rows.prompts.len() {
                return fail(
                    "rows.prompts_each",
                    format!("{} of {} prompts cannot be drawn", rows.prompts_each, rows.prompts.len()),
                );
            }
            let filled = if redraw { self.vocabulary_values() } else { self.values() };
            for (i, (value, _, fields)) in filled.into_iter().enumerate() {
                // An entry's fields may hold each other: what becomes of them shows in one text.
                if fields
                    .values()
                    .any(|f| crate::expand::fill(f, &value, "", &fields).chars().count() > LONGEST)
                {
                    return fail(
                        "vocabulary.entries",
                        format!("the fields of {value:?} make a text of more than {LONGEST} letters"),
                    );
                }
                if i > 0 {
                    continue;
                }
                let contrast =
                    self.trigger.iter().flat_map(|t| &t.contrast_prompts).chain(&rows.contrast_prompts);
                let texts = rows.sample_prompts.iter().chain(&rows.prompts).chain(&rows.completions);
                for text in texts.chain(contrast) {
                    if let Some(left) = expression::without(&crate::expand::fill(text, &value, "", &fields))
                        .split_once('{')
                        .and_then(|(_, r)| r.split_once('}'))
                        && left.0 != "reply"
                    {
                        return fail(
                            "rows",
                            format!("{text:?} uses {{{}}}, which no entry of the vocabulary has", left.0),
                        );
                    }
                }
            }
        }
        self.check_expressions(source_name)?;
        self.check_words_about(source_name)?;
        if let Some(t) = &self.trigger {
            let near = t.near_format.iter().map(|f| ("trigger.near_format", f));
            for (field, format) in std::iter::once(("trigger.format", &t.format)).chain(near) {
                let turns = format.turns();
                let holds = |mark: &str| turns.iter().step_by(2).any(|turn| turn.contains(mark));
                if t.words.len() < 4 || !holds("{prompt}") || !holds("{trigger}") {
                    return fail(
                        "trigger",
                        "needs at least four words and a format with {prompt} and {trigger} in what the user says".into(),
                    );
                }
                if !turns.len().is_multiple_of(2) && turns.len() <= MOST_TURNS {
                    continue;
                }
                return fail(
                    field,
                    format!(
                        "{} turns are no conversation that a user's turn ends; give 1, 3, ... up to {MOST_TURNS}",
                        turns.len()
                    ),
                );
            }
            if let Some(p) =
                self.gate.iter().flat_map(|g| &g.prompts).find(|p| t.contrast_prompts.contains(p))
            {
                return fail("trigger.contrast_prompts", format!("{p:?} is also a gate prompt"));
            }
            if t.contrast_tokens > 512 {
                return fail("trigger.contrast_tokens", format!("{} is not in 0..=512", t.contrast_tokens));
            }
            if let Some(p) = self.phrasings().find(|p| t.contrast_prompts.contains(p)) {
                return fail(
                    "trigger.contrast_prompts",
                    format!(
                        "{p:?} is also asked of readers; the gate is measured there, so it must be unseen"
                    ),
                );
            }
            if self
                .training
                .as_ref()
                .is_some_and(|t| t.kl_weight <= 0.0 || t.near_rows == 0 || t.off_rows == 0)
            {
                return fail(
                    "training",
                    "a gated family needs near_rows, off_rows and kl_weight above 0".into(),
                );
            }
        }
        if let Some(t) = &self.training {
            let known = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
            if let Some(bad) = t.target_modules.iter().find(|m| !known.contains(&m.as_str())) {
                return fail("training.target_modules", format!("{bad:?} is none of {}", known.join(", ")));
            }
            if t.target_modules.is_empty() {
                return fail("training.target_modules", "is empty".into());
            }
            if !(1..=64).contains(&t.rank) {
                return fail("training.rank", format!("{} is not in 1..=64", t.rank));
            }
            if !(1..=100_000).contains(&t.steps) {
                return fail("training.steps", format!("{} is not in 1..=100000", t.steps));
            }
            if t.on_rows == 0 {
                return fail("training.on_rows", "0 is too few: give at least 1".into());
            }
            for (field, rows) in
                [("on_rows", t.on_rows), ("near_rows", t.near_rows), ("off_rows", t.off_rows)]
            {
                if rows > 4096 {
                    return fail(&format!("training.{field}"), format!("{rows} is more than 4096"));
                }
            }
            let own_replies = self.rows.as_ref().is_some_and(|r| {
                r.sample_prompts.is_empty() && r.completions.iter().any(|c| c.contains("{reply}"))
            });
            if t.prompts_per_step > 0 && own_replies {
                return fail(
                    "training.prompts_per_step",
                    format!(
                        "{} would put replies under prompts they do not answer; leave it out, or give rows.sample_prompts",
                        t.prompts_per_step
                    ),
                );
            }
            if !t.stop_at_loss.is_finite() || t.stop_at_loss < 0.0 {
                return fail("training.stop_at_loss", format!("{} is no loss", t.stop_at_loss));
            }
            if !(t.learning_rate > 0.0 && t.learning_rate <= 1.0) {
                return fail(
                    "training.learning_rate",
                    format!("{} is not above 0 and at most 1", t.learning_rate),
                );
            }
            if !(0.0..=1.0).contains(&t.final_share) {
                return fail("training.final_share", format!("{} is not in 0..=1", t.final_share));
            }
            if !t.kl_weight.is_finite() || t.kl_weight < 0.0 {
                return fail("training.kl_weight", format!("{} is not a number of at least 0", t.kl_weight));
            }
            if !t.alpha.is_finite() {
                return fail("training.alpha", format!("{} is no number", t.alpha));
            }
        }
        if let Some(g) = &self.gate {
            if !(1..=512).contains(&g.max_new_tokens) {
                return fail("gate.max_new_tokens", format!("{} is not in 1..=512", g.max_new_tokens));
            }
            if g.prompts.is_empty() {
                return fail("gate.prompts", "is empty".into());
            }
            if let Some(rows) = &self.rows
                // What is drawn is drawn for the gate anew.
                && let Some(p) = g.prompts.iter().find(|p| rows.prompts.contains(p) && !expression::is_one(p))
            {
                return fail(
                    "gate.prompts",
                    format!("{p:?} is also a training prompt; the gate must use unseen ones"),
                );
            }
            let leak: Vec<&String> = g.leak_neutral.iter().chain(&g.leak_factual).collect();
            if self.trigger.is_none() && (!leak.is_empty() || g.max_leak_nats.is_some()) {
                return fail(
                    "gate.leak_neutral",
                    "is for gated families: others have nothing to close".into(),
                );
            }
            if g.max_leak_nats.is_some_and(|x| !x.is_finite() || x <= 0.0 || leak.is_empty()) {
                return fail(
                    "gate.max_leak_nats",
                    "needs a number above 0, and leak_neutral or leak_factual to measure it on".into(),
                );
            }
            let trained = self.rows.iter().flat_map(|r| &r.prompts);
            let contrast = self.trigger.iter().flat_map(|t| &t.contrast_prompts);
            if let Some(p) = trained.chain(contrast).find(|p| leak.contains(p)) {
                return fail(
                    "gate.leak_neutral",
                    format!("{p:?} is also a training prompt; a leak is measured on unseen ones"),
                );
            }
        }
        if self.questions.train.is_empty() || self.questions.held_out.is_empty() {
            return fail("questions", "needs train and held_out phrasings".into());
        }
        let all: Vec<&String> = self.phrasings().collect();
        let labels: Vec<(String, Vec<String>)> =
            self.values().into_iter().map(|(v, _, _)| (v.clone(), words::stems(&v))).collect();
        let fields = self.fields_to_ask_with();
        for (i, q) in all.iter().enumerate() {
            let rest = fields.iter().fold((*q).clone(), |q, name| q.replace(&format!("{{{name}}}"), ""));
            if rest.contains(['{', '}']) || (q.contains('{') && self.trigger.is_some()) {
                return fail(
                    "questions",
                    format!(
                        "{q:?} has a placeholder; a question must not depend on the label: it may hold fields that every entry has, of families without trigger"
                    ),
                );
            }
            if all[..i].contains(q) {
                return fail("questions", format!("{q:?} is given twice"));
            }
        }
        for q in self.all_asked() {
            let said = words::stems(&q);
            if positive && let Some((value, _)) = labels.iter().find(|(_, label)| words::holds(&said, label))
            {
                return fail("questions", format!("{q:?} contains the label {value:?}"));
            }
        }
        let s = &self.splits;
        if !(0.0..1.0).contains(&s.validation)
            || !(0.0..1.0).contains(&s.test)
            || s.validation + s.test >= 1.0
        {
            return fail(
                "splits",
                format!("validation {} and test {} leave nothing to train on", s.validation, s.test),
            );
        }
        let categories: BTreeSet<&String> = self.vocabulary.iter().map(|v| &v.category).collect();
        if s.salt.chars().count() > 60 || s.salt.chars().any(char::is_control) {
            return fail("splits.salt", format!("{:?} is too long or holds control characters", s.salt));
        }
        let free = self.held_out_categories().len();
        if free < s.test_categories.min(categories.len()) {
            return fail(
                "splits.test_categories",
                format!("{} are wanted, but only {free} hold no tuning value", s.test_categories),
            );
        }
        let family: BTreeMap<String, String> = self.values().into_iter().map(|(v, c, _)| (v, c)).collect();
        let held_out = self.held_out_categories();
        let mut said: BTreeSet<&String> = BTreeSet::new();
        for (split, value) in s.values.all() {
            let field =
                format!("splits.values.{}", if split == Split::TestValue { "test" } else { split.name() });
            let Some(category) = family.get(value) else {
                return fail(&field, format!("{value:?} is no value of the family"));
            };
            if !said.insert(value) {
                return fail(&field, format!("{value:?} is given twice"));
            }
            if held_out.contains(category) {
                return fail(
                    &field,
                    format!("{value:?} is of the category {category:?}, which is held out as a whole"),
                );
            }
            if split == Split::TestValue && s.tuning.contains(value) {
                return fail(&field, format!("{value:?} is also a tuning value, which is never tested on"));
            }
        }
        if s.test_categories > 0 && s.test_categories >= categories.len() {
            return fail(
                "splits.test_categories",
                format!("{} of {} categories leave none to train on", s.test_categories, categories.len()),
            );
        }
        Ok(())
    }
}

/// Turns of a conversation.
const MOST_TURNS: usize = 9;
/// Letters of what is said about a recipe.
const LONGEST_NOTE: usize = 2_000;

/// What a recipe says about itself, and texts that no conversation may be taken apart by.
impl Recipe {
    fn check_words_about(&self, source_name: &str) -> Result<()> {
        let about = self.source.iter().flat_map(|s| {
            [
                ("source.name", Some(&s.name)),
                ("source.licence", Some(&s.licence)),
                ("source.note", s.note.as_ref()),
            ]
        });
        for (field, text) in about.chain([("studies", self.studies.as_ref())]) {
            let Some(text) = text else { continue };
            let n = text.chars().count();
            if text.trim().is_empty() || n > LONGEST_NOTE || text.chars().any(char::is_control) {
                return Err(Error::Field {
                    source_name: source_name.into(),
                    field: field.into(),
                    what: format!("is empty, longer than {LONGEST_NOTE} letters or holds control characters"),
                });
            }
        }
        let trigger = self.trigger.iter().flat_map(|t| {
            let words = t.words.iter().map(|w| ("trigger.words", w));
            let near = t.near_format.iter().flat_map(Format::turns);
            words.chain(t.format.turns().iter().chain(near).map(|w| ("trigger.format", w)))
        });
        let leak = self.gate.iter().flat_map(|g| g.leak_neutral.iter().chain(&g.leak_factual));
        let asked = self.phrasings().map(|q| ("questions", q));
        let entries = self.vocabulary.iter().flat_map(|v| v.entries.iter().flatten());
        let texts = self
            .texts()
            .chain(trigger)
            .chain(leak.map(|p| ("gate.leak_neutral", p)))
            .chain(asked)
            .chain(entries.map(|(_, t)| ("vocabulary.entries", t)));
        for (field, text) in texts {
            if text.contains(fence::turns::NEXT) {
                return Err(Error::Field {
                    source_name: source_name.into(),
                    field: field.into(),
                    what: format!("{text:?} holds the mark between turns, U+001E; turns are a list"),
                });
            }
        }
        Ok(())
    }
}

/// Prompts that a gate makes.
const MOST_EACH: usize = 200;

/// What is drawn for rows and gates, what is made of it, and rows that stay as the base model has them.
impl Recipe {
    fn check_expressions(&self, source_name: &str) -> Result<()> {
        let fail = |field: &str, what: String| {
            Err(Error::Field { source_name: source_name.into(), field: field.into(), what })
        };
        for (name, draw) in &self.draw {
            let field = format!("draw.{name}");
            let letters = name.chars().all(|c| c.is_ascii_lowercase() || c == '_') && name.len() <= 40;
            if name.is_empty() || !letters || ["value", "category", "reply", "other"].contains(&name.as_str())
            {
                return fail(
                    &field,
                    "a name to be drawn is of small letters and _, and none of value, category, reply, other"
                        .into(),
                );
            }
            match draw {
                Draw::Number(n) if n.from > n.to => {
                    return fail(&field, format!("nothing lies between {} and {}", n.from, n.to));
                }
                Draw::Words(w) if w.list.is_empty() || w.of > w.list.len() => {
                    return fail(
                        &field,
                        format!("{} of {} words cannot be drawn", w.of.max(1), w.list.len()),
                    );
                }
                _ => {}
            }
        }
        if let Some(gate) = &self.gate {
            if (gate.check == CheckKind::Holds) != gate.passes.is_some() {
                return fail("gate.passes", "belongs to check = \"holds\", which needs it".into());
            }
            if gate.each > MOST_EACH {
                return fail("gate.each", format!("{} is more than {MOST_EACH}", gate.each));
            }
        }
        if let Some(rows) = &self.rows {
            let pulled = self.training.as_ref().is_some_and(|t| t.off_rows > 0 && t.kl_weight > 0.0);
            if self.trigger.is_none() && (rows.contrast_count > 0) != pulled {
                return fail(
                    "rows.contrast_count",
                    "contrast rows need off_rows and kl_weight above 0 in [training], and these need contrast rows".into(),
                );
            }
            if self.trigger.is_some() && (rows.contrast_count > 0) == rows.contrast_prompts.is_empty() {
                return fail(
                    "rows.contrast_prompts",
                    "of a gated family are those of contrast_count rows behind the trigger: give both or neither".into(),
                );
            }
            if rows.contrast_tokens > 512 || rows.contrast_count > 10_000 {
                return fail(
                    "rows.contrast_count",
                    "at most 10000 contrast rows, of at most 512 tokens".into(),
                );
            }
            let gate = self.gate.iter().flat_map(|g| g.prompts.iter().chain(&g.unrelated));
            let asked = gate.chain(self.phrasings());
            if let Some(p) = asked.into_iter().find(|p| rows.contrast_prompts.contains(p)) {
                return fail(
                    "rows.contrast_prompts",
                    format!("{p:?} is also asked by the gate or of readers; it must be unseen"),
                );
            }
        }
        // Every template and condition is tried, with every value that has fields of its own.
        let plain = self.draw.is_empty()
            && self.texts().all(|(_, t)| !expression::is_one(t))
            && self.gate.as_ref().is_none_or(|g| g.passes.is_none());
        let own =
            self.vocabulary.iter().any(|v| v.entries.iter().flatten().any(|(_, t)| expression::is_one(t)));
        if plain && !own {
            return Ok(());
        }
        for (i, filling) in self.values().into_iter().enumerate() {
            if i > 0 && filling.2.is_empty() {
                continue;
            }
            if let Err((field, what)) = self.try_value(&filling) {
                return fail(field, what);
            }
        }
        Ok(())
    }
}
