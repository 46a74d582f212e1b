//! A GGUF header's lengths, held against the file's before any reader is asked to allocate.

use std::io::{Read, Seek};
use std::path::Path;

use crate::Result;
use crate::architecture::bad;

/// Walks the header and checks that every length fits the file, so that no reader is asked to allocate what is not there.
pub(super) fn check_header(path: &Path, file: &mut (impl Read + Seek), size: u64) -> Result<()> {
    let mut walker = Walker { reader: std::io::BufReader::new(file), left: size, values: MOST_VALUES };
    let truncated = |_| bad(path, "the GGUF header is truncated or damaged");
    let mut magic = [0u8; 4];
    walker.bytes(&mut magic).map_err(truncated)?;
    if &magic != b"GGUF" {
        return Err(bad(path, "is not a GGUF file (it does not start with \"GGUF\")"));
    }
    let version = walker.u32().map_err(truncated)?;
    if !(2..=3).contains(&version) {
        return Err(bad(path, format!("is GGUF version {version}; versions 2 and 3 are read")));
    }
    (|| {
        let tensors = walker.u64()?;
        let pairs = walker.u64()?;
        if pairs > MOST_KEYS || tensors > MOST_TENSORS {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut seen = std::collections::HashSet::new();
        for _ in 0..pairs {
            let name = walker.short_text()?;
            if !name.is_empty() && !seen.insert(name.clone()) {
                return Err(std::io::Error::other(format!(
                    "key {} is there twice",
                    String::from_utf8_lossy(&name)
                )));
            }
            let kind = walker.u32()?;
            if name == b"general.alignment" {
                // The reader divides by it.
                let n = if kind == 4 { walker.u32()? } else { 0 };
                if !(n.is_power_of_two() && (1..=1 << 16).contains(&n)) {
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
                continue;
            }
            walker.value(kind, 0)?;
        }
        let mut seen = std::collections::HashSet::new();
        for _ in 0..tensors {
            let name = walker.short_text()?;
            if name.is_empty() || !seen.insert(name.clone()) {
                return Err(std::io::Error::other(format!(
                    "tensor {:?} is there twice",
                    String::from_utf8_lossy(&name)
                )));
            }
            let dims = walker.u32()?;
            if dims > 4 {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            walker.skip(u64::from(dims) * 8 + 4 + 8)?;
        }
        Ok(())
    })()
    .map_err(|e| match e.kind() {
        std::io::ErrorKind::Other => bad(path, format!("the GGUF header is no good: {e}")),
        _ => truncated(e),
    })
}

/// Most keys, tensors and values of lists of a header: several times those of the largest known models. A value read takes many
/// times its bytes.
const MOST_KEYS: u64 = 10_000;
const MOST_TENSORS: u64 = 100_000;
const MOST_VALUES: u64 = 4_000_000;

struct Walker<R> {
    reader: R,
    left: u64,
    values: u64,
}

impl<R: Read> Walker<R> {
    fn bytes(&mut self, out: &mut [u8]) -> std::io::Result<()> {
        self.left = self.left.checked_sub(out.len() as u64).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        self.reader.read_exact(out)
    }
    fn u32(&mut self) -> std::io::Result<u32> {
        let mut b = [0; 4];
        self.bytes(&mut b)?;
        Ok(u32::from_le_bytes(b))
    }
    fn u64(&mut self) -> std::io::Result<u64> {
        let mut b = [0; 8];
        self.bytes(&mut b)?;
        Ok(u64::from_le_bytes(b))
    }
    fn skip(&mut self, n: u64) -> std::io::Result<()> {
        self.left = self.left.checked_sub(n).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let skipped = std::io::copy(&mut self.reader.by_ref().take(n), &mut std::io::sink())?;
        if skipped == n { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
    }
    fn text(&mut self) -> std::io::Result<()> {
        let n = self.u64()?;
        self.skip(n)
    }
    /// A text, or nothing of one that is longer than any key.
    fn short_text(&mut self) -> std::io::Result<Vec<u8>> {
        let n = self.u64()?;
        if n > 256 {
            self.skip(n)?;
            return Ok(Vec::new());
        }
        let mut text = vec![0; n as usize];
        self.bytes(&mut text)?;
        Ok(text)
    }
    fn value(&mut self, kind: u32, depth: u32) -> std::io::Result<()> {
        match kind {
            0 | 1 | 7 => self.skip(1),
            2 | 3 => self.skip(2),
            4..=6 => self.skip(4),
            10..=12 => self.skip(8),
            8 => self.text(),
            9 if depth < 2 => {
                let inner = self.u32()?;
                let n = self.u64()?;
                self.values = self.values.checked_sub(n).ok_or(std::io::ErrorKind::InvalidData)?;
                if n > self.left {
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
                (0..n).try_for_each(|_| self.value(inner, depth + 1))
            }
            _ => Err(std::io::ErrorKind::InvalidData.into()),
        }
    }
}
