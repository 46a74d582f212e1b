"""The logit lens in NumPy, from the vectors that `lorafab intervention run --vectors` writes and the model's own file.

Reads a JSON file {"model": folder or GGUF file, "subjects": [{"vectors": file, "training": bool}], "base": file, "tokens": [ids]} and
prints {variant: [[score of each token] for each subject]}. Shares no code with lorafab and needs nothing but NumPy; for a
GGUF file, the package gguf, which undoes the quantisation.
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


def from_folder(folder):
    config = json.loads((folder / "config.json").read_text())
    model = tensors(folder / "model.safetensors")
    unembedding = model["model.embed_tokens.weight"] if config["tie_word_embeddings"] else model["lm_head.weight"]
    return model["model.norm.weight"], unembedding, config["rms_norm_eps"]


def from_gguf(file):
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(file)
    named = {t.name: t for t in reader.tensors}

    def load(name):
        return dequantize(named[name].data, named[name].tensor_type).astype(np.float64)

    unembedding = load("output.weight" if "output.weight" in named else "token_embd.weight")
    (eps,) = (f for name, f in reader.fields.items() if name.endswith("attention.layer_norm_rms_epsilon"))
    return load("output_norm.weight"), unembedding, float(eps.parts[eps.data[0]][0])


def main(task):
    model = Path(task["model"])
    weight, unembedding, eps = from_folder(model) if model.is_dir() else from_gguf(model)
    tokens = task["tokens"]

    # diff.{prompt}.{layer}: one row for each position.
    diffs = [tensors(s["vectors"]) for s in task["subjects"]]
    means = np.stack([np.concatenate(list(d.values())).mean(axis=0) for d in diffs])
    training = np.array([s["training"] for s in task["subjects"]])
    centre = means[training].mean(axis=0)

    def lens(v):
        return (v * weight) @ unembedding[tokens].T

    def next_tokens(h):
        h = h / np.sqrt((h * h).mean(axis=-1, keepdims=True) + eps) * weight
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
