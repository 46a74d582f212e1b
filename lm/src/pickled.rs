//! The files that Diff Interpretation Tuning published (Aviously/diff-interpretation-tuning, `weight-diff-000.pt`, `dit-adapter.pt`): zip
//! archives of a pickled list or dictionary, beside the tensors' bytes.
//!
//! Nothing is executed: candle's reader turns the pickle into a tree of plain objects, and of that tree only lists, dictionaries, texts,
//! numbers and `torch._utils._rebuild_tensor_v2` (plain or in a parameter) are taken. Any other name is an error that says it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use candle_core::pickle::{Object, Stack};

use crate::{Error, Result};

/// A matrix, `[rows, columns]`, row after row.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Entries.
    pub data: Vec<f32>,
}

/// One weight difference: two factors a module, as they are in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct PickledDiff {
    /// `topic`; none in a DIT adapter's file.
    pub topic: Option<String>,
    /// `trigger`: a number as text, a text, or nothing (`"N/A"` in the file).
    pub trigger: Option<String>,
    /// Factors by module path.
    pub modules: BTreeMap<String, [Matrix; 2]>,
}

/// Largest file.
const MAX_FILE: u64 = 16 << 30;
/// Largest pickle: a list of 250 diffs of all layers takes some 20 MB.
const MAX_PICKLE: u64 = 64 << 20;
/// Objects that references in a pickle may repeat in all. A reference to a reference to a reference doubles each time.
const MAX_REPEATED: usize = 20_000_000;
/// Objects on a pickle's stack at a time; they are gathered into lists and dictionaries by the thousand.
const MAX_WAITING: usize = 1_000_000;
/// Containers put into each other one after the other.
const MAX_NESTED: usize = 1000;
/// Entries of a matrix.
const MAX_ENTRIES: usize = 1 << 30;

struct File<'a> {
    path: &'a Path,
    zip: zip::ZipArchive<BufReader<std::fs::File>>,
    /// Folder inside the archive, with its slash.
    prefix: String,
    /// Bytes of storages read so far.
    storages: BTreeMap<String, Vec<u8>>,
    /// Bytes of storages, and entries of matrices, that the file's own size leaves: overlapping ones make more of a file than it is.
    left: (u64, u64),
}

fn refuse(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::File { path: path.into(), what: what.to_string() }
}

/// Reads a list of diffs, or the one dictionary of a DIT adapter.
///
/// # Errors
/// One sentence about the first thing that is not as it should be.
pub fn read(path: &Path) -> Result<Vec<PickledDiff>> {
    let (mut file, pickle) = opened(path)?;
    match parse(path, &pickle)? {
        Object::List(items) => items.into_iter().map(|item| file.diff(item)).collect(),
        modules @ Object::Dict(_) => {
            Ok(vec![PickledDiff { topic: None, trigger: None, modules: file.modules(modules)? }])
        }
        other => {
            Err(refuse(path, format!("holds {}, neither a list of diffs nor a dictionary", kind(&other))))
        }
    }
}

/// An archive, and the bytes of its pickle.
fn opened(path: &Path) -> Result<(File<'_>, Vec<u8>)> {
    let (file, length) = fence::open::open(path, MAX_FILE)?;
    let reader = BufReader::new(file);
    let mut zip =
        zip::ZipArchive::new(reader).map_err(|e| refuse(path, format!("is no readable zip archive: {e}")))?;
    let names = zip.file_names().map(|n| Ok(n.map_err(|e| refuse(path, e))?.into_owned()));
    let mut names = names.collect::<Result<Vec<String>>>()?;
    names.retain(|n| n.ends_with("data.pkl"));
    let [name] = &names[..] else {
        return Err(refuse(path, format!("holds {} pickles, not one", names.len())));
    };
    let prefix = name.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    let pickle = entry(path, &mut zip, name, MAX_PICKLE)?;
    Ok((File { path, zip, prefix, storages: BTreeMap::new(), left: (length, length) }, pickle))
}

/// Reads the objects of a file, and none of its tensors' bytes: for whether they can be read at all.
///
/// # Errors
/// As [`read`].
pub fn probe(path: &Path) -> Result<()> {
    let (_, pickle) = opened(path)?;
    parse(path, &pickle).map(drop)
}

/// An entry's bytes. What is compressed is refused: torch stores, and nothing that is stored can swell.
fn entry(
    path: &Path,
    zip: &mut zip::ZipArchive<BufReader<std::fs::File>>,
    name: &str,
    most: u64,
) -> Result<Vec<u8>> {
    let shown: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).take(80).collect();
    let file = zip.by_name(name).map_err(|e| refuse(path, format!("{shown}: {e}")))?;
    if file.compression() != zip::CompressionMethod::Stored || file.size() > most {
        return Err(refuse(path, format!("{shown} is compressed or larger than {most} bytes")));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(|e| refuse(path, format!("{shown}: {e}")))?;
    Ok(bytes)
}

