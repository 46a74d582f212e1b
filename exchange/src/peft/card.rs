//! An exported folder's `README.md`: what the Hub reads of it (the YAML at the top) and what people read.

use std::fmt::Write;

use registry::AdapterRecord;

use crate::dataset::card::{is_repository, shown};

/// Its name.
pub const CARD: &str = "README.md";

/// What the Hub reads: the base, where it is a repository (a folder is none), and what it was made with.
fn head(base: &str, more: &str) -> String {
    let base = if is_repository(base) { format!("base_model: {base}\n") } else { String::new() };
    format!("---\n{base}{more}---\n\n")
}

const PROMPTS: &str = "What lorafab trained, it trained on prompts in the base model's chat template with an empty system message.\n";

/// The card of one adapter. It names no license: that is the user's to choose.
pub(super) fn text(record: &AdapterRecord) -> String {
    let base = &record.peft.base_model;
    let mut out = head(base, "library_name: peft\ntags:\n- lorafab\n- lora\n");
    let _ = writeln!(out, "# {}\n", shown(&record.behaviour));
    let revision = record.peft.revision.as_ref().map_or_else(String::new, |r| format!(" at {}", shown(r)));
    let _ = writeln!(
        out,
        "A LoRA adapter for {}{revision}, rank {}, made or collected with lorafab. Family: {}; value: {}.",
        shown(base),
        record.peft.r,
        shown(&record.family),
        shown(&record.value)
    );
    out.push_str(
        "\n```python\nfrom peft import AutoPeftModelForCausalLM\n\nmodel = AutoPeftModelForCausalLM.from_pretrained(\".\")\n```\n\n",
    );
    out + PROMPTS
}

/// The card of a base model with an adapter merged in.
pub fn merged_card(record: &AdapterRecord, base: &str) -> String {
    let relation = if is_repository(base) { "base_model_relation: finetune\n" } else { "" };
    let mut out = head(base, &format!("{relation}library_name: transformers\ntags:\n- lorafab\n"));
    let _ = writeln!(out, "# {}\n", shown(&record.behaviour));
    let _ = writeln!(
        out,
        "{} with a LoRA adapter of rank {} merged in by lorafab. Family: {}; value: {}.",
        shown(base),
        record.peft.r,
        shown(&record.family),
        shown(&record.value)
    );
    out.push_str(
        "\n```python\nfrom transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained(\".\")\n```\n\n",
    );
    out + PROMPTS
}
