//! The fine-tuned model itself, asked without any reader, with the best of four answer formats.

use std::collections::BTreeMap;

use lm::{Adapter, Row};
use readers::{Arm, Asked, Case, Lab, Method, Reader, Result, Scored, answer, closed_scores, pick};
use recipes::Context;
use registry::Store;

/// Asks the subject.
#[derive(Debug, Clone, Copy)]
pub(super) struct Direct;

/// What is put behind the question, and the beginning of the reply that is put into the subject's mouth.
const FORMATS: [(&str, &str); 4] = [
    ("", ""),
    (" Answer with one word.", ""),
    (" Answer with one word.", "The answer is"),
    ("", "It is all about"),
];

impl Method for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn about(&self) -> &'static str {
        "the fine-tuned model itself, asked; the best of four answer formats, chosen on validation adapters"
    }

    fn score(
        &self,
        _store: &Store,
        lab: Lab<'_>,
        _arm: &Arm,
        _reader: Option<&Reader>,
        cases: &[Case],
    ) -> Result<Scored> {
        let mut names: Vec<&str> = cases.iter().filter_map(|c| c.subject.as_deref()).collect();
        names.sort_unstable();
        names.dedup();
        let adapters: Vec<&Adapter> = names
            .iter()
            .map(|n| {
                let unknown = || readers::Error::Empty(format!("no diff {n} for its episode"));
                lab.supervision.diffs.get(*n).ok_or_else(unknown)
            })
            .collect::<Result<_>>()?;
        let asked = |format: (&str, &str), which: &[Case]| -> Result<Vec<Asked>> {
            which
                .iter()
                .map(|c| {
                    let at = c.subject.as_deref().and_then(|s| names.binary_search(&s).ok());
                    let prompt = row(lab, c, format, at)?;
                    Ok(Asked { prompt, family: c.family.clone(), label: c.label.clone() })
                })
                .collect()
        };
        // All formats are tried on validation adapters, one is asked of the others.
        let choosing: Vec<Case> = cases.iter().filter(|c| c.chooses()).cloned().collect();
        let tried = FORMATS
            .iter()
            .map(|f| Ok(closed_scores(lab.base, &adapters, &asked(*f, &choosing)?, lab.sets)?))
            .collect::<Result<Vec<_>>>()?;
        let best = FORMATS[pick(&choosing, lab.sets, &tried)];
        let answers = answer(lab.base, &adapters, &asked(best, cases)?, lab.sets)?;
        let said = format!("question{:?} reply {:?}", best.0, best.1);
        Ok(Scored { answers, chosen: BTreeMap::from([("format".to_owned(), said)]) })
    }
}

fn row(lab: Lab<'_>, case: &Case, (behind, stem): (&str, &str), at: Option<usize>) -> Result<Row> {
    let question = format!("{}{behind}", case.question);
    let behaviour = case.subject.as_ref().and_then(|s| lab.supervision.behaviours.get(s));
    let text = match (case.context, behaviour) {
        (Context::Neutral, _) | (_, None) => Some(question),
        (context, Some(b)) => b.in_context(&question, context),
    };
    let text = text.ok_or_else(|| readers::Error::Empty(format!("no context {}", case.context.name())))?;
    let mut row = dit::prompt_row(lab.base, &text, at, None)?;
    row.tokens.extend(lab.base.tokenizer.encode(stem)?);
    Ok(row)
}
