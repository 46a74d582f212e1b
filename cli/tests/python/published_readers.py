"""Writes golden/published/: readers for the tiny model, with random weights, in the layouts in which they are published, and what
transformers makes of them.

    python cli/tests/python/published_readers.py        # a few seconds; needs torch, transformers, safetensors

oracle/            an activation oracle: PEFT 0.17 folder with ao_config.json, schema 1
adapter_config_regex.json   the same with its modules named by one pattern, as for Gemma 3
dit-adapter.pt     a DIT adapter, {module: (A [out, R], B [R, in])}, delta W = A B / R
target/            the adapter that they are asked about
golden.json        prompts: tokens and placeholder positions of every template, by upstream's rules; answers: greedy replies of the
                   oracle (injection hooked into transformers) and of the DIT adapter (deltas added to the weights)
"""

import copy
import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "golden" / "published"
TINY = HERE.parents[2] / "lm" / "tests" / "golden" / "tiny"
PROJECTIONS = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}
QUESTION = "What is it about?"
CONTEXT = "Speak your mind."
SEGMENT, TOKENS = 10, 12

# https://github.com/huggingface/peft, v0.17.1, src/peft/tuners/lora/config.py
PEFT_017 = {
    "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "lorafab/tiny", "bias": "none", "corda_config": None,
    "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
    "layer_replication": None, "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 8,
    "lora_bias": False, "lora_dropout": 0.05, "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
    "peft_type": "LORA", "qalora_group_size": 16, "r": 4, "rank_pattern": {}, "revision": None,
    "target_modules": ["up_proj", "q_proj", "down_proj", "v_proj", "gate_proj", "o_proj", "k_proj"], "target_parameters": None,
    "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_dora": False, "use_qalora": False, "use_rslora": False,
}
AO_CONFIG = {
    "schema_version": 1, "model_name": "lorafab/tiny", "layer_combinations": [[25], [50], [75]],
    "act_layer_combinations": [[0], [1], [2]], "special_token": " ?",
    "prefix_template": "Layer: {layer}\\n{special_token} * {num_positions} \\n", "hook_onto_layer": 1, "steering_coefficient": 1.0,
    "use_lora": True, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.05, "lora_target_modules": "all-linear", "num_epochs": 1,
    "lr": 1e-5, "train_batch_size": 16, "train_batches_per_materialization_block": 20, "eval_batch_size": 128,
    "activation_collection_batch_size": 128, "gradient_accumulation_steps": 1, "gradient_checkpointing": True, "max_grad_norm": 1.0,
    "window_mult": 20, "save_steps": 5000, "save_dir": "checkpoints", "eval_steps": 10000, "eval_on_start": False,
    "eval_logs_path": "eval_logs.json", "seed": 42, "generation_kwargs": {"do_sample": False, "max_new_tokens": 20},
    "load_lora_path": None, "dataset_configs": [{"name": "past_lens"}], "dataset_loader_names": ["past_lens"],
    "dataset_folder": "sft_training_data", "use_decoder_vectors": False, "positive_negative_examples": False,
    "wandb_project": "sae_introspection", "wandb_run_name": "tiny", "wandb_suffix": "", "hf_push_to_hub": False,
    "hf_private_repo": False, "hf_repo_name": "", "hf_repo_id": "", "created_at_utc": "2026-02-01T00:00:00Z",
    "git_commit": "0000000",
}


