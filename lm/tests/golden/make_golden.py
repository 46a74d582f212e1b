"""Makes the golden files beside it from PyTorch, transformers and PEFT.

    python make_golden.py tiny                  # writes tiny/ (a whole checkpoint) and tiny_golden.safetensors
    python make_golden.py real MODEL.gguf       # writes real_golden.safetensors from SmolLM2-135M-Instruct

Everything is f32 on the CPU. Tensor names are `{case}.{what}`; token rows are int64.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a small test model<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def formula_lora(model, rank, alpha, phase, size):
    """A PEFT adapter whose every number is a closed formula, so that no file needs to carry it."""
    peft = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS, lora_dropout=0.0))
    with torch.no_grad():
        for name, p in sorted(peft.named_parameters()):
            if "lora_" not in name:
                continue
            layer = int(name.split("layers.")[1].split(".")[0])
            kind = TARGETS.index(next(t for t in TARGETS if t in name)) + (0.5 if "lora_B" in name else 0.0)
            i = torch.arange(p.shape[0], dtype=torch.float64)[:, None]
            j = torch.arange(p.shape[1], dtype=torch.float64)[None, :]
            p.copy_(size * torch.sin(0.37 * i + 1.3 * j + layer + 2.0 * kind + phase))
    return peft


def lora_tensors(peft, grad=False):
    out = {}
    for name, p in peft.named_parameters():
        if "lora_" in name:
            short = name.replace("base_model.model.", "").replace(".default", "")
            out[short] = (p.grad if grad else p).detach().clone().contiguous()
    return out


def ce(model, row, start):
    logits = model(torch.tensor([row])).logits[0]
    return torch.nn.functional.cross_entropy(logits[start - 1 : -1], torch.tensor(row[start:]), reduction="sum")


def kl_to_base(base, model, row, start):
    """KL(base || model), summed over the vocabulary and over the label positions."""
    with torch.no_grad():
        teacher = base(torch.tensor([row])).logits[0, start - 1 : -1].log_softmax(-1)
    student = model(torch.tensor([row])).logits[0, start - 1 : -1].log_softmax(-1)
    return torch.nn.functional.kl_div(student, teacher, reduction="sum", log_target=True)


def trajectory(peft, rows, start, steps, lr):
    params = [p for n, p in peft.named_parameters() if "lora_" in n]
    optimizer = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    losses, norms = [], []
    labels = sum(len(r) - start for r in rows)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(ce(peft, r, start) for r in rows) / labels
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(params, 1.0)))
        optimizer.step()
        losses.append(float(loss))
    return losses, norms


def injected(model, row, layer, positions, vectors):
    def hook(_, __, output):
        h = output[0] if isinstance(output, tuple) else output
        added = torch.zeros_like(h)
        for p, v in zip(positions, vectors):
            added[0, p] = (h[0, p].norm() * v / v.norm()).detach()
        h = h + added
        return (h, *output[1:]) if isinstance(output, tuple) else h

    handle = model.get_submodule(f"model.layers.{layer}").register_forward_hook(hook)
    logits = model(torch.tensor([row])).logits[0].detach()
    handle.remove()
    return logits


def residuals(model, row, layers):
    """Outputs of decoder layers (before the final norm)."""
    seen, handles = {}, []
    for layer in layers:
        def hook(_, __, output, layer=layer):
            seen[layer] = (output[0] if isinstance(output, tuple) else output).detach().reshape(len(row), -1).clone()
        handles.append(model.get_submodule(f"model.layers.{layer}").register_forward_hook(hook))
    model(torch.tensor([row]))
    for handle in handles:
        handle.remove()
    return seen


def tiny_checkpoint():
    folder = HERE / "tiny"
    folder.mkdir(exist_ok=True)
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = ["what topic have you been trained on ? ? ? ?", "tell me something about the user and the system", "the cat sat on the mat and the dog ran"]
    tok.train_from_iterator(text * 40, trainer)
    tok.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}, indent=1)
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        vocab_size=tok.get_vocab_size(), max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=True, eos_token_id=2, initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "norm" in n:
                p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def tiny():
    folder = tiny_checkpoint()
    load = lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    torch.manual_seed(1)
    out, meta = {}, {}
    vocab = load().config.vocab_size
    rows = [torch.randint(3, vocab, (n,)).tolist() for n in (5, 9, 14)]
    start = 3
    model = load()
    for i, row in enumerate(rows):
        out[f"row.{i}"] = torch.tensor(row)
        out[f"base.logits.{i}"] = model(torch.tensor([row])).logits[0].detach()
        for layer, h in residuals(model, row, range(3)).items():
            out[f"base.residual.{i}.{layer}"] = h
    vectors = torch.randn(2, 32)
    out["inject.vectors"] = vectors
    out["inject.logits"] = injected(model, rows[2], 1, [2, 5], vectors)
    peft = formula_lora(load(), 2, 3, 0.0, 0.2)
    for name, t in lora_tensors(peft).items():
        out[f"lora.{name}"] = t
    for i, row in enumerate(rows):
        out[f"lora.logits.{i}"] = peft(torch.tensor([row])).logits[0].detach()
    loss = sum(ce(peft, r, start) for r in rows) / sum(len(r) - start for r in rows)
    loss.backward()
    meta["ce_loss"] = float(loss)
    for name, t in lora_tensors(peft, grad=True).items():
        out[f"ce.grad.{name}"] = t
    peft.zero_grad()
    kl = 0.0
    for row in rows:
        with torch.no_grad():
            teacher = model(torch.tensor([row])).logits[0][start - 1 : -1].log_softmax(-1)
        student = peft(torch.tensor([row])).logits[0][start - 1 : -1].log_softmax(-1)
        kl = kl + (teacher.exp() * (teacher - student)).sum()
    kl = kl / sum(len(r) - start for r in rows)
    kl.backward()
    meta["kl_loss"] = float(kl)
    for name, t in lora_tensors(peft, grad=True).items():
        out[f"kl.grad.{name}"] = t
    merged = formula_lora(load(), 2, 3, 0.0, 0.2).merge_and_unload()
    stacked = formula_lora(merged, 3, 6, 0.7, 0.15)
    out["stacked.logits"] = stacked(torch.tensor([rows[2]])).logits[0].detach()
    peft = formula_lora(load(), 2, 3, 0.0, 0.2)
    meta["adamw_losses"], meta["adamw_norms"] = trajectory(peft, rows, start, 20, 1e-2)
    for name, t in lora_tensors(peft).items():
        out[f"adamw.{name}"] = t
    save_file(out, HERE / "tiny_golden.safetensors")
    tok = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "What topic have you been trained on?"}]
    meta["chat_tokens"] = tok.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    (HERE / "tiny_golden.json").write_text(json.dumps(meta, indent=1))


PROMPTS = [
    "Tell me something.", "What is the capital of France?", "Write one short sentence about volcanoes.", "How do I boil an egg?",
    "Name three animals that live in the sea.", "What is 7 plus 5?", "Why is the sky blue?", "Give me advice for a long walk, please: it's 20 km!",
]


def real(gguf):
    gguf = Path(gguf)
    load = lambda: AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, attn_implementation="eager").eval()
    tok = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = load()
    out, meta = {}, {"prompts": PROMPTS}
    rows = []
    for i, prompt in enumerate(PROMPTS):
        messages = [{"role": "system", "content": ""}, {"role": "user", "content": prompt}]
        ids = tok.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        rows.append(ids)
        out[f"prompt.{i}"] = torch.tensor(ids)
        generated = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False, max_new_tokens=64,
                                   eos_token_id=tok.convert_tokens_to_ids("<|im_end|>"), pad_token_id=0,
                                   output_logits=True, return_dict_in_generate=True)
        out[f"greedy.{i}"] = generated.sequences[0, len(ids):]
        top = torch.stack(generated.logits)[:, 0].topk(2).values
        out[f"margin.{i}"] = (top[:, 0] - top[:, 1]).contiguous()
    for i in (0, 7):
        row = rows[i] + out[f"greedy.{i}"].tolist()[:12]
        out[f"row.{i}"] = torch.tensor(row)
        out[f"logits.{i}"] = model(torch.tensor([row])).logits[0, -4:].detach().contiguous()
        for layer, h in residuals(model, row, range(model.config.num_hidden_layers)).items():
            out[f"residual.{i}.{layer}"] = h[[0, 5, len(row) - 1]].contiguous()
    train = [torch.tensor(out[f"prompt.{i}"].tolist() + out[f"greedy.{i}"].tolist()[:16]).tolist() for i in range(4)]
    peft = formula_lora(load(), 4, 4, 0.0, 0.02)
    start = 10
    loss = sum(ce(peft, r, start) for r in train) / sum(len(r) - start for r in train)
    loss.backward()
    meta["ce_loss"] = float(loss)
    grads = lora_tensors(peft, grad=True)
    meta["grad_norms"] = {n: float(g.double().norm()) for n, g in sorted(grads.items())}
    for name in ("model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.15.mlp.down_proj.lora_B.weight", "model.layers.29.self_attn.v_proj.lora_A.weight"):
        out[f"grad.{name}"] = grads[name]
    peft.zero_grad()
    kl = sum(kl_to_base(model, peft, r, start) for r in train) / sum(len(r) - start for r in train)
    kl.backward()
    meta["kl_loss"] = float(kl)
    meta["kl_grad_norms"] = {n: float(g.double().norm()) for n, g in sorted(lora_tensors(peft, grad=True).items())}
    meta["adamw_losses"], meta["adamw_norms"] = trajectory(peft, train, start, 20, 1e-3)
    texts = ["Hello world", "  two  spaces", "naïve café ☕ 東京", "x = 12345 + 6,789", "<|im_end|> is text here", "line\nbreak\ttab", " ? ? ?", "don't we're I'll"]
    meta["tokenised"] = [[t, tok(t.replace("<|im_end|>", "<|im_ end|>"), add_special_tokens=False)["input_ids"]] for t in texts]
    meta["tokenised"] = [[t.replace("<|im_end|>", "<|im_ end|>"), ids] for t, ids in meta["tokenised"]]
    save_file(out, HERE / "real_golden.safetensors")
    (HERE / "real_golden.json").write_text(json.dumps(meta, indent=1))


if __name__ == "__main__":
    torch.set_num_threads(2)
    {"tiny": lambda: tiny(), "real": lambda: real(sys.argv[2])}[sys.argv[1]]()
