"""The other side of the benchmark: answers the tasks of lm/examples/vs_peft.rs with transformers and PEFT.

    python peer.py MODEL.gguf THREADS        # one JSON task a line on stdin, one JSON answer a line on stdout
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class Models:
    def __init__(self, path):
        self.path, self.loaded = path, {}

    def get(self, precision):
        if precision not in self.loaded:
            model = AutoModelForCausalLM.from_pretrained(
                str(self.path.parent), gguf_file=self.path.name, dtype=DTYPES[precision]
            )
            model.eval()
            self.loaded[precision] = model
        return self.loaded[precision]


def train(models, task):
    """Trains one adapter after another: PEFT has no batch of several."""
    model = models.get(task["precision"])
    rank, adapters, start = task["rank"], task["adapters"], task["completion_start"]
    share = len(task["rows"]) // adapters
    rows = torch.tensor(task["rows"])
    labels = rows.clone()
    labels[:, :start] = -100
    seconds, losses = 0.0, []
    for adapter in range(adapters):
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, lora_dropout=0.0)
        peft = get_peft_model(model, config)
        set_peft_model_state_dict(peft, load_file(task["start"]))
        peft.train()
        params = [p for p in peft.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(params, lr=task["learning_rate"], weight_decay=0.0, fused=True)
        x, y = (t[adapter * share : (adapter + 1) * share] for t in (rows, labels))
        begin = time.perf_counter()
        for _ in range(task["steps"]):
            optimizer.zero_grad()
            loss = peft(input_ids=x, labels=y, use_cache=False).loss
            loss.backward()
            optimizer.step()
            if adapter == 0:
                losses.append(float(loss.detach()))
        seconds += time.perf_counter() - begin
        model = peft.unload()
    model.eval()
    models.loaded[task["precision"]] = model
    return {"seconds": seconds, "tokens": task["steps"] * rows.numel(), "losses": losses}


@torch.no_grad()
def generate(models, task):
    model, n = models.get(task["precision"]), task["new_tokens"]
    prompts = torch.tensor(task["prompts"])
    begin = time.perf_counter()
    out = model.generate(
        input_ids=prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        min_new_tokens=n,
        max_new_tokens=n,
        pad_token_id=0,
    )
    seconds = time.perf_counter() - begin
    replies = out[:, prompts.shape[1] :]
    return {"seconds": seconds, "tokens": replies.numel(), "replies": replies.tolist()}


@torch.no_grad()
def collect(models, task):
    """The decoder without its head, up to the deepest layer asked for, with a hook on each asked layer."""
    model, rows, layers = models.get(task["precision"]).model, torch.tensor(task["rows"]), task["layers"]
    seen = {}
    hooks = [
        model.layers[layer].register_forward_hook(
            lambda _, __, out, layer=layer: seen.update({layer: out[0] if isinstance(out, tuple) else out})
        )
        for layer in layers
    ]
    whole, model.layers = model.layers, model.layers[: max(layers) + 1]
    begin = time.perf_counter()
    model(input_ids=rows, use_cache=False)
    seconds = time.perf_counter() - begin
    model.layers = whole
    for hook in hooks:
        hook.remove()
    return {"seconds": seconds, "tokens": rows.numel(), "rows": len(seen[layers[0]])}


def gemm(_, task):
    best = 0.0
    for m, k, n in [(512, 576, 3072), (512, 1536, 576), (512, 3072, 576), (2048, 2048, 2048)]:
        a = torch.randn(m, k).to(DTYPES[task["precision"]])
        b = torch.randn(k, n).to(DTYPES[task["precision"]])
        a @ b
        rounds = max(2, int(2e10 / (2 * m * k * n)))
        begin = time.perf_counter()
        for _ in range(rounds):
            a @ b
        best = max(best, rounds * 2 * m * k * n / (time.perf_counter() - begin) / 1e9)
    return {"gflops": best}


def main():
    path = Path(sys.argv[1])
    models = Models(path)
    torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps({"model": str(path), "torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    tasks = {"train": train, "generate": generate, "collect": collect, "gemm": gemm}
    for line in sys.stdin:
        task = json.loads(line)
        answer = tasks[task["op"]](models, task)
        answer["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
