//! The data set's `README.md`: what the Hub reads (the YAML at the top) and what people read.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use super::table::{COLUMNS, Kind, SPREAD, keys};

/// The card of the adapters with these lines of the index. It names no license: that is the user's to choose.
pub(super) fn card(lines: &[Value]) -> String {
    let texts = |key: &str| -> BTreeSet<&str> { lines.iter().filter_map(|l| l[key].as_str()).collect() };
    let bases = texts("base_model");
    // The Hub takes names of repositories; a GGUF file's own name is none.
    let repositories: Vec<&&str> = bases.iter().filter(|b| is_repository(b)).collect();
    let mut out = String::from("---\ntags:\n- lorafab\n- lora\n- peft\n");
    if !repositories.is_empty() {
        out.push_str("base_model:\n");
        for name in repositories {
            let _ = writeln!(out, "- {name}");
        }
    }
    out.push_str(
        "configs:\n- config_name: default\n  data_files: index.parquet\n---\n\n# LoRA adapters with labels\n\n",
    );
    let names = |set: &BTreeSet<&str>| set.iter().map(|s| shown(s)).collect::<Vec<_>>().join(", ");
    let _ =
        writeln!(out, "{} made or collected with lorafab, for: {}.", adapters(lines.len()), names(&bases));
    let _ = writeln!(out, "Families: {}.", names(&texts("family")));
    out.push_str(
        "\n`index.parquet` has a row for each adapter, in the order of `index.jsonl`, which says the same. `folder` is a PEFT folder:\n\n\
         ```python\n\
         import pandas\n\
         from peft import PeftModel\n\
         from transformers import AutoModelForCausalLM\n\n\
         index = pandas.read_parquet(\"index.parquet\")\n\
         base = AutoModelForCausalLM.from_pretrained(\"the base model\")\n\
         model = PeftModel.from_pretrained(base, index.folder[0])\n\
         ```\n\n\
         What lorafab trained, it trained on prompts in the base model's chat template with an empty system message.\n\n\
         | column | type | what it holds |\n|---|---|---|\n",
    );
    for (name, kind, what) in COLUMNS {
        let _ = writeln!(out, "| `{name}` | {} | {what} |", type_name(kind));
    }
    for (object, prefix, kind) in SPREAD {
        for key in keys(lines, object) {
            let name = format!("{prefix}{key}");
            let _ = writeln!(out, "| {} | {} | {} |", shown(&name), type_name(kind), what(object));
        }
    }
    out
}

fn adapters(n: usize) -> String {
    if n == 1 { "1 adapter".into() } else { format!("{n} adapters") }
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "string",
        Kind::Whole => "int64",
        Kind::Number => "double",
        Kind::Texts => "list of strings",
    }
}

fn what(object: &str) -> &'static str {
    match object {
        "tags" => "tag of the maker or of a user",
        "metrics" => "number of the gate or of training",
        _ => "digest or version of what it was made from",
    }
}

/// Text of anybody's as code in Markdown, also in a table.
pub(crate) fn shown(text: &str) -> String {
    format!("`{}`", text.replace(['`', '|', '\n', '\r'], " "))
}

pub(crate) fn is_repository(name: &str) -> bool {
    let plain = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_alphanumeric())
            && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    name.split_once('/').is_some_and(|(owner, model)| plain(owner) && plain(model))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_from_elsewhere_cannot_break_the_card() {
        let line = |base: &str, tag: &str| json!({"base_model": base, "family": "f", "tags": {tag: "x"}, "metrics": {}, "lineage": {}});
        let text = card(&[line("org/model-1.b", "a|b`c"), line("a\n---\nlicense: mit", "d")]);
        let front = text.split("---\n").nth(1).unwrap();
        assert_eq!(
            front,
            "tags:\n- lorafab\n- lora\n- peft\nbase_model:\n- org/model-1.b\nconfigs:\n- config_name: default\n  data_files: index.parquet\n"
        );
        assert!(text.contains("| `tag_a b c` | string |") && text.contains("2 adapters"), "{text}");
        assert!(!text.contains("\n---\nlicense"), "{text}");
    }
}
