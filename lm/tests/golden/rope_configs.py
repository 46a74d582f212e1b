"""What transformers makes of the rotary fields of a Llama's config.json: rope_configs.json, compared by lm/tests/config.rs.

    python lm/tests/golden/rope_configs.py     # transformers 5.24.0; needs no PyTorch
"""

import json
from pathlib import Path

import transformers
from transformers import LlamaConfig

DEFAULT, LINEAR = {"rope_type": "default"}, {"rope_type": "linear", "factor": 2.0}
CASES = [
    {},
    {"rope_theta": 5000.0},
    {"rope_parameters": {**DEFAULT, "rope_theta": 300.0}},
    {"rope_theta": 5000.0, "rope_parameters": {**DEFAULT, "rope_theta": 300.0}},
    {"rope_theta": 5000.0, "rope_parameters": DEFAULT},
    {"rope_theta": 5000.0, "rope_scaling": None},
    {"rope_theta": 5000.0, "rope_scaling": {"type": "default"}},
    {"rope_theta": 5000.0, "rope_scaling": {**DEFAULT, "rope_theta": 70.0}},
    {"rope_scaling": {**DEFAULT, "rope_theta": 70.0}, "rope_parameters": {**DEFAULT, "rope_theta": 300.0}},
    {"rope_scaling": DEFAULT, "rope_theta": 5000.0, "rope_parameters": {**DEFAULT, "rope_theta": 300.0}},
    {"rope_scaling": {}, "rope_parameters": {**DEFAULT, "rope_theta": 300.0}},
    {"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    {"rope_parameters": {**LINEAR, "rope_theta": 300.0}},
    {"rope_scaling": LINEAR, "rope_parameters": {**DEFAULT, "rope_theta": 300.0}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
]


def read(case):
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, **json.loads(json.dumps(case)))
    rope = config.rope_parameters
    return {"config": case, "theta": rope["rope_theta"], "type": rope["rope_type"]}


out = {"transformers": transformers.__version__, "cases": [read(case) for case in CASES]}
Path(__file__).with_suffix(".json").write_text(json.dumps(out, indent=1) + "\n")
