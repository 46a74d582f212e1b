//! Rows as data frames of pandas or polars, neither of which is needed for anything else.

use std::collections::{BTreeMap, BTreeSet};

use pyo3::exceptions::{PyImportError, PyModuleNotFoundError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use registry::AdapterRecord;
use registry::row::{Row, object, value};
use serde_json::{Value, json};

use crate::{Trouble, to_python};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    Pandas,
    Polars,
}

/// A module that may not be installed.
pub(crate) fn import<'py>(py: Python<'py>, name: &str, what: &str) -> PyResult<Bound<'py, PyModule>> {
    py.import(name).map_err(|e| {
        if !e.is_instance_of::<PyModuleNotFoundError>(py) {
            return e;
        }
        let error = PyImportError::new_err(format!("{what} needs {name}: pip install {name}"));
        error.set_cause(py, Some(e));
        error
    })
}

/// An adapter's fields, each in a column of its own: metrics by their names, tags as `tag.NAME`.
fn flat(row: &Row) -> BTreeMap<String, Value> {
    let Value::Object(mut all) = object(row, None) else { return BTreeMap::new() };
    let mut part = |name: &str| match all.remove(name) {
        Some(Value::Object(part)) => part,
        _ => serde_json::Map::new(),
    };
    let (tags, metrics) = (part("tags"), part("metrics"));
    let tags = tags.into_iter().map(|(k, v)| (format!("{}{k}", AdapterRecord::TAG), v));
    let columns = all.into_iter().filter(|(k, _)| AdapterRecord::COLUMNS.contains(&k.as_str()));
    columns.chain(metrics).chain(tags).collect()
}

/// Columns of a frame with their values.
fn columns(rows: &[Row], chosen: Option<&[&str]>) -> Vec<(String, Vec<Value>)> {
    let mut table: Vec<(String, Vec<Value>)> = if let Some(chosen) = chosen {
        chosen.iter().map(|key| ((*key).to_owned(), rows.iter().map(|r| value(r, key)).collect())).collect()
    } else {
        let rows: Vec<BTreeMap<String, Value>> = rows.iter().map(flat).collect();
        let own: BTreeSet<&String> = rows.iter().flat_map(BTreeMap::keys).collect();
        let further = own.into_iter().map(String::as_str).filter(|k| !AdapterRecord::COLUMNS.contains(k));
        let of = |key: &str| rows.iter().map(|r| r.get(key).cloned().unwrap_or_default()).collect();
        AdapterRecord::COLUMNS.into_iter().chain(further).map(|key| (key.to_owned(), of(key))).collect()
    };
    // One type a column: numbers of which some have a fraction all get one.
    for (_, values) in &mut table {
        if values.iter().any(Value::is_f64) {
            for value in values.iter_mut() {
                if let Some(x) = value.as_f64() {
                    *value = json!(x);
                }
            }
        }
    }
    table
}

impl Frame {
    pub(crate) fn named(name: &str) -> Result<Self, Trouble> {
        match name {
            "pandas" => Ok(Self::Pandas),
            "polars" => Ok(Self::Polars),
            other => Err(Trouble(format!("frame {other:?} is neither \"pandas\" nor \"polars\""))),
        }
    }

    /// Rows as a data frame.
    pub(crate) fn of<'py>(
        self,
        py: Python<'py>,
        rows: &[Row],
        chosen: Option<&[&str]>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let name = if self == Self::Pandas { "pandas" } else { "polars" };
        let module = import(py, name, &format!("frame={name:?}"))?;
        let data = PyDict::new(py);
        for (key, values) in columns(rows, chosen) {
            let whole = values.iter().any(Value::is_u64) && values.iter().all(|v| v.is_null() || v.is_u64());
            // A seed may be more than signed numbers hold.
            let wide = values.iter().any(|v| v.is_u64() && !v.is_i64());
            let holes = values.iter().any(Value::is_null);
            let list = to_python(py, &Value::Array(values))?;
            let column = match self {
                // Of whole numbers of which some are missing pandas would make others.
                Self::Pandas if whole && holes => {
                    module.call_method1("array", (list, if wide { "UInt64" } else { "Int64" }))?
                }
                Self::Polars if whole && wide => {
                    module.call_method1("Series", (&key, list, module.getattr("UInt64")?))?
                }
                _ => list,
            };
            data.set_item(key, column)?;
        }
        module.call_method1("DataFrame", (data,))
    }
}
