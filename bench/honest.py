"""Do the checks of what strangers send cost honest people time? Two builds in turns on the same work.

    python3 bench/honest.py OLD_BINARY NEW_BINARY STORE

STORE holds adapters of the default model, made by either build. Prints, for each command, the medians in milliseconds and the median
of the differences. A model that is seen for the first time is tried in a child process; a copy with another time stamp is such a one.
"""

import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

old, new, store = (str(pathlib.Path(a).resolve()) for a in sys.argv[1:4])
work = pathlib.Path(tempfile.mkdtemp())
tiny = pathlib.Path(__file__).resolve().parent.parent / "lm/tests/golden/tiny"
look = work / "look.json"
look.write_text('{"v": 1, "inputs": {"x": {"chat": {"user": "Tell me a thing."}}}, "out": [], "steps": '
                '[{"op": "generate", "id": "reply", "input": "x", "sample": {"max": 1}}]}')


def run(binary, *args, at=store):
    begin = time.perf_counter()
    subprocess.run([binary, "--store", at, "--quiet", *map(str, args)], check=True, capture_output=True)
    return 1000 * (time.perf_counter() - begin)


def turns(name, n, args, before=lambda: None, at=store):
    pairs = []
    for _ in range(n):
        pair = []
        for binary in (old, new):
            before()
            pair.append(run(binary, *args, at=at))
        pairs.append(pair)
    a, b = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    gap = statistics.median(y - x for x, y in pairs)
    print(f"{name:32} before {a:8.1f} ms, after {b:8.1f} ms, median of differences {gap:+7.1f} ms, ratio {b / a:.3f}", flush=True)


first = subprocess.run([new, "--store", store, "--json", "adapter", "list", "--where", "family = topic", "--limit", "1"],
                       check=True, capture_output=True, text=True).stdout
one = first.split('"id": "')[1].split('"')[0]
folder, merged, bundle, other = (work / n for n in ("peft", "merged", "bundle.tar", "other"))
run(new, "adapter", "export", one, folder)
run(new, "adapter", "export", one, merged, "--merged")
run(new, "adapter", "bundle", bundle, "--where", "family = topic")
fresh = lambda: shutil.rmtree(other, ignore_errors=True)
turns("default model, one token", 9, ["intervention", "run", look])
turns("default model, description", 9, ["intervention", "check", look])
turns("tiny folder", 15, ["--model", tiny, "intervention", "run", look])
turns("folder of 270 MB, seen first", 5, ["--model", merged, "intervention", "check", look],
      before=lambda: os.utime(merged / "config.json"))
turns("folder of 270 MB, again", 7, ["--model", merged, "intervention", "check", look])
turns("import of a PEFT folder", 5, ["adapter", "import", folder, "--name", "x"], before=fresh, at=str(other))
turns("import of a bundle", 5, ["adapter", "import", bundle], before=fresh, at=str(other))
shutil.rmtree(work)
