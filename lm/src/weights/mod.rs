//! Where a model's numbers come from: read a few rows at a time, so that no model is ever twice in memory, and none as f32 whose file
//! has fewer bits.

mod memory;
mod merged;
mod quantised;
mod safetensors;

use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;

pub(crate) use memory::Memory;
pub(crate) use merged::Merged;
pub(crate) use quantised::{FREQUENCIES, Quantised, digest};
pub(crate) use safetensors::{Safetensors, hash, header};

use crate::architecture::{Tensor, bad};
use crate::{Architecture, Error, Result};

/// A model's tensors.
pub(crate) trait Source: Debug + Send + Sync {
    /// What is named in errors.
    fn path(&self) -> &Path;

    /// The name that a tensor has here.
    fn name_of<'t>(&self, tensor: &'t Tensor) -> &'t str {
        &tensor.name
    }

    /// Shape of the tensor of that name, if it is here.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// Names of all tensors that are here and are a decoder's.
    fn names(&self) -> Vec<String>;

    /// Rows of a tensor (a vector is one row) as they are used: in plain order, norms whole. All values are finite.
    fn rows(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Vec<f32>>;

    /// Whether every value of a tensor is a bf16 number.
    fn is_bf16(&self, tensor: &Tensor) -> bool;

    /// An error if the files are not those any more that were opened.
    fn unchanged(&self) -> Result<()> {
        Ok(())
    }
}

/// Numbers that are read together: 16 MB in f32.
const BLOCK: usize = 1 << 22;

/// Calls `take` with consecutive rows of a tensor and the number of the first, a few megabytes at a time.
pub(crate) fn for_each_block(
    source: &dyn Source,
    tensor: &Tensor,
    mut take: impl FnMut(usize, &[f32]),
) -> Result<()> {
    let (rows, columns) = tensor.rows();
    // Whole panels of the packed form, and whole pairs.
    let step = (BLOCK / columns.max(1)).next_multiple_of(64);
    for first in (0..rows).step_by(step) {
        take(first, &source.rows(tensor, first..rows.min(first + step))?);
    }
    Ok(())
}

/// Checks that exactly the tensors of a description are there, in shape.
pub(crate) fn check(source: &dyn Source, architecture: &Architecture) -> Result<()> {
    let expected = architecture.tensors();
    let file = |what: String| bad(source.path(), what);
    for tensor in &expected {
        let name = source.name_of(tensor);
        let shape = source.shape(name).ok_or_else(|| file(format!("tensor {name} is missing")))?;
        if shape != tensor.shape {
            return Err(file(format!(
                "tensor {name} has shape {shape:?}, the configuration says {:?}",
                tensor.shape
            )));
        }
    }
    let known: std::collections::BTreeSet<&str> = expected.iter().map(|t| source.name_of(t)).collect();
    let mut names = source.names();
    names.sort();
    match names.iter().find(|n| !known.contains(n.as_str())) {
        Some(name) => Err(file(format!("tensor {name} belongs to no part of the model"))),
        None => Ok(()),
    }
}

/// The one check of values.
fn finite(source: &dyn Source, tensor: &Tensor, values: &[f32]) -> Result<()> {
    if values.iter().all(|v| v.is_finite()) {
        return Ok(());
    }
    Err(Error::File {
        path: source.path().to_owned(),
        what: format!("tensor {} holds a value that is not finite", source.name_of(tensor)),
    })
}
