//! A configuration's fields, each read as what it is or refused by its name.

use std::path::Path;

use serde_json::Value;

use super::bad;
use crate::{Error, Result};

/// Longest list that is read of a configuration.
const MOST: usize = 1 << 12;

/// The fields of a `config.json`, of which some may stand in a nested `text_config`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    path: &'a Path,
    /// The whole file.
    outer: &'a Value,
    /// The decoder's own fields.
    inner: &'a Value,
    /// What transformers generates with, if a file beside this one says so.
    generation: &'a Value,
    /// Values of fields that are left out.
    defaults: &'static [(&'static str, usize)],
}

impl<'a> Facts<'a> {
    pub(crate) fn new(path: &'a Path, config: &'a Value) -> Self {
        Self { path, outer: config, inner: config, generation: &Value::Null, defaults: &[] }
    }

    /// The same beside a `generation_config.json`.
    pub(crate) fn generating_by(self, generation: &'a Value) -> Self {
        Self { generation, ..self }
    }

    pub(super) fn with_defaults(self, defaults: &'static [(&'static str, usize)]) -> Self {
        Self { defaults, ..self }
    }

    /// The whole file.
    pub(super) fn whole(&self) -> &'a Value {
        self.outer
    }

    fn default(&self, key: &str) -> Option<usize> {
        let found = self.defaults.iter().find(|(name, _)| *name == key);
        found.filter(|_| !self.has(key)).map(|(_, value)| *value)
    }

    /// The fields of a model's text half.
    pub(super) fn text(self) -> Result<Self> {
        let inner = &self.outer["text_config"];
        if !inner.is_object() {
            return Err(self.bad("text_config is missing or no object"));
        }
        Ok(Self { inner, ..self })
    }

    pub(crate) fn bad(&self, what: impl Into<String>) -> Error {
        bad(self.path, what)
    }

    pub(super) fn of(&self, key: &str) -> &'a Value {
        &self.inner[key]
    }

    /// A field of the whole, or else of the decoder; null where it is null in both.
    fn anywhere(&self, key: &str) -> Option<&'a Value> {
        let both = [self.outer.get(key), self.inner.get(key)];
        both.into_iter().flatten().find(|v| !v.is_null()).or(both[0]).or(both[1])
    }

    /// Whether the field is there, be it null.
    pub(super) fn has(&self, key: &str) -> bool {
        self.inner.get(key).is_some()
    }

    pub(super) fn outer(&self, key: &str) -> &'a Value {
        &self.outer[key]
    }

    pub(super) fn number(&self, key: &str) -> Result<usize> {
        let whole = self.of(key).as_u64().map(|v| v as usize).or_else(|| self.default(key));
        whole.ok_or_else(|| match self.inner.get(key) {
            Some(value) => self.bad(format!("{key} = {} is not a whole number", brief(value))),
            None => self.bad(format!("{key} is missing")),
        })
    }

    /// Only absence (or null) means a default, not another type.
    pub(super) fn number_or(&self, key: &str, default: usize) -> Result<usize> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    /// A whole number, or nothing where the field is null, or absent and without a default.
    pub(super) fn optional(&self, key: &str) -> Result<Option<usize>> {
        if self.of(key).is_null() { Ok(self.default(key)) } else { self.number(key).map(Some) }
    }

    /// A number, or nothing by the same rule.
    pub(super) fn optional_float(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.float(key)?.or_else(|| self.default(key).map(|v| v as f64)))
    }

    /// Tokens that end a reply. What transformers generates with goes before; a file that says nothing means its class's own.
    pub(super) fn ends(&self) -> Result<Vec<u32>> {
        let key = "eos_token_id";
        let stated = [self.generation.get(key), self.anywhere(key)];
        let said = stated.into_iter().flatten().find(|v| !v.is_null()).or(stated[1]);
        let own = self.default(key).map(Value::from);
        let ids = match said.or(own.as_ref()) {
            None | Some(Value::Null) => &[],
            Some(Value::Array(ids)) => &ids[..],
            Some(one) => std::slice::from_ref(one),
        };
        ids.iter()
            .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
            .collect::<Option<Vec<u32>>>()
            .filter(|ids| ids.len() <= MOST)
            .ok_or_else(|| self.bad("eos_token_id, here or in generation_config.json, is no token"))
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.of(key) {
            Value::Null => Ok(None),
            value => value
                .as_f64()
                .map(Some)
                .ok_or_else(|| self.bad(format!("{key} = {} is not a number", brief(value)))),
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.of(key) {
            Value::Null => Ok(default),
            value => value
                .as_bool()
                .ok_or_else(|| self.bad(format!("{key} = {} is neither true nor false", brief(value)))),
        }
    }

    /// A list with an entry for each layer.
    pub(super) fn list(&self, key: &str, layers: usize) -> Result<Option<&'a [Value]>> {
        match self.of(key) {
            Value::Null => Ok(None),
            Value::Array(items) if items.len() == layers && layers <= MOST => Ok(Some(items)),
            Value::Array(items) => {
                Err(self.bad(format!("{key} has {} entries for num_hidden_layers = {layers}", items.len())))
            }
            value => Err(self.bad(format!("{key} = {} is not a list", brief(value)))),
        }
    }

    /// Refuses a field that asks for what is not implemented.
    pub(super) fn only(&self, key: &str, allowed: &[Value]) -> Result<()> {
        let asks = |v: &&Value| !v.is_null() && !allowed.contains(v);
        let Some(value) = [self.of(key), self.outer(key)].into_iter().find(asks) else { return Ok(()) };
        let known: Vec<String> = allowed.iter().map(brief).collect();
        Err(self.bad(format!("{key} = {} is not implemented; {} is", brief(value), known.join(" or "))))
    }

    /// By `layer_types`, which layers see a window only; none where the file has no such list.
    pub(super) fn sliding(&self, layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(kinds) = self.list("layer_types", layers)? else { return Ok(None) };
        let one = |kind: &Value| match kind.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(self.bad(format!(
                "layer_types holds {}; \"full_attention\" and \"sliding_attention\" are implemented",
                brief(kind)
            ))),
        };
        kinds.iter().map(one).collect::<Result<_>>().map(Some)
    }
}

/// A value at a length for people.
pub(super) fn brief(value: &Value) -> String {
    value.to_string().chars().take(80).collect()
}
