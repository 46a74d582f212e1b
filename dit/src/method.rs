//! The method `dit`: trained on the adapter set, asked of the fine-tuned model itself.

use std::collections::{BTreeMap, BTreeSet};

use lm::{Adapter, BaseModel, FitEvent, Outline, Row};
use readers::{
    Arm, Asked, Budget, Case, Lab, Label, Labels, Lesson, Made, Making, Method, Pupil, Reader, Result,
    Scored, Stage, Which, Wrong, answer, flops_a_step,
};
use recipes::{Context, Split};
use registry::{Role, Store};
use serde_json::json;

use crate::ask::prompt_row;

/// A LoRA stacked on the fine-tuned model that makes it describe its own change.
#[derive(Debug, Clone, Copy)]
pub struct DitMethod;

/// Diffs by behaviour id, scaled; what rows refer to after the reader.
struct Stack<'a> {
    lab: Lab<'a>,
    names: Vec<&'a str>,
    diffs: Vec<Adapter>,
}

impl<'a> Stack<'a> {
    fn of(lab: Lab<'a>, names: BTreeSet<&'a str>, scale: f32) -> Result<Self> {
        let diffs = names
            .iter()
            .map(|n| {
                let diff = lab.supervision.diffs.get(*n).ok_or_else(|| unknown(n))?;
                Ok(if scale == 1.0 { diff.clone() } else { diff.scaled(scale) })
            })
            .collect::<Result<_>>()?;
        Ok(Self { lab, names: names.into_iter().collect(), diffs })
    }

    fn base(&self) -> &BaseModel {
        self.lab.base
    }

    /// The question as the subject is asked it in a context.
    fn row(&self, subject: Option<&str>, question: &str, context: Context) -> Result<Row> {
        let Some(name) = subject else { return Ok(prompt_row(self.base(), question, None, Some(0))?) };
        let at = self.names.binary_search(&name).map_err(|_| unknown(name))?;
        let text = match (context, self.lab.supervision.behaviours.get(name)) {
            (Context::Neutral, _) | (_, None) => Some(question.to_owned()),
            (_, Some(b)) => b.in_context(question, context),
        };
        let text = text.ok_or_else(|| unknown(name))?;
        Ok(prompt_row(self.base(), &text, Some(at + 1), Some(0))?)
    }
}

fn unknown(name: &str) -> readers::Error {
    readers::Error::Empty(format!("no diff {name} for its episode"))
}

/// The factor of a diff on which a reader made here was trained, and so is asked; none for one from elsewhere.
pub fn diff_scale(reader: &Reader) -> Option<f32> {
    reader.record.spec["diff_scale"].as_f64().map(|s| s as f32)
}

impl Pupil for Stack<'_> {
    fn frozen(&self) -> Vec<&Adapter> {
        self.diffs.iter().collect()
    }

    fn prompt(&self, lesson: Lesson<'_>) -> Result<Row> {
        self.row(Some(&lesson.episode.behaviour), &lesson.episode.question, lesson.context)
    }
}

impl Method for DitMethod {
    fn name(&self) -> &'static str {
        "dit"
    }

    fn about(&self) -> &'static str {
        "a LoRA stacked on the fine-tuned model that describes its own change; readers: scratch, or one by name or folder"
    }

    fn trained(&self) -> bool {
        true
    }

    fn check(&self, arm: &Arm, _outline: &Outline) -> Result<(), Wrong> {
        match arm.which() {
            Which::Scratch | Which::Known(_) => Ok(()),
            _ => Err(Wrong::at("reader", "a DIT adapter is trained from scratch, or is one that exists")),
        }
    }

    fn stages(&self, arm: &Arm) -> Vec<Stage> {
        if arm.which() == Which::Scratch { vec![Stage::Train] } else { vec![] }
    }

    fn fit(
        &self,
        store: &mut Store,
        lab: Lab<'_>,
        making: Making<'_>,
        report: &mut dyn FnMut(FitEvent),
    ) -> Result<Reader> {
        let Making { arm, seed, session, .. } = making;
        let (base, s) = (lab.base, lab.supervision);
        let spec = json!({"schema": "dit/4", "base": base.digest(), "supervision": s.digest(), "train": arm.train,
            "diff_scale": arm.input.diff_scale, "seed": seed});
        let family = if arm.train.labels == Labels::Permuted { "dit-permuted" } else { "dit" };
        let label = Label { family, role: Role::DitAdapter, spec, seed, smoke: s.smoke };
        readers::file(store, base, label, arm.train.batch, session, &mut |_, keeping| {
            let names = s.supervised().into_keys().map(String::as_str).collect();
            let stack = Stack::of(lab, names, arm.input.diff_scale)?;
            let settings = arm.train.within(0.0, flops_a_step(s, &stack, &arm.train)?);
            let config = settings.fit(seed);
            let start = Adapter::init(&base.architecture, config.adapter.clone(), seed, "dit")?;
            let fitted = readers::train(s, &stack, start, &settings, &config, keeping, &mut *report)?;
            let rows = s.of(Split::Train).len();
            Ok(Made {
                fitted,
                files: BTreeMap::new(),
                parents: s.supervising_ids(),
                labels: s.labels(),
                budget: Budget { supervision_rows: rows, ..Budget::default() },
            })
        })
    }

    fn score(
        &self,
        _store: &Store,
        lab: Lab<'_>,
        arm: &Arm,
        reader: Option<&Reader>,
        cases: &[Case],
    ) -> Result<Scored> {
        let reader = reader.ok_or_else(|| readers::Error::Empty("the DIT arm has no reader".into()))?;
        let scale = diff_scale(reader).unwrap_or(arm.input.diff_scale);
        let names = cases.iter().filter_map(|c| c.subject.as_deref()).collect();
        let stack = Stack::of(lab, names, scale)?;
        let asked = cases
            .iter()
            .map(|c| {
                let prompt = stack.row(c.subject.as_deref(), &c.question, c.context)?;
                Ok(Asked { prompt, family: c.family.clone(), label: c.label.clone() })
            })
            .collect::<Result<Vec<_>>>()?;
        let adapters: Vec<&Adapter> = std::iter::once(&reader.adapter).chain(&stack.diffs).collect();
        Ok(Scored { answers: answer(lab.base, &adapters, &asked, lab.sets)?, chosen: BTreeMap::new() })
    }
}
