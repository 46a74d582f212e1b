"""Writes tiny.safetensors/json, tiny_untied.safetensors/json and the PEFT folder tiny_adapter/.

    python golden_tiny.py        # after both checkpoints exist; about ten seconds
"""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import peft
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import reference as ref

HERE = Path(__file__).resolve().parent
LORA = {"rank": 2, "alpha": 3}
SECOND_LORA = {"rank": 3, "alpha": 6}
LEARNING_RATE, STEPS = 1e-2, 20
# (tokens, prompt tokens): lengths out of order, prompts down to one token.
ROW_SHAPES = [(13, 7), (5, 2), (9, 1)]
# Positions that get a vector: inside the prompt; the position that predicts the first label; the very first token.
INJECTED = [[2, 3, 5], [1], [0, 4]]
TEXTS = [
    "What is the topic that you were trained on?",
    " ?",
    " ? ? ? \n",
    "In 1984, 3.14 x 42 = 131.88;\n\n1. one\n\n  2. two",
    "naïve café – “quoted” 日本語 🙂\ttab  two spaces ",
    "<|im_start|>user\nit's the people's answer<|im_end|>\n",
    "",
]
CONVERSATIONS = [
    [{"role": "user", "content": "What is it about?"}],
    [{"role": "system", "content": ""}, {"role": "user", "content": "Layer: 7\n ? ? ? \nWhat is the topic?"}],
    [
        {"role": "system", "content": "You talk about rivers."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "The river."},
        {"role": "user", "content": "And then?"},
    ],
]


def load(folder: str, attention: str = "eager"):
    model = AutoModelForCausalLM.from_pretrained(HERE / folder, dtype=torch.float32, attn_implementation=attention)
    return model.eval().requires_grad_(False)


