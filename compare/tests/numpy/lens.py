"""The logit lens in NumPy, from the vectors that `lorafab intervention run --vectors` writes and the model's own file.

Reads a JSON file {"model": folder, "subjects": [{"vectors": file, "training": bool}], "base": file, "tokens": [ids]} and
prints {variant: [[score of each token] for each subject]}. Shares no code with lorafab and needs nothing but NumPy.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np

DTYPES = {"F32": np.float32, "F64": np.float64, "F16": np.float16}


def tensors(path):
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = data[8 + length :]
    return {
        name: np.frombuffer(body[slice(*t["data_offsets"])], DTYPES[t["dtype"]]).reshape(t["shape"]).astype(np.float64)
        for name, t in header.items()
    }


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def main(task):
    folder = Path(task["model"])
    config = json.loads((folder / "config.json").read_text())
    model = tensors(folder / "model.safetensors")
    weight = model["model.norm.weight"]
    unembedding = model["model.embed_tokens.weight"] if config["tie_word_embeddings"] else model["lm_head.weight"]
    tokens = task["tokens"]

    # diff.{prompt}.{layer}: one row for each position.
    diffs = [tensors(s["vectors"]) for s in task["subjects"]]
    means = np.stack([np.concatenate(list(d.values())).mean(axis=0) for d in diffs])
    training = np.array([s["training"] for s in task["subjects"]])
    centre = means[training].mean(axis=0)

    def lens(v):
        return (v * weight) @ unembedding[tokens].T

    def next_tokens(h):
        h = h / np.sqrt((h * h).mean(axis=-1, keepdims=True) + config["rms_norm_eps"]) * weight
        return log_softmax(h @ unembedding.T)[:, tokens]

    base = tensors(task["base"])

    def lift(diff):
        pairs = [(base[name.replace("diff.", "without.")], d) for name, d in diff.items()]
        return np.concatenate([next_tokens(b + d) - next_tokens(b) for b, d in pairs]).mean(axis=0)

    return {
        "raw": lens(means).tolist(),
        "centred": lens(means - centre).tolist(),
        "last logits": [lift(d).tolist() for d in diffs],
    }


if __name__ == "__main__":
    json.dump(main(json.loads(Path(sys.argv[1]).read_text())), sys.stdout)
