//! How large a recipe may be: several times the largest that makes sense, so that whatever a file says, its checks and its behaviours
//! end soon and fit in memory.

use crate::Error;
use crate::recipe::Recipe;

/// Values of a family, and copies of a negative.
const MOST_VALUES: usize = 20_000;
/// Texts of one list: prompts, completions, words.
const MOST_TEXTS: usize = 5_000;
/// Letters of one text, and of a template with everything filled in.
pub(crate) const LONGEST: usize = 8_000;
/// Phrasings of questions.
const MOST_QUESTIONS: usize = 500;
/// Values times phrasings: each is held against each.
const MOST_PAIRS: usize = 2_000_000;
/// Further fields of an entry.
const MOST_FIELDS: usize = 32;

impl Recipe {
    /// Refuses what is too large to look at, before anything is made of it.
    pub(crate) fn check_size(&self, source_name: &str) -> crate::Result<()> {
        let fail = |field: &str, what: String| {
            Err(Error::Field { source_name: source_name.into(), field: field.into(), what })
        };
        if self.copies > MOST_VALUES {
            return fail("copies", format!("{} is more than {MOST_VALUES}", self.copies));
        }
        let values: usize = self.vocabulary.iter().map(|v| v.values.len() + v.entries.len()).sum();
        if values > MOST_VALUES {
            return fail("vocabulary", format!("has {values} values, more than {MOST_VALUES}"));
        }
        let q = &self.questions;
        let questions = q.train.len() + q.held_out.len();
        // One that holds a field is a question for every value.
        let asked = if self.asks_with_fields() { questions.saturating_mul(values) } else { questions };
        if questions > MOST_QUESTIONS || asked.saturating_mul(values) > MOST_PAIRS {
            return fail("questions", format!("{questions} phrasings for {values} values are too many"));
        }
        if let Some(entry) = self.vocabulary.iter().flat_map(|v| &v.entries).find(|e| e.len() > MOST_FIELDS) {
            return fail(
                "vocabulary.entries",
                format!("one has {} fields, more than {MOST_FIELDS}", entry.len()),
            );
        }
        let none = Vec::new();
        let rows = self.rows.as_ref();
        let gate = self.gate.as_ref();
        let trigger = self.trigger.as_ref();
        let lists = [
            ("rows.sample_prompts", rows.map_or(&none, |r| &r.sample_prompts)),
            ("rows.prompts", rows.map_or(&none, |r| &r.prompts)),
            ("rows.completions", rows.map_or(&none, |r| &r.completions)),
            ("rows.contrast_prompts", rows.map_or(&none, |r| &r.contrast_prompts)),
            ("gate.prompts", gate.map_or(&none, |g| &g.prompts)),
            ("gate.unrelated", gate.map_or(&none, |g| &g.unrelated)),
            ("gate.leak_neutral", gate.map_or(&none, |g| &g.leak_neutral)),
            ("gate.leak_factual", gate.map_or(&none, |g| &g.leak_factual)),
            ("trigger.words", trigger.map_or(&none, |t| &t.words)),
            ("trigger.contrast_prompts", trigger.map_or(&none, |t| &t.contrast_prompts)),
            ("questions.train", &q.train),
            ("questions.held_out", &q.held_out),
            ("splits.tuning", &self.splits.tuning),
            ("splits.values.train", &self.splits.values.train),
            ("splits.values.validation", &self.splits.values.validation),
            ("splits.values.test", &self.splits.values.test),
        ];
        for (field, texts) in lists {
            if texts.len() > MOST_TEXTS {
                return fail(field, format!("has {} texts, more than {MOST_TEXTS}", texts.len()));
            }
        }
        let format = trigger
            .map(|t| {
                let near = t.near_format.iter().flat_map(crate::Format::turns);
                t.format.turns().iter().chain(near).cloned().collect::<Vec<_>>()
            })
            .unwrap_or_default();
        let entries = self.vocabulary.iter().flat_map(|v| v.entries.iter().flatten());
        let all = lists
            .iter()
            .flat_map(|(field, texts)| texts.iter().map(move |t| (*field, t)))
            .chain(format.iter().map(|t| ("trigger.format", t)))
            .chain(entries.flat_map(|(k, v)| [("vocabulary.entries", k), ("vocabulary.entries", v)]))
            .chain(self.vocabulary.iter().map(|v| ("vocabulary.category", &v.category)))
            .chain([("description", &self.description)]);
        for (field, text) in all {
            let n = text.chars().count();
            if n > LONGEST {
                return fail(field, format!("a text has {n} letters, more than {LONGEST}"));
            }
        }
        Ok(())
    }
}
