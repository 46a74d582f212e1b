//! Vectors that a spec takes from the registry.

use std::collections::BTreeMap;

use registry::Digest;
use safetensors::{Dtype, SafeTensors};

use super::{Spec, SpecError};

/// Reads the stored vectors of a spec, by the id that it gives them.
///
/// # Errors
/// With the field's path: a digest that names no file of the store, no tensor of it, rows that it does not have, values that
/// are not finite F32 of `hidden_size`.
pub fn stored(
    blob: impl Fn(&Digest) -> Result<Vec<u8>, String>,
    spec: &Spec,
    hidden_size: usize,
) -> Result<BTreeMap<String, Vec<Vec<f32>>>, SpecError> {
    let mut files: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let mut out = BTreeMap::new();
    for (id, wanted) in &spec.vectors {
        let at = format!("vectors.{id}");
        let place = format!("{at}.blob");
        if !files.contains_key(wanted.blob.as_str()) {
            let digest = Digest::try_from(wanted.blob.clone())
                .map_err(|_| SpecError::new(&place, format!("{:?} is no digest", wanted.blob)))?;
            let bytes = blob(&digest).map_err(|what| SpecError::new(&place, what))?;
            files.insert(&wanted.blob, bytes);
        }
        let file = SafeTensors::deserialize(&files[wanted.blob.as_str()])
            .map_err(|e| SpecError::new(&place, format!("is no safetensors file: {e}")))?;
        let name = format!("{at}.tensor");
        let tensor = file
            .tensor(&wanted.tensor)
            .map_err(|_| SpecError::new(&name, format!("the file has no tensor {:?}", wanted.tensor)))?;
        let [n, width] = *tensor.shape() else {
            return Err(SpecError::new(name, format!("has shape {:?}, not two dimensions", tensor.shape())));
        };
        if tensor.dtype() != Dtype::F32 || width != hidden_size {
            let what = format!("is {:?} [{n}, {width}], not F32 [n, {hidden_size}]", tensor.dtype());
            return Err(SpecError::new(name, what));
        }
        let (first, end) = wanted.rows.unwrap_or((0, n));
        if first >= end || end > n {
            return Err(SpecError::new(format!("{at}.rows"), format!("asks for {first} up to {end} of {n}")));
        }
        let bytes = &tensor.data()[4 * width * first..4 * width * end];
        let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let rows: Vec<Vec<f32>> = values.chunks(width.max(1)).map(<[f32]>::to_vec).collect();
        if rows.iter().flatten().any(|x| !x.is_finite()) {
            return Err(SpecError::new(name, "holds a value that is not finite"));
        }
        out.insert(id.clone(), rows);
    }
    Ok(out)
}
