//! Readers that others trained, or that this program exported: checked against the base model, on their way into the catalogue.

use std::collections::BTreeMap;
use std::path::Path;

use exchange::peft::Imported;
use lm::Outline;
use oracle_posttrain::lens::MOMENTS_FILE;
use oracle_posttrain::published::AO_CONFIG;
use oracle_posttrain::{AoConfig, Choice, Collector, Lens};
use readers::reader::{TRAINING_FILE, is_training};
use registry::{AdapterRecord, Digest, NewAdapter, Role, Status};
use serde_json::{Value, json};

use super::super::adapter::shape;
use super::super::subject::from_pickled;
use crate::error::{CommandError, Kind, Result};

/// File of an exported DIT adapter that says how it is asked.
pub(super) const DIT_CONFIG: &str = "dit_config.json";

/// What a reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ReaderKind {
    /// A LoRA stacked on the fine-tuned model, which describes its own change
    Dit,
    /// A LoRA on the clean model, which answers from injected activations
    Oracle,
}

impl ReaderKind {
    pub(crate) fn name(self) -> &'static str {
        if self == Self::Dit { "dit" } else { "oracle" }
    }

    pub(crate) fn role(self) -> Role {
        if self == Self::Dit { Role::DitAdapter } else { Role::Oracle }
    }
}

/// What is asked of a folder.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ways<'a> {
    /// What it is, if somebody said.
    pub(crate) method: Option<ReaderKind>,
    /// Layers that an oracle is to read, of those that it was trained on.
    pub(crate) layers: Option<&'a [usize]>,
    /// Whether an oracle may leave open how it looks.
    pub(crate) bare: bool,
}

/// A reader from elsewhere, checked as far as it is possible without the base model's weights.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) method: ReaderKind,
    pub(crate) imported: Imported,
    /// How an oracle looks.
    pub(crate) collector: Option<Collector>,
    /// Factor of the diffs that a DIT adapter was trained on.
    diff_scale: Option<f64>,
    files: BTreeMap<String, Vec<u8>>,
}

fn wrong(path: &Path, what: impl std::fmt::Display) -> CommandError {
    CommandError::new(Kind::Usage, format!("{}: {what}", path.display()))
}

/// A small file of a folder; none if it is not there.
fn file(folder: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    fence::within::read(folder, name, fence::open::SMALL)
        .map_err(|e| CommandError::new(Kind::Usage, e.to_string()))
}

fn value(folder: &Path, name: &str) -> Result<Option<Value>> {
    let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes).map_err(|e| wrong(&folder.join(name), e));
    file(folder, name)?.map(read).transpose()
}

/// What a folder is called where no name is given.
pub(crate) fn label_of(path: &Path) -> String {
    let name = path.file_stem().filter(|_| path.extension().is_some_and(|e| e == "pt")).or(path.file_name());
    name.map_or_else(|| "reader".into(), |n| n.to_string_lossy().into_owned())
}

