//! A model with adapters merged in, `W + sum of scaling * B A`, computed where it is read.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::{Source, finite};
use crate::architecture::{Slot, Tensor};
use crate::{Adapter, Result};

/// Another source's tensors, and what is added to them.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) base: Arc<dyn Source>,
    pub(crate) adapters: Vec<Adapter>,
}

impl Source for Merged {
    fn path(&self) -> &Path {
        self.base.path()
    }

    fn name_of<'t>(&self, tensor: &'t Tensor) -> &'t str {
        self.base.name_of(tensor)
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.base.shape(name)
    }

    fn names(&self) -> Vec<String> {
        self.base.names()
    }

    fn rows(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Vec<f32>> {
        let mut out = self.base.rows(tensor, rows.clone())?;
        let Slot::Weight(layer, projection) = tensor.slot else { return Ok(out) };
        for adapter in &self.adapters {
            let Some(m) = adapter.module(layer, projection) else { continue };
            let (rank, scaling) = (adapter.config().rank, adapter.config().scaling());
            let (a, b) = (&adapter.params[m.a.clone()], &adapter.params[m.b.clone()]);
            for (o, row) in rows.clone().zip(out.chunks_exact_mut(m.input)) {
                for r in 0..rank {
                    let c = scaling * b[r * m.output + o];
                    for (w, a) in row.iter_mut().zip(&a[r * m.input..(r + 1) * m.input]) {
                        *w += c * a;
                    }
                }
            }
        }
        finite(self, tensor, &out)?;
        Ok(out)
    }

    fn is_bf16(&self, tensor: &Tensor) -> bool {
        self.base.is_bf16(tensor) && !matches!(tensor.slot, Slot::Weight(..))
    }

    fn unchanged(&self) -> Result<()> {
        self.base.unchanged()
    }
}
