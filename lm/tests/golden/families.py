"""A tiny random checkpoint of each model family, as a Hugging Face folder and as GGUF, and golden numbers for both.

    python families.py             # all families, about ten minutes; writes families/
    python families.py qwen3 ...   # some of them
    python families.py --check     # nothing is written: the files there are read back and compared

Needs torch, transformers, peft, gguf and safetensors (the versions are in each NAME.json). A second opinion from
llama.cpp is `families_judge.py`.

What each file is for
- families/NAME/          config.json, model.safetensors (bf16), tokenizer.json and tokenizer_config.json (`tiny`'s)
- families/NAME.gguf      the same weights as llama.cpp's converter would write them (bf16 matrices, f32 norms, biases)
- families/NAME.json      rows, losses, greedy replies (below)
- families/NAME.safetensors   tensors, f32 (ids and positions i64)

All numbers come from transformers in f32 with eager attention, on exactly the bf16 values in the files. The LoRA is
`formula_lora(model, rank, alpha, phase, size)` of make_golden.py with the numbers under `lora` in NAME.json: no file
carries it. Tensor names end in `model.layers.L.BLOCK.PROJECTION.lora_{A,B}.weight`, written PARAM here.

NAME.safetensors
- row.R                   the row's token ids, [t]
- positions.R             where the row's logits and residuals below were taken, [p]
- base.logits.R           logits of the bare model there, [p, vocabulary]
- base.residual.R.L       residual stream after layer L there, [p, hidden]
- lora.logits.R           logits with the LoRA at the row's last position, [1, vocabulary]
- ce.grad.PARAM           gradient of `ce_loss`
- kl.grad.PARAM           gradient of `kl_loss`, first and last layer only
- adamw.PARAM             the factors after the 20 steps, first and last layer only
NAME.json
- model                   `architectures`, and which feature is made to matter
- prompt_lens             per row; the loss is over the tokens from there on
- lora                    {rank, alpha, phase, size}
- ce_loss, kl_loss        with the LoRA: cross-entropy, and KL(bare || LoRA); the mean over all label tokens of all rows
- row_ce, row_kl          the same for each row alone: the mean over its label tokens
- kl_grad_norms           L2 norm of every gradient of `kl_loss`, by PARAM
- adamw                   {learning_rate, betas, eps, weight_decay, max_grad_norm, loss, grad_norm}: 20 steps on
                          `ce_loss`; loss before the step, norm before clipping
- greedy                  [{prompt, ids, margins}]: 64 tokens of the bare model; margins between the two best logits.
                          The same with and without a cache. None of them is an end of sequence
- noise                   how far each kind of number moves when every weight moves by about one unit in the last place
                          of f32: the floor of any tolerance
"""

import json
import os
import shutil
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import families_gguf
import reference as ref
from make_golden import formula_lora
from families_models import FAMILIES, changed, check_bites, tensors_of

HERE = Path(__file__).resolve().parent / "families"
TINY = HERE.parent / "tiny"
LORA = {"rank": 2, "alpha": 3, "phase": 0.0, "size": 0.2}
LEARNING_RATE, STEPS, NEW_TOKENS = 3e-3, 20, 64
# Where llama.cpp takes a GGUF for another model (families_judge.py says why).
MISREAD = {
    "mistral": {"sliding_window": None},
    "gemma2": {"query_pre_attn_scalar": 16},
}
UNJUDGED = {"gemma3_vision"}
# (tokens, prompt tokens, positions whose logits and residuals are kept); windows are 6 tokens, ropes are scaled past 16 or 32.
ROW_SHAPES = [
    (13, 7, [0, 5, 6, 7, 12]),
    (5, 2, [0, 3, 4]),
    (40, 24, [0, 4, 5, 6, 12, 15, 16, 32, 39]),
]
GREEDY_ROWS, END = [0, 2], [2]


def load(folder: Path):
    """The decoder in f32; of a checkpoint with a vision tower, its text half."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    if hasattr(model.config, "text_config"):
        whole, model = model, transformers.Gemma3ForCausalLM(model.config.text_config)
        model.set_attn_implementation("eager")
        model.model.load_state_dict(whole.model.language_model.state_dict())
        model.tie_weights()
        ids = torch.arange(3, 43)[None]
        with torch.no_grad():
            assert torch.equal(model(ids).logits, whole(ids, token_type_ids=torch.zeros_like(ids)).logits)
    return model.eval().requires_grad_(False)


def checkpoint(name: str, seed: int) -> Path:
    """Writes the folder; every value is a bf16 number."""
    family, folder = FAMILIES[name], HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(family.config, indent=2) + "\n")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY / file, folder / file)
    config = AutoConfig.from_pretrained(folder)
    save_file(tensors_of(family, config, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def text_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The text half's tensors under the names of a plain decoder."""
    tensors = load_file(folder / "model.safetensors")
    if any(name.startswith("language_model.") for name in tensors):
        prefix = "language_model."
        tensors = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return tensors


