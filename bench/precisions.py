"""Do adapters trained in bf16 learn as often, and read as well, as those trained in f32?

    python3 bench/precisions.py                # 100 topics in each precision and a DIT reader on each: a quarter of an hour on 2 cores
    python3 bench/precisions.py --limit 24 --json

The same recipes, behaviours and seeds of adapters. Everything is done in the precision in question: the replies to train on
are sampled anew in each (so a difference includes the noise of sampling), adapters and readers are trained, gated and asked in it.
Needs Rust, Linux and a CPU with AVX512-BF16.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def lorafab(store, precision, *words):
    """Runs a command; returns its JSON answer, its seconds and its peak memory in GiB."""
    command = [ROOT / "target/release/lorafab", "--store", store, "--precision", precision, "--json", "--quiet", *words]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"error: lorafab {' '.join(words)} failed")
    return json.loads(out), time.perf_counter() - begin, usage.ru_maxrss / 2**20


def measure(folder, precision, limit, readers):
    store = f"{folder}/{precision}"
    lorafab(store, precision, "factory", "submit", "topic", "--limit", str(limit))
    _, seconds, gib = lorafab(store, precision, "factory", "run")
    made = lorafab(store, precision, "adapter", "list")[0]["adapters"]
    mean = lambda key: sum(a["metrics"][key] for a in made) / len(made)
    row = {
        "precision": precision, "made": len(made), "learned": sum(a["status"] == "learned" for a in made),
        "gate_on": mean("gate_on"), "gate_off": mean("gate_off"), "final_loss": mean("final_loss"),
        "factory_seconds": seconds, "factory_peak_gib": gib,
    }  # fmt: skip
    if readers:
        lorafab(store, precision, "dit", "train")
        answer = lorafab(store, precision, "compare", "run")[0]
        told = lambda r: r["arm"] == "dit" and r["control"] == "own" and r["metric"] in ("top1", "exact_match")
        row["dit"] = [r for r in answer["results"] if told(r)]
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--limit", type=int, default=100, help="topics in each precision (default 100)")
    parser.add_argument("--no-readers", action="store_true", help="only the gate")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--locked", "-p", "lorafab"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(folder, p, args.limit, not args.no_readers) for p in ("bf16", "f32")]
    if args.json:
        print(json.dumps({"schema": "precisions/1", "rows": rows}, indent=1))
        return
    for row in rows:
        print(
            f"{row['precision']}: {row['learned']} of {row['made']} learned, gate {row['gate_on']:.3f}, leak {row['gate_off']:.3f}, "
            f"loss {row['final_loss']:.3f}, {row['factory_seconds']:.0f} s, {row['factory_peak_gib']:.2f} GiB"
        )
        for r in row.get("dit", []):
            print(f"    DIT {r['metric']} on {r['n']} {r['split']}: {r['value']:.2f} [{r['ci_low']:.2f}, {r['ci_high']:.2f}]")


if __name__ == "__main__":
    main()
