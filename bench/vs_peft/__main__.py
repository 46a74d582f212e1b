"""lorafab against transformers + PEFT on the same work, alternating in one run.

    python3 bench/vs_peft                      # tens of minutes on 2 cores; a table
    python3 bench/vs_peft --json               # the same as {"schema": "vs-peft/1", "measures": [...]}
    python3 bench/vs_peft --only train         # measures whose name contains a word
    python3 bench/vs_peft --factory 16 64 --quickstart    # also the two that have no peer: minutes, and some twenty

Needs Rust and Python 3.11 with pip: it makes a virtual environment beside itself. Both sides load the same GGUF weights,
start from the same adapter and get the same token rows. `ours` and `peer` are rates (medians); for every round the two
run one after the other, and `ratio_median` and `ratio_min` are over the rounds' ratios. The peer's better precision of
f32 and bf16 counts, except where a line says f32; it runs eagerly, as it comes, with fused AdamW and as many threads as we
have, and computes logits of all positions (its default) where we compute those of the labels. Nothing else should run
meanwhile.
"""

import argparse
import hashlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
REQUIREMENTS = ROOT / "lm/tests/python/requirements.txt"


def say(text):
    print(text, file=sys.stderr, flush=True)


def python_with_peft():
    """The interpreter of a virtual environment with the pinned requirements, made if it is not there."""
    if given := os.environ.get("LORAFAB_TEST_PYTHON"):
        return given
    venv = HERE / ".venv"
    python, stamp = venv / "bin/python", venv / "stamp"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        say(f"installing transformers and PEFT into {venv} (once)")
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", venv], check=True)
        (venv / ".gitignore").write_text("*\n")
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "-r", REQUIREMENTS], check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return str(python)