def rows_of(vocab: int, seed: int) -> list[dict]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {"ids": torch.randint(3, vocab, (length,), generator=generator).tolist(), "prompt_len": prompt}
        for length, prompt, _ in ROW_SHAPES
    ]


def greedy(model, prompt: list[int]) -> dict:
    """64 tokens with a cache, checked against the model without one."""
    reply = ref.greedy(model, prompt, NEW_TOKENS, eos=END)
    ids = list(prompt)
    for token in reply["ids"]:
        with torch.no_grad():
            assert ref.logits_of(model, ids)[-1].argmax().item() == token
        ids.append(token)
    return reply


def usable(replies: list[dict]) -> bool:
    """No near tie, no special token, and not one token over and over."""
    return all(
        len(reply["ids"]) == NEW_TOKENS
        and min(reply["margins"]) > 2e-3
        and min(reply["ids"]) > 2
        and len(set(reply["ids"])) >= 12
        for reply in replies
    )


def find(name: str) -> tuple[object, list[dict], list[dict]]:
    """The first seed whose model has usable greedy replies, and its model, rows and replies."""
    for seed in range(1, 200):
        folder = checkpoint(name, seed)
        model = load(folder)
        rows = rows_of(model.config.vocab_size, seed)
        replies = []
        for r in GREEDY_ROWS:
            replies.append(ref.greedy(model, rows[r]["ids"][: rows[r]["prompt_len"]], NEW_TOKENS, eos=END))
            if not usable(replies):
                break
        else:
            print(name, "seed", seed, "least margin", min(min(reply["margins"]) for reply in replies))
            return model, rows, [greedy(model, reply["prompt"]) for reply in replies]
    raise SystemExit(f"{name}: no seed below 200 gives greedy replies without near ties")


def short(name: str) -> str:
    return name.removeprefix("base_model.model.")


def numbers(model, fresh, rows: list[dict]) -> tuple[dict, dict]:
    """Everything but the greedy replies. `fresh()` gives the bare model again."""
    out, meta = {}, {}
    teachers = []
    for r, row in enumerate(rows):
        positions = torch.tensor(ROW_SHAPES[r][2])
        with torch.no_grad(), ref.hidden_states(model) as hidden:
            teachers.append(ref.logits_of(model, row["ids"]))
        out[f"base.logits.{r}"] = teachers[-1][positions]
        for layer, state in hidden.items():
            out[f"base.residual.{r}.{layer}"] = state[positions]
    student = formula_lora(fresh(), **LORA)
    parameters = ref.lora_parameters(student)
    labels = sum(ref.completion_tokens(row) for row in rows)
    row_ce, row_kl = [], []
    for r, row in enumerate(rows):
        logits = ref.logits_of(student, row["ids"])
        out[f"lora.logits.{r}"] = logits.detach()[-1:]
        row_ce.append(ref.ce_sum(logits, row))
        row_kl.append(ref.kl_sum(teachers[r], logits, row))
    for kind, losses in (("ce", row_ce), ("kl", row_kl)):
        loss = sum(losses) / labels
        meta[f"{kind}_loss"] = loss.item()
        meta[f"row_{kind}"] = [one.item() / ref.completion_tokens(row) for one, row in zip(losses, rows)]
        for name, gradient in ref.gradients(loss, parameters).items():
            out[f"{kind}.grad.{short(name)}"] = gradient
    losses, norms = ref.adamw_steps(student, rows, STEPS, LEARNING_RATE)
    for name, parameter in parameters.items():
        out[f"adamw.{short(name)}"] = parameter.detach()
    meta["adamw"] = {
        "learning_rate": LEARNING_RATE,
        "betas": [0.9, 0.999],
        "eps": 1e-8,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "loss": losses,
        "grad_norm": norms,
    }
    return {name: tensor.clone().contiguous() for name, tensor in sorted(out.items())}, meta


def nudged(model):
    """The model with every weight moved by up to 2^-23 of itself, one unit in its last place."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            step = torch.rand(parameter.shape, generator=generator, dtype=torch.float64) * 2 - 1
            parameter.copy_((parameter.double() * (1 + step * 2**-23)).float())
    return model


def noise(out: dict, meta: dict, other: dict, other_meta: dict) -> dict:
    """The greatest distance of each kind of number: absolute, for gradients relative to the tensor's greatest entry."""
    kinds = {}
    for name, tensor in out.items():
        kind = ".".join(name.split(".")[:2]) if not name.startswith("adamw.") else "adamw"
        distance = (tensor - other[name]).abs().max()
        if ".grad." in name:
            distance = distance / tensor.abs().max()
        kinds[kind] = max(kinds.get(kind, 0.0), distance.item())
    pairs = zip(meta["adamw"]["loss"], other_meta["adamw"]["loss"])
    kinds["adamw.loss"] = max(abs(a - b) for a, b in pairs)
    return {kind: float(f"{value:.2e}") for kind, value in sorted(kinds.items())}