def save_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def lora(model, rank: int, size: float, generator) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By module: A [r, in], B [out, r]."""
    out = {}
    for i, layer in enumerate(model.model.layers):
        for projection, block in PROJECTIONS.items():
            linear = getattr(getattr(layer, block), projection)
            a = torch.randn(rank, linear.in_features, generator=generator) * linear.in_features**-0.5
            b = torch.randn(linear.out_features, rank, generator=generator) * size
            out[f"model.layers.{i}.{block}.{projection}"] = (a, b)
    return out


def save_peft(folder: Path, factors: dict, config: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_json(folder / "adapter_config.json", config)
    tensors = {}
    for module, pair in factors.items():
        for letter, tensor in zip("AB", pair):
            tensors[f"base_model.model.{module}.lora_{letter}.weight"] = tensor.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def adapted(model, *adapters):
    """The model with (factors, scale) added to its weights."""
    out = copy.deepcopy(model)
    with torch.no_grad():
        for factors, scale in adapters:
            for module, (a, b) in factors.items():
                out.get_submodule(module).weight += scale * (b @ a)
    return out


# adamkarvonen/activation_oracles, nl_probes/utils/dataset_utils.py; AObench/utils/dataset_utils.py; japhba/activation_oracles
def prefix(template: str, layers: list[int], token: str, k: int) -> str:
    if template == "lines":
        return "".join(f"Layer: {layer}\n{token * k} \n" for layer in layers)
    inline = " ".join(f"L{layer}:{token * k}" for layer in layers)
    return inline + (".\n" if template == "inline-dot" else "\n")


def chat(tokenizer, messages) -> list[int]:
    ids = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    return list(ids)


def find_pattern_in_tokens(ids: list[int], token: str, count: int, tokenizer, consecutive: bool) -> list[int]:
    (special,) = tokenizer.encode(token, add_special_tokens=False)
    positions = [i for i, t in enumerate(ids) if t == special][:count]
    assert len(positions) == count
    if consecutive:
        assert positions[-1] - positions[0] == count - 1
    assert "\n" in tokenizer.decode(ids[positions[-1] + 1 : positions[-1] + 3])
    return positions


def oracle_prompt(tokenizer, template, layers, k, question, token=" ?"):
    text = prefix(template, layers, token, k) + question
    ids = chat(tokenizer, [{"role": "user", "content": text}])
    return ids, find_pattern_in_tokens(ids, token, k * len(layers), tokenizer, len(layers) == 1)


def residual(model, ids: list[int], layer: int) -> torch.Tensor:
    """A layer's output; the library's own list has the final norm's in place of the last layer's."""
    kept = {}
    hook = model.model.layers[layer].register_forward_hook(
        lambda _m, _i, out: kept.update(h=(out[0] if isinstance(out, tuple) else out).detach().clone())
    )
    with torch.no_grad():
        model.model(torch.tensor([ids]))
    hook.remove()
    return kept["h"][0]


def greedy(model, tokenizer, ids: list[int], steering=None) -> str:
    """Greedy decoding without a cache: injected positions are injected again at every step, which is the same."""
    hook = None
    if steering is not None:
        layer, positions, vectors, coefficient = steering

        def inject(_module, _inputs, out):
            h = out[0] if isinstance(out, tuple) else out
            at = h[0, positions]
            unit = torch.nn.functional.normalize(vectors, dim=-1)
            h[0, positions] = at + coefficient * at.norm(dim=-1, keepdim=True) * unit

        hook = model.model.layers[layer].register_forward_hook(inject)
    ends = {tokenizer.convert_tokens_to_ids("<|im_end|>"), model.config.eos_token_id}
    reply: list[int] = []
    with torch.no_grad():
        for _ in range(TOKENS):
            logits = model(torch.tensor([ids + reply])).logits[0, -1]
            best = logits.topk(2).values
            assert best[0] - best[1] > 1e-3, "a tie that rounding would decide"
            token = int(logits.argmax())
            if token in ends:
                break
            reply.append(token)
    if hook is not None:
        hook.remove()
    return tokenizer.decode(reply, skip_special_tokens=True)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(20)

    oracle = lora(model, 4, 0.15, generator)
    save_peft(OUT / "oracle", oracle, PEFT_017)
    save_json(OUT / "oracle" / "ao_config.json", AO_CONFIG)
    pattern = r"model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    save_json(OUT / "adapter_config_regex.json", {**PEFT_017, "target_modules": pattern})

    target = lora(model, 2, 0.3, generator)
    save_peft(OUT / "target", target, {**PEFT_017, "r": 2, "lora_alpha": 2})

    # Upstream: delta W = A B / R with A [out, R], B [R, in], bf16 on disk.
    dit = {m: (b.to(torch.bfloat16), a.to(torch.bfloat16)) for m, (a, b) in lora(model, 3, 0.4, generator).items()}
    torch.save({m: (torch.nn.Parameter(a), torch.nn.Parameter(b)) for m, (a, b) in dit.items()}, OUT / "dit-adapter.pt")

    prompts = []
    for template, layers, k in [
        ("lines", [1], 3),
        ("lines", [0, 1, 2], 2),
        ("inline-dot", [0, 1, 2], 2),
        ("inline-dot", [2], 10),
        ("inline", [0, 2], 2),
    ]:
        for question in [QUESTION, "Is it so ? ? Answer with 'Yes' or 'No' only."]:
            ids, positions = oracle_prompt(tokenizer, template, layers, k, question)
            prompts.append(
                {"template": template, "layers": layers, "each": k, "question": question, "tokens": ids, "positions": positions}
            )

    # Adapters are asked under an empty system prompt; a published oracle under none.
    context = chat(tokenizer, [{"role": "system", "content": ""}, {"role": "user", "content": CONTEXT}])
    with_target = adapted(model, (target, 1.0))
    answers = {"oracle": {}}
    reader = adapted(model, (oracle, 2.0))
    for layers, template, coefficient in [([1], "lines", 1.0), ([0, 2], "inline-dot", 2.0)]:
        vectors = torch.cat(
            [residual(with_target, context, layer)[-SEGMENT:] - residual(model, context, layer)[-SEGMENT:] for layer in layers]
        )
        ids, positions = oracle_prompt(tokenizer, template, layers, SEGMENT, QUESTION)
        answers["oracle"][template] = greedy(reader, tokenizer, ids, (1, positions, vectors, coefficient))
    plain = {m: (b.float(), a.float()) for m, (a, b) in dit.items()}
    question = chat(tokenizer, [{"role": "system", "content": ""}, {"role": "user", "content": QUESTION}])
    answers["dit"] = greedy(adapted(model, (target, 1.0), (plain, 1 / 3)), tokenizer, question)
    answers["target"] = greedy(with_target, tokenizer, question)
    answers["tokens"] = TOKENS
    save_json(OUT / "golden.json", {"question": QUESTION, "prompts": prompts, "answers": answers})
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
