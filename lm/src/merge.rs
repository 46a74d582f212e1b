//! The verb `merge`: base plus adapters as plain weights.

use crate::adapter::Adapter;
use crate::{Checkpoint, Error, Result};

/// `W + sum of scaling * B A` for every adapted projection, in f32, computed where the result is read. The digest of the result is
/// empty: it is no file's.
///
/// # Errors
/// If an adapter acts on a projection that the checkpoint does not hold in the expected shape.
pub fn merge(base: &Checkpoint, adapters: &[&Adapter]) -> Result<Checkpoint> {
    let model = &base.architecture;
    for m in adapters.iter().flat_map(|a| a.modules()) {
        let there =
            m.layer < model.layers.len() && model.features(m.layer, m.projection) == (m.input, m.output);
        if !there {
            return Err(Error::Tensor {
                name: format!("{}.weight", m.projection.module_path(m.layer)),
                what: format!("is not in the checkpoint as {} x {}", m.output, m.input),
            });
        }
    }
    Ok(base.merged(adapters.iter().map(|a| (*a).clone()).collect()))
}
