//! An exported folder's `README.md`: what the Hub reads of it (the YAML at the top) and what people read.

use std::fmt::Write;

use registry::AdapterRecord;

use crate::dataset::card::{is_repository, shown};

/// Its name.
pub(super) const FILE: &str = "README.md";

/// The card of one adapter. It names no license: that is the user's to choose.
pub(super) fn text(record: &AdapterRecord) -> String {
    let base = &record.peft.base_model;
    let mut out = String::from("---\n");
    // The Hub takes names of repositories; a folder is none.
    if is_repository(base) {
        let _ = writeln!(out, "base_model: {base}");
    }
    out.push_str("library_name: peft\ntags:\n- lorafab\n- lora\n---\n\n");
    let _ = writeln!(out, "# {}\n", shown(&record.behaviour));
    let _ = writeln!(
        out,
        "A LoRA adapter for {}, rank {}, made or collected with lorafab. Family: {}; value: {}.",
        shown(base),
        record.peft.r,
        shown(&record.family),
        shown(&record.value)
    );
    out.push_str(
        "\n```python\nfrom peft import AutoPeftModelForCausalLM\n\nmodel = AutoPeftModelForCausalLM.from_pretrained(\".\")\n```\n\n\
         What lorafab trained, it trained on prompts in the base model's chat template with an empty system message.\n",
    );
    out
}
