//! A GGUF file's keys, each read as what it is or refused as another type.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use crate::Result;
use crate::architecture::bad;

#[derive(Debug)]
pub(crate) struct Metadata<'a> {
    pub(crate) path: &'a Path,
    pub(crate) values: &'a HashMap<String, Value>,
    /// Keys that somebody read.
    read: RefCell<BTreeSet<String>>,
}

impl<'a> Metadata<'a> {
    pub(crate) fn new(path: &'a Path, values: &'a HashMap<String, Value>) -> Self {
        Self { path, values, read: RefCell::default() }
    }

    /// Whether anybody has read a key so far.
    pub(super) fn was_read(&self, key: &str) -> bool {
        self.read.borrow().contains(key)
    }

    pub(crate) fn get(&self, key: &str) -> Result<&Value> {
        self.read.borrow_mut().insert(key.to_owned());
        self.values.get(key).ok_or_else(|| bad(self.path, format!("has no metadata key {key}")))
    }
    pub(crate) fn string(&self, key: &str) -> Result<&str> {
        self.get(key)?
            .to_string()
            .map(String::as_str)
            .map_err(|_| bad(self.path, format!("metadata key {key} is not text")))
    }
    pub(crate) fn number(&self, key: &str) -> Result<usize> {
        let value = self.get(key)?;
        value
            .to_u64()
            .ok()
            .or_else(|| value.to_u32().ok().map(u64::from))
            .or_else(|| value.to_i32().ok().and_then(|v| u64::try_from(v).ok()))
            .map(|v| v as usize)
            .ok_or_else(|| {
                let value: String = format!("{value:?}").chars().take(60).collect();
                bad(self.path, format!("metadata key {key} = {value} is not a whole number"))
            })
    }
    /// Finite: what is not has no place in a configuration, where it would count as absent.
    pub(crate) fn float(&self, key: &str) -> Result<f64> {
        let value = self.get(key)?;
        let number = value.to_f32().map(f64::from).or_else(|_| value.to_f64()).ok();
        number.filter(|x| x.is_finite()).ok_or_else(|| {
            let value: String = format!("{value:?}").chars().take(60).collect();
            bad(self.path, format!("metadata key {key} = {value} is not a finite number"))
        })
    }
    /// A value that has a default: only its absence means that, not another type.
    pub(super) fn or<T>(&self, key: &str, read: impl Fn(&Self, &str) -> Result<T>, default: T) -> Result<T> {
        if self.values.contains_key(key) { read(self, key) } else { Ok(default) }
    }
    pub(crate) fn strings(&self, key: &str) -> Result<Vec<&str>> {
        let values = self
            .get(key)?
            .to_vec()
            .map_err(|_| bad(self.path, format!("metadata key {key} is not a list")))?;
        values
            .iter()
            .map(|v| {
                v.to_string().map(String::as_str).map_err(|_| {
                    bad(self.path, format!("metadata key {key} holds something that is not text"))
                })
            })
            .collect()
    }
}
