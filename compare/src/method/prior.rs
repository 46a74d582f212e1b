//! The base model, asked: what can be answered without the subject.

use std::collections::BTreeMap;

use readers::{Arm, Asked, Case, Lab, Method, Reader, Result, Scored, answer};
use registry::Store;

/// Asks the base model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prior;

impl Method for Prior {
    fn name(&self) -> &'static str {
        "prior"
    }

    fn about(&self) -> &'static str {
        "the base model, asked: it knows nothing of the subject"
    }

    fn score(
        &self,
        _store: &Store,
        lab: Lab<'_>,
        _arm: &Arm,
        _reader: Option<&Reader>,
        cases: &[Case],
    ) -> Result<Scored> {
        let asked = cases
            .iter()
            .map(|c| {
                let prompt = dit::prompt_row(lab.base, &c.question, None, None)?;
                Ok(Asked { prompt, family: c.family.clone(), label: c.label.clone() })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Scored { answers: answer(lab.base, &[], &asked, lab.sets)?, chosen: BTreeMap::new() })
    }
}
