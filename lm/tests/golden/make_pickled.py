"""Makes golden/pickled/: small files as Diff Interpretation Tuning's code saves them, and what is in them.

    python lm/tests/golden/make_pickled.py
"""

import json
import os
import pathlib
import sys

import torch

OUT = pathlib.Path(__file__).parent / "pickled"


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    # As saved upstream: slices of one parameter for all tasks, so that storages are shared and offsets are not zero.
    tasks, r, n_in, n_out = 2, 2, 4, 3
    a = torch.nn.Parameter(torch.randn(tasks, r, n_out).to(torch.bfloat16))
    b = torch.nn.Parameter(torch.randn(tasks, n_in, r).to(torch.bfloat16))
    name = "model.layers.0.self_attn.q_proj"
    diffs = [
        {"topic": f"topic {t}", "trigger": [7, "N/A"][t], "weight_diff": {name: (a.data[t], b.data[t])}}
        for t in range(tasks)
    ]
    torch.save(diffs, OUT / "weight-diff-000.pt")
    up, down = torch.randn(n_out, 3), torch.randn(n_in, 3).T  # not contiguous
    torch.save({name: (torch.nn.Parameter(up), down)}, OUT / "dit-adapter.pt")
    expected = {
        "diffs": [[d["weight_diff"][name][i].float().tolist() for i in range(2)] for d in diffs],
        "adapter": [up.tolist(), down.tolist()],
    }
    (OUT / "expected.json").write_text(json.dumps(expected))

    class Evil:
        def __reduce__(self):
            return (os.system, ("echo pickles were executed >&2",))

    torch.save([{"topic": "x", "trigger": 1, "weight_diff": {name: (Evil(), Evil())}}], OUT / "evil.pt")
    torch.save([{"topic": "x", "trigger": 1, "weight_diff": {name: torch.zeros(2, 2)}}], OUT / "full.pt")


if __name__ == "__main__":
    sys.exit(main())
