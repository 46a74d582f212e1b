"""Writes `tiny_untied/`: a tiny random checkpoint that differs from `tiny/` in everything a loader can get wrong.

Untied `lm_head`, a head_dim that is not hidden_size / heads, two shards with an index, several end-of-sequence ids, and
`rope_theta` at the top level of config.json (the spelling of most files on the Hub; `tiny/` has the newer
`rope_parameters`). Its tokenizer knows printable ASCII only, one token a character but for ` ?`, and the embedding has
four rows more than the tokenizer has tokens, as padded vocabularies do.

    python make_tiny_untied.py
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

HERE = Path(__file__).resolve().parent
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": [2, 0],
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": 104,
}


def weights(cfg: dict, seed: int) -> dict[str, torch.Tensor]:
    """Gaussian weights of standard deviation 1/sqrt(in), so that every layer moves the residual stream visibly."""
    generator = torch.Generator().manual_seed(seed)
    hidden, ffn = cfg["hidden_size"], cfg["intermediate_size"]
    head_dim = cfg["head_dim"]
    query, key = cfg["num_attention_heads"] * head_dim, cfg["num_key_value_heads"] * head_dim

    def matrix(rows: int, columns: int, std: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * std

    def norm() -> torch.Tensor:
        return 1.0 + 0.1 * torch.randn(hidden, generator=generator)

    tensors = {"model.embed_tokens.weight": matrix(cfg["vocab_size"], hidden, 0.5)}
    for layer in range(cfg["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        tensors[at + "input_layernorm.weight"] = norm()
        tensors[at + "self_attn.q_proj.weight"] = matrix(query, hidden, hidden**-0.5)
        tensors[at + "self_attn.k_proj.weight"] = matrix(key, hidden, hidden**-0.5)
        tensors[at + "self_attn.v_proj.weight"] = matrix(key, hidden, hidden**-0.5)
        tensors[at + "self_attn.o_proj.weight"] = matrix(hidden, query, query**-0.5)
        tensors[at + "post_attention_layernorm.weight"] = norm()
        tensors[at + "mlp.gate_proj.weight"] = matrix(ffn, hidden, hidden**-0.5)
        tensors[at + "mlp.up_proj.weight"] = matrix(ffn, hidden, hidden**-0.5)
        tensors[at + "mlp.down_proj.weight"] = matrix(hidden, ffn, ffn**-0.5)
    tensors["model.norm.weight"] = norm()
    tensors["lm_head.weight"] = matrix(cfg["vocab_size"], hidden, 0.5)
    return tensors


def tokenizer(folder: Path) -> None:
    """Byte-level BPE with a single merge, and tiny's chat template."""
    alphabet = ["Ċ", "Ġ", *map(chr, range(ord("!"), ord("~") + 1))]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {token: i for i, token in enumerate([*specials, *alphabet, "Ġ?"])}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "?")]))
    tok.add_special_tokens([AddedToken(token, special=True) for token in specials])
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tok.decoder = decoders.ByteLevel()
    assert tok.get_vocab_size() == CONFIG["vocab_size"] - 4
    tok.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_bytes((HERE / "tiny" / "tokenizer_config.json").read_bytes())


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    folder = HERE / "tiny_untied"
    folder.mkdir(exist_ok=True)
    write_json(folder / "config.json", CONFIG)
    tokenizer(folder)
    tensors = weights(CONFIG, seed=21)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    # The cut goes through a layer, as the Hub's size-driven cuts do.
    place = {name: shards[i >= len(tensors) // 2] for i, name in enumerate(tensors)}
    for shard in shards:
        part = {name: tensor for name, tensor in tensors.items() if place[name] == shard}
        save_file(part, folder / shard, metadata={"format": "pt"})
    total = sum(tensor.numel() * 4 for tensor in tensors.values())
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(place.items()))},
    )


if __name__ == "__main__":
    main()
