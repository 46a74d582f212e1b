//! docs/src/reference/schemas/: a JSON Schema for each file format, made from the types that read it.
//!
//!     LORAFAB_WRITE_DOCS=1 cargo test --release --workspace --bin lorafab schemas     # writes them anew

mod agree;
mod forms;

use std::path::{Path, PathBuf};

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

/// A file format.
struct Format {
    /// Name of its file, before `.schema.json`.
    name: &'static str,
    title: &'static str,
    /// What it is; and what its reader refuses beyond the schema.
    description: &'static str,
    schema: fn() -> Schema,
}

impl Format {
    const fn new<T: JsonSchema>(name: &'static str, title: &'static str, description: &'static str) -> Self {
        Self { name, title, description, schema: generate::<T> }
    }

    fn file(&self) -> PathBuf {
        folder().join(format!("{}.schema.json", self.name))
    }

    /// The schema as it is committed.
    fn made(&self) -> Value {
        let mut schema = (self.schema)().to_value();
        plain(&mut schema);
        schema["title"] = self.title.into();
        schema["description"] = self.description.into();
        schema
    }
}

/// All of them, in the order of docs/src/reference/files.md.
const FORMATS: [Format; 22] = [
    Format::new::<recipes::Recipe>(
        "recipe",
        "lorafab recipe",
        "A family of behaviours, as TOML. Its reader also checks ranges of numbers, sizes, placeholders, that no question holds a value, \
         and which parts belong together: `lorafab recipe check FILE`.",
    ),
    Format::new::<recipes::Settings>(
        "settings",
        "lorafab settings/1",
        "Training settings of recipes on one base model, as TOML. Its reader also checks that something is replaced, that no recipe is given \
         twice, and ranges of numbers.",
    ),
    Format::new::<compare::Arms>(
        "arms",
        "lorafab arms/1",
        "The arms of a comparison, as TOML. Its reader also checks names, methods, ranges of numbers, and layers against the base model: \
         `lorafab compare arms FILE`.",
    ),
    Format::new::<study::Study>(
        "study",
        "lorafab study/1",
        "A study, as TOML. Its reader also checks names, recipes, counts of values, arms and primaries: `lorafab study plan FILE`.",
    ),
    Format::new::<crate::commands::factory::jobs::schema::Jobs>(
        "jobs",
        "lorafab jobs/1",
        "Jobs that wait for each other, as TOML. Its reader also checks that names are taken once and that a job names earlier ones: \
         `lorafab factory submit FILE --dry-run`.",
    ),
    Format::new::<oracle_posttrain::intervention::Spec>(
        "intervention",
        "lorafab intervention, v = 1",
        "What reads or changes a residual stream, as JSON or TOML. Its reader also checks ids, positions, shapes, limits and cost: \
         `lorafab intervention check FILE`.",
    ),
    Format::new::<registry::AdapterRecord>(
        "adapter",
        "lorafab adapter record",
        "What the catalogue knows of an adapter: `lorafab.json` of an exported one, and part of receipts and bundles.",
    ),
    Format::new::<forms::Merged>(
        "merged",
        "lorafab merged/1",
        "`lorafab.json` of a whole model into which an adapter was merged.",
    ),
    Format::new::<forms::Bundle>(
        "bundle",
        "lorafab bundle/1",
        "`manifest.json` of a bundle. Its reader also checks that ids, digests and specifications belong together.",
    ),
    Format::new::<forms::IndexLine>(
        "index-line",
        "lorafab data set, line of the index",
        "A line of `index.jsonl`. A pull relies on id, folder, behaviour and the weights' digest and size; the others may be missing.",
    ),
    Format::new::<oracle_posttrain::AoConfig>(
        "ao_config",
        "ao_config.json, schema version 1",
        "How an oracle that others trained looks at activations and is asked. Its reader also checks layers against the base model.",
    ),
    Format::new::<forms::DitConfig>(
        "dit_config",
        "lorafab dit_config/1",
        "`dit_config.json` of an exported DIT adapter. What takes it in looks at `diff_scale` alone.",
    ),
    Format::new::<forms::Receipt>(
        "receipt",
        "lorafab receipt/1",
        "`done/<digest>.json` of a store: from these files the catalogue can be rebuilt.",
    ),
    Format::new::<forms::Aliases>(
        "aliases",
        "lorafab aliases",
        "`aliases.json` of a store: ids of adapters by the names that stand for them.",
    ),
    Format::new::<forms::Run>(
        "run",
        "lorafab run/3",
        "`config.json` of a run. The catalogue relies on `asked` and `readers`.",
    ),
    Format::new::<compare::Comparison>(
        "comparison",
        "lorafab comparison/2",
        "What a report is printed from.",
    ),
    Format::new::<compare::scores::Scores>(
        "scores",
        "lorafab scores/1, line of scores.jsonl",
        "All answers of one arm with one reader seed. Its reader also checks that there are as many scores as candidates.",
    ),
    Format::new::<study::Registration>(
        "registration",
        "lorafab registration/1",
        "`registration.json` of a study: what was filed before a test adapter of it was made. Its reader also checks the digest.",
    ),
    Format::new::<study::Results>(
        "study-results",
        "lorafab study-results/1",
        "`results.json` of a study. `lorafab study verify DIR` computes it anew from the items beside it.",
    ),
    Format::new::<reading::Reading>(
        "reading",
        "lorafab reading/1",
        "One adapter, read: `lorafab read --json`.",
    ),
    Format::new::<reading::Many>(
        "readings",
        "lorafab readings/1",
        "Several adapters, read: `lorafab read --json` of more than one.",
    ),
    Format::new::<forms::ErrorLine>(
        "error",
        "lorafab error",
        "An error with `--json`: the last line on stderr.",
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/reference/schemas")
}

fn generate<T: JsonSchema>() -> Schema {
    SchemaGenerator::new(SchemaSettings::draft2020_12()).into_root_schema_for::<T>()
}

/// What the derive leaves as it is in the source: links between items, lines that end where the source's do, formats of Rust, and
/// single-precision defaults as doubles.
fn plain(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(plain),
        Value::Object(keys) => {
            if keys.get("format").is_some_and(Value::is_string) {
                keys.remove("format");
            }
            if let Some(Value::String(text)) = keys.get_mut("description") {
                *text = sentence(text);
            }
            if let Some(default) = keys.get_mut("default") {
                shortened(default);
            }
            keys.iter_mut().filter(|(key, _)| *key != "default").for_each(|(_, value)| plain(value));
        }
        _ => {}
    }
}