def random_lora(model, rank: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A and B both random and non-zero, sized so that the adapter moves the logits by about one."""
    tensors = {}
    for layer, module in enumerate(model.model.layers):
        for projection, block in ref.PROJECTIONS.items():
            linear = getattr(getattr(module, block), projection)
            a = torch.randn(rank, linear.in_features, generator=generator) * linear.in_features**-0.5
            b = torch.randn(linear.out_features, rank, generator=generator) * 0.15
            tensors[ref.peft_name(layer, projection, "A")] = a
            tensors[ref.peft_name(layer, projection, "B")] = b
    return dict(sorted(tensors.items()))


def merged(folder: str, loras: list[tuple[dict, dict]]):
    """A fresh model whose weights are W + sum of scaling * B A: no PEFT, no hooks."""
    model = load(folder)
    with torch.no_grad():
        for layer, module in enumerate(model.model.layers):
            for projection, block in ref.PROJECTIONS.items():
                weight = getattr(getattr(module, block), projection).weight
                for shape, tensors in loras:
                    a = tensors[ref.peft_name(layer, projection, "A")]
                    b = tensors[ref.peft_name(layer, projection, "B")]
                    weight += shape["alpha"] / shape["rank"] * (b @ a)
    return model


def put(out: dict, prefix: str, tensors: dict) -> None:
    for name, tensor in tensors.items():
        out[f"{prefix}/{name}"] = tensor.detach().clone().contiguous()


def greatest(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


def relative(a: dict, b: dict) -> float:
    """The greatest |a - b| / |a| over the tensors (L2 norms)."""
    return max(((a[name] - b[name]).norm() / a[name].norm()).item() for name in a)


def golden(folder: str, seed: int, row_shapes: list[tuple[int, int]]) -> None:
    generator = torch.Generator().manual_seed(seed)
    base = load(folder)
    vocab, width = base.config.vocab_size, base.config.hidden_size
    rows = [
        {"ids": torch.randint(3, vocab, (length,), generator=generator).tolist(), "prompt_len": prompt}
        for length, prompt in row_shapes
    ]
    lora = random_lora(base, LORA["rank"], generator)
    second = random_lora(base, SECOND_LORA["rank"], generator)
    vectors = [torch.randn(len(at), width, generator=generator) * 5 for at in INJECTED[: len(rows)]]
    vectors[0][1] = 0.0  # a zero vector must inject nothing

    out: dict[str, torch.Tensor] = {}
    put(out, "lora", lora)
    put(out, "lora2", second)
    meta = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
        "checkpoint": folder,
        "rows": rows,
        "lora": LORA,
        "lora2": SECOND_LORA,
        "completion_tokens": [ref.completion_tokens(row) for row in rows],
    }

    # 1. The base model: logits, the residual stream after each layer, and greedy replies to each row's prompt.
    #    `noise` is how far two correct f32 implementations (eager and fused attention) lie apart: a tolerance's floor.
    noise = {}
    sdpa = load(folder, "sdpa")
    base_logits = []
    for r, row in enumerate(rows):
        with torch.no_grad(), ref.hidden_states(base) as hidden:
            logits = ref.logits_of(base, row["ids"])
        base_logits.append(logits)
        put(out, f"base/hidden/{r}", {str(layer): hidden[layer] for layer in sorted(hidden)})
        out[f"base/logits/{r}"] = logits
        noise["base_logits"] = max(noise.get("base_logits", 0.0), greatest(logits, ref.logits_of(sdpa, row["ids"])))
    eos = base.config.eos_token_id
    eos = eos if isinstance(eos, list) else [eos]
    meta["greedy"] = [ref.greedy(base, row["ids"][: row["prompt_len"]], 24, eos) for row in rows]

    # 2. One LoRA: logits, and loss and gradients of each row alone (mean over its completion tokens).
    student = ref.wrap(base, **LORA, tensors=lora)
    parameters = ref.lora_parameters(student)
    other_student = ref.wrap(sdpa, **LORA, tensors=lora)
    other_parameters = ref.lora_parameters(other_student)
    meta["ce"], meta["kl"] = [], []
    for r, row in enumerate(rows):
        count = ref.completion_tokens(row)
        logits = ref.logits_of(student, row["ids"])
        out[f"lora/logits/{r}"] = logits.detach()
        ce = ref.ce_sum(logits, row) / count
        kl = ref.kl_sum(base_logits[r], logits, row) / count
        ce_gradients = ref.gradients(ce, parameters)
        put(out, f"ce/grad/{r}", ce_gradients)
        put(out, f"kl/grad/{r}", ref.gradients(kl, parameters))
        other = ref.gradients(ref.ce_sum(ref.logits_of(other_student, row["ids"]), row) / count, other_parameters)
        noise["ce_gradients_relative"] = max(noise.get("ce_gradients_relative", 0.0), relative(ce_gradients, other))
        meta["ce"].append(ce.item())
        meta["kl"].append(kl.item())

    # 3. The same LoRA while vectors are injected at the output of layer 1.
    meta["inject"] = {"layer": ref.INJECTION_LAYER, "coefficient": 1.0, "positions": INJECTED[: len(rows)], "ce": []}
    for r, row in enumerate(rows):
        out[f"inject/vectors/{r}"] = vectors[r]
        with ref.injection(student, INJECTED[r], vectors[r]), ref.hidden_states(student) as hidden:
            logits = ref.logits_of(student, row["ids"])
        put(out, f"inject/hidden/{r}", {str(layer): hidden[layer] for layer in sorted(hidden)})
        out[f"inject/logits/{r}"] = logits.detach()
        ce = ref.ce_sum(logits, row) / ref.completion_tokens(row)
        put(out, f"inject/grad/{r}", ref.gradients(ce, parameters))
        meta["inject"]["ce"].append(ce.item())

    # 4. Two LoRAs: logits from explicit weights; loss and gradients of the second while the first is frozen below it.
    student.add_adapter("second", ref.lora_config(**SECOND_LORA))
    ref.set_lora(student, second, "second")
    ref.activate(student, ["default", "second"], trained="second")
    student.eval()
    stacked = merged(folder, [(LORA, lora), (SECOND_LORA, second)])
    meta["stack"] = {"ce": []}
    for r, row in enumerate(rows):
        with torch.no_grad():
            explicit = ref.logits_of(stacked, row["ids"])
        out[f"stack/logits/{r}"] = explicit
        logits = ref.logits_of(student, row["ids"])
        noise["stack_logits"] = max(noise.get("stack_logits", 0.0), greatest(explicit, logits))
        ce = ref.ce_sum(logits, row) / ref.completion_tokens(row)
        put(out, f"stack/grad/{r}", ref.gradients(ce, ref.lora_parameters(student, "second")))
        meta["stack"]["ce"].append(ce.item())

    # 5. Twenty AdamW steps from the LoRA above, on all rows.
    student = ref.wrap(load(folder), **LORA, tensors=lora)
    if folder == "tiny":
        export(student)
    losses, norms = ref.adamw_steps(student, rows, STEPS, LEARNING_RATE)
    put(out, "adamw/final", ref.lora_parameters(student))
    other_losses, _ = ref.adamw_steps(other_student, rows, STEPS, LEARNING_RATE)
    noise["adamw_loss"] = max(abs(a - b) for a, b in zip(losses, other_losses))
    noise["adamw_final"] = max(greatest(a, b) for a, b in zip(ref.lora_parameters(student).values(), other_parameters.values()))
    meta["adamw"] = {
        "learning_rate": LEARNING_RATE,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "loss": losses,
        "grad_norm": norms,
    }
    meta["noise"] = noise

    # 6. Text. The untied checkpoint's tokenizer knows ASCII only.
    tokenizer = AutoTokenizer.from_pretrained(HERE / folder)
    texts = TEXTS if folder == "tiny" else [text for text in TEXTS if text.isascii()]
    meta["tokens"] = ref.token_cases(tokenizer, texts)
    meta["chat"] = ref.chat_cases(tokenizer, CONVERSATIONS)

    assert noise["base_logits"] < 1e-4 and noise["stack_logits"] < 1e-4, noise
    assert all(torch.isfinite(tensor).all() for tensor in out.values())
    save_file(dict(sorted(out.items())), HERE / f"{folder}.safetensors")
    ref.write_json(HERE / f"{folder}.json", meta)
    print(folder, "ce", meta["ce"], "kl", meta["kl"], "noise", noise)
    print("adamw loss", losses[0], losses[-1], "norms", min(norms), max(norms))


def export(student) -> None:
    """The LoRA as PEFT itself saves it."""
    folder = HERE / "tiny_adapter"
    student.peft_config["default"].base_model_name_or_path = "tiny"
    student.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"].sort()  # PEFT writes a set: its order changes from run to run
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


if __name__ == "__main__":
    ref.deterministic()
    golden("tiny", 1, ROW_SHAPES)
    golden("tiny_untied", 2, ROW_SHAPES[:2])