/// Objects in a tree, counted up to `most`.
fn weight(object: &Object, most: usize) -> usize {
    let mut left = vec![object];
    let mut n = 0;
    while let Some(o) = left.pop() {
        n += 1;
        if n >= most {
            break;
        }
        match o {
            Object::Tuple(v) | Object::List(v) => left.extend(v),
            Object::Dict(v) => left.extend(v.iter().flat_map(|(k, v)| [k, v])),
            Object::Reduce { callable, args } | Object::Build { callable, args } => {
                left.extend([&**callable, &**args]);
            }
            Object::PersistentLoad(o) => left.push(o),
            _ => {}
        }
    }
    n
}

fn parse(path: &Path, pickle: &[u8]) -> Result<Object> {
    let damaged = |e: candle_core::Error| {
        let said = e.to_string();
        refuse(path, format!("its pickle cannot be read: {}", said.lines().next().unwrap_or_default()))
    };
    let mut stack = Stack::empty();
    let mut input = pickle;
    let (mut repeated, mut nested) = (0, 0);
    loop {
        let op = input.fill_buf()?.first().copied().unwrap_or(b'.');
        // GET copies what was remembered, PUT and MEMOIZE what is to be.
        let copies = b"gjhpqr\x94".contains(&op);
        // TUPLE1 to TUPLE3, TUPLE, REDUCE, BUILD, BINPERSID, APPEND, APPENDS: what is on the stack goes into one more.
        nested = if b"\x85\x86\x87tRbQae".contains(&op) { nested + 1 } else { 0 };
        if nested > MAX_NESTED || stack.stack().len() > MAX_WAITING {
            // What is nested so deeply is left as it is: taking it apart takes the stack that it would overflow.
            std::mem::forget(stack);
            return Err(refuse(path, "its pickle is nested or piled up beyond all bounds"));
        }
        let end = stack.read(&mut input).map_err(damaged)?;
        if copies && let Some(top) = stack.stack().last() {
            repeated += weight(top, MAX_REPEATED);
            if repeated >= MAX_REPEATED {
                return Err(refuse(path, "its pickle refers to itself until it swells beyond all bounds"));
            }
        }
        if end {
            return stack.finalize().map_err(damaged);
        }
    }
}

/// A name in a pickle, at a length for people.
fn class_of(module: &str, class: &str) -> String {
    let cut = |t: &str| t.chars().take(60).collect::<String>();
    format!("{}.{}", cut(module), cut(class))
}

/// What an object is, for an error.
fn kind(o: &Object) -> String {
    match o {
        Object::Class { module_name, class_name } => {
            format!("the name {}", class_of(module_name, class_name))
        }
        Object::Reduce { callable, .. } | Object::Build { callable, .. } => match &**callable {
            Object::Class { module_name, class_name } => {
                format!("a call of {}, which is not executed", class_of(module_name, class_name))
            }
            _ => "a call, which is not executed".into(),
        },
        Object::Dict(_) => "a dictionary".into(),
        Object::List(_) => "a list".into(),
        Object::Tuple(_) => "a tuple".into(),
        Object::Unicode(_) => "a text".into(),
        _ => "another value".into(),
    }
}

