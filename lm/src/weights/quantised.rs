//! Weights in a GGUF file, dequantised a few rows at a time.

use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, TensorInfo};
use candle_core::quantized::{GgmlDType, ggml_file};

use super::{Source, finite};
use crate::architecture::{RowOrder, Tensor, bad};
use crate::{Error, Result};

/// Tensors that are no weights: what they hold is read into the description.
pub(crate) const FREQUENCIES: &str = "rope_freqs.weight";

/// The weights of one GGUF file.
#[derive(Debug)]
pub(crate) struct Quantised {
    path: PathBuf,
    file: std::fs::File,
    content: Content,
    stamp: (u64, i64, i64),
}

fn stamp(file: &std::fs::File) -> Result<(u64, i64, i64)> {
    let m = file.metadata()?;
    Ok((m.len(), m.mtime(), m.mtime_nsec()))
}

impl Quantised {
    /// Takes over a file whose header was read and checked, and returns the blake3 of its bytes.
    pub(crate) fn new(path: &Path, file: std::fs::File, content: Content) -> Result<(Self, String)> {
        let stamp = stamp(&file)?;
        let digest = digest(&file)?;
        Ok((Self { path: path.to_owned(), file, content, stamp }, digest))
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.content
            .tensor_infos
            .get(name)
            .ok_or_else(|| Error::Tensor { name: name.to_owned(), what: "is missing".into() })
    }

    /// Numbers `from..` of a tensor, whole blocks of them.
    fn numbers(&self, info: &TensorInfo, from: usize, n: usize) -> Result<Vec<f32>> {
        numbers(&self.file, self.content.tensor_data_offset, info, from, n).map_err(|e| match e {
            Error::Io(e) => {
                std::io::Error::new(e.kind(), format!("reading {}: {e}", self.path.display())).into()
            }
            e => e,
        })
    }

    /// All numbers of a tensor that is no weight, if it is there.
    pub(crate) fn vector(file: &std::fs::File, content: &Content, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(info) = content.tensor_infos.get(name) else { return Ok(None) };
        numbers(file, content.tensor_data_offset, info, 0, info.shape.elem_count()).map(Some)
    }
}

fn numbers(file: &std::fs::File, start: u64, info: &TensorInfo, from: usize, n: usize) -> Result<Vec<f32>> {
    let (block, size) = (info.ggml_dtype.block_size(), info.ggml_dtype.type_size());
    let mut bytes = vec![0; n.div_ceil(block) * size];
    file.read_exact_at(&mut bytes, start + info.offset + (from / block * size) as u64)?;
    let tensor = ggml_file::qtensor_from_ggml(info.ggml_dtype, &bytes, vec![n], &Device::Cpu)?;
    Ok(tensor.dequantize(&Device::Cpu)?.to_vec1::<f32>()?)
}

/// blake3 of a file's bytes.
pub(crate) fn digest(file: &std::fs::File) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    super::hash(&mut hasher, file)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Row `(head, part, i)` is llama.cpp's row `(head, i, part)`.
fn in_plain_order(data: &[f32], columns: usize, heads: usize) -> Vec<f32> {
    let rows = data.len() / columns;
    let dim = rows / heads;
    let half = dim / 2;
    (0..rows)
        .flat_map(|row| {
            let (head, within) = (row / dim, row % dim);
            let from = head * dim + (within % half) * 2 + within / half;
            data[from * columns..(from + 1) * columns].iter().copied()
        })
        .collect()
}

impl Source for Quantised {
    fn path(&self) -> &Path {
        &self.path
    }

    fn name_of<'t>(&self, tensor: &'t Tensor) -> &'t str {
        &tensor.gguf
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.content.tensor_infos.get(name).map(|t| t.shape.dims().to_vec())
    }

    fn names(&self) -> Vec<String> {
        self.content.tensor_infos.keys().filter(|n| *n != FREQUENCIES).cloned().collect()
    }

    fn rows(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Vec<f32>> {
        let info = self.info(&tensor.gguf)?;
        // A vector is a column here.
        let (all, columns) = if tensor.shape.len() == 1 { (tensor.shape[0], 1) } else { tensor.rows() };
        let asked = if tensor.shape.len() == 1 { 0..all } else { rows };
        let out = match tensor.order {
            RowOrder::Plain => self.numbers(info, asked.start * columns, asked.len() * columns)?,
            RowOrder::Paired(heads) => {
                // Rows change places within their head: whole heads are read.
                let head = all / heads;
                let (first, end) = (asked.start / head, asked.end.div_ceil(head));
                let data = self.numbers(info, first * head * columns, (end - first) * head * columns)?;
                let data = in_plain_order(&data, columns, end - first);
                let from = (asked.start - first * head) * columns;
                data[from..from + asked.len() * columns].to_vec()
            }
        };
        finite(self, tensor, &out)?;
        Ok(out)
    }

    fn is_bf16(&self, tensor: &Tensor) -> bool {
        self.info(&tensor.gguf).is_ok_and(|i| i.ggml_dtype == GgmlDType::BF16)
    }

    fn unchanged(&self) -> Result<()> {
        if stamp(&self.file)? == self.stamp {
            return Ok(());
        }
        Err(bad(&self.path, "changed while it was read; run again"))
    }
}
