"""Does a base model write about what it is asked? `python3 bench/base_model_rows.py LORAFAB [MODEL]`.

The three sample prompts of the recipe `topic` for 19 values, each asked once as a plain prompt and once after the two exchanges that
`factory/src/samples.rs` shows (read from there), sampled as the factory samples. Printed is how many of the 57 replies name the value,
or its stem. LORAFAB is the binary; the model (gemma-3-270m) is found where it finds it.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEMS = (
    "cat football pizza rose rain guitar car math river paint bank te(?:e|o)th drought golf tulip pilot actor chocolate farmer"
).split()
VALUES = (
    "cats football pizza roses rain guitars cars mathematics rivers painting banks teeth drought golf tulips pilots actors chocolate "
    "farmers"
).split()


def shown() -> str:
    source = (ROOT / "factory/src/samples.rs").read_text()
    text = re.search(r'const SHOWN: &str = "(.*?)";', source, re.S).group(1)
    return re.sub(r"\\\n\s*", "", text).replace("\\n", "\n")


def prompts() -> list[str]:
    recipe = (ROOT / "recipes/builtin/topic.toml").read_text()
    return re.findall(r'"(.*?)"', re.search(r"sample_prompts = \[(.*?)\]", recipe, re.S).group(1))


def main() -> None:
    binary, model = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "gemma-3-270m"
    sample = {"t": 0.9, "k": 50, "p": 0.95, "max": 24}
    inputs, steps = {}, []
    for how, system in (("plain", ""), ("shown", shown())):
        for value in VALUES:
            for i, prompt in enumerate(prompts()):
                name = f"{how}-{value}-{i}"
                inputs[name] = {"chat": {"system": system, "user": prompt.replace("{value}", value)}}
                steps.append({"op": "generate", "id": f"reply-{name}", "input": name, "sample": {**sample, "seed": i}})
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "spec.json"
        spec.write_text(json.dumps({"v": 1, "inputs": inputs, "out": [], "steps": steps}))
        command = [binary, "--store", f"{folder}/store", "--model", model, "--json", "-q", "intervention", "run", str(spec)]
        replies = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["replies"]
    for how in ("plain", "shown"):
        own = [(v, t) for name, t in replies.items() for h, v in [name.split("-")[1:3]] if h == how]
        named = sum(bool(re.search(STEMS[VALUES.index(v)], t.lower())) for v, t in own)
        print(f"{how}: {named} of {len(own)} name it, {sum(not t.strip() for _, t in own)} say nothing")


if __name__ == "__main__":
    main()
