//! The state of an adapter between two steps, as one file: everything needed to go on bit for bit.

use std::path::{Path, PathBuf};

use registry::write_atomic;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::train::Apprentice;
use crate::{Error, Result};

/// Version of the layout.
const FORMAT: &str = "lorafab-checkpoint/1";

fn path(folder: &Path, spec_hash: &str) -> PathBuf {
    folder.join(format!("{}.checkpoint", registry::file_name(spec_hash)))
}

fn bad(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::Checkpoint { path: path.into(), what: what.to_string() }
}

/// Writes the state, so that a kill leaves the old one or the new one. An adapter that has taken no step leaves none.
pub(crate) fn write(folder: &Path, spec_hash: &str, apprentice: &Apprentice) -> Result<()> {
    if apprentice.trainer.step() == 0 {
        return Ok(());
    }
    let path = path(folder, spec_hash);
    let trainer = apprentice.trainer.save()?;
    let losses: Vec<u8> = apprentice.losses().iter().flat_map(|v| v.to_le_bytes()).collect();
    let tokens = apprentice.tokens.to_le_bytes();
    let view = |dtype, width: usize, data| {
        TensorView::new(dtype, vec![<[u8]>::len(data) / width], data).map_err(|e| bad(&path, e))
    };
    let views = [
        ("losses", view(Dtype::F64, 8, &losses)?),
        ("tokens", view(Dtype::U64, 8, &tokens)?),
        ("trainer", view(Dtype::U8, 1, &trainer)?),
    ];
    let metadata = [("format".to_owned(), format!("{FORMAT} {spec_hash}"))].into();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| bad(&path, e))?;
    Ok(write_atomic(&path, &bytes)?)
}

/// Puts a state back, if there is one of this specification. A file that cannot be read is removed and training begins
/// anew: the same adapter comes out.
pub(crate) fn read(folder: &Path, spec_hash: &str, apprentice: &mut Apprentice) -> Result<()> {
    let path = path(folder, spec_hash);
    if !path.exists() {
        return Ok(());
    }
    let bytes = fence::open::read_own(&path, 64 << 30).map_err(registry::Error::from)?;
    if restore(&bytes, &format!("{FORMAT} {spec_hash}"), apprentice).is_none() {
        forget(folder, spec_hash)?;
    }
    Ok(())
}

fn restore(bytes: &[u8], format: &str, apprentice: &mut Apprentice) -> Option<()> {
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    if header.metadata().as_ref()?.get("format")? != format {
        return None;
    }
    let file = SafeTensors::deserialize(bytes).ok()?;
    let data = |name| file.tensor(name).ok().map(|t| t.data());
    let losses = data("losses")?.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect();
    let tokens = u64::from_le_bytes(data("tokens")?.try_into().ok()?);
    let trainer = data("trainer")?;
    apprentice.restore(trainer, losses, tokens).ok()
}

/// Removes the state of an adapter that is safe elsewhere.
pub(crate) fn forget(folder: &Path, spec_hash: &str) -> Result<()> {
    let path = path(folder, spec_hash);
    if path.exists() {
        fs_err::remove_file(path).map_err(registry::Error::from)?;
    }
    Ok(())
}
