"""The reference computations that both golden generators share, on transformers and PEFT, one row at a time.

Rows are never padded: a padded reference would also test transformers' masking, and a reader of a failing test would
have to know which of the two is wrong.
"""

import json
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer

PROJECTIONS = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}
INJECTION_LAYER = 1


def deterministic() -> None:
    """One thread and deterministic kernels: the same bytes on every run of one torch build."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def peft_name(layer: int, projection: str, which: str) -> str:
    """The name under which PEFT saves a LoRA tensor; `which` is A or B."""
    block = PROJECTIONS[projection]
    return f"base_model.model.model.layers.{layer}.{block}.{projection}.lora_{which}.weight"


def lora_config(rank: int, alpha: int) -> LoraConfig:
    """LoRA on all seven projections, no dropout, no bias."""
    return LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(PROJECTIONS), lora_dropout=0.0, bias="none", task_type="CAUSAL_LM"
    )


def wrap(model, rank: int, alpha: int, tensors: dict):
    """The model with one PEFT adapter, `default`, holding `tensors` (PEFT's saved names)."""
    peft = get_peft_model(model, lora_config(rank, alpha)).eval()
    set_lora(peft, tensors)
    return peft


def lora_parameters(peft, adapter: str = "default") -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by saved name, sorted."""
    mark = f".{adapter}.weight"
    found = {n.replace(mark, ".weight"): p for n, p in peft.named_parameters() if "lora_" in n and n.endswith(mark)}
    assert set(found) == set(get_peft_model_state_dict(peft, adapter_name=adapter))
    return dict(sorted(found.items()))


def set_lora(peft, tensors: dict, adapter: str = "default") -> None:
    """Overwrites the adapter; the names and shapes must match exactly."""
    parameters = lora_parameters(peft, adapter)
    assert set(parameters) == set(tensors)
    with torch.no_grad():
        for name, parameter in parameters.items():
            assert parameter.shape == tensors[name].shape, name
            parameter.copy_(tensors[name])


def activate(peft, adapters: list[str], trained: str) -> None:
    """Stacks the adapters; only `trained` gets gradients."""
    for module in peft.modules():
        if isinstance(module, LoraLayer):
            module.set_adapter(adapters)
    for name, parameter in peft.named_parameters():
        parameter.requires_grad_(f".{trained}.weight" in name)


def decoder_layers(model):
    """The decoder's layers, with or without PEFT around the model."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base.model.layers


def logits_of(model, ids: list[int]) -> torch.Tensor:
    """Logits of every position of one row, [t, v]."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


@contextmanager
def hidden_states(model):
    """Collects each decoder layer's output (the residual stream, before the final norm), [t, d] per layer."""
    kept: dict[int, torch.Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda _m, _i, out, index=index: kept.__setitem__(index, residual(out)[0].detach()))
        for index, layer in enumerate(decoder_layers(model))
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def residual(output) -> torch.Tensor:
    """A decoder layer's hidden states, [b, t, d]; some transformers versions return a tuple."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def injection(model, positions: list[int], vectors: torch.Tensor, coefficient: float = 1.0):
    """Adds c * |h| * v / |v| at the output of decoder layer 1; the added term is detached, its norm included.

    A zero vector adds nothing.
    """

    def hook(_module, _inputs, output):
        hidden = residual(output).clone()
        at = hidden[0, positions]
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        hidden[0, positions] = at + (coefficient * at.norm(dim=-1, keepdim=True) * unit).detach()
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    # Registered before any collector, so that a collector sees the injected state.
    handle = decoder_layers(model)[INJECTION_LAYER].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def label_logits(logits: torch.Tensor, prompt_len: int) -> torch.Tensor:
    """The logits that predict the completion: positions prompt_len - 1 .. t - 2."""
    return logits[prompt_len - 1 : -1]


def ce_sum(logits: torch.Tensor, row: dict) -> torch.Tensor:
    """Cross-entropy summed over the row's completion tokens."""
    targets = torch.tensor(row["ids"][row["prompt_len"] :])
    return torch.nn.functional.cross_entropy(label_logits(logits, row["prompt_len"]), targets, reduction="sum")


def kl_sum(base_logits: torch.Tensor, logits: torch.Tensor, row: dict) -> torch.Tensor:
    """KL(base || student), summed over the vocabulary and over the row's label positions."""
    base = label_logits(base_logits, row["prompt_len"]).log_softmax(-1)
    student = label_logits(logits, row["prompt_len"]).log_softmax(-1)
    return (base.exp() * (base - student)).sum()


def completion_tokens(row: dict) -> int:
    """How many tokens the loss is taken over."""
    return len(row["ids"]) - row["prompt_len"]


def gradients(loss: torch.Tensor, parameters: dict) -> dict[str, torch.Tensor]:
    """The loss's gradient for each parameter, by name; the graph stays usable for a second loss."""
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)))


def adamw_steps(peft, rows: list[dict], steps: int, learning_rate: float) -> tuple[list[float], list[float]]:
    """Trains in place on all rows at once: the mean over all completion tokens of the batch, clipped at norm 1.

    Returns each step's loss (before its update) and gradient norm (before clipping).
    """
    parameters = list(lora_parameters(peft).values())
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    total = sum(completion_tokens(row) for row in rows)
    losses, norms = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = 0.0
        for row in rows:
            part = ce_sum(logits_of(peft, row["ids"]), row) / total
            part.backward()
            loss += part.item()
        losses.append(loss)
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0).item())
        optimizer.step()
    return losses, norms


def greedy(model, prompt: list[int], max_new_tokens: int, eos: list[int]) -> dict:
    """Greedy decoding through `generate`, with the margin between the two best logits at each step."""
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=eos,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = [step[0].topk(2).values for step in out.logits]
    return {
        "prompt": prompt,
        "ids": out.sequences[0, len(prompt) :].tolist(),
        "margins": [round((top[0] - top[1]).item(), 6) for top in best],
    }


def chat_cases(tokenizer, conversations: list[list[dict]]) -> list[dict]:
    """Each conversation rendered by the checkpoint's own template, with and without the generation prompt."""
    cases = []
    for messages in conversations:
        for add_generation_prompt in (False, True):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            cases.append(
                {"messages": messages, "add_generation_prompt": add_generation_prompt, "text": text, "ids": ids}
            )
    return cases


def token_cases(tokenizer, texts: list[str]) -> list[dict]:
    """Token ids of each text, no special token added; decoding them gives the text back."""
    cases = [{"text": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in texts]
    for case in cases:
        assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case["text"], case
    return cases


def write_json(path: Path, value: dict) -> None:
    """One key per line at the top level, compact below: readable diffs without a line per token id."""
    lines = [f"  {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
