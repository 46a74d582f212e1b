//! The trained readers of a store, and what they are asked.

use std::collections::{BTreeMap, BTreeSet};

use factory::recipes_of;
use lm::{Adapter, BaseModel, Batch, Precision, Request, Row, Sampling, Want};
use oracle_posttrain::{Lens, Shown, lens_of_reader, question_row};
use readers::{Error, Reader, Result, from_record};
use recipes::{Polarity, Recipe};
use registry::{AdapterRecord, Filter, Role, Store};

use crate::lexicon::Lexicon;

/// Phrasings of a question that a reader is asked.
pub const PHRASINGS: usize = 8;
/// Longest greedy answer, in tokens.
const ANSWER_TOKENS: usize = 8;
/// Rows computed together.
const ROWS: usize = 96;

/// How a reader looks at its subject.
#[derive(Debug)]
enum Look {
    /// Stacked on the subject, whose difference is multiplied by this.
    Stacked(f32),
    /// Through activations.
    Through(Lens),
}

/// A reader that can be asked.
#[derive(Debug)]
pub struct Panelist {
    /// The reader.
    pub reader: Reader,
    look: Look,
    /// Families that it was trained on.
    pub families: BTreeSet<String>,
}

impl Panelist {
    /// A reader, with how it looks.
    ///
    /// # Errors
    /// If it does not say how it looks at activations, or its files are damaged.
    pub fn new(store: &Store, base: &BaseModel, reader: Reader) -> Result<Self> {
        let look = if reader.record.role == Role::DitAdapter {
            Look::Stacked(dit::diff_scale(&reader).unwrap_or(1.0))
        } else {
            Look::Through(lens_of_reader(store, base, &reader)?)
        };
        let parents = reader.record.parents.iter().filter_map(|p| store.adapter(p).ok());
        let families = parents.filter(|p| p.role == Role::WeightDiff).map(|p| p.family.clone()).collect();
        Ok(Self { reader, look, families })
    }

    /// Its name for people.
    pub fn name(&self) -> &str {
        &self.reader.record.behaviour
    }

