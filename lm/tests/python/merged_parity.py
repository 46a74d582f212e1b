"""A merged model as transformers loads it: the other side of a parity test.

    python merged_parity.py --model DIR --rows ROWS.json --chat MESSAGES.json --out OUT_DIR

OUT_DIR gets `logits.safetensors` with `logits/{row}`, f32 [t, v], for every position of every row of token ids, and `said.json`: the
tokens of the conversation by the folder's own tokenizer and template, with and without the opening of a reply, the type that
the weights have when nothing else is asked for, and the ids that end a reply. Nothing is fetched. It is an error if a weight is missing,
left over or of another shape.
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
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--chat", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    torch.set_num_threads(1)
    as_stored = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto").dtype
    model, info = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {what: sorted(map(str, keys)) for what, keys in info.items() if keys}
    if wrong:
        sys.exit(f"error: {args.model}: {wrong}")
    model.eval()
    with torch.no_grad():
        logits = {
            f"logits/{i}": model(input_ids=torch.tensor([row]), use_cache=False).logits[0].float().contiguous()
            for i, row in enumerate(json.loads(args.rows.read_text()))
        }
    args.out.mkdir(exist_ok=True)
    save_file(logits, args.out / "logits.safetensors")

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    messages = json.loads(args.chat.read_text())
    ids = [
        tokenizer.apply_chat_template(messages, add_generation_prompt=opened, return_dict=False)
        for opened in (False, True)
    ]
    ends = model.generation_config.eos_token_id
    said = {
        "ids": ids,
        "text": tokenizer.decode(ids[0]),
        "dtype": str(as_stored).removeprefix("torch."),
        "eos": sorted(ends) if isinstance(ends, list) else [ends],
    }
    (args.out / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
