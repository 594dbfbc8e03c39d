"""Which temperature? Softmax, power and softrank acquisition of BALD scores at many temperatures, in the active-learning loop (the question of
figure 2 of Kirsch et al. 2021).

    python benchmarks/temperature.py [--full]

Repeated digits: 600 digits, 8 noisy copies of each, 20 initial labels, K = 50. In a trial all methods start from the same labels and train from the
same initial weights on the same draws, so a method is compared with random acquisition within each trial. Top-k BALD stands for temperature 0, random
for infinity, and BatchBALD has none. A trial that would begin after `--limit` seconds is left out.

Quick: 12 trials up to 150 labels in batches of 10 (some 18 minutes). Full: 30 trials up to 200 labels in batches of 5, 10, 20 and 50 (hours).
"""

import math
import time

import common
import numpy as np

from batchbald_nbdev.active_learning import derive_generator
from batchbald_nbdev.all import (
    compute_bald,
    get_bald_batch,
    get_batchbald_batch,
    get_power_batch,
    get_random_batch,
    get_repeated_digits,
    get_softmax_batch,
    get_softrank_batch,
    run_trials,
)
from batchbald_nbdev.experiments import get_labels_to
from batchbald_nbdev.plots import get_curves

DRAWS = {"softmaxbald": get_softmax_batch, "powerbald": get_power_batch, "softrankbald": get_softrank_batch}
TEMPERATURES = {
    "softmaxbald": [2.0**n for n in range(-6, 2)],
    "powerbald": [2.0**n for n in range(-4, 3)],
    "softrankbald": [2.0**n for n in range(-3, 3)],
}
FORMS = {
    "tiny": dict(trials=2, sizes=(5,), budget=30, samples=5, repeats=2, steps=20),
    "quick": dict(trials=12, sizes=(10,), budget=150, samples=50, repeats=8, steps=500),
    "full": dict(trials=30, sizes=(5, 10, 20, 50), budget=200, samples=50, repeats=8, steps=500),
}


def make_methods(temperatures: dict[str, list[float]]) -> dict:
    "By (form, temperature), for the loop; None where there is no temperature, or where it is infinite, for which JSON has no number."

    def drawn(draw, temperature):
        return lambda round: draw(compute_bald(round.log_probs_N_K_C), round.batch_size, temperature=temperature, generator=round.generator)

    methods = {
        ("random", None): lambda round: get_random_batch(round.pool_size, round.batch_size, generator=round.generator),
        ("bald", 0.0): lambda round: get_bald_batch(round.log_probs_N_K_C, round.batch_size),
        ("batchbald", None): lambda round: get_batchbald_batch(round.log_probs_N_K_C, round.batch_size, 1_000, generator=round.generator),
    }
    return methods | {(name, t): drawn(DRAWS[name], t) for name, some in temperatures.items() for t in some}


def run(args, methods: dict, *, size: int, trials: int, budget: int, samples: int, repeats: int, steps: int, limit: float) -> list[dict]:
    "Records of all trials that the limit allows, as `run_trials` yields them; trial t has the seeds of `--seed` + t."
    records, start = [], time.perf_counter()
    for trial in range(trials):
        if trial > 1 and time.perf_counter() - start > limit:
            break
        seed = args.seed + trial
        data = get_repeated_digits(repeats, 0.1, generator=derive_generator(seed, "data"))
        for rows in run_trials([data], methods, seed=seed, size=size, samples=samples, budget=budget, steps=steps):
            records += [row | {"trial": trial} for row in rows]
        common.say(f"batches of {size}: trial {trial + 1} of {trials}, {time.perf_counter() - start:.0f} s")
    return records


def describe(records: list[dict], methods: dict, size: int) -> list[dict]:
    "A row for each method: accuracy over the curve in every trial, its gain over random in the same trial, labels to 90%, different digits in a batch."
    random_T = get_curves(records, ("random", None))[1].mean(1)
    rows = []
    for method in methods:
        labels_R, accuracy_T_R = get_curves(records, method)
        gain_T = accuracy_T_R.mean(1) - random_T
        bought = [row["distinct"] / len(row["indices"]) for row in records if row["method"] == method and row["indices"]]
        rows.append({
            "method": method[0], "temperature": method[1], "B": size, "trials": len(gain_T),
            "mean_accuracies": accuracy_T_R.mean(1).round(5).tolist(), "mean_accuracy": accuracy_T_R.mean(),
            "gain": gain_T.mean(), "gain_error": gain_T.std(ddof=1) / math.sqrt(len(gain_T)),
            "labels_to_90": [None if q == math.inf else q for q in get_labels_to(records, method, 0.9)], "distinct_share": sum(bought) / len(bought),
            "labels": labels_R.tolist(), "accuracy_quartiles": np.quantile(accuracy_T_R, [0.25, 0.5, 0.75], axis=0).round(4).tolist(),
        })  # fmt: skip
    return rows


def main(argv: list[str] | None = None) -> None:
    args = common.parse("temperature", __doc__, argv, {"tiny": 60, "quick": 1_200, "full": 20_000})
    common.ignore_ceiling()
    form = dict(FORMS[args.form])
    sizes = form.pop("sizes")
    methods = make_methods({name: some[::3] for name, some in TEMPERATURES.items()} if args.form == "tiny" else TEMPERATURES)
    rows, start = [], time.perf_counter()
    for size in sizes:
        rows += describe(run(args, methods, size=size, limit=args.limit / len(sizes), **form), methods, size)
    common.print_table(
        ["batches of", "method", "temperature", "mean accuracy", "gain over random", "its standard error", "labels to 90% (quartiles)", "different digits"],
        [[o["B"], o["method"], "" if o["temperature"] is None else f"{o['temperature']:g}", f"{o['mean_accuracy']:.1%}", f"{100 * o['gain']:+.2f}", f"{100 * o['gain_error']:.2f}",
          " / ".join("never" if q is None else f"{q:.0f}" for q in o["labels_to_90"]), f"{o['distinct_share']:.0%}"] for o in rows],
    )  # fmt: skip
    common.write_record(args, rows, seconds=time.perf_counter() - start, **form)


if __name__ == "__main__":
    main()
