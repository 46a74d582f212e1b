//! An exported folder's `README.md`: what the Hub reads of it (the YAML at the top) and what people read.

use registry::AdapterRecord;

use crate::dataset::card::{is_repository, shown};

/// Its name.
pub const CARD: &str = "README.md";

/// What the Hub reads: the base, where it is a repository (a folder is none), and what it was made with.
fn head(base: &str, more: &str) -> String {
    let base = if is_repository(base) { format!("base_model: {base}\n") } else { String::new() };
    format!("---\n{base}{more}---\n\n")
}

/// What people read: a title, what the adapter is, how it is loaded.
fn body(record: &AdapterRecord, what: &str, package: &str, class: &str) -> String {
    format!(
        "# {}\n\n{what} Family: {}; value: {}.\n\n```python\nfrom {package} import {class}\n\n\
         model = {class}.from_pretrained(\".\")\n```\n\n\
         What lorafab trained, it trained on prompts in the base model's chat template with an empty system message.\n",
        shown(&record.behaviour),
        shown(&record.family),
        shown(&record.value)
    )
}

/// The card of one adapter. It names no license: that is the user's to choose.
pub(super) fn text(record: &AdapterRecord) -> String {
    let base = &record.peft.base_model;
    let revision = record.peft.revision.as_ref().map_or_else(String::new, |r| format!(" at {}", shown(r)));
    let what = format!(
        "A LoRA adapter for {}{revision}, rank {}, made or collected with lorafab.",
        shown(base),
        record.peft.r
    );
    head(base, "library_name: peft\ntags:\n- lorafab\n- lora\n")
        + &body(record, &what, "peft", "AutoPeftModelForCausalLM")
}

/// The card of a base model with an adapter merged in.
pub fn merged_card(record: &AdapterRecord, base: &str) -> String {
    let relation = if is_repository(base) { "base_model_relation: finetune\n" } else { "" };
    let what = format!("{} with a LoRA adapter of rank {} merged in by lorafab.", shown(base), record.peft.r);
    head(base, &format!("{relation}library_name: transformers\ntags:\n- lorafab\n"))
        + &body(record, &what, "transformers", "AutoModelForCausalLM")
}
