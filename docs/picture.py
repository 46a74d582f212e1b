"""The picture of the README, from the committed study: `python3 docs/picture.py` writes docs/picture.svg,
and the same for the page of the study.

Share of held-out adapters whose value a method ranks first among those of its family, means over the families of each group, with
95% intervals. Filled: no training needed. Hollow: a trained reader.
"""

import json
import pathlib

root = pathlib.Path(__file__).resolve().parent.parent
results = json.loads((root / "results/s1/results.json").read_text())
ARMS = {
    "weight-lens": "lens on the weights",
    "blackbox": "eight sampled replies",
    "logit-lens": "lens on activations",
    "direct": "the model, asked",
    "dit": "DIT adapter",
    "dit-permuted": "DIT, permuted labels",
    "oracle-post": "oracle, post-trained",
    "oracle-scratch": "oracle, from scratch",
}
GROUPS = {
    "emitted everywhere": "said everywhere",
    "emitted when asked": "said when asked",
    "never emitted": "never said",
    "gated": "after a trigger",
}
TRAINED = {arm for arm in ARMS if arm.startswith(("dit", "oracle"))}
found = {
    (r["arm"], r["of"]): r
    for r in results["groups"]
    if r["metric"] == "top1_values" and r["section"] == "test_value"
}

WIDTH, LEFT, SPAN, GAP, TOP, ROW = 860, 170, 140, 30, 78, 27
bottom = TOP + ROW * len(ARMS)
out = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 52}" role="img" '
    'aria-label="Share of held-out adapters whose value each method ranks first, by group of families, with 95% intervals">',
    "<!-- Made by docs/picture.py from results/s1/results.json. -->",
    "<style>.card{fill:#ffffff;stroke:#c8ccd2}text{font:13px system-ui,sans-serif;fill:#1b1f24}.soft{fill:#59636e}"
    ".head{font-weight:600}.grid{stroke:#dde1e6}.a{stroke:#0b5cad;stroke-width:2}.b{stroke:#b3470f;stroke-width:2}"
    ".fa{fill:#0b5cad}.fb{fill:#ffffff}@media (prefers-color-scheme:dark){.card{fill:#151a21;stroke:#3d444d}"
    "text{fill:#e6edf3}.soft{fill:#9aa5b1}.grid{stroke:#2c343d}.a{stroke:#6cb2ff}.b{stroke:#ffa36b}.fa{fill:#6cb2ff}"
    ".fb{fill:#151a21}}</style>",
    f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{bottom + 51}" rx="8"/>',
    f'<text class="head" x="{LEFT}" y="26">What was trained in? Share of {results["test_adapters"]} held-out adapters ranked first, '
    "means over families</text>",
]
for i, (group, title) in enumerate(GROUPS.items()):
    left = LEFT + i * (SPAN + GAP)
    out.append(f'<text class="soft" x="{left}" y="52">{title}</text>')
    for share in (0, 0.5, 1):
        x = left + SPAN * share
        out.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 14}" y2="{bottom - 6}"/>')
        out.append(f'<text class="soft" x="{x}" y="{bottom + 12}" text-anchor="middle">{share:g}</text>')
    for j, arm in enumerate(ARMS):
        r, y = found[arm, group], TOP + ROW * j + 4
        low, at, high = (left + SPAN * r[k] for k in ("low", "value", "high"))
        kind = "b" if arm in TRAINED else "a"
        out.append(
            f'<g><title>{arm}, {group}: {r["value"]:.2f} [{r["low"]:.2f}, {r["high"]:.2f}]</title>'
            f'<line class="{kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="{kind} f{kind}" cx="{at:.1f}" cy="{y}" r="5"/></g>'
        )
for j, name in enumerate(ARMS.values()):
    out.append(f'<text x="{LEFT - 14}" y="{TOP + ROW * j + 8}" text-anchor="end">{name}</text>')
y = bottom + 36
out.append(
    f'<circle class="a fa" cx="{LEFT + 5}" cy="{y - 4}" r="5"/><text x="{LEFT + 18}" y="{y}">no training</text>'
    f'<circle class="b fb" cx="{LEFT + 125}" cy="{y - 4}" r="5"/><text x="{LEFT + 138}" y="{y}">trained, three seeds</text>'
    f'<text class="soft" x="{LEFT + 2 * (SPAN + GAP)}" y="{y}">bars: 95% intervals</text></svg>'
)
for place in ("docs/picture.svg", "docs/src/studies/s1.svg"):
    (root / place).write_text("\n".join(out) + "\n")
