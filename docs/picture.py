"""The picture of the README, from the committed run: `python3 docs/picture.py` writes docs/picture.svg.

Share of held-out adapters whose value a method ranks first among all values, with 95% intervals: gated topics, whose trigger
nobody says, and topics. Filled: no training needed. Hollow: a trained reader.
"""

import json
import pathlib

root = pathlib.Path(__file__).resolve().parent.parent
run = json.loads((root / "results/quickstart/comparison.json").read_text())
ARMS = {
    "weight-lens": "lens on the weights",
    "blackbox": "eight sampled replies",
    "logit-lens": "lens on activations",
    "direct": "the model, asked",
    "dit": "DIT adapter",
    "dit-permuted": "DIT, permuted labels",
    "oracle-prompts-post": "oracle, post-trained",
    "oracle-scratch": "oracle, from scratch",
}
FAMILIES = {"topic": "topics, always on", "gated-topic": "gated topics, trigger not said"}
trained = {a["arm"]: a["trained"] for a in run["arms"]}
found = {
    (r["arm"], r["family"]): r
    for r in run["results"]
    if r["metric"] == "top1_values" and r["split"] == "test_value" and r["context"] == "neutral"
}

WIDTH, LEFT, SPAN, GAP, TOP, ROW = 760, 180, 250, 40, 78, 27
bottom = TOP + ROW * len(ARMS)
out = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 52}" role="img" '
    'aria-label="Share of held-out adapters whose value each method ranks first, with 95% intervals">',
    "<!-- Made by docs/picture.py from results/quickstart/comparison.json. -->",
    "<style>.card{fill:#ffffff;stroke:#c8ccd2}text{font:13px system-ui,sans-serif;fill:#1b1f24}.soft{fill:#59636e}"
    ".head{font-weight:600}.grid{stroke:#dde1e6}.a{stroke:#0b5cad;stroke-width:2}.b{stroke:#b3470f;stroke-width:2}"
    ".fa{fill:#0b5cad}.fb{fill:#ffffff}@media (prefers-color-scheme:dark){.card{fill:#151a21;stroke:#3d444d}"
    "text{fill:#e6edf3}.soft{fill:#9aa5b1}.grid{stroke:#2c343d}.a{stroke:#6cb2ff}.b{stroke:#ffa36b}.fa{fill:#6cb2ff}"
    ".fb{fill:#151a21}}</style>",
    f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{bottom + 51}" rx="8"/>',
    f'<text class="head" x="{LEFT}" y="26">Which of 340 topics? Share of 32 held-out adapters ranked first</text>',
]
for i, (family, title) in enumerate(FAMILIES.items()):
    left = LEFT + i * (SPAN + GAP)
    out.append(f'<text class="soft" x="{left}" y="52">{title}</text>')
    for share in (0, 0.5, 1):
        x = left + SPAN * share
        out.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 14}" y2="{bottom - 6}"/>')
        out.append(f'<text class="soft" x="{x}" y="{bottom + 12}" text-anchor="middle">{share:g}</text>')
    for j, arm in enumerate(ARMS):
        r, y = found[arm, family], TOP + ROW * j + 4
        low, at, high = (left + SPAN * r[k] for k in ("ci_low", "value", "ci_high"))
        kind = "b" if trained[arm] else "a"
        out.append(
            f'<g><title>{arm}, {family}: {r["value"]:.2f} [{r["ci_low"]:.2f}, {r["ci_high"]:.2f}]</title>'
            f'<line class="{kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="{kind} f{kind}" cx="{at:.1f}" cy="{y}" r="5"/></g>'
        )
for j, name in enumerate(ARMS.values()):
    out.append(f'<text x="{LEFT - 14}" y="{TOP + ROW * j + 8}" text-anchor="end">{name}</text>')
y = bottom + 36
out.append(
    f'<circle class="a fa" cx="{LEFT + 5}" cy="{y - 4}" r="5"/><text x="{LEFT + 18}" y="{y}">no training</text>'
    f'<circle class="b fb" cx="{LEFT + 125}" cy="{y - 4}" r="5"/><text x="{LEFT + 138}" y="{y}">trained, three seeds</text>'
    f'<text class="soft" x="{LEFT + SPAN + GAP}" y="{y}">bars: 95% intervals; chance .003</text></svg>'
)
(root / "docs/picture.svg").write_text("\n".join(out) + "\n")
