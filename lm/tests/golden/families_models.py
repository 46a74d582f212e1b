"""The families of families.py: config.json as published checkpoints spell it, weights, and what each must show.

Sizes are as small as lets every feature matter: windows of 6 tokens under rows of 5, 13 and 40, ropes scaled past 16
or 32 positions, soft-caps near the size of what they cap, norm weights away from 1, queries and keys of other widths than
the residual stream.
"""

from dataclasses import dataclass, field

import torch

import reference as ref

VOCABULARY = 320
COMMON = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": 32,
    "max_position_embeddings": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}
GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "pad_token_id": 0}


@dataclass(frozen=True)
class Family:
    """`change` names settings without which the model is another one: the logits must then differ by over 1e-3."""

    config: dict
    shows: str
    change: dict = field(default_factory=dict)
    embedding: float = 0.5
    queries: float = 1.5
    norm: float = 1.0
    final_norm: float = 1.0
    post_norm: float = 1.0


def changed(model, settings: dict):
    """The same weights under another configuration."""
    other = type(model)(type(model.config).from_dict(model.config.to_dict() | settings)).eval()
    other.set_attn_implementation("eager")
    other.load_state_dict(model.state_dict())
    return other


def check_bites(family: Family, model, rows: list[dict], out: dict) -> None:
    """Each setting of `change`, alone, moves the logits of the longest row."""
    for key, value in family.change.items():
        with torch.no_grad():
            logits = ref.logits_of(changed(model, {key: value}), rows[-1]["ids"])
        moved = (logits[-1] - out[f"base.logits.{len(rows) - 1}"][-1]).abs().max()
        assert moved > 1e-3, f"{key} = {value} changes nothing ({moved})"
        print(f"  without {key}: logits move by {moved:.4f}")


def default_rope(theta: float) -> dict:
    return {"rope_type": "default", "rope_theta": theta}


def gemma_ropes(local: float, of_global: dict) -> dict:
    return {"sliding_attention": default_rope(local), "full_attention": of_global}


FULL4, FULL6 = ["full_attention"] * 4, ["full_attention"] * 6
LINEAR8 = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}

