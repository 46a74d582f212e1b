//! Tensors in memory, by their Hugging Face names.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::{Source, finite};
use crate::architecture::Tensor;
use crate::{HostTensor, Result};

/// As a file would hold them.
#[derive(Debug)]
pub(crate) struct Memory(pub(crate) BTreeMap<String, HostTensor>);

impl Source for Memory {
    fn path(&self) -> &Path {
        Path::new("weights in memory")
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|t| t.shape.clone())
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn rows(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Vec<f32>> {
        let columns = tensor.rows().1;
        let mut out = self.0[&tensor.name].data[rows.start * columns..rows.end * columns].to_vec();
        if tensor.less_one {
            for v in &mut out {
                *v += 1.0;
            }
        }
        finite(self, tensor, &out)?;
        Ok(out)
    }

    fn is_bf16(&self, _: &Tensor) -> bool {
        false
    }
}
