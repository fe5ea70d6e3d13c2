"""Computes again, by numpy, what `nestling bench report` has made of a folder of
results, as docs/bench.md describes it. Ends with a message if anything differs.

Usage: reference.py FOLDER
"""

import json
import math
import pathlib
import sys

import numpy as np

REPLICATES = 8000
rng = np.random.default_rng(5)


def values(measured):
    """Nanoseconds; there are too few samples for a warm-up to be looked for."""
    khz = measured["clock"]["khz"]
    ticks = np.array(measured["samples"], float) - measured["timer_cost"]
    return ticks * 1e6 / khz / measured["work"]


def effective(samples):
    """How many independent samples tell as much about the median."""
    n = len(samples)
    above = (samples > np.median(samples)).astype(float)
    above -= above.mean()
    variance = np.mean(above**2)
    correlation = lambda lag: np.sum(above[: n - lag] * above[lag:]) / (n * variance)
    time = 1.0
    for lag in range(1, n // 2, 2):
        pair = correlation(lag) + correlation(lag + 1)
        if pair <= 0:
            break
        time += 2 * pair
    return min(max(math.ceil(n / time), 1), n)


def resampled_medians(samples, count):
    """Medians of real resamples."""
    size = (count, effective(samples))
    return np.median(rng.choice(samples, size=size), axis=1)


def replicates(boots, chosen):
    """Medians over boots, for the boots chosen by each line of `chosen`."""
    medians = np.array([np.median(boot) for boot in boots])
    within = np.mean([np.var(resampled_medians(boot, 4000), ddof=1) for boot in boots])
    between = np.var(medians, ddof=1)
    n = len(boots)
    scale = math.sqrt(max(between - within, 0) / between * n / (n - 1))
    shift = (scale - 1) * (medians - np.median(medians))
    drawn = np.zeros(chosen.shape)
    for index, boot in enumerate(boots):
        here = chosen == index
        drawn[here] = resampled_medians(boot, int(here.sum())) + shift[index]
    return drawn


def check(what, found, expected, slack):
    if not abs(found - expected) <= slack:
        sys.exit(f"{what}: {found}, by numpy {expected}, give or take {slack}")


def check_interval(what, estimate, value, drawn):
    check(f"{what}, value", estimate["value"], value, 1e-9 * value)
    low, high = np.quantile(drawn, [0.025, 0.975])
    # Both are random, by some hundredths of the width.
    slack = 0.15 * (high - low)
    check(f"{what}, low", estimate["low"], low, slack)
    check(f"{what}, high", estimate["high"], high, slack)


folder = pathlib.Path(sys.argv[1])
report = json.loads((folder / "report.json").read_text())
boots = [json.loads(path.read_text()) for path in sorted(folder.glob("boot-*.json"))]
measured = {}
for boot in boots:
    for level in boot["levels"]:
        for phase in level["phases"]:
            if phase["pass"] == 0:
                key = phase["row"], level["level"]
                measured.setdefault(key, []).append(values(phase["outcome"]["measured"]))

checked = 0
for row in report["rows"]:
    for cell in row["cells"]:
        what = f"{row['row']} at L{cell['level']}"
        own = measured[row["row"], cell["level"]]
        figures = cell["figures"]
        pooled = np.concatenate(own)
        shares = {"min": 0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999, "max": 1}
        for name, share in shares.items():
            expected = np.quantile(pooled, share)
            check(f"{what}, {name}", figures["quantiles"][name], expected, 1e-9 * expected)
        median = np.median([np.median(boot) for boot in own])
        chosen = rng.integers(len(own), size=(REPLICATES, len(own)))
        drawn = np.median(replicates(own, chosen), axis=1)
        check_interval(f"{what}, median", figures["median"], median, drawn)
        for ratio in figures["ratios"]:
            other = measured[row["row"], ratio["to"]]
            over = np.median(replicates(own, chosen), axis=1)
            under = np.median(replicates(other, chosen), axis=1)
            expected = median / np.median([np.median(boot) for boot in other])
            check_interval(f"{what}, to L{ratio['to']}", ratio, expected, over / under)
            checked += 1
        checked += 1
print(f"{checked} estimates agree with numpy {np.__version__}")