FAMILIES = {
    "llama_llama3": Family(
        COMMON
        | {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "head_dim": 16,
            "hidden_act": "silu",
            "mlp_bias": False,
            "model_type": "llama",
            "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 2.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 16,
                "rope_type": "llama3",
            },
            "rope_theta": 30.0,
        },
        "Llama 3's rope scaling: one frequency kept, two in between, five divided by 8",
        {"rope_parameters": default_rope(30.0)},
    ),
    "llama_linear": Family(
        COMMON
        | {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "head_dim": 12,
            "hidden_act": "silu",
            "mlp_bias": False,
            "model_type": "llama",
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "rope_scaling": {"factor": 4.0, "type": "linear"},
            "rope_theta": 10000.0,
        },
        "linear rope scaling, spelled `type`; a head_dim that is no power of two",
        {"rope_parameters": default_rope(10000.0)},
    ),
    "mistral": Family(
        COMMON
        | {
            "architectures": ["MistralForCausalLM"],
            "head_dim": 8,
            "hidden_act": "silu",
            "model_type": "mistral",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "sliding_window": 6,
            "tie_word_embeddings": False,
        },
        "a sliding window on every layer; an lm_head of its own",
        {"sliding_window": None},
    ),
    "qwen2": Family(
        COMMON
        | {
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_act": "silu",
            "max_window_layers": 4,
            "model_type": "qwen2",
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "hidden_size": 32,
            "intermediate_size": 24,
            "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32, "type": "yarn"},
            "rope_theta": 100.0,
            "sliding_window": 6,
            "use_sliding_window": False,
        },
        "biases on q, k and v; yarn with its attention factor; a sliding_window that is switched off",
        {"rope_parameters": default_rope(100.0)},
    ),
    "qwen3": Family(
        COMMON
        | {
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "head_dim": 16,
            "hidden_act": "silu",
            "max_window_layers": 4,
            "model_type": "qwen3",
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "rope_parameters": default_rope(1e6),
            "sliding_window": None,
            "use_sliding_window": False,
        },
        "a norm on each head's queries and keys before the rope; head_dim 16 where hidden / heads is 8",
        {"rope_parameters": default_rope(100.0)},
    ),
    "gemma2": Family(
        COMMON
        | GEMMA
        | {
            "architectures": ["Gemma2ForCausalLM"],
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
            "head_dim": 16,
            "hidden_act": "gelu_pytorch_tanh",
            "model_type": "gemma2",
            "query_pre_attn_scalar": 20,
            "rope_theta": 10000.0,
            "sliding_window": 6,
        },
        "both soft-caps, query_pre_attn_scalar other than head_dim, every other layer local, four norms of 1 + w",
        {
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "query_pre_attn_scalar": 16,
            "layer_types": FULL4,
            "hidden_activation": "gelu",
        },
        embedding=0.25,
        queries=1.8,
        norm=0.3,
        final_norm=1.0,
        post_norm=1.5,
    ),
    "gemma3": Family(
        COMMON
        | GEMMA
        | {
            "_sliding_window_pattern": 6,
            "architectures": ["Gemma3ForCausalLM"],
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "head_dim": 16,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
            "model_type": "gemma3_text",
            "num_hidden_layers": 6,
            "num_key_value_heads": 1,
            "query_pre_attn_scalar": 16,
            "rope_parameters": gemma_ropes(10000.0, LINEAR8),
            "sliding_window": 6,
            "use_bidirectional_attention": False,
        },
        "five local layers and a global one, each kind with its own rope, the global one scaled; q and k norms of 1 + w",
        {
            "layer_types": FULL6,
            "rope_parameters": gemma_ropes(10000.0, default_rope(1e6)),
            "query_pre_attn_scalar": 24,
        },
        embedding=0.25,
        norm=0.3,
        final_norm=0.7,
        post_norm=1.5,
    ),
    "gemma3_vision": Family(
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "boi_token_index": 317,
            "eoi_token_index": 318,
            "eos_token_id": [1, 2],
            "image_token_index": 319,
            "initializer_range": 0.02,
            "mm_tokens_per_image": 1,
            "model_type": "gemma3",
            "text_config": {
                "head_dim": 16,
                "hidden_size": 24,
                "intermediate_size": 32,
                "max_position_embeddings": 128,
                "model_type": "gemma3_text",
                "num_attention_heads": 4,
                "num_hidden_layers": 4,
                "num_key_value_heads": 2,
                "query_pre_attn_scalar": 16,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 6,
                "sliding_window_pattern": 3,
                "vocab_size": VOCABULARY,
            },
            "torch_dtype": "bfloat16",
            "vision_config": {
                "hidden_size": 4,
                "image_size": 4,
                "intermediate_size": 4,
                "model_type": "siglip_vision_model",
                "num_attention_heads": 1,
                "num_hidden_layers": 1,
                "patch_size": 4,
                "vision_use_head": False,
            },
        },
        "a vision tower to skip, a nested text_config that leaves bases and eps to the defaults, a pattern of 3",
        {"layer_types": FULL4, "rope_parameters": gemma_ropes(10000.0, default_rope(1e6))},
        embedding=0.25,
        norm=0.3,
        final_norm=0.7,
        post_norm=1.5,
    ),
    "olmo2": Family(
        COMMON
        | {
            "architectures": ["Olmo2ForCausalLM"],
            "attention_bias": False,
            "hidden_act": "silu",
            "hidden_size": 32,
            "intermediate_size": 24,
            "model_type": "olmo2",
            "pad_token_id": 0,
            "rope_scaling": None,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
        },
        "norms after attention and MLP only, on the branch; q and k norms over the full width",
        {"rope_parameters": default_rope(100.0)},
    ),
    "smollm3": Family(
        COMMON
        | {
            "architectures": ["SmolLM3ForCausalLM"],
            "attention_bias": False,
            "hidden_act": "silu",
            "hidden_size": 32,
            "intermediate_size": 24,
            "mlp_bias": False,
            "model_type": "smollm3",
            "no_rope_layer_interval": 4,
            "no_rope_layers": [1, 1, 1, 0],
            "pad_token_id": 0,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "sliding_window": None,
            "use_sliding_window": False,
        },
        "every fourth layer without a rope",
        {"no_rope_layers": [1, 1, 1, 1]},
    ),
}


def tensors_of(family: Family, config, seed: int) -> dict[str, torch.Tensor]:
    """Random bf16 weights for every tensor that transformers would save, under the names that checkpoints publish.

    Matrices have a standard deviation of 1/sqrt(inputs), queries and keys more, so that attention is no mean. Norms
    are 1 with a deviation of 0.3 (Gemma's, which add 1: around a small number).
    """
    from transformers import AutoModelForCausalLM

    generator = torch.Generator().manual_seed(seed)
    shapes = {name: p.shape for name, p in AutoModelForCausalLM.from_config(config).named_parameters()}
    gemma = config.model_type.startswith("gemma")

    def mean_of_norm(name: str) -> float:
        if name.endswith("model.norm.weight"):
            return family.final_norm
        if "post_feedforward_" in name or ("post_attention_" in name and (gemma or config.model_type == "olmo2")):
            return family.post_norm
        return family.norm

    def draw(name: str, shape: torch.Size) -> torch.Tensor:
        tensor = torch.randn(shape, generator=generator)
        if "vision" in name or "projector" in name:
            return tensor
        if name.endswith("norm.weight"):
            return mean_of_norm(name) + 0.3 * tensor
        if name.endswith("bias"):
            return 0.5 * tensor
        if "embed_tokens" in name:
            return family.embedding * tensor
        if "lm_head" in name:
            return 0.6 * tensor
        size = family.queries if "q_proj" in name or "k_proj" in name else 1.0 if gemma else 1.2
        return size * shape[-1] ** -0.5 * tensor

    def published(name: str) -> str:
        """`transformers` 5 moved the halves of models that see: on the Hub they still have these names."""
        return name.replace("model.language_model.", "language_model.model.") if "language_model" in name else (
            name.removeprefix("model.") if "vision_tower" in name or "projector" in name else name
        )

    tensors = {name: draw(name, shape).to(torch.bfloat16) for name, shape in shapes.items()}
    return {published(name): tensor for name, tensor in sorted(tensors.items())}
