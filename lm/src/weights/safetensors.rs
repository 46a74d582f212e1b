//! Weights in safetensors files, each tensor read where it lies.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use fence::open::SMALL;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::{Source, finite};
use crate::architecture::{NESTED, OTHER_PARTS, Tensor, bad};
use crate::{Error, Result};

/// Bytes that are compared together.
const PIECE: usize = 1 << 22;

/// Weight files of one folder.
#[derive(Debug)]
pub(crate) struct Safetensors {
    folder: PathBuf,
    files: Vec<Opened>,
    tensors: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
    /// Length and last change when it was opened.
    stamp: (u64, i64, i64),
}

#[derive(Debug)]
struct Place {
    file: usize,
    /// First byte.
    at: u64,
    dtype: Dtype,
    shape: Vec<usize>,
}

fn stamp(file: &File) -> Result<(u64, i64, i64)> {
    let m = file.metadata()?;
    Ok((m.len(), m.mtime(), m.mtime_nsec()))
}

/// Reads a file's header, of which every length is held against the file's; the file's bytes of tensors begin where it ends.
pub(crate) fn header(path: &Path, file: &mut File, length: u64) -> Result<(Metadata, u64)> {
    let damaged = |what: String| {
        bad(path, format!("is not a readable safetensors file (truncated or damaged): {what}"))
    };
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|e| damaged(e.to_string()))?;
    let size = u64::from_le_bytes(size);
    if size > SMALL * 4 || size.saturating_add(8) > length {
        return Err(damaged(format!("its header would have {size} bytes")));
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact(&mut bytes).map_err(|e| damaged(e.to_string()))?;
    let header: Metadata = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    let end = header.tensors().values().map(|t| t.data_offsets.1).max().unwrap_or(0) as u64;
    if 8 + size + end != length {
        return Err(damaged(format!("its tensors end at byte {} of {length}", 8 + size + end)));
    }
    Ok((header, 8 + size))
}

impl Safetensors {
    /// Opens a folder's weight files and returns the blake3 of their bytes, in this order. `nested`: whether the decoder is one part
    /// of the model.
    pub(crate) fn open(folder: &Path, paths: &[PathBuf], most: u64, nested: bool) -> Result<(Self, String)> {
        let mut out = Self { folder: folder.to_owned(), files: Vec::new(), tensors: BTreeMap::new() };
        let mut hasher = blake3::Hasher::new();
        for path in paths {
            let (mut file, length) = fence::open::open(path, most)?;
            let stamp = stamp(&file)?;
            let (header, start) = header(path, &mut file, length)?;
            // In order of name, so that the same damage is always told of the same tensor.
            let found: BTreeMap<String, _> = header.tensors().into_iter().collect();
            for (name, info) in found {
                if OTHER_PARTS.iter().any(|o| nested && name.starts_with(o)) {
                    continue;
                }
                if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                    return Err(bad(
                        path,
                        format!(
                            "tensor {name} is {:?}, which is not implemented; F32, F16 and BF16 are",
                            info.dtype
                        ),
                    ));
                }
                let plain = NESTED
                    .iter()
                    .filter(|_| nested)
                    .find_map(|(there, here)| name.strip_prefix(there).map(|rest| format!("{here}{rest}")));
                let place = Place {
                    file: out.files.len(),
                    at: start + info.data_offsets.0 as u64,
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                };
                let plain = plain.unwrap_or_else(|| name.clone());
                if out.tensors.insert(plain, place).is_some() {
                    return Err(bad(path, format!("tensor {name} is there twice")));
                }
            }
            hash(&mut hasher, &file)?;
            out.files.push(Opened { path: path.clone(), file, stamp });
        }
        Ok((out, hasher.finalize().to_hex().to_string()))
    }

    /// Takes a tensor out that repeats another; an error if it does not.
    pub(crate) fn drop_copy(&mut self, name: &str, of: &str) -> Result<bool> {
        let Some(copy) = self.tensors.remove(name) else { return Ok(true) };
        let Some(place) = self.tensors.get(of) else { return Ok(false) };
        let (bytes, other) = (length(&copy), length(place));
        if copy.dtype != place.dtype || bytes != other {
            return Ok(false);
        }
        for at in (0..bytes).step_by(PIECE) {
            let n = PIECE.min(bytes - at);
            if self.bytes(&copy, at as u64, n)? != self.bytes(place, at as u64, n)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn bytes(&self, place: &Place, from: u64, length: usize) -> Result<Vec<u8>> {
        let Opened { path, file, .. } = &self.files[place.file];
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, place.at + from)
            .map_err(|e| std::io::Error::new(e.kind(), format!("reading {}: {e}", path.display())))?;
        Ok(bytes)
    }
}

fn length(place: &Place) -> usize {
    place.shape.iter().product::<usize>() * width(place.dtype)
}

fn width(dtype: Dtype) -> usize {
    if dtype == Dtype::F32 { 4 } else { 2 }
}

/// Hashes a file's bytes from its beginning, wherever its readers are.
pub(crate) fn hash(hasher: &mut blake3::Hasher, file: &File) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(()),
            n => {
                hasher.update(&buffer[..n]);
                at += n as u64;
            }
        }
    }
}

impl Source for Safetensors {
    fn path(&self) -> &Path {
        &self.folder
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|p| p.shape.clone())
    }

    fn names(&self) -> Vec<String> {
        // Older checkpoints hold frequencies, which follow from the configuration.
        self.tensors.keys().filter(|n| !n.ends_with("rotary_emb.inv_freq")).cloned().collect()
    }

    fn rows(&self, tensor: &Tensor, rows: Range<usize>) -> Result<Vec<f32>> {
        let place = self
            .tensors
            .get(&tensor.name)
            .ok_or_else(|| Error::Tensor { name: tensor.name.clone(), what: "is missing".into() })?;
        let (columns, each) = (tensor.rows().1, width(place.dtype));
        let bytes = self.bytes(place, (rows.start * columns * each) as u64, rows.len() * columns * each)?;
        let mut out: Vec<f32> = match place.dtype {
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            _ => bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        };
        if tensor.less_one {
            for v in &mut out {
                *v += 1.0;
            }
        }
        finite(self, tensor, &out)?;
        Ok(out)
    }

    fn is_bf16(&self, tensor: &Tensor) -> bool {
        self.tensors.get(&tensor.name).is_some_and(|p| p.dtype == Dtype::BF16) && !tensor.less_one
    }

    fn unchanged(&self) -> Result<()> {
        for Opened { path, file, stamp: before } in &self.files {
            if stamp(file)? != *before {
                return Err(bad(path, "changed while it was read; run again"));
            }
        }
        Ok(())
    }
}
