"""Two builds of one benchmark against each other, in turns: `python3 bench/alternate.py OLD NEW [ROUNDS] [ARGUMENT...]`.

OLD and NEW are executables of `cargo bench -p lm --bench steps --no-run` (cargo prints their paths) from two commits. Each
round runs both, the second first in every other round; printed is, for each benchmark, the median over rounds of the ratio of
the fastest sample of OLD to that of NEW: above 1 the new one is faster. Further arguments go to both (`--sample-count 3`, a
regular expression of names, `--skip REGEX`). Nothing else may run meanwhile.
"""

import re
import statistics
import subprocess
import sys

UNITS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


def times(executable: str, more: list[str]) -> dict[str, float]:
    """The fastest sample of each benchmark, in seconds."""
    out = subprocess.run([executable, "--bench", *more], capture_output=True, text=True, check=True).stdout
    found, group = {}, ""
    for line in out.splitlines():
        name = re.match(r"[│ ]*[├╰]─ (.*?)\s{2,}", line + "  ")
        if not name:
            continue
        if not line.startswith("│") and not line.startswith(" "):
            group = name.group(1)
        value = re.search(r"\s([0-9.]+) (ns|µs|ms|s)\s", line)
        if value:
            label = name.group(1) if name.group(1) == group else f"{group} {name.group(1)}"
            found[label] = float(value.group(1)) * UNITS[value.group(2)]
    return found


def main() -> None:
    old, new = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    more = sys.argv[4:]
    ratios: dict[str, list[float]] = {}
    for i in range(rounds):
        first, second = (old, new) if i % 2 == 0 else (new, old)
        both = {first: times(first, more), second: times(second, more)}
        for name, seconds in both[old].items():
            ratios.setdefault(name, []).append(seconds / both[new][name])
        print(f"round {i + 1} of {rounds}", file=sys.stderr)
    for name, values in ratios.items():
        print(f"{name:36} {statistics.median(values):.3f}  ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
