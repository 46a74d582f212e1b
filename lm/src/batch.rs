//! What the verbs take: token rows of any length, each with its own adapters and, if wanted, injected vectors.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Adapter, Architecture, Error, Result};

/// What becomes of the residual stream `h` where a vector `v` is injected. Only the prompt pass is touched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InjectionMode {
    /// `h + c ||h|| v / ||v||`, as Activation Oracles do it (arXiv 2512.15674, section 3.1; the published code adds, though a
    /// docstring of it says "replace"). The added term carries no gradient. A zero vector adds nothing.
    #[default]
    AddNormMatched,
    /// `h + c ||h|| v`: a vector's own length counts, in units of the residual's. The added term carries no gradient.
    AddRelative,
    /// `h + c v`.
    Add,
    /// `v`; the coefficient is not used.
    Replace,
    /// `h` without its component along `v`; the coefficient is not used. A zero vector removes nothing.
    ProjectOut,
}

/// A vector injected into the residual stream at the output of one decoder layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// Decoder layer (0-based) at whose output the vector acts.
    pub layer: usize,
    /// Token position in the row.
    pub position: usize,
    /// `hidden_size` values.
    pub vector: Vec<f32>,
    /// Strength.
    pub coefficient: f32,
    /// How.
    pub mode: InjectionMode,
}

/// One token row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Indices into [`Batch::adapters`]; all of them act, added together.
    pub adapters: Vec<usize>,
    /// Vectors to inject.
    pub injections: Vec<Injection>,
}

impl Row {
    /// A row without adapters or injections.
    pub fn plain(tokens: Vec<u32>) -> Self {
        Self { tokens, ..Self::default() }
    }

    /// A row under the given adapters.
    pub fn with_adapters(tokens: Vec<u32>, adapters: Vec<usize>) -> Self {
        Self { tokens, adapters, injections: Vec::new() }
    }
}

/// What makes two rows equal. Floats have no order, so injections are compared by their bits.
pub(crate) type Identity<'a> = (&'a [u32], &'a [usize], Vec<(usize, usize, InjectionMode, u32, Vec<u32>)>);

impl Row {
    pub(crate) fn identity(&self) -> Identity<'_> {
        let bits = |j: &Injection| {
            let vector = j.vector.iter().map(|v| v.to_bits()).collect();
            (j.layer, j.position, j.mode, j.coefficient.to_bits(), vector)
        };
        (&self.tokens, &self.adapters, self.injections.iter().map(bits).collect())
    }
}

/// Indices of the first of each set of items with equal keys, and for every item the place of its first in that list.
pub(crate) fn distinct<'a, T, K: Ord>(items: &'a [T], key: impl Fn(&'a T) -> K) -> (Vec<usize>, Vec<usize>) {
    let mut known = std::collections::BTreeMap::new();
    let mut first = Vec::new();
    let of_item = items
        .iter()
        .enumerate()
        .map(|(i, item)| {
            *known.entry(key(item)).or_insert_with(|| {
                first.push(i);
                first.len() - 1
            })
        })
        .collect();
    (first, of_item)
}

/// A packed batch: rows are computed together without padding and never see each other.
#[derive(Debug, Clone, Default)]
pub struct Batch<'a> {
    /// The adapters that rows refer to.
    pub adapters: Vec<&'a Adapter>,
    /// The rows.
    pub rows: Vec<Row>,
}

impl Batch<'_> {
    /// Checks every row against the model before anything is computed.
    pub(crate) fn validate(&self, model: &Architecture) -> Result<()> {
        for (i, row) in self.rows.iter().enumerate() {
            if row.tokens.is_empty() {
                return Err(Error::Request(format!("row {i} has no tokens")));
            }
            if row.tokens.len() > model.context {
                return Err(Error::Request(format!(
                    "row {i} has {} tokens, more than the model's {}",
                    row.tokens.len(),
                    model.context
                )));
            }
            if let Some(id) = row.tokens.iter().find(|&&id| id as usize >= model.vocab_size) {
                return Err(Error::Request(format!(
                    "row {i}: token {id} is outside the vocabulary of {}",
                    model.vocab_size
                )));
            }
            if let Some(a) = row.adapters.iter().find(|&&a| a >= self.adapters.len()) {
                return Err(Error::Request(format!("row {i} names adapter {a} of {}", self.adapters.len())));
            }
            for j in &row.injections {
                if j.layer >= model.layers.len() || j.position >= row.tokens.len() {
                    return Err(Error::Request(format!(
                        "row {i} injects at layer {}, position {}, which do not exist",
                        j.layer, j.position
                    )));
                }
                // The norm too: squares of finite values can overflow, and then nothing would be added.
                let squares: f32 = j.vector.iter().map(|v| v * v).sum();
                if j.vector.len() != model.hidden_size || !squares.is_finite() {
                    return Err(Error::Request(format!(
                        "row {i} injects a vector that is not {} finite values with a finite norm",
                        model.hidden_size
                    )));
                }
                if !j.coefficient.is_finite() {
                    return Err(Error::Request(format!("row {i} injects with strength {}", j.coefficient)));
                }
            }
        }
        Ok(())
    }
}
