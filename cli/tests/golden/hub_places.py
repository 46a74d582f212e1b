"""Where huggingface_hub keeps things under the environment variables of each case: writes hub_places.json beside itself.

    pip install huggingface_hub && python3 hub_places.py
"""

import json
import pathlib
import subprocess
import sys

CASES = [
    {},
    {"XDG_CACHE_HOME": "/xdg"},
    {"HF_HOME": "/hf"},
    {"HF_HOME": "/hf", "XDG_CACHE_HOME": "/xdg"},
    {"HF_HOME": "~/hf"},
    {"HF_HOME": "~"},
    {"HF_HOME": "$BASE/hf", "BASE": "/scratch"},
    {"HF_HOME": "${BASE}/hf", "BASE": "/scratch"},
    {"HF_HOME": "$NOWHERE/hf"},
    {"HF_HUB_CACHE": "/cache"},
    {"HF_HUB_CACHE": "~/cache", "HF_HOME": "/hf"},
    {"HUGGINGFACE_HUB_CACHE": "/old"},
    {"HUGGINGFACE_HUB_CACHE": "~/old", "HF_HOME": "/hf"},
    {"HUGGINGFACE_HUB_CACHE": "/old", "HF_HUB_CACHE": "/new"},
    {"HF_TOKEN_PATH": "~/secret/token"},
    {"XDG_CACHE_HOME": "~/xdg"},
]
ASK = (
    "import json, huggingface_hub.constants as c\n"
    "print(json.dumps({'hub_cache': c.HF_HUB_CACHE, 'token_file': c.HF_TOKEN_PATH}))"
)

out = []
for case in CASES:
    env = {"HOME": "/home/u", **case}
    said = subprocess.run([sys.executable, "-c", ASK], env=env, check=True, capture_output=True, text=True)
    out.append({"variables": env, **json.loads(said.stdout)})
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(out, indent=1) + "\n")