/// A doc comment for people who do not read the source: [`crate::Check`] is `Check`, and a constant what it stands for.
fn sentence(text: &str) -> String {
    let mut parts = text.split("[`");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (item, after) = part.split_once("`]").unwrap();
        let name = match item.rsplit("::").next().unwrap() {
            "NOTHING" => recipes::NOTHING,
            "ALL_FAMILIES" => compare::comparison::ALL_FAMILIES,
            name => name,
        };
        out.extend(["`", name, "`", after]);
    }
    out.split("\n\n").map(|p| p.replace('\n', " ")).collect::<Vec<_>>().join("\n\n")
}

fn shortened(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(shortened),
        Value::Object(keys) => keys.values_mut().for_each(shortened),
        Value::Number(n) if n.is_f64() => {
            let double = n.as_f64().unwrap();
            if f64::from(double as f32) == double {
                *value = json!((double as f32).to_string().parse::<f64>().unwrap());
            }
        }
        _ => {}
    }
}

#[test]
fn the_schemas_are_what_the_types_give() {
    let write = std::env::var_os("LORAFAB_WRITE_DOCS").is_some_and(|v| !v.is_empty());
    for format in &FORMATS {
        let made = serde_json::to_string_pretty(&format.made()).unwrap() + "\n";
        if write {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(format.file(), &made).unwrap();
        }
        let written = std::fs::read_to_string(format.file()).unwrap_or_default();
        assert!(made == written, "LORAFAB_WRITE_DOCS=1 writes {} anew", format.file().display());
    }
    let there = std::fs::read_dir(folder()).unwrap().count();
    assert_eq!(there, FORMATS.len(), "a schema of no format is in {}", folder().display());
}

#[test]
fn comments_of_the_source_become_sentences() {
    assert_eq!(
        sentence("Kinds of [`crate::Check`],\nor [`NOTHING`].\n\nMore."),
        "Kinds of `Check`, or `nothing`.\n\nMore."
    );
}
