"""Adapters that PEFT writes for tiny random models of every family, and whether PEFT takes them back.

    pip install -r lm/tests/python/requirements.txt && python3 families.py       # writes families/ beside itself
    python3 families.py check NAME FOLDER [NAME FOLDER ...]                      # loads FOLDER, an export of families/NAME

families/families.json says of each folder what the model's shape is, or which words the refusal of it holds. `check` ends with
exit code 0 if PEFT finds a place for every tensor, misses none, and the loaded values are those of families/NAME.
"""

import json
import pathlib
import shutil
import sys
import warnings

import peft
import torch
import transformers as t
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).with_suffix("")
TEXT = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 32, "pad_token_id": 0, "sliding_window": 4}
VISION = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def text(config, model, **more):
    return lambda: model(config(**{**TEXT, **more}))


def gemma3():
    config = t.Gemma3Config(text_config=TEXT, vision_config=VISION, mm_tokens_per_image=4, image_token_index=3,
                            boi_token_index=4, eoi_token_index=5)
    return t.Gemma3ForConditionalGeneration(config)


# Qwen 3's heads are wider than hidden / heads.
qwen3 = text(t.Qwen3Config, t.Qwen3ForCausalLM, head_dim=6)
mistral = text(t.MistralConfig, t.MistralForCausalLM)
phi3 = text(t.Phi3Config, t.Phi3ForCausalLM)
moe = text(t.Qwen3MoeConfig, t.Qwen3MoeForCausalLM, num_experts=2, moe_intermediate_size=4, num_experts_per_tok=1)
INNER = r".*language_model.*\.(q|v|down)_proj"

# Model, configuration, and where it is refused the words that say why.
CASES = {
    "qwen2": (text(t.Qwen2Config, t.Qwen2ForCausalLM), {"target_modules": ["q_proj", "v_proj"]}, None),
    "qwen3": (qwen3, {"target_modules": "all-linear"}, None),
    "mistral": (mistral, {"target_modules": r"model\.layers\.1\..*\.(q|o)_proj", "use_rslora": True}, None),
    "gemma2": (text(t.Gemma2Config, t.Gemma2ForCausalLM), {"target_modules": ["k_proj", "mlp.up_proj"]}, None),
    "gemma3_text": (text(t.Gemma3TextConfig, t.Gemma3ForCausalLM),
                    {"target_modules": ["o_proj", "down_proj"], "rank_pattern": {r"layers\.0\..*o_proj": 1}}, None),
    "olmo2": (text(t.Olmo2Config, t.Olmo2ForCausalLM), {"target_modules": ALL, "r": 1}, None),
    "smollm3": (text(t.SmolLM3Config, t.SmolLM3ForCausalLM),
                {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]}, None),
    "gemma3": (gemma3, {"target_modules": INNER}, None),
    # As older transformers, where the text model lay the other way round, called the same.
    "gemma3_old": (gemma3, {"target_modules": INNER}, None),
    "gemma3_excluded": (gemma3, {"target_modules": ["q_proj"], "exclude_modules": ".*vision_tower.*"}, None),
    "refused_vision": (gemma3, {"target_modules": ["q_proj"]}, "vision or audio tower"),
    "refused_fused": (phi3, {"target_modules": ["qkv_proj"]}, "fused projection"),
    "refused_fused_pattern": (phi3, {"target_modules": r".*gate_up_proj"}, "fused projection"),
    "refused_fused_mixed": (phi3, {"target_modules": r".*(gate_up|down)_proj"}, "fused projection"),
    "refused_experts": (moe, {"target_parameters": ["mlp.experts.gate_up_proj"], "target_modules": ["q_proj"]},
                        "mixture of experts"),
    "refused_head": (mistral, {"target_modules": ["q_proj", "lm_head"]}, "embedding or the head"),
    "refused_embedding": (mistral, {"target_modules": r".*(q_proj|embed_tokens)"}, "embedding or the head"),
}


def shape(model):
    """Layers, and the inputs and outputs of each projection of the text model; none for fused ones."""
    found = {}
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if last in ALL and isinstance(module, torch.nn.Linear) and "vision" not in name:
            found[last] = [module.in_features, module.out_features]
    return {"layers": TEXT["num_hidden_layers"], "projections": found}


def write(name):
    make, options, refused = CASES[name]
    torch.manual_seed(len(name))
    config = {"r": 2, "lora_alpha": 6, **options}
    base = make()
    known = shape(base)
    model = peft.get_peft_model(base, peft.LoraConfig(**config))
    for key, value in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(value)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    # The embedding and the head themselves are not wanted, and would be large.
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = {k: v.contiguous() for k, v in sorted(load_file(folder / "adapter_model.safetensors").items())}
    if name == "gemma3_old":
        tensors = {k.replace("model.language_model.", "language_model.model."): v for k, v in tensors.items()}
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    config["base_model_name_or_path"] = f"tiny/{name}"
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    # A fused model's adapter is held against the shape that it would have apart.
    if "q_proj" not in known["projections"] or "gate_proj" not in known["projections"]:
        known = shape(mistral())
    return {**known, "nested": name.startswith("gemma3") and name != "gemma3_text", "refused": refused}


def check(name, folder):
    """The exported adapter in PEFT: every tensor in its place, and its values those that were imported."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(CASES[name][0](), folder)
    wrong = [str(w.message) for w in said if "adapter keys" in str(w.message) or "not found" in str(w.message).lower()]
    if wrong:
        sys.exit(f"error: {name}: {wrong}")
    loaded = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    stored = load_file(folder / "adapter_model.safetensors")
    if set(stored) != set(loaded):
        sys.exit(f"error: {name}: {sorted(set(stored) ^ set(loaded))[:4]} are not in both the file and PEFT")
    # Ranks and scales were made uniform: what each module adds is compared, not its factors.
    original = CASES[name][0]()
    original = peft.PeftModel.from_pretrained(original, HERE / name)

    def deltas(peft_model):
        return {n: m.get_delta_weight("default") for n, m in peft_model.named_modules()
                if isinstance(m, peft.tuners.lora.LoraLayer)}

    ours, theirs = deltas(model), deltas(original)
    for key in ours.keys() | theirs.keys():
        a = ours.get(key, torch.zeros(())) - theirs.get(key, torch.zeros(()))
        if a.abs().max() > 1e-5:
            sys.exit(f"error: {name}: {key} differs by {a.abs().max()}")
    if not any(d.abs().max() > 1e-2 for d in ours.values()):
        sys.exit(f"error: {name}: the adapter changes nothing")


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        for name, folder in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
            check(name, pathlib.Path(folder))
    else:
        HERE.mkdir(exist_ok=True)
        shapes = {name: write(name) for name in CASES}
        (HERE / "families.json").write_text(json.dumps(shapes, indent=1) + "\n")
