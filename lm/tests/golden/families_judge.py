"""Asks llama.cpp for the logits of each of families.py's GGUFs: an independent judge of how the files were written.

    python -m venv /tmp/judge && /tmp/judge/bin/pip install llama-cpp-python==0.3.16    # compiles for minutes
    python families.py --expect /tmp/expect        # NAME.gguf, and what llama.cpp should say of it: NAME.npz
    /tmp/judge/bin/python families_judge.py /tmp/expect

llama.cpp reads a few files otherwise than they are meant, and is then compared with transformers under the same
misreading (`MISREAD`): it knows no window in the architecture `llama` and no `gemma2.attention.scale`. In this version
it knows no pattern of Gemma 3 but 6 either, and fails on a file of four layers, none of which is then global. The files that it is asked about differ from families/ in the type of the matrices
alone: over bf16 weights it would round every activation to bf16. Its GELU is a table in f16, and so, nearly, is the one that it
is compared with.
"""

import ctypes
import sys
from pathlib import Path

import llama_cpp
import numpy as np

TOLERANCE = 5e-3


def logits(path: Path, row: list[int]) -> np.ndarray:
    model = llama_cpp.Llama(
        str(path),
        n_ctx=128,
        n_threads=1,
        logits_all=True,
        verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        flash_attn=False,
    )
    model.eval(row)
    return np.array(model.scores[: len(row)], dtype=np.float32)


def main(expected: Path) -> None:
    failed = False
    for file in sorted(expected.glob("*.npz")):
        cases = np.load(file)
        worst = 0.0
        for key in cases.files:
            if key.startswith("row."):
                theirs = cases["logits." + key.removeprefix("row.")]
                worst = max(worst, np.abs(logits(file.with_suffix(".gguf"), cases[key].tolist()) - theirs).max())
        close = worst < TOLERANCE
        failed |= not close
        print(f"{file.stem}: logits within {worst:.1e}{'' if close else '  FAILED'}")
    sys.exit(failed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