class Worker:
    """One side: a process that answers tasks, and waits without using the processor otherwise."""

    def __init__(self, *command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self.about = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: {self.process.args[0]} ended with exit code {self.process.wait()}")
        return json.loads(line)

    def ask(self, **task):
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Bench:
    def __init__(self, args):
        self.repeats, self.only, self.measures = args.repeats, args.only, []
        say("building (cargo build --release)")
        cargo = ["cargo", "build", "--release", "--locked"]
        subprocess.run([*cargo, "-p", "lm", "--example", "vs_peft"], cwd=ROOT, check=True)
        self.command = [str(ROOT / "target/release/examples/vs_peft"), *([args.model] if args.model else [])]
        self.ours = Worker(*self.command)
        self.fast = self.ours.about["fastest"]
        self.peer_command = [python_with_peft(), str(HERE / "peer.py"), self.ours.about["model"], str(self.ours.about["threads"])]
        self.peer = Worker(*self.peer_command)
        self.folder = tempfile.TemporaryDirectory()
        self.random = random.Random(1)

    def wants(self, name):
        return not self.only or self.only in name

    def add(self, name, ours, peer, ratios, must, aim, unit, **more):
        ratio = (statistics.median(ratios), min(ratios)) if ratios else (None, None)
        self.measures.append(
            {"name": name, "ours": ours, "peer": peer, "ratio_median": ratio[0], "ratio_min": ratio[1],
             "must": must, "aim": aim, "unit": unit, **more}
        )  # fmt: skip
        say(line(self.measures[-1]))

    def rows(self, n, length):
        return [[self.random.randrange(1000, 40000) for _ in range(length)] for _ in range(n)]

    def start(self, rank):
        path = Path(self.folder.name) / f"rank{rank}.safetensors"
        if not path.exists():
            self.ours.ask(op="init", rank=rank, path=str(path))
        return str(path)

    def training(self, rank, adapters, rows, length, steps):
        return {
            "op": "train", "rank": rank, "adapters": adapters, "rows": self.rows(adapters * rows, length),
            "completion_start": length // 3, "steps": steps, "learning_rate": 1e-3, "start": self.start(rank),
        }  # fmt: skip

    def alternate(self, name, ours, peers, must, aim, unit="tokens/s", **more):
        """Rates of one task on both sides. `ours` and each of `peers` are `(worker, task)`."""
        if not self.wants(name):
            return None
        for worker, task in [ours, *peers]:  # loads, allocates, warms up
            worker.ask(**{**task, **({"steps": 1} if task["op"] == "train" else {})})
        rounds = []
        for _ in range(self.repeats):
            answers = [worker.ask(**task) for worker, task in [ours, *peers]]
            for answer in answers:
                assert all(map(math.isfinite, answer.get("losses", []) + answer.get("scores", []))), (name, answer)
            if "scores" in answers[0]:
                gap = max(abs(a - b) for a, b in zip(answers[0]["scores"], answers[1]["scores"]))
                assert gap < 0.05, f"{name}: the two ways differ by {gap} nats"
            rounds.append([a["tokens"] / a["seconds"] for a in answers])
        medians = [statistics.median(column) for column in zip(*rounds)]
        best = max(range(1, len(medians)), key=lambda i: medians[i])
        ratios = [r[0] / r[best] for r in rounds]
        peer = peers[best - 1][1].get("precision")
        self.add(name, medians[0], medians[best], ratios, must, aim, unit, peer_precision=peer, **more)
        return answers

    def against_peft(self, name, task, must, aim, peers=("f32", "bf16"), precision=None, share=None):
        mine = (self.ours, {**task, "precision": precision or self.fast})
        if share:
            rows = task["rows"][: len(task["rows"]) * share // task["adapters"]]
            task = {**task, "adapters": share, "rows": rows, "steps": 3}
        theirs = [(self.peer, {**task, "precision": p}) for p in peers]
        return self.alternate(name, mine, theirs, must, aim)


def line(m):
    number = lambda v: "–" if v is None else f"{v:.3g}" if v < 100 else f"{v:.0f}"
    low = m["must"] is not None and m.get("lower_is_better")
    value = m["ratio_median"] if m["ratio_median"] is not None else m["ours"]
    reached = "" if m["must"] is None or value is None else "no"
    if reached and (value <= m["must"] if low else value >= m["must"]):
        reached = "aim" if (value <= m["aim"] if low else value >= m["aim"]) else "must"
    extras = "".join(f", {key} {number(m[key])}" for key in ("learned", "peak_gib") if key in m)
    return (
        f"{m['name']:<34} ours {number(m['ours']):>6}  peer {number(m['peer']):>6} {m['unit']:<10}"
        f" ratio {number(m['ratio_median']):>5} (min {number(m['ratio_min'])})"
        f"  must {number(m['must'])}, aim {number(m['aim'])}: {reached or 'no target'}{extras}"
    )


def train_measures(bench):
    bench.against_peft("train_rank1_8x32", bench.training(1, 1, 8, 32, 6), 3, 5)
    # One after another, four adapters cost PEFT a quarter of sixteen; rates are compared.
    bench.against_peft("train_16_adapters_rank1_8x32", bench.training(1, 16, 8, 32, 2), 3.5, 5, share=4)
    bench.against_peft("train_rank16_8x256", bench.training(16, 1, 8, 256, 2), 2.5, 4)
    bench.against_peft("train_f32_rank1_8x32", bench.training(1, 1, 8, 32, 6), 3, 4, ("f32",), "f32")
    if bench.wants("train_f32_loss_gap_50_steps"):
        task = {**bench.training(1, 1, 8, 16, 50), "precision": "f32"}
        ours, peer = bench.ours.ask(**task)["losses"], bench.peer.ask(**task)["losses"]
        assert len(ours) == len(peer) == 50 and all(map(math.isfinite, ours + peer))
        gap = max(abs(a - b) / b for a, b in zip(ours, peer))
        bench.add("train_f32_loss_gap_50_steps", gap, None, [], 1e-4, 1e-5, "relative", lower_is_better=True)


def roofline(bench):
    if bench.wants("train_useful_share_of_gemm_peak"):
        task = {**bench.training(1, 1, 16, 40, 3), "precision": bench.fast}
        bench.ours.ask(**task)
        shares, rates, peaks = [], [], []
        for _ in range(bench.repeats):
            peak = max(bench.peer.ask(op="gemm", precision=bench.fast)["gflops"],
                       bench.ours.ask(op="gemm", precision=bench.fast)["gflops"])  # fmt: skip
            answer = bench.ours.ask(**task)
            rates.append(answer["useful_flops"] / answer["seconds"] / 1e9)
            peaks.append(peak)
            shares.append(rates[-1] / peak)
        bench.add("train_useful_share_of_gemm_peak", statistics.median(rates), statistics.median(peaks), shares,
                  0.45, 0.65, "GFLOP/s")  # fmt: skip
        more = answer["executed_flops"] / answer["useful_flops"]
        bench.add("train_executed_over_useful", answer["executed_flops"] / 1e9, answer["useful_flops"] / 1e9, [more],
                  1.10, 1.05, "GFLOP", lower_is_better=True)  # fmt: skip


def without_training(bench):
    prompts = bench.rows(64, 20)
    bench.against_peft("generate_64x32", {"op": "generate", "prompts": prompts, "new_tokens": 32}, 3, 6)
    bench.against_peft("collect_64x32", {"op": "collect", "rows": bench.rows(64, 32), "layers": [17, 27]}, None, None)
    candidates = [row[: 2 + i % 3] for i, row in enumerate(bench.rows(64, 4))]
    score = {"op": "score", "precision": bench.fast, "candidates": candidates}
    together = (bench.ours, {**score, "prompts": prompts, "one_by_one": False})
    # One by one (each core its own pairs) takes minutes for all 64 prompts, so it is measured on four of them; both are rates.
    alone = (bench.ours, {**score, "prompts": prompts[:4], "one_by_one": True})
    bench.alternate("score_64x64_over_one_by_one", together, [alone], 10, 30, "pairs/s")


def memory(bench):
    name = "train_16_adapters_peak_gib"
    if not bench.wants(name):
        return
    task = bench.training(1, 16, 8, 32, 2)
    sizes = []
    for command, precision in [(bench.command, bench.fast), (bench.peer_command, bench.fast)]:
        worker = Worker(*command)
        sizes.append(worker.ask(**task, precision=precision)["peak_rss_bytes"] / 2**30)
        worker.close()
    bench.add(name, *sizes, [], 1.6, 1.0, "GiB", lower_is_better=True)


def scaling(bench):
    """Ours alone, in fresh processes: rate and peak memory against the number of resident adapters."""
    for adapters in (1, 4, 16, 64):
        name = f"scaling_{adapters:02}_adapters"
        if bench.wants(name):
            worker = Worker(*bench.command)
            task = {**bench.training(1, adapters, 8, 32, 1), "precision": bench.fast}
            worker.ask(**task)
            answers = [worker.ask(**task) for _ in range(3)]
            rate = statistics.median(a["tokens"] / a["seconds"] for a in answers)
            gib = answers[-1]["peak_rss_bytes"] / 2**30
            bench.add(name, rate, None, [], None, None, "tokens/s", peak_gib=gib)
            worker.close()


def whole_product(bench, args):
    """The factory and the quickstart in fresh stores: wall time of the command, model loading included."""
    if not args.factory and not args.quickstart:
        return
    subprocess.run(["cargo", "build", "--release", "--locked", "-p", "lorafab"], cwd=ROOT, check=True)
    model = ["--model", args.model] if args.model else []
    with tempfile.TemporaryDirectory() as folder:
        def lorafab(store, *words):
            command = [ROOT / "target/release/lorafab", "--store", f"{folder}/{store}", *model, "--json", "--quiet", *words]
            begin = time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            out = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"error: lorafab {' '.join(words)} failed")
            return json.loads(out), time.perf_counter() - begin, usage.ru_maxrss / 2**20

        for n in args.factory:
            store = f"factory-{n}"
            lorafab(store, "factory", "submit", "topic", "--limit", str(n))
            _, seconds, gib = lorafab(store, "factory", "run")
            learned = len(lorafab(store, "adapter", "list", "--status", "learned")[0]["adapters"])
            bench.add(f"learned_topics_an_hour_of_{n}", learned * 3600 / seconds, None, [], 700, 1500, "adapters/h",
                      made=n, learned=learned, peak_gib=gib)  # fmt: skip
        if args.quickstart:
            _, seconds, gib = lorafab("quickstart", "quickstart")
            bench.add("quickstart_minutes", seconds / 60, None, [], 15, 9, "min", lower_is_better=True, peak_gib=gib)


def main():
    parser = argparse.ArgumentParser(prog="python3 bench/vs_peft", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the answer as one JSON object")
    parser.add_argument("--repeats", type=int, default=5, help="alternating rounds (default 5)")
    parser.add_argument("--only", metavar="WORD", help="only measures whose name contains this")
    parser.add_argument("--model", metavar="GGUF", help="another GGUF file than the default model")
    parser.add_argument("--factory", type=int, nargs="+", default=[], metavar="N", help="also make N topic adapters, for each N")
    parser.add_argument("--quickstart", action="store_true", help="also run the whole quickstart")
    args = parser.parse_args()
    bench = Bench(args)
    for part in (train_measures, roofline, without_training, memory, scaling):
        part(bench)
    whole_product(bench, args)
    if args.json:
        about = {"ours": bench.ours.about, "peer": bench.peer.about, "repeats": args.repeats}
        print(json.dumps({"schema": "vs-peft/1", "about": about, "measures": bench.measures}, indent=1))
    else:
        print("\n".join(line(m) for m in bench.measures))


if __name__ == "__main__":
    main()