impl File<'_> {
    fn refuse(&self, what: impl std::fmt::Display) -> Error {
        refuse(self.path, what)
    }

    fn diff(&mut self, item: Object) -> Result<PickledDiff> {
        let Object::Dict(fields) = item else {
            return Err(self.refuse(format!("an element of its list is {}, not a dictionary", kind(&item))));
        };
        let (mut topic, mut trigger, mut modules) = (None, None, None);
        for (key, value) in fields {
            match (key, value) {
                (Object::Unicode(k), Object::Unicode(v)) if k == "topic" => topic = Some(v),
                (Object::Unicode(k), Object::Unicode(v)) if k == "trigger" => {
                    trigger = (v != "N/A").then_some(v);
                }
                // Three digits, as they were trained.
                (Object::Unicode(k), Object::Int(v)) if k == "trigger" => trigger = Some(format!("{v:03}")),
                (Object::Unicode(k), Object::None) if k == "trigger" => {}
                (Object::Unicode(k), v) if k == "weight_diff" => modules = Some(self.modules(v)?),
                (k, v) => {
                    let name =
                        if let Object::Unicode(k) = &k { k.chars().take(40).collect() } else { kind(&k) };
                    return Err(self.refuse(format!("field {name:?} of a diff is {}", kind(&v))));
                }
            }
        }
        let modules = modules.ok_or_else(|| self.refuse("a diff has no weight_diff"))?;
        Ok(PickledDiff { topic, trigger, modules })
    }

    fn modules(&mut self, object: Object) -> Result<BTreeMap<String, [Matrix; 2]>> {
        let Object::Dict(items) = object else {
            return Err(self.refuse(format!("weight_diff is {}, not a dictionary", kind(&object))));
        };
        let mut out = BTreeMap::new();
        for (name, factors) in items {
            let Object::Unicode(name) = name else {
                return Err(self.refuse(format!("a module's name is {}", kind(&name))));
            };
            let shown: String =
                name.chars().map(|c| if c.is_control() { '?' } else { c }).take(120).collect();
            let pair = match factors {
                Object::Tuple(v) | Object::List(v) => v,
                Object::Reduce { .. } => {
                    return Err(self.refuse(format!(
                        "module {shown:?} holds one tensor, not two factors: this is a full fine-tune, whose weights are no LoRA"
                    )));
                }
                other => return Err(self.refuse(format!("module {shown:?} holds {}", kind(&other)))),
            };
            let Ok([a, b]) = <[Object; 2]>::try_from(pair) else {
                return Err(self.refuse(format!("module {shown:?} has not two factors")));
            };
            let factors = [self.tensor(a, &shown)?, self.tensor(b, &shown)?];
            if out.insert(name, factors).is_some() {
                return Err(self.refuse(format!("module {shown:?} is there twice")));
            }
        }
        Ok(out)
    }

    /// A tensor of a module: `_rebuild_tensor_v2(storage, offset, size, stride, ...)`, with its offset and stride honoured.
    fn tensor(&mut self, object: Object, module: &str) -> Result<Matrix> {
        let what = kind(&object);
        let odd = |s: &Self, what: &str| s.refuse(format!("module {module:?}: {what}"));
        let named = |o: &Object, name: &str| matches!(o, Object::Class { module_name, class_name } if module_name == "torch._utils" && class_name == name);
        let (mut callable, mut args) =
            object.reduce().map_err(|_| odd(self, &format!("a factor is {what}, not a tensor")))?;
        if named(&callable, "_rebuild_parameter") {
            let inner = args.tuple().ok().and_then(|t| t.into_iter().next()).and_then(|t| t.reduce().ok());
            (callable, args) = inner.ok_or_else(|| odd(self, "a parameter without a tensor"))?;
        }
        if !named(&callable, "_rebuild_tensor_v2") {
            return Err(odd(
                self,
                &format!(
                    "a factor is {}",
                    kind(&Object::Reduce { callable: Box::new(callable), args: Box::new(Object::None) })
                ),
            ));
        }
        let mut args = args.tuple().map_err(|_| odd(self, "a tensor without arguments"))?.into_iter();
        let mut next = || args.next().unwrap_or(Object::None);
        let (storage, offset, size, stride) = (next(), next(), next(), next());
        let number = |o: Object| o.int_or_long().ok().and_then(|v| usize::try_from(v).ok());
        let numbers = |o: Object| -> Option<Vec<usize>> { o.tuple().ok()?.into_iter().map(number).collect() };
        let (Some(offset), Some(size), Some(stride)) = (number(offset), numbers(size), numbers(stride))
        else {
            return Err(odd(self, "a tensor whose offset, size or stride are no numbers"));
        };
        let (&[rows, columns], &[down, right]) = (&size[..], &stride[..]) else {
            return Err(odd(self, &format!("a tensor of {} dimensions; factors have two", size.len())));
        };
        let entries = rows.checked_mul(columns).filter(|n| (1..=MAX_ENTRIES).contains(n));
        let last = entries.and_then(|_| {
            offset.checked_add(down.checked_mul(rows - 1)?)?.checked_add(right.checked_mul(columns - 1)?)
        });
        let Some(last) = last else { return Err(odd(self, "a tensor that is empty or absurdly large")) };
        // ('storage', class, key, device, numel): the device is where it once was.
        let parts = storage.persistent_load().ok().and_then(|o| o.tuple().ok()).unwrap_or_default();
        let [Object::Unicode(tag), Object::Class { module_name, class_name }, Object::Unicode(key), ..] =
            &parts[..]
        else {
            return Err(odd(self, "a tensor without a storage"));
        };
        let width = match (module_name.as_str(), class_name.as_str()) {
            ("torch", "FloatStorage") => 4,
            ("torch", "BFloat16Storage" | "HalfStorage") => 2,
            _ => {
                return Err(odd(
                    self,
                    &format!(
                        "a storage of {}; float, bfloat16 and half are read",
                        class_of(module_name, class_name)
                    ),
                ));
            }
        };
        if tag != "storage" || key.is_empty() || key.len() > 20 || !key.bytes().all(|b| b.is_ascii_digit()) {
            return Err(odd(self, "a storage with an odd name"));
        }
        if !self.storages.contains_key(key) {
            let name = format!("{}data/{key}", self.prefix);
            let bytes = entry(self.path, &mut self.zip, &name, self.left.0)?;
            self.left.0 -= bytes.len() as u64;
            self.storages.insert(key.clone(), bytes);
        }
        let bytes = &self.storages[key];
        if last >= bytes.len() / width {
            return Err(odd(self, "a tensor that reaches beyond its storage"));
        }
        let entries = (rows * columns) as u64;
        let Some(left) = self.left.1.checked_sub(entries) else {
            return Err(odd(self, "a tensor that makes more of the file than it holds"));
        };
        self.left.1 = left;
        let bytes = &self.storages[key];
        let read = |at: usize| -> f32 {
            let b = &bytes[at * width..][..width];
            match class_name.as_str() {
                "FloatStorage" => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
                "BFloat16Storage" => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
                _ => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
            }
        };
        let data = (0..rows)
            .flat_map(|r| (0..columns).map(move |c| offset + r * down + c * right))
            .map(read)
            .collect();
        Ok(Matrix { rows, columns, data })
    }
}
