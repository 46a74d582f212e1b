"""Ranks and scales that PEFT gives the modules of a two-layer Llama under patterns: writes patterns.json beside itself.

    pip install -r lm/tests/python/requirements.txt && python3 patterns.py
"""

import json
import pathlib

import peft
from transformers import LlamaConfig, LlamaForCausalLM

CASES = [
    # Two keys match the first layer's q_proj: the first in the file's order is taken, whichever that is.
    {"rank_pattern": {"q_proj": 64, r"layers\.0\.self_attn\.q_proj": 2}},
    {"rank_pattern": {r"layers\.0\.self_attn\.q_proj": 2, "q_proj": 64}},
    {"alpha_pattern": {"q_proj": 64, r"layers\.0\.self_attn\.q_proj": 2}},
    {"alpha_pattern": {r"layers\.0\.self_attn\.q_proj": 2, "q_proj": 64}},
    {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {r"layers\.1\..*": 5, "v_proj": 7}},
    {"rank_pattern": {"proj": 3}},
    {"rank_pattern": {".*proj": 3, "q_proj": 4}},
    {"rank_pattern": {"^model.layers.0.self_attn.q_proj": 3, "q_proj": 4}},
    {"rank_pattern": {"q_proj|v_proj": 3}},
    {"use_rslora": True, "rank_pattern": {"q_proj": 64}},
    {"target_modules": r".*layers\.1\.(self_attn|mlp)\.(q|down)_proj"},
    {"target_modules": "all-linear"},
    {"target_modules": ["self_attn.q_proj", "down_proj"]},
    {"r": 2, "lora_alpha": 32, "rank_pattern": {"self_attn.q_proj": 4}, "alpha_pattern": {"attn.v_proj": 4}},
]
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "vocab_size": 32}

out = []
for case in CASES:
    config = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], **case}
    model = peft.get_peft_model(LlamaForCausalLM(LlamaConfig(**SHAPE)), peft.LoraConfig(**config))
    modules = {
        name.removeprefix("base_model.model."): [module.r["default"], module.scaling["default"]]
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    # As text: the order of the keys is what it is about.
    out.append({"config": json.dumps({"peft_type": "LORA", **config}), "modules": modules})
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps({"shape": SHAPE, "cases": out}, indent=1) + "\n")