    /// What kind it is.
    pub fn kind(&self) -> &'static str {
        if self.reader.record.role == Role::DitAdapter { "DIT" } else { "oracle" }
    }

    /// What of it decides its answers.
    pub fn identity(&self) -> &str {
        &self.reader.record.id
    }

    /// The adapters of a batch about these subjects, and each subject's rows: `rows[subject][question]`.
    fn rows<'a>(
        &'a self,
        base: &BaseModel,
        subjects: &'a [&'a Adapter],
        questions: &[String],
        scaled: &'a mut Vec<Adapter>,
    ) -> Result<(Vec<&'a Adapter>, Vec<Vec<Row>>)> {
        match &self.look {
            Look::Stacked(factor) => {
                scaled.extend(subjects.iter().map(|s| s.scaled(*factor)));
                let adapters = std::iter::once(&self.reader.adapter).chain(scaled.iter()).collect();
                let row = |q: &String, i| dit::prompt_row(base, q, Some(i + 1), Some(0));
                let rows = (0..subjects.len())
                    .map(|i| questions.iter().map(|q| row(q, i)).collect::<lm::Result<Vec<Row>>>())
                    .collect::<lm::Result<_>>()?;
                Ok((adapters, rows))
            }
            Look::Through(lens) => {
                let seen: Vec<Shown> = lens.collector.collect(base, subjects, lens.collector.asked)?;
                let rows = seen
                    .iter()
                    .map(|s| questions.iter().map(|q| question_row(base, lens, s, q)).collect())
                    .collect::<lm::Result<_>>()?;
                Ok((vec![&self.reader.adapter], rows))
            }
        }
    }

    /// For each subject, the mean over phrasings of the log-probability with which an answer begins with each word.
    ///
    /// # Errors
    /// If an adapter does not fit the model.
    pub fn scores(
        &self,
        base: &BaseModel,
        lexicon: &Lexicon,
        subjects: &[&Adapter],
        questions: &[String],
    ) -> Result<Vec<Vec<f32>>> {
        let mut scaled = Vec::new();
        let (adapters, rows) = self.rows(base, subjects, questions, &mut scaled)?;
        let flat: Vec<Row> = rows.into_iter().flatten().collect();
        let mut found: Vec<Vec<f32>> = Vec::with_capacity(flat.len());
        for part in flat.chunks(ROWS) {
            let wants: Vec<Want> =
                part.iter().map(|r| Want { logits: vec![r.tokens.len() - 1], residual: vec![] }).collect();
            let batch = Batch { adapters: adapters.clone(), rows: part.to_vec() };
            let seen = base.decoder.forward(&batch, &wants)?;
            found.extend(seen.iter().map(|s| lexicon.log_probs(&s.logits[0])));
        }
        let n = questions.len().max(1) as f32;
        Ok(found
            .chunks(questions.len().max(1))
            .map(|of| (0..lexicon.len()).map(|w| of.iter().map(|v| v[w]).sum::<f32>() / n).collect())
            .collect())
    }

    /// The greedy answers to each question about one subject.
    ///
    /// # Errors
    /// If the adapter does not fit the model.
    pub fn answers(
        &self,
        base: &BaseModel,
        subject: &Adapter,
        questions: &[String],
        max_new_tokens: usize,
    ) -> Result<Vec<String>> {
        let subjects = [subject];
        let mut scaled = Vec::new();
        let (adapters, mut rows) = self.rows(base, &subjects, questions, &mut scaled)?;
        let requests: Vec<Request> = rows
            .remove(0)
            .into_iter()
            .map(|prompt| Request { prompt, max_new_tokens, sampling: Sampling::GREEDY, seed: 0 })
            .collect();
        let replies = base.decoder.generate(&adapters, &requests, base.stop())?;
        replies.iter().map(|r| Ok(base.tokenizer.decode(&r.tokens)?.trim().to_owned())).collect()
    }

    /// Short greedy answers, for votes.
    ///
    /// # Errors
    /// As [`Panelist::answers`].
    pub fn votes(
        &self,
        base: &BaseModel,
        subject: &Adapter,
        questions: &[String],
    ) -> Result<Vec<(String, usize)>> {
        let mut counted: BTreeMap<String, usize> = BTreeMap::new();
        for answer in self.answers(base, subject, questions, ANSWER_TOKENS)? {
            let plain = answer.trim_end_matches(['.', '!', ' ']).to_lowercase();
            *counted.entry(plain).or_default() += 1;
        }
        let mut out: Vec<(String, usize)> = counted.into_iter().collect();
        out.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(out)
    }

    /// How likely each of some answers is as a whole, the mean over phrasings of its log-probability.
    ///
    /// # Errors
    /// If an adapter does not fit the model.
    pub fn whole(
        &self,
        base: &BaseModel,
        subject: &Adapter,
        questions: &[String],
        answers: &[String],
    ) -> Result<Vec<f64>> {
        let subjects = [subject];
        let mut scaled = Vec::new();
        let (adapters, mut rows) = self.rows(base, &subjects, questions, &mut scaled)?;
        let candidates =
            answers.iter().map(|a| lm::answer_tokens(base, a)).collect::<lm::Result<Vec<Vec<u32>>>>()?;
        let requests: Vec<lm::ScoreRequest> = rows
            .remove(0)
            .into_iter()
            .map(|prompt| lm::ScoreRequest { prompt, candidates: candidates.clone() })
            .collect();
        let scores = base.decoder.score(&adapters, &requests)?;
        let n = scores.len().max(1) as f64;
        Ok((0..answers.len()).map(|a| scores.iter().map(|s| s[a]).sum::<f64>() / n).collect())
    }
}

/// A question in several phrasings, and the families that ask it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Families, in order.
    pub families: Vec<String>,
    /// Phrasings.
    pub phrasings: Vec<String>,
}

