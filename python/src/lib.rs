//! The module `lorafab` for Python: a store, to look at.
//!
//! Nothing is held open between two calls: each looks at the store as it is then, so that a session of days sees what a factory adds
//! meanwhile, and no lock stays behind.
#![expect(clippy::needless_pass_by_value, reason = "what Python hands over is owned")]

mod frame;

use std::path::{Path, PathBuf};

use compare::runs::{self, NoRun};
use exchange::IfExists;
use exchange::peft;
use frame::Frame;
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict, PyTuple};
use registry::row;
use registry::{Filter, Listing};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

create_exception!(lorafab, Error, PyException, "What a store cannot answer, in one sentence.");

/// What went wrong, in one sentence.
struct Trouble(String);

impl From<registry::Error> for Trouble {
    fn from(e: registry::Error) -> Self {
        Self(e.hint().map_or_else(|| e.to_string(), |hint| format!("{e}; {hint}")))
    }
}

impl From<NoRun> for Trouble {
    fn from(e: NoRun) -> Self {
        Self(format!("{e}; {}", e.hint()))
    }
}

impl From<exchange::Error> for Trouble {
    fn from(e: exchange::Error) -> Self {
        match e {
            exchange::Error::Store(e) => e.into(),
            other => Self(other.to_string()),
        }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(e: std::io::Error) -> Self {
        Self(e.to_string())
    }
}

impl From<Trouble> for PyErr {
    fn from(Trouble(sentence): Trouble) -> Self {
        Error::new_err(fence::shown(&sentence).into_owned())
    }
}

/// One name or several: `"a"`, `"a,b"` or `["a", "b"]`.
#[derive(FromPyObject)]
enum Names {
    One(String),
    Many(Vec<String>),
}

impl Names {
    fn list(names: Option<Self>) -> Vec<String> {
        let list = match names {
            None => Vec::new(),
            Some(Self::One(text)) => text.split(',').map(str::to_owned).collect(),
            Some(Self::Many(list)) => list,
        };
        list.iter().map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).collect()
    }
}

/// A JSON value as Python has it.
fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    py.import("json")?.call_method1("loads", (value.to_string(),))
}

fn open(root: &Path) -> Result<registry::Store, Trouble> {
    if !root.join("catalogue.sqlite").exists() {
        let lost = if root.join("done").is_dir() {
            "; its catalogue is lost: lorafab registry rebuild brings it back"
        } else {
            ""
        };
        return Err(Trouble(format!("there is no store at {}{lost}", root.display())));
    }
    Ok(registry::Store::open_as_it_is(root)?)
}

/// A store that exists, opened for reading: nothing in it is ever made, changed or brought up to date.
///
/// Every call looks at the store as it is then. What cannot be answered is a `lorafab.Error`.
#[pyclass(frozen, module = "lorafab")]
struct Store {
    root: PathBuf,
}

/// Times that a store is asked again because it was written meanwhile.
const TRIES: usize = 4;

impl Store {
    /// Asks the store, without Python's lock: again if somebody wrote into its catalogue meanwhile.
    fn look<T: Send>(
        &self,
        py: Python<'_>,
        ask: impl Fn(&registry::Store) -> Result<T, Trouble> + Send + Sync,
    ) -> PyResult<T> {
        // A store that nobody has open is read as a file that does not change.
        let stamp = || {
            let found = std::fs::metadata(self.root.join("catalogue.sqlite"));
            found.map(|m| (m.len(), m.modified().ok())).ok()
        };
        Ok(py.detach(|| {
            let mut tries = 0;
            loop {
                let before = stamp();
                let answer = open(&self.root).and_then(|store| ask(&store));
                tries += 1;
                if stamp() == before || tries > TRIES {
                    return answer;
                }
            }
        })?)
    }
}

