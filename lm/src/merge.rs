//! The verb `merge`: base plus adapters as plain weights.

use crate::adapter::Adapter;
use crate::{Checkpoint, Error, Result};

/// `W + sum of scaling * B A` for every adapted projection, in f32. The digest of the result is empty: it is no file's.
///
/// # Errors
/// If an adapter acts on a projection that the checkpoint does not hold in the expected shape.
pub fn merge(base: &Checkpoint, adapters: &[&Adapter]) -> Result<Checkpoint> {
    let mut merged = Checkpoint { digest: String::new(), ..base.clone() };
    for adapter in adapters {
        let (rank, scaling) = (adapter.config().rank, adapter.config().scaling());
        for m in adapter.modules() {
            let name = format!("{}.weight", m.projection.module_path(m.layer));
            let weight =
                merged.tensors.get_mut(&name).filter(|w| w.shape == [m.output, m.input]).ok_or_else(
                    || Error::Tensor {
                        name,
                        what: format!("is not in the checkpoint as {} x {}", m.output, m.input),
                    },
                )?;
            let (a, b) = (&adapter.params[m.a.clone()], &adapter.params[m.b.clone()]);
            for (o, row) in weight.data.chunks_exact_mut(m.input).enumerate() {
                for r in 0..rank {
                    let c = scaling * b[r * m.output + o];
                    for (w, a) in row.iter_mut().zip(&a[r * m.input..(r + 1) * m.input]) {
                        *w += c * a;
                    }
                }
            }
        }
    }
    Ok(merged)
}
