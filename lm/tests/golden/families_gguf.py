"""Writes a tiny checkpoint as GGUF, as llama.cpp's converter does, and reads one back.

What differs from the Hugging Face file, by architecture:
- `llama` (Llama and Mistral) and `smollm3`: the rows of q_proj and k_proj are permuted, head by head, from the two
  halves of a rotated pair to neighbours. No other architecture here is permuted.
- `gemma2`, `gemma3`: every norm is stored as 1 + w.
- Llama 3's rope scaling is no key but a tensor, `rope_freqs.weight`: what each inverse frequency is divided by.
- A tied `lm_head` is absent; matrices are bf16, norms and biases f32.

Three things that the converter drops are written all the same, under keys that GGUF has names for, because without
them the file would describe another model: `llama.attention.sliding_window` (Mistral), `gemma2.attention.scale`
(a query_pre_attn_scalar other than head_dim) and `gemma3.attention.sliding_window_pattern` (a pattern other than 6).
"""

import json
import math
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers

PERMUTED = {"llama", "smollm3"}
SHIFTED = {"gemma2", "gemma3"}
ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "olmo2": "olmo2",
    "smollm3": "smollm3",
}
# A layer's tensors: Hugging Face's name and GGUF's. Families that name a norm otherwise are below.
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
POST_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str, architecture: str) -> str:
    """GGUF's name of a Hugging Face tensor (`model.layers.0.mlp.up_proj.weight`)."""
    stem, suffix = name.rsplit(".", 1)
    if stem in OUTER:
        return f"{OUTER[stem]}.{suffix}"
    _, _, layer, part = stem.split(".", 3)
    names = LAYER | POST_NORMS if architecture in SHIFTED | {"olmo2"} else LAYER
    return f"blk.{layer}.{names[part]}.{suffix}"


def heads_of(name: str, config) -> int | None:
    """The number of heads whose rows the `llama` converter permutes, for q_proj and k_proj."""
    if ".q_proj." in name:
        return config.num_attention_heads
    return config.num_key_value_heads if ".k_proj." in name else None


def permute(rows: np.ndarray, heads: int) -> np.ndarray:
    """Per head: rows 0..d/2 and d/2..d are interleaved."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def unpermute(rows: np.ndarray, heads: int) -> np.ndarray:
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def llama3_factors(config, head_dim: int) -> np.ndarray:
    """What Llama 3's scaling divides each of the head_dim / 2 inverse frequencies by."""
    rope = config.rope_parameters
    length = rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    factors = []
    for i in range(0, head_dim, 2):
        turns = length / (2 * math.pi * rope["rope_theta"] ** (i / head_dim))
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1.0 / ((1.0 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def add_rope(writer: gguf.GGUFWriter, config, architecture: str, head_dim: int) -> None:
    """The base and the scaling. Gemma 3's keys describe the global layers; the local base has a key of its own."""
    rope = config.rope_parameters
    if architecture == "gemma3":
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        rope = rope["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config, head_dim))


def add_attention(writer: gguf.GGUFWriter, config, architecture: str, head_dim: int) -> None:
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "head_dim", None) is not None:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if architecture in PERMUTED:
        writer.add_rope_dimension_count(head_dim)
        writer.add_vocab_size(config.vocab_size)
    if getattr(config, "sliding_window", None) is not None:
        writer.add_sliding_window(config.sliding_window)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
        writer.add_attention_scale(config.query_pre_attn_scalar**-0.5)
    pattern = getattr(config, "_sliding_window_pattern", 6)
    if architecture == "gemma3" and pattern != 6:
        writer.add_sliding_window_pattern(pattern)


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    """The byte-level BPE of tokenizer.json: digits one by one, then GPT-2's expression, which GGUF calls `smollm`."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    assert sorted(vocab.values()) == list(range(len(vocab)))
    kinds = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(vocab))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(sorted(vocab, key=vocab.get))
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(json.loads((folder / "tokenizer_config.json").read_text())["chat_template"])


def write(path: Path, folder: Path, config, tensors: dict[str, torch.Tensor], f32: bool = False) -> None:
    """Writes `tensors` (Hugging Face's names, bf16) under `config` (the text half's) with the folder's tokenizer."""
    matrices = gguf.GGMLQuantizationType.F32 if f32 else gguf.GGMLQuantizationType.BF16
    architecture = ARCHITECTURES[config.model_type]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("model")
    writer.add_name(path.stem)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if f32 else gguf.LlamaFileType.MOSTLY_BF16)
    add_attention(writer, config, architecture, head_dim)
    add_rope(writer, config, architecture, head_dim)
    add_tokenizer(writer, folder)
    for name, tensor in tensors.items():
        data = tensor.float().numpy()
        if architecture in SHIFTED and name.endswith("norm.weight"):
            data = data + np.float32(1)
        if architecture in PERMUTED and (heads := heads_of(name, config)):
            data = permute(data, heads)
        kind = matrices if data.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name, architecture), gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(path: Path, config) -> dict[str, torch.Tensor]:
    """The tensors of a GGUF under Hugging Face's names, in f32, as `config`'s architecture stores them."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    back = {gguf_name(f"{stem}.weight", architecture): stem for stem in OUTER}
    for layer in range(config.num_hidden_layers):
        for part in LAYER | POST_NORMS if architecture in SHIFTED | {"olmo2"} else LAYER:
            stem = f"model.layers.{layer}.{part}"
            back[gguf_name(f"{stem}.weight", architecture)] = stem
    tensors = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        stem, suffix = tensor.name.rsplit(".", 1)
        name = f"{back[stem + '.weight']}.{suffix}"
        data = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if architecture in SHIFTED and name.endswith("norm.weight"):
            data = data - np.float32(1)
        if architecture in PERMUTED and (heads := heads_of(name, config)):
            data = unpermute(data, heads)
        tensors[name] = torch.from_numpy(np.ascontiguousarray(data))
    return tensors


def read_by_transformers(path: Path, model) -> dict[str, torch.Tensor]:
    """The same through transformers' own GGUF reader; empty for an architecture that it does not know."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES, load_gguf_checkpoint

    architecture = gguf.GGUFReader(path).fields["general.architecture"].contents()
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        return {}
    if model.config.model_type == "mistral":  # the file says `llama`, and so must the model it is read for
        config = transformers.LlamaConfig.from_dict(model.config.to_dict() | {"model_type": "llama"})
        model = transformers.LlamaForCausalLM(config)
    return load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