#[pymethods]
impl Store {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let store = Self { root: std::path::absolute(path).map_err(Trouble::from)? };
        store.look(py, |_| Ok(()))?;
        Ok(store)
    }

    /// The store's folder.
    #[getter]
    fn path(&self) -> PathBuf {
        self.root.clone()
    }

    fn __repr__(&self) -> String {
        format!("lorafab.Store({:?})", self.root.display().to_string())
    }

    /// The adapters that pass a filter, as `lorafab adapter list --json` has them.
    ///
    /// where: a condition, e.g. "family = topic and gate_on >= 0.5".
    /// sort: fields to sort by, "-" before one for descending, e.g. "-gate_on,value", or a list of them.
    /// limit: the first so many.
    /// columns: these fields alone, e.g. "behaviour,gate_on", or a list of them.
    /// frame: "pandas" or "polars" for a data frame in place of a list of dicts. Without columns it has every field in a
    ///     column of its own: metrics by their names, tags as "tag.NAME".
    #[pyo3(signature = (r#where=None, sort=None, limit=None, columns=None, frame=None))]
    fn adapters<'py>(
        &self,
        py: Python<'py>,
        r#where: Option<String>,
        sort: Option<Names>,
        limit: Option<i64>,
        columns: Option<Names>,
        frame: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let frame = frame.map(|name| Frame::named(&name)).transpose()?;
        let columns = Names::list(columns);
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let sort: Vec<(String, bool)> = Names::list(sort).iter().map(|s| row::sorted_by(s)).collect();
        let Ok(limit) = limit.map(usize::try_from).transpose() else {
            return Err(Trouble("limit is less than 0".into()).into());
        };
        let rows = self.look(py, |store| {
            let filter = r#where.as_deref().map_or_else(|| Ok(Filter::all()), |w| Filter::all().and(w))?;
            let listing = Listing { sort: sort.clone(), limit, natural: true };
            let asked = listing.sort.iter().map(|(key, _)| key.as_str()).chain(columns.iter().copied());
            store.check_keys(&filter, asked)?;
            Ok(store.page(&filter, &listing, &[])?.rows)
        })?;
        let chosen = (!columns.is_empty()).then_some(&columns[..]);
        match frame {
            Some(frame) => frame.of(py, &rows, chosen),
            None => to_python(py, &rows.iter().map(|r| row::object(r, chosen)).collect()),
        }
    }

    /// One adapter, by its behaviour, id, alias, or value where only one has it: its row of `adapters()`, and what else its
    /// record holds (peft, parents, lineage, spec, ...).
    fn adapter<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let whole = self.look(py, |store| {
            let record = store.adapter(name)?;
            let page = store.page(&Filter::all().equals("id", &record.id), &Listing::default(), &[])?;
            let mut whole = page.rows.first().map(|r| row::object(r, None)).unwrap_or_default();
            let record = serde_json::to_value(&record).map_err(|e| Trouble(e.to_string()))?;
            if let (Some(whole), Value::Object(record)) = (whole.as_object_mut(), record) {
                whole.extend(record);
            }
            Ok(whole)
        })?;
        to_python(py, &whole)
    }

    /// An adapter's tensors by their names in PEFT, as NumPy arrays of float32: what `export` writes.
    fn load_state_dict<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyDict>> {
        let numpy = frame::import(py, "numpy", "load_state_dict")?;
        let bytes = self.look(py, |store| Ok(peft::weights(store, &store.adapter(name)?)?))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|e| Trouble(format!("the weights of {name:?} are no readable safetensors file: {e}")))?;
        let mut tensors = file.tensors();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let state = PyDict::new(py);
        for (key, tensor) in tensors {
            if tensor.dtype() != Dtype::F32 {
                let what = format!("{key} of {name:?} holds {:?}, not F32", tensor.dtype());
                return Err(Trouble(what).into());
            }
            let flat = numpy.call_method1("frombuffer", (PyByteArray::new(py, tensor.data()), "<f4"))?;
            state.set_item(key, flat.call_method1("reshape", (PyTuple::new(py, tensor.shape())?,))?)?;
        }
        Ok(state)
    }

    /// Writes an adapter as a folder that PEFT loads, as `lorafab adapter export` does, and returns its path.
    ///
    /// replace: whether an adapter that lies there is replaced.
    #[pyo3(signature = (name, folder, replace=false))]
    fn export(&self, py: Python<'_>, name: &str, folder: PathBuf, replace: bool) -> PyResult<PathBuf> {
        py.detach(|| {
            let store = &open(&self.root)?;
            let record = store.adapter(name)?;
            if folder.exists() && !replace {
                return Err(Trouble(format!(
                    "{} already exists; pass replace=True to replace it",
                    folder.display()
                )));
            }
            Ok(peft::export(
                store,
                &record,
                &folder,
                if replace { IfExists::Replace } else { IfExists::Fail },
            )?)
        })?;
        Ok(folder)
    }

    /// A run's comparison (its comparison.json), the newest run's if none is named.
    #[pyo3(signature = (run=None))]
    fn comparison<'py>(&self, py: Python<'py>, run: Option<&str>) -> PyResult<Bound<'py, PyAny>> {
        let comparison = self.look(py, |store| {
            let read = runs::find(store.root(), run)??.comparison().map_err(Trouble)?;
            Ok(compare::to_json(&read))
        })?;
        to_python(py, &comparison)
    }

    /// The latest reading of an adapter that the store keeps (`lorafab read`), or None.
    fn reading<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        let reading = self.look(py, |store| {
            let kept = reading::readings_of(store, &store.adapter(name)?.weights);
            let latest = kept.map_err(|e| Trouble(e.to_string()))?.pop();
            serde_json::to_value(latest).map_err(|e| Trouble(e.to_string()))
        })?;
        to_python(py, &reading)
    }

    /// The names of the runs that have a comparison, the newest first.
    fn runs(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.look(py, |store| Ok(runs::all(store.root())?.into_iter().rev().map(|run| run.name).collect()))
    }
}

/// A lorafab store, to look at: adapters as rows and data frames, their weights as NumPy arrays, comparisons, readings.
///
///     import lorafab
///     store = lorafab.Store("/path/to/store")
///     store.adapters("family = topic", frame="pandas")
#[pymodule]
fn lorafab(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("Error", m.py().get_type::<Error>())?;
    m.add_class::<Store>()
}
