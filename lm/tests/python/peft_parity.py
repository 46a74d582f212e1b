"""Logits of a base model with a PEFT adapter, as transformers and PEFT compute them: the other side of a parity test.

    python peft_parity.py --base DIR_OR_GGUF --adapter ADAPTER_DIR --rows ROWS.json --out LOGITS.safetensors

ROWS.json is a list of token-id rows, or an object with such a list under "rows". The output holds `logits/{row}`, f32
[t, v], for every position of every row; with --with-base also `base/{row}`, the same without the adapter; with
--last N only the last N positions. Nothing is fetched: the base is a Hugging Face folder or a .gguf file, and no
tokenizer is read. Exit code 0 means that every tensor of the adapter file found its place in the model.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def load_base(path: Path):
    """The base model in f32, from a folder or from a GGUF file (dequantised)."""
    where = {"pretrained_model_name_or_path": path}
    if path.suffix == ".gguf":
        where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    return AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, attn_implementation="eager").eval()


def check_complete(model: PeftModel, adapter: Path) -> None:
    """PEFT only warns about tensors that it could not place; here that is an error."""
    stored = load_file(adapter / "adapter_model.safetensors")
    loaded = get_peft_model_state_dict(model, save_embedding_layers=False)
    if set(stored) != set(loaded):
        extra, missing = sorted(set(stored) - set(loaded)), sorted(set(loaded) - set(stored))
        sys.exit(f"error: {adapter}: tensors PEFT does not know {extra[:3]}, tensors it misses {missing[:3]}")
    for name, tensor in stored.items():
        if not torch.equal(tensor.float(), loaded[name].float()):
            sys.exit(f"error: {adapter}: {name} differs after loading")


def read_rows(path: Path) -> list[list[int]]:
    value = json.loads(path.read_text())
    rows = value["rows"] if isinstance(value, dict) else value
    if not rows or not all(row and all(isinstance(token, int) for token in row) for row in rows):
        sys.exit(f"error: {path}: expected a list of non-empty lists of token ids")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--last", type=int, default=0, help="keep only the last N positions (0: all)")
    parser.add_argument("--with-base", action="store_true")
    args = parser.parse_args()

    # A test runs beside other tests; one thread also makes the sums' order, hence the bits, repeatable.
    torch.set_num_threads(1)
    rows = read_rows(args.rows)
    model = PeftModel.from_pretrained(load_base(args.base.resolve()), args.adapter.resolve()).eval()
    check_complete(model, args.adapter)

    def logits(row: list[int]) -> torch.Tensor:
        kept = model(input_ids=torch.tensor([row]), use_cache=False).logits[0]
        return kept[-args.last :].float().contiguous()

    out = {}
    with torch.no_grad():
        for index, row in enumerate(rows):
            out[f"logits/{index}"] = logits(row)
            if args.with_base:
                with model.disable_adapter():
                    out[f"base/{index}"] = logits(row)
    save_file(out, args.out)


if __name__ == "__main__":
    main()
