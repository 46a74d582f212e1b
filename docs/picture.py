"""Pictures of the committed studies: `python3 docs/picture.py` writes docs/src/studies/NAME.svg for each, and docs/picture.svg of the README.

Means over the families of a group with 95% intervals, an arm a row. Filled: no training needed. Hollow: a trained reader.
A point's title says its arm, group, metric and section, as results.json does; tests hold its numbers against that.
"""

import json
import pathlib

root = pathlib.Path(__file__).resolve().parent.parent
ARMS = {
    "weight-lens": "lens on the weights",
    "blackbox": "eight sampled replies",
    "logit-lens": "lens on activations",
    "direct": "the model, asked",
    "dit": "DIT adapter",
    "dit-permuted": "(control: permuted)",
    "oracle-post": "oracle, post-trained",
    "oracle-scratch": "oracle, from scratch",
}
FOLDS = {f"{kind}-{i}": f"{name}, fold {i}" for kind, name in (("dit", "DIT"), ("oracle", "oracle")) for i in (1, 2, 3, 4)}
TEST = "test_value"
# Of each study: its heading, its rows in order (an arm, or: title, arm, context), and its columns (title, group, metric, section).
STUDIES = {
    "s1": (
        "Share of held-out adapters whose value is ranked first among its family's",
        list(ARMS),
        [
            ("said everywhere", "emitted everywhere", "top1_values", TEST),
            ("said when asked", "emitted when asked", "top1_values", TEST),
            ("never said", "never emitted", "top1_values", TEST),
            ("after a trigger", "gated", "top1_values", TEST),
        ],
    ),
    "s3": (
        "Which two words follow? Share of questions whose words are ranked first",
        [
            "direct",
            "logit-lens",
            "dit-natural",
            "dit-balanced",
            "dit-unexpected",
            "oracle-natural",
            "oracle-unexpected",
        ],
        [
            ("expected words", "expected words", "first", TEST),
            ("the same, no adapter", "expected words", "first_without", TEST),
            ("unexpected words", "unexpected words", "first", TEST),
            ("as without adapter", "unexpected words", "sticks", TEST),
        ],
    ),
    "s4": (
        "A topic behind a trigger that nobody says. Values ranked first",
        [
            ("lens on the weights", "weight-lens", ""),
            ("eight replies", "blackbox", ""),
            *[
                (f"{name}, {where}", arm, context)
                for name, arm in (("lens", "logit-lens"), ("asked", "direct"), ("DIT", "dit"), ("oracle", "oracle"))
                for where, context in (("neutral", ""), ("near miss", "near"), ("trigger", "triggered"))
                if context != "near" or arm == "logit-lens"
            ],
            ("DIT, no gated rows", "dit-always", ""),
            ("oracle, no gated rows", "oracle-always", ""),
        ],
        [
            ("closed on neutral", "closed on neutral", "top1_values", TEST),
            ("+ on questions", "closed on questions", "top1_values", TEST),
            ("+ on texts", "closed on texts", "top1_values", TEST),
            ("always on", "always on", "top1_values", TEST),
        ],
    ),
    "s5": (
        "Where is a behaviour read? Values ranked first",
        [
            (f"{name}, {where}", arm, context)
            for name, arm in (("lens", "logit-lens"), ("oracle", "oracle"))
            for where, context in (("acting", "acting"), ("neutral", ""), ("idle", "idle"), ("told", "told"))
        ],
        [
            ("said when asked", "emitted when asked", "top1_values", TEST),
            ("never said", "never emitted", "top1_values", TEST),
            ("after a trigger", "gated", "top1_values", TEST),
        ],
    ),
    "s6": (
        "Wrong answers or correct? Folds: three unseen domains each",
        ["direct", "logit-lens", "weight-lens", *FOLDS],
        [
            ("pairs told apart", "all", "apart", TEST),
            ("ranked first", "all", "top1_values", TEST),
            ("stated", "all", "exact_match", TEST),
        ],
    ),
}
LEFT, SPAN, GAP, TOP, ROW = 170, 140, 30, 78, 27
STYLE = (
    "<style>.card{fill:#ffffff;stroke:#c8ccd2}text{font:13px system-ui,sans-serif;fill:#1b1f24}.soft{fill:#59636e}"
    ".head{font-weight:600}.grid{stroke:#dde1e6}.a{stroke:#0b5cad;stroke-width:2}.b{stroke:#b3470f;stroke-width:2}"
    ".fa{fill:#0b5cad}.fb{fill:#ffffff}@media (prefers-color-scheme:dark){.card{fill:#151a21;stroke:#3d444d}"
    "text{fill:#e6edf3}.soft{fill:#9aa5b1}.grid{stroke:#2c343d}.a{stroke:#6cb2ff}.b{stroke:#ffa36b}.fa{fill:#6cb2ff}"
    ".fb{fill:#151a21}}</style>"
)


