//! The state of a fit between two steps, as one file: everything needed to go on bit for bit.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::fit::{FitPoint, Fitted};
use crate::{Error, Result, Trainer};

/// Version of the layout.
const FORMAT: &str = "lorafab-fit/1";

fn bad(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::File { path: path.to_owned(), what: what.to_string() }
}

/// Writes the state beside `path` and moves it there, so that a kill leaves the old one or the new one.
pub(crate) fn write(path: &Path, trainer: &Trainer, so_far: &Fitted, recent: &[f64]) -> Result<()> {
    let state = trainer.save()?;
    let best: Vec<u8> = so_far.adapter.params.iter().flat_map(|v| v.to_le_bytes()).collect();
    let recent: Vec<u8> = recent.iter().flat_map(|v| v.to_le_bytes()).collect();
    let counts: Vec<u8> =
        [so_far.best_step as u64, so_far.tokens].iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = |dtype, width: usize, data| {
        TensorView::new(dtype, vec![<[u8]>::len(data) / width], data).map_err(|e| bad(path, e))
    };
    let views = [
        ("best", view(Dtype::F32, 4, &best)?),
        ("counts", view(Dtype::U64, 8, &counts)?),
        ("recent", view(Dtype::F64, 8, &recent)?),
        ("trainer", view(Dtype::U8, 1, &state)?),
    ];
    let points = serde_json::to_string(&so_far.points).expect("invariant: plain numbers");
    let metadata = [("format".to_owned(), FORMAT.to_owned()), ("points".to_owned(), points)].into();
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|e| bad(path, e))?;
    let beside = path.with_extension("new");
    let mut file = fs_err::File::create(&beside)?;
    std::io::Write::write_all(&mut file, &bytes)?;
    file.sync_all()?;
    fs_err::rename(beside, path)?;
    Ok(())
}

/// Puts a state back; returns the losses since the last evaluation.
///
/// # Errors
/// [`Error::File`] if it is damaged or another training's; a part of it may then have been put back.
pub(crate) fn read(path: &Path, trainer: &mut Trainer, so_far: &mut Fitted) -> Result<Vec<f64>> {
    let bytes = fence::open::read_own(path, 64 << 30)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(path, e))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    if metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return Err(bad(path, format!("is not a training state of format {FORMAT}")));
    }
    let points: Vec<FitPoint> =
        serde_json::from_str(metadata.get("points").map_or("", String::as_str)).map_err(|e| bad(path, e))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(path, e))?;
    let data = |name| file.tensor(name).map(|t| t.data()).map_err(|e| bad(path, e));
    trainer.restore(data("trainer")?).map_err(|e| bad(path, e))?;
    let best: Vec<f32> = data("best")?.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let counts: Vec<u64> =
        data("counts")?.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    let (&[best_step, tokens], true) = (&counts[..], best.len() == so_far.adapter.params.len()) else {
        return Err(bad(path, "belongs to another training"));
    };
    so_far.adapter.params = best;
    so_far.best_step = best_step as usize;
    so_far.tokens = tokens;
    so_far.points = points;
    Ok(data("recent")?.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
}