def make(name: str) -> None:
    family, folder = FAMILIES[name], HERE / name
    model, rows, replies = find(name)
    tensors = text_tensors(folder)
    families_gguf.write(HERE / f"{name}.gguf", folder, model.config, tensors)
    out, meta = numbers(model, lambda: load(folder), rows)
    other, other_meta = numbers(nudged(load(folder)), lambda: nudged(load(folder)), rows)
    spread = noise(out, meta, other, other_meta)
    check_bites(family, model, rows, out)

    layers = model.config.num_hidden_layers
    kl_norms = {n.removeprefix("kl.grad."): out[n].norm().item() for n in out if n.startswith("kl.grad.")}
    ends = tuple(f"{kind}.model.layers.{layer}." for kind in ("kl.grad", "adamw") for layer in (0, layers - 1))
    out = {n: t for n, t in out.items() if not n.startswith(("kl.grad.", "adamw.")) or n.startswith(ends)}
    for r, row in enumerate(rows):
        out[f"row.{r}"] = torch.tensor(row["ids"])
        out[f"positions.{r}"] = torch.tensor(ROW_SHAPES[r][2])
    assert all(torch.isfinite(tensor).all() for tensor in out.values())
    assert all(tensor.abs().max() > 0 for n, tensor in out.items() if ".grad." in n)
    save_file(dict(sorted(out.items())), HERE / f"{name}.safetensors")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    ref.write_json(
        HERE / f"{name}.json",
        {
            "versions": versions,
            "model": {"architectures": family.config["architectures"], "shows": family.shows},
            "prompt_lens": [row["prompt_len"] for row in rows],
            "lora": LORA,
            **meta,
            "kl_grad_norms": kl_norms,
            "greedy": replies,
            "noise": spread,
        },
    )
    print(name, "ce", meta["ce_loss"], "kl", meta["kl_loss"], "adamw", meta["adamw"]["loss"][-1], "noise", spread)


def check(name: str) -> None:
    """The folder and the GGUF hold the same numbers, and transformers still computes the golden ones."""
    folder = HERE / name
    model = load(folder)
    tensors = text_tensors(folder)
    read = families_gguf.read(HERE / f"{name}.gguf", model.config)
    assert set(read) == set(tensors), set(read) ^ set(tensors)
    assert all(torch.equal(read[n], tensors[n].float()) for n in tensors)
    theirs = families_gguf.read_by_transformers(HERE / f"{name}.gguf", model)
    for n, tensor in theirs.items():
        assert torch.equal(tensor, tensors[n].float()), n
    golden = load_file(HERE / f"{name}.safetensors")
    meta = json.loads((HERE / f"{name}.json").read_text())
    worst = 0.0
    for r in range(len(ROW_SHAPES)):
        with torch.no_grad():
            logits = ref.logits_of(model, golden[f"row.{r}"].tolist())[golden[f"positions.{r}"]]
        worst = max(worst, (logits - golden[f"base.logits.{r}"]).abs().max().item())
    assert worst < 1e-4, worst
    assert usable(meta["greedy"])
    seen = f"{len(theirs)} of them by transformers too" if theirs else "transformers does not read this one"
    print(f"{name}: {len(read)} tensors equal, {seen}; logits within {worst:.1e}")


def expect(name: str, target: Path) -> None:
    """The GGUF in f32 and what llama.cpp should say of it, rows and logits: for families_judge.py."""
    target.mkdir(parents=True, exist_ok=True)
    bare = load(HERE / name)
    families_gguf.write(target / f"{name}.gguf", HERE / name, bare.config, text_tensors(HERE / name), f32=True)
    model = changed(bare, MISREAD.get(name, {}))
    for layer in model.model.layers if name.startswith("gemma") else []:
        exact = layer.mlp.act_fn.forward
        layer.mlp.act_fn.forward = lambda x, exact=exact: exact(x.half().float()).half().float()  # llama.cpp's table
    golden = load_file(HERE / f"{name}.safetensors")
    cases = {}
    for r in range(len(ROW_SHAPES)):
        row = golden[f"row.{r}"]
        with torch.no_grad():
            cases[f"row.{r}"], cases[f"logits.{r}"] = row.numpy(), ref.logits_of(model, row.tolist()).numpy()
    np.savez(target / f"{name}.npz", **cases)


if __name__ == "__main__":
    ref.deterministic()
    transformers.utils.logging.disable_progress_bar()
    arguments = sys.argv[1:]
    target = Path(arguments.pop(arguments.index("--expect") + 1)) if "--expect" in arguments else None
    for family_name in [argument for argument in arguments if not argument.startswith("--")] or list(FAMILIES):
        if target is not None:
            if family_name not in UNJUDGED:
                expect(family_name, target)
            continue
        if "--check" not in arguments:
            make(family_name)
        check(family_name)