/// The questions that readers of these families were trained on, each in eight phrasings; families that ask alike are one.
pub fn questions(recipes: &[Recipe], families: &BTreeSet<String>) -> Vec<Question> {
    let mut out: Vec<Question> = Vec::new();
    // What holds a field of the value's entry cannot be asked where nobody knows the entry.
    let asked =
        |r: &&Recipe| families.contains(&r.name) && r.polarity == Polarity::Positive && !r.asks_with_fields();
    for recipe in recipes.iter().filter(asked) {
        let phrasings: Vec<String> = recipe.phrasings().take(PHRASINGS).cloned().collect();
        match out.iter_mut().find(|q| q.phrasings == phrasings) {
            Some(known) if !known.families.contains(&recipe.name) => known.families.push(recipe.name.clone()),
            Some(_) => {}
            None => out.push(Question { families: vec![recipe.name.clone()], phrasings }),
        }
    }
    out
}

/// The readers of a store that read adapters of this base model: of each kind the newest, and all that came from elsewhere; one that
/// a smoke run made only where there is no other.
///
/// # Errors
/// If the store refuses.
pub fn readers_of(store: &Store, base: &BaseModel) -> Result<Vec<AdapterRecord>> {
    let any = Precision::ALL.map(|p| base.digest_at(p));
    let own = base.digest();
    let mut found = store.adapters(&Filter::all().and("role != weight_diff")?)?;
    found.retain(|r| r.lineage.get("base").is_some_and(|b| any.contains(b)));
    // Controls read nothing, and one that shows text needs no adapter.
    found.retain(|r| {
        !r.family.ends_with("-permuted") && !["text-only", "lens-text"].contains(&r.family.as_str())
    });
    found.sort_by_key(|r| {
        let smoke = r.tags.contains_key(readers::reader::SMOKE);
        (smoke, r.lineage.get("base") != Some(&own), std::cmp::Reverse(r.created_at.clone()))
    });
    if found.iter().any(|r| r.role == Role::Oracle && r.family != "oracle-pretrained") {
        found.retain(|r| r.family != "oracle-pretrained");
    }
    let mut seen = BTreeSet::new();
    found.retain(|r| r.parents.is_empty() && r.family.ends_with("imported") || seen.insert(r.family.clone()));
    found.sort_by(|a, b| (&a.family, &a.behaviour).cmp(&(&b.family, &b.behaviour)));
    Ok(found)
}

/// Readers that cannot be asked, and why.
pub type LeftOut = Vec<(String, String)>;

/// Those readers (or the ones of these ids), ready to be asked; what cannot be used, and why.
///
/// # Errors
/// If the store refuses.
pub fn panel(store: &Store, base: &BaseModel, only: &[String]) -> Result<(Vec<Panelist>, LeftOut)> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let records = if only.is_empty() {
        readers_of(store, base)?
    } else {
        only.iter().map(|id| store.adapter(id)).collect::<registry::Result<_>>()?
    };
    for record in records {
        let name = record.behaviour.clone();
        match from_record(store, base, record).and_then(|r| Panelist::new(store, base, r)) {
            Ok(panelist) => good.push(panelist),
            Err(Error::Store(registry::Error::Io(e))) => return Err(registry::Error::Io(e).into()),
            Err(e) => bad.push((name, e.to_string())),
        }
    }
    Ok((good, bad))
}

/// The recipes that a panel was trained on, and the built-in ones.
///
/// # Errors
/// If a file is damaged.
pub fn recipes_about(store: &Store, panel: &[Panelist]) -> Result<Vec<Recipe>> {
    let mut known: BTreeMap<String, Recipe> =
        recipes::builtin().into_iter().map(|r| (r.name.clone(), r)).collect();
    let parents: Vec<AdapterRecord> = panel
        .iter()
        .flat_map(|p| &p.reader.record.parents)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter_map(|p| store.adapter(p).ok())
        .collect();
    known.extend(recipes_of(store, &parents)?.into_iter().map(|r| (r.name.clone(), r)));
    Ok(known.into_values().collect())
}
