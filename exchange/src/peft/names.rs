//! Names of an adapter's tensors: where the layers lie in the base model's class, and what belongs to none of their projections.
//!
//! Text models of every family read here call a projection `model.layers.N.self_attn.q_proj`. Classes that hold a text model inside a
//! larger one (transformers' `Gemma3ForConditionalGeneration`) call it `model.language_model.layers.N...` since transformers 4.52, and
//! `language_model.model.layers.N...` before. PEFT writes the first and loads both; it does not load the plain name into such a class.

use registry::PeftConfig;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use super::PREFIX;

/// How a file spells where the layers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// A text model.
    Plain,
    /// A text model inside a larger one.
    Nested,
    /// The same as it was called before.
    NestedOld,
}

impl Spelling {
    const ALL: [Self; 3] = [Self::Plain, Self::Nested, Self::NestedOld];

    fn layers(self) -> &'static str {
        match self {
            Self::Plain => "model.layers.",
            Self::Nested => "model.language_model.layers.",
            Self::NestedOld => "language_model.model.layers.",
        }
    }

    /// The spelling that all of a file's tensors share; plain if no name is a layer's.
    ///
    /// # Errors
    /// If two differ; what is wrong, in words.
    pub(super) fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut first: Option<(Self, &str)> = None;
        for name in names {
            let bare = name.strip_prefix(PREFIX).unwrap_or(name);
            let Some(here) = Self::ALL.into_iter().find(|s| bare.starts_with(s.layers())) else { continue };
            match first {
                None => first = Some((here, name)),
                Some((there, other)) if there != here => {
                    let (a, b) = if name < other { (name, other) } else { (other, name) };
                    return Err(format!(
                        "spells its layers in two ways, {a:?} and {b:?}: it holds adapters of two models"
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(first.map_or(Self::Plain, |(spelling, _)| spelling))
    }

    /// Whether the base model's class holds the text model inside a larger one.
    pub(super) fn is_nested(self) -> bool {
        self != Self::Plain
    }

    /// Where a projection lies.
    pub(super) fn module(self, layer: usize, projection: &str) -> String {
        let block = if projection.starts_with(['q', 'k', 'v', 'o']) { "self_attn" } else { "mlp" };
        format!("{}{layer}.{block}.{projection}", self.layers())
    }

    /// A tensor's name as a text model has it, without the wrapper's prefix and the adapter's name.
    pub(super) fn standard(self, name: &str) -> String {
        let bare = name.strip_prefix(PREFIX).unwrap_or(name).replace(".default.", ".");
        match bare.strip_prefix(self.layers()) {
            Some(rest) => format!("{}{rest}", Self::Plain.layers()),
            None => bare,
        }
    }
}

/// Why nothing is read for a module, a tensor or a target of this name, in words that follow the name; none if it is of no known kind.
pub(super) fn foreign(name: &str) -> Option<&'static str> {
    const KINDS: [(&[&str], &str); 4] = [
        (
            &[
                "vision_tower",
                "vision_model",
                "visual",
                "multi_modal_projector",
                "mm_projector",
                "embed_vision",
                "audio_tower",
                "embed_audio",
            ],
            "belongs to a vision or audio tower, which is not read here; train the text model alone, with exclude_modules or a pattern of target_modules",
        ),
        (
            &[
                "experts",
                "shared_expert",
                "shared_experts",
                "shared_expert_gate",
                "block_sparse_moe",
                "router",
            ],
            "belongs to a mixture of experts; such models are not read here",
        ),
        (
            &["qkv_proj", "gate_up_proj", "c_attn", "query_key_value", "Wqkv", "W_pack"],
            "is a fused projection, several in one matrix; the models read here have q_proj, k_proj, v_proj, gate_proj and up_proj apart",
        ),
        (
            &["lm_head", "embed_tokens"],
            "is no projection of a layer: what is adapted in the embedding or the head is not read here",
        ),
    ];
    let has = |words: &[&str]| name.split('.').any(|word| words.contains(&word));
    KINDS.into_iter().find(|(words, _)| has(words)).map(|(_, why)| why)
}

/// `target_modules` of a nested base as a pattern: a bare name would mean the vision tower's projections too.
pub(super) fn nested_targets(peft: &PeftConfig) -> String {
    let names: Vec<&str> = peft.target_modules.iter().map(String::as_str).collect();
    let layers = Spelling::Nested.layers().replace('.', r"\.");
    format!(r"{layers}[0-9]+\.[a-z_]+\.({})", names.join("|"))
}

/// An adapter's file with the names that a nested base's class has; `bytes` is one of ours.
pub(super) fn nested(bytes: &[u8]) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let file = SafeTensors::deserialize(bytes)?;
    let mut tensors: Vec<(String, TensorView<'_>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let standard = Spelling::Plain.standard(&name);
            let rest = standard.strip_prefix(Spelling::Plain.layers());
            let name = rest.map_or(name, |rest| format!("{PREFIX}{}{rest}", Spelling::Nested.layers()));
            (name, view)
        })
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    safetensors::serialize(tensors, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_spelling_and_standard_names_are_the_text_models() {
        let name =
            |spelling: Spelling| format!("{PREFIX}{}.lora_A.default.weight", spelling.module(3, "down_proj"));
        for spelling in Spelling::ALL {
            let names = [name(spelling), "base_model.model.lm_head.lora_A.weight".into()];
            assert_eq!(Spelling::of(names.iter().map(String::as_str)), Ok(spelling));
            assert_eq!(spelling.standard(&names[0]), "model.layers.3.mlp.down_proj.lora_A.weight");
            // The wrapper's prefix may be missing.
            assert_eq!(Spelling::of([names[0].strip_prefix(PREFIX).unwrap()]), Ok(spelling));
            for other in Spelling::ALL.into_iter().filter(|o| *o != spelling) {
                let mixed = [name(spelling), name(other)];
                let error = Spelling::of(mixed.iter().map(String::as_str)).unwrap_err();
                assert!(mixed.iter().all(|n| error.contains(n.as_str())), "{error}");
            }
        }
        assert_eq!(Spelling::of(["x", "y"]), Ok(Spelling::Plain));
    }

    #[test]
    fn what_is_not_read_is_known_by_a_whole_word() {
        for (name, why) in [
            ("model.vision_tower.encoder.layers.0.self_attn.q_proj", "vision"),
            ("model.layers.0.mlp.experts.3.gate_proj", "experts"),
            ("qkv_proj", "fused"),
            ("model.layers.1.mlp.gate_up_proj.lora_A.weight", "fused"),
            ("base_model.model.lm_head.lora_B.weight", "head"),
            ("embed_tokens", "embedding"),
        ] {
            assert!(foreign(name).unwrap().contains(why), "{name}");
        }
        assert_eq!(foreign("model.layers.0.self_attn.q_proj"), None);
        assert_eq!(foreign("my_lm_head_x.q_proj"), None);
    }
}