impl Published {
    /// A PEFT folder.
    ///
    /// # Errors
    /// One sentence about the first thing that is wrong with it.
    pub(crate) fn of_folder(base: &Outline, folder: &Path, ways: Ways<'_>) -> Result<Self> {
        let config = value(folder, "adapter_config.json")?
            .ok_or_else(|| wrong(folder, "holds no adapter_config.json, so it is no adapter"))?;
        let of_another = |of: &str| {
            let what = format!("is a reader of {of:?}, the base model is {:?}", base.name);
            wrong(folder, what).hint("pass the --model that it was trained for")
        };
        if let Some(of) =
            config["base_model_name_or_path"].as_str().filter(|of| !of.is_empty() && !base.is_called(of))
        {
            return Err(of_another(of));
        }
        let card = card(folder)?;
        let ao = file(folder, AO_CONFIG)?;
        let method = match (ways.method, ao.is_some(), card.as_ref().map(|c| c.role)) {
            (Some(ReaderKind::Dit), true, _) => {
                return Err(wrong(folder, format!("holds {AO_CONFIG}: it is an oracle, and no DIT adapter")));
            }
            (Some(method), ..) => method,
            (None, true, _) => ReaderKind::Oracle,
            (None, false, Some(Role::DitAdapter)) => ReaderKind::Dit,
            (None, false, _) => {
                let what = format!(
                    "holds no {AO_CONFIG}, which an oracle has: what kind of reader it is is not known"
                );
                return Err(wrong(folder, what).hint("say that it is a DIT adapter with: --method dit"));
            }
        };
        if let Some(card) = card.as_ref().filter(|c| c.role != method.role()) {
            let what = format!(
                "is {} by its lorafab.json, and no reader of the method {}",
                card.behaviour,
                method.name()
            );
            return Err(wrong(folder, what));
        }
        let mut files = BTreeMap::new();
        let mut collector = None;
        let mut diff_scale = None;
        if method == ReaderKind::Oracle {
            let ours =
                card.as_ref().filter(|c| c.extra_files.contains_key(MOMENTS_FILE) && ways.layers.is_none());
            collector = match (ours, &ao) {
                // One made here looks through the sizes that it was trained with.
                (Some(card), text) => {
                    // The card says all; an edit beside it would change nothing.
                    let own = card.extra_files.get(AO_CONFIG);
                    if text.as_ref().is_some_and(|t| own.is_some_and(|own| *own != Digest::of(t))) {
                        let what =
                            format!("is not the {AO_CONFIG} that lorafab.json beside it was written with");
                        return Err(wrong(&folder.join(AO_CONFIG), what)
                            .hint("remove lorafab.json to take the oracle in as this file has it"));
                    }
                    Some(own_collector(base, folder, card, &mut files)?)
                }
                (None, Some(text)) => {
                    let choice = ways.layers.map_or(Choice::Middle, Choice::Layers);
                    let config = AoConfig::read(text, base, choice)
                        .map_err(|e| CommandError::new(Kind::Usage, format!("{}/{e}", folder.display())))?;
                    if let Some(of) = config.model_name.as_deref().filter(|of| !base.is_called(of)) {
                        return Err(of_another(of));
                    }
                    Some(config.collector)
                }
                (None, None) if ways.bare => None,
                (None, None) => {
                    let what =
                        format!("holds no {AO_CONFIG}: how the oracle looks at activations is not known");
                    return Err(wrong(folder, what).hint("a DIT adapter is taken in with: --method dit"));
                }
            };
            files.extend(ao.map(|text| (AO_CONFIG.to_owned(), text)));
        } else {
            if ways.layers.is_some() {
                return Err(CommandError::new(
                    Kind::Usage,
                    "--layers is for oracles: a DIT adapter reads no layer",
                ));
            }
            let said = value(folder, DIT_CONFIG)?.map(|c| c["diff_scale"].clone());
            let said = said.or_else(|| card.as_ref().map(|c| c.spec["diff_scale"].clone()));
            diff_scale = said.filter(|s| !s.is_null()).map(|s| scale(folder, &s)).transpose()?;
        }
        // What it was trained on, so that nobody tests it on that.
        if let Some(card) = &card
            && let Some(bytes) = listed(folder, card, TRAINING_FILE)?
        {
            if !is_training(&bytes) {
                return Err(wrong(&folder.join(TRAINING_FILE), "tells no reader's training"));
            }
            files.insert(TRAINING_FILE.to_owned(), bytes);
        }
        let imported = exchange::peft::import(folder, &shape(base))?;
        Ok(Self { method, imported, collector, diff_scale, files })
    }

    /// The DIT adapter of a `.pt` file of its authors.
    pub(crate) fn of_pickled(base: &Outline, path: &Path, element: usize) -> Result<Self> {
        let imported = from_pickled(base, path, element)?;
        Ok(Self {
            method: ReaderKind::Dit,
            imported,
            collector: None,
            diff_scale: None,
            files: BTreeMap::new(),
        })
    }

