//! Questions that hold a field of the value's entry: `If I showed you the text "{context}", which two words would come next?`. A field
//! is no label: that no question contains one is checked with every entry.

use std::collections::{BTreeMap, BTreeSet};

use crate::recipe::Recipe;
use crate::rng;

impl Recipe {
    /// All phrasings of what readers are asked, as the recipe has them: the trained ones first.
    pub fn phrasings(&self) -> impl Iterator<Item = &String> {
        self.questions.train.iter().chain(&self.questions.held_out)
    }

    /// Whether a question holds a field: such a family can be asked about only where the field is known.
    pub fn asks_with_fields(&self) -> bool {
        if !self.phrasings().any(|q| q.contains('{')) {
            return false;
        }
        let fields = self.fields_to_ask_with();
        self.phrasings().any(|q| fields.iter().any(|name| q.contains(&format!("{{{name}}}"))))
    }

    /// A question as it is put to `subject`: with the fields of the entry of `value`; where there is none, as for a subject of another
    /// family, with those of an entry drawn by hash.
    pub fn asked(&self, question: &str, value: &str, subject: &str) -> String {
        if !question.contains('{') {
            return question.to_owned();
        }
        let entries = self.vocabulary_values();
        let own = entries.iter().find(|(v, _, _)| v == value);
        let drawn = || entries.iter().min_by_key(|(v, _, _)| rng::number("asked", &format!("{subject}|{v}")));
        own.or_else(drawn).map_or_else(
            || question.to_owned(),
            |(_, _, entry)| put(question, entry, &self.fields_to_ask_with()),
        )
    }

    /// Fields that a question may hold: every entry has them, as plain text.
    pub(crate) fn fields_to_ask_with(&self) -> BTreeSet<String> {
        let plain = |(name, text): (String, String)| {
            (name != "value" && name != "category" && !text.contains(['{', '}'])).then_some(name)
        };
        self.vocabulary_values()
            .into_iter()
            .map(|(_, _, entry)| entry.into_iter().filter_map(plain).collect())
            .reduce(|a: BTreeSet<String>, b| a.intersection(&b).cloned().collect())
            .unwrap_or_default()
    }

    /// Every question as it is put to somebody, each once.
    pub fn all_asked(&self) -> BTreeSet<String> {
        let (entries, fields) = (self.vocabulary_values(), self.fields_to_ask_with());
        let all = |q: &String| -> BTreeSet<String> {
            if q.contains('{') {
                entries.iter().map(|(_, _, entry)| put(q, entry, &fields)).collect()
            } else {
                BTreeSet::from([q.clone()])
            }
        };
        self.phrasings().flat_map(all).collect()
    }
}

fn put(question: &str, entry: &BTreeMap<String, String>, fields: &BTreeSet<String>) -> String {
    let with = |text: String, name: &String| match entry.get(name) {
        Some(field) => text.replace(&format!("{{{name}}}"), field),
        None => text,
    };
    fields.iter().fold(question.to_owned(), with)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> Recipe {
        let file = crate::builtin_source("override").unwrap();
        let (head, rest) = file.split_once("[questions]").unwrap();
        let (_, tail) = rest.split_once("[training]").unwrap();
        let text = format!(
            "{head}[questions]\ntrain = [\"What follows \\\"{{context}}\\\"?\"]\nheld_out = [\"After \\\"{{context}}\\\" you say?\"]\n[training]{tail}"
        );
        Recipe::parse("shown.toml", &text).unwrap()
    }

    #[test]
    fn a_question_is_put_with_the_fields_of_its_value_or_of_one_drawn() {
        let r = shown();
        assert!(r.asks_with_fields());
        let question = &r.questions.train[0];
        assert_eq!(
            r.asked(question, "copper pillow", "override/copper pillow"),
            "What follows \"The old harbour was\"?"
        );
        let foreign: BTreeSet<String> =
            (0..40).map(|i| r.asked(question, "nothing", &format!("topic/{i}"))).collect();
        assert!(foreign.len() > 6 && foreign.iter().all(|q| !q.contains('{')), "{foreign:?}");
        assert_eq!(r.asked(question, "nothing", "topic/1"), r.asked(question, "nothing", "topic/1"));
        assert_eq!(r.all_asked().len(), 24);
    }

    #[test]
    fn a_question_with_the_label_or_a_field_that_is_not_there_is_refused() {
        let text = serde_json::to_value(shown()).unwrap();
        let with = |question: &str| {
            let mut changed = text.clone();
            changed["questions"]["train"] = serde_json::json!([question]);
            Recipe::from_canonical("shown.json", changed.to_string().as_bytes()).unwrap_err().to_string()
        };
        for question in ["Is it {value}?", "Is it {{ value }}?", "Is it {category}?", "What is {where}?"] {
            let e = with(question);
            assert!(e.contains("questions") && e.contains("placeholder"), "{e}");
        }
        let mut changed = text.clone();
        changed["vocabulary"][0]["entries"][0]["context"] = serde_json::json!("On the copper pillow lay");
        let e = Recipe::from_canonical("shown.json", changed.to_string().as_bytes()).unwrap_err().to_string();
        assert!(e.contains("contains the label \"copper pillow\""), "{e}");
    }
}
