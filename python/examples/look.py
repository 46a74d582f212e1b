"""Look at a store: python look.py STORE [PNG]

A page of adapters, their gates against their norms, and how often each arm of the newest comparison is right.
"""

# %% The store
import sys

import lorafab
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

store = lorafab.Store(sys.argv[1] if len(sys.argv) > 1 else "store")
png = sys.argv[2] if len(sys.argv) > 2 else "look.png"

# %% Adapters: the best first
columns = ["behaviour", "status", "rank", "norm", "gate_on", "split"]
adapters = store.adapters("has gate_on", sort="-gate_on", columns=columns, frame="pandas")
adapters["family"] = adapters["behaviour"].str.split("/").str[0]
print(adapters.head(10).to_string(index=False))
print(adapters.groupby("family")["gate_on"].describe().round(2).to_string())

# %% Gates against norms
figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
for family, rows in adapters.groupby("family"):
    left.scatter(rows["norm"], rows["gate_on"], s=18, alpha=0.6, label=f"{family} ({len(rows)})")
left.set(xlabel="norm of the weight difference", ylabel="gate: replies that show it", ylim=(-0.05, 1.05))
left.set_title("Adapters")
left.legend(frameon=False)

# %% A comparison: top-1 by arm, with intervals
comparison = store.comparison()
top1 = [r for r in comparison["results"] if r["metric"] == "top1" and r["split"] == "test_value" and r["context"] == "neutral"]
families = sorted({r["family"] for r in top1})
arms = [a["arm"] for a in comparison["arms"] if any(r["arm"] == a["arm"] for r in top1)]
for i, family in enumerate(families):
    by_arm = {r["arm"]: r for r in top1 if r["family"] == family}
    there = [(arms.index(arm) + (i - (len(families) - 1) / 2) * 0.2, r) for arm, r in by_arm.items()]
    value = [r["value"] for _, r in there]
    low = [max(r["value"] - r["ci_low"], 0) for _, r in there]
    high = [max(r["ci_high"] - r["value"], 0) for _, r in there]
    right.errorbar(value, [y for y, _ in there], xerr=[low, high], fmt="o", capsize=2, label=family)
right.set_yticks(range(len(arms)), arms)
right.invert_yaxis()
right.set(xlabel="top-1, with its 95% interval", xlim=(-0.05, 1.05))
right.set_title(f"{comparison['run']}: values never trained on" + (" (smoke run: means nothing)" if comparison["smoke"] else ""))
right.legend(frameon=False)
figure.savefig(png, dpi=120)
print(f"wrote {png}")