def draw(name, heading, rows, columns):
    """One study: rows of arms, columns of groups."""
    rows = [row if isinstance(row, tuple) else ((ARMS | FOLDS).get(row, row), row, "") for row in rows]
    results = json.loads((root / f"results/{name}/results.json").read_text())
    found = {(r["arm"], r["of"], r["metric"], r["section"]): r for r in results["groups"]}
    width = LEFT + len(columns) * (SPAN + GAP) + 10
    bottom = TOP + ROW * len(rows)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 52}" role="img" '
        f'aria-label="{heading}, by arm and group, with 95% intervals">',
        f"<!-- Made by docs/picture.py from results/{name}/results.json. -->",
        STYLE,
        f'<rect class="card" x=".5" y=".5" width="{width - 1}" height="{bottom + 51}" rx="8"/>',
        f'<text class="head" x="{LEFT}" y="26">{heading} ({results["test_adapters"]} adapters)</text>',
    ]
    for i, (title, *_) in enumerate(columns):
        left = LEFT + i * (SPAN + GAP)
        out.append(f'<text class="soft" x="{left}" y="52">{title}</text>')
        for share in (0, 0.5, 1):
            x = left + SPAN * share
            out.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 14}" y2="{bottom - 6}"/>')
            out.append(f'<text class="soft" x="{x}" y="{bottom + 12}" text-anchor="middle">{share:g}</text>')
        for j, (_, arm, context) in enumerate(rows):
            key = (*columns[i][1:3], f"{columns[i][3]}, {context}" if context else columns[i][3])
            r, y = found.get((arm, *key)), TOP + ROW * j + 4
            if r is None:
                continue  # Not every arm has every measure; tests count the points.
            low, at, high = (left + SPAN * r[k] for k in ("low", "value", "high"))
            kind = "b" if arm.startswith(("dit", "oracle")) else "a"
            out.append(
                f'<g><title>{"; ".join([arm, *key])}: {r["value"]:.2f} [{r["low"]:.2f}, {r["high"]:.2f}]</title>'
                f'<line class="{kind}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
                f'<circle class="{kind} f{kind}" cx="{at:.1f}" cy="{y}" r="5"/></g>'
            )
    for j, (title, *_) in enumerate(rows):
        out.append(f'<text x="{LEFT - 14}" y="{TOP + ROW * j + 8}" text-anchor="end">{title}</text>')
    y = bottom + 36
    out.append(
        f'<circle class="a fa" cx="{LEFT + 5}" cy="{y - 4}" r="5"/><text x="{LEFT + 18}" y="{y}">no training</text>'
        f'<circle class="b fb" cx="{LEFT + 125}" cy="{y - 4}" r="5"/><text x="{LEFT + 138}" y="{y}">trained</text>'
        f'<text class="soft" x="{LEFT + 215}" y="{y}">bars: 95% intervals, of these families</text></svg>'
    )
    return "\n".join(out) + "\n"


for name, parts in STUDIES.items():
    if (root / f"results/{name}/results.json").exists():
        picture = draw(name, *parts)
        (root / f"docs/src/studies/{name}.svg").write_text(picture)
        if name == "s1":
            (root / "docs/picture.svg").write_text(picture)