    /// What is filed, under a name.
    pub(crate) fn into_new(self, base: &Outline, name: &str) -> Result<NewAdapter> {
        let name: String = name
            .chars()
            .map(|c| if c.is_control() || c.is_whitespace() || c == '/' { '-' } else { c })
            .collect();
        if name.is_empty() || name.len() > 100 {
            return Err(
                CommandError::new(Kind::Usage, format!("{name:?} is not a usable name")).hint("pass --name")
            );
        }
        let method = self.method.name();
        // The name is no part of what it is.
        let mut spec = json!({"schema": "imported-reader/2", "base": base.digest(), "method": method,
            "weights": Digest::of(&self.imported.weights).as_str()});
        if let Some(collector) = &self.collector {
            spec["collector"] = serde_json::to_value(collector).unwrap_or_default();
        }
        if let Some(scale) = self.diff_scale {
            spec["diff_scale"] = scale.into();
        }
        let mut tags = BTreeMap::from([("source".to_owned(), self.imported.source.to_string())]);
        tags.extend(self.imported.base.clone().map(|b| ("source_base".to_owned(), b)));
        Ok(NewAdapter {
            spec_hash: registry::spec_hash(&spec),
            spec,
            role: self.method.role(),
            behaviour: format!("reader/imported/{name}"),
            family: format!("{method}-imported"),
            value: name,
            category: "reader".into(),
            split: None,
            status: Status::NotApplicable,
            tags,
            metrics: BTreeMap::new(),
            peft: self.imported.peft,
            weights: self.imported.weights,
            parents: vec![],
            lineage: BTreeMap::from([("base".to_owned(), base.digest())]),
            extra_files: self.files,
        })
    }
}

/// The record that this program exported with a reader, if it did.
fn card(folder: &Path) -> Result<Option<AdapterRecord>> {
    let name = "lorafab.json";
    let Some(bytes) = file(folder, name)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| wrong(&folder.join(name), e))
}

/// A file that a card lists, as it lists it; none if it lists none.
fn listed(folder: &Path, card: &AdapterRecord, name: &str) -> Result<Option<Vec<u8>>> {
    let Some(digest) = card.extra_files.get(name) else { return Ok(None) };
    match fence::within::read(folder, name, fence::open::TABLE)? {
        Some(bytes) if Digest::of(&bytes) == *digest => Ok(Some(bytes)),
        Some(_) => {
            Err(wrong(&folder.join(name), "is not the file that lorafab.json names: its digest differs"))
        }
        None => Err(wrong(&folder.join(name), "is named by lorafab.json, and is not there")),
    }
}

/// How an oracle that was made here looks, with the sizes that it looks through.
fn own_collector(
    base: &Outline,
    folder: &Path,
    card: &AdapterRecord,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> Result<Collector> {
    let wrong = |what: String| wrong(&folder.join("lorafab.json"), what);
    let collector: Collector = serde_json::from_value(card.spec["collector"].clone())
        .map_err(|e| wrong(format!("collector: {e}")))?;
    let blocks = base.architecture.layers.len();
    let beyond = collector.layers.iter().chain([&collector.form.layer]).find(|l| **l >= blocks);
    if let Some(layer) = beyond {
        return Err(wrong(format!("names layer {layer}; the model has 0 to {}", blocks - 1)));
    }
    collector.plan(base, "x").map_err(|e| wrong(e.to_string()))?;
    let moments = listed(folder, card, MOMENTS_FILE)?.unwrap_or_default();
    Lens::from_safetensors(collector.clone(), base.architecture.hidden_size, &moments)?;
    files.insert(MOMENTS_FILE.to_owned(), moments);
    Ok(collector)
}

fn scale(folder: &Path, value: &Value) -> Result<f64> {
    let found = value.as_f64().filter(|s| s.is_finite() && *s > 0.0 && *s <= 100.0);
    found.ok_or_else(|| {
        wrong(&folder.join(DIT_CONFIG), format!("diff_scale = {value} is not above 0 and at most 100"))
    })
}
