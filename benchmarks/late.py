"""What does a long batch cost, in units of BALD, and is it as good as one whose picks were all told apart?

    python benchmarks/late.py [--full]

1. Price: batches of 10, 50 and 100 beside BALD alone, in one run, at the default M: the median of five ratios of neighbouring calls, and
   the least seconds of each.
2. Worth: near log K candidates differ by less than the error of the estimate, and `get_batchbald_batch` stops telling them apart. The
   same search with `race_error=0` evaluates every candidate that may win, at every pick. Both batches are judged by log K less what is
   left unknown about the parameters, under 10 times the configurations.

Quick: pools of 2,000 points and of 500. Full: 20,000 points, K = 100, and 5,000 points, K = 1,000, for the price; for the worth 17 pools of
2,000 points with K = 100 and 3 of 500 points with K = 1,000. Networks trained on 20 digits. Each pool is saved when it is done, and a
second run goes on from there.
"""

import math
import statistics

import common
import torch
from torch import Tensor

from batchbald_nbdev.active_learning import derive_generator
from batchbald_nbdev.all import WeightedJointEntropy, compute_bald, get_batchbald_batch
from batchbald_nbdev.joint_entropy import entropies_left

PRICE = {
    "tiny": [dict(N=60, K=20, sizes=(5, 30))],
    "quick": [dict(N=2_000, K=100, sizes=(10, 50))],
    "full": [dict(N=20_000, K=100, sizes=(10, 50, 100)), dict(N=5_000, K=1_000, sizes=(10, 50, 100))],
}
WORTH = {
    "tiny": [dict(pools=2, N=60, K=20, sizes=(10, 30))],
    "quick": [dict(pools=2, N=500, K=100, sizes=(30, 60))],
    "full": [dict(pools=17, N=2_000, K=100, sizes=(50, 100)), dict(pools=3, N=500, K=1_000, sizes=(50, 100))],
}
ALLOWED = -0.001  # of the joint information


def find_price(args, *, N: int, K: int, sizes: tuple) -> list[dict]:
    x, rows = common.make_predictions(N, K, seed=args.seed), []
    for B in sizes:
        calls = {"bald": lambda: compute_bald(x), "ours": lambda: get_batchbald_batch(x, B)}
        runs = common.interleave(calls, 1 if args.form == "tiny" else 5, args.limit)
        bald, ours = (min(run.seconds for run in runs[name]) for name in ("bald", "ours"))
        # a machine is not equally fast all the time: each batch beside the BALD scores before it
        times = statistics.median(one.seconds / other.seconds for one, other in zip(runs["ours"], runs["bald"]))
        told_apart = runs["ours"][0].result.told_apart
        rows.append({
            "question": "price", "N": N, "K": K, "C": 10, "B": B, "M": common.default_num_samples(), "bald_seconds": bald,
            "seconds": ours, "times_bald": times, "told_apart": told_apart,
        })  # fmt: skip
        common.say(f"N = {N:,}, K = {K:,}, batch of {B}: {times:.1f} times BALD")
    return rows


def information_by_left(log_probs_B_K_C: Tensor, M: int, generator: torch.Generator) -> float:
    K = log_probs_B_K_C.shape[1]
    state = WeightedJointEntropy(M, K, generator=generator).add_variables(log_probs_B_K_C)
    return math.log(K) - (state.weights_M @ entropies_left(state.posteriors_M_K)).item()


def find_worth(args, rows: list[dict], *, pools: int, N: int, K: int, sizes: tuple) -> None:
    "Adds a row for each pool and batch size that is not there."
    M, B = common.default_num_samples(), max(sizes)
    done = {(row["seed"], row["N"], row["K"]) for row in rows}
    for seed in range(args.seed, args.seed + pools):
        if (seed, N, K) in done:
            continue
        x = common.make_predictions(N, K, seed=seed)
        batches = {"late": get_batchbald_batch(x, B), "all_told_apart": get_batchbald_batch(x, B, race_error=0)}
        for size in sizes:
            row = {"question": "worth", "seed": seed, "N": N, "K": K, "C": 10, "B": size, "M": M}
            for name, batch in batches.items():
                picks = batch.indices[:size]
                information = information_by_left(x[picks], 10 * M, derive_generator(seed, "left", name))
                row |= {f"{name}_information": information, f"{name}_indices": picks}
            row["change"] = row["late_information"] / row["all_told_apart_information"] - 1
            rows.append(row | {"told_apart": batches["late"].told_apart})
        common.save_record(args, common.make_record(args, rows))
        common.say(f"worth, K = {K:,}: {seed - args.seed + 1} of {pools} pools")


def main(argv: list[str] | None = None) -> None:
    anew = dict(action="store_true", help="begin anew, and do not go on from the record")
    args = common.parse("late", __doc__, argv, {"tiny": 60, "quick": 60, "full": 600}, fresh=anew)
    common.ignore_ceiling()
    worth, table, summary = [row for row in common.read_rows(args) if row["question"] == "worth"], [], []
    for size in WORTH[args.form]:
        find_worth(args, worth, **size)
    for K, B in sorted({(o["K"], o["B"]) for o in worth}):
        changes = [o["change"] for o in worth if (o["K"], o["B"]) == (K, B)]
        mean, worst = statistics.mean(changes), min(changes)
        summary.append({"K": K, "B": B, "pools": len(changes), "mean_change": mean, "worst_change": worst, "met": mean >= ALLOWED})
        table.append([f"{K:,}", B, len(changes), f"{mean:+.3%}", f"{worst:+.3%}"])
    common.print_table(["K", "batch", "pools", "mean change", "worst"], table, "Information of a batch, beside one whose picks were all told apart")
    prices = [row for size in PRICE[args.form] for row in find_price(args, **size)]
    common.print_table(
        ["N", "K", "batch", "BALD", "batch", "times BALD", "told apart"],
        [[f"{o['N']:,}", f"{o['K']:,}", o["B"], f"{o['bald_seconds']:.2f} s", f"{o['seconds']:.2f} s", f"{o['times_bald']:.1f}", o["told_apart"] or "all"] for o in prices],
        "Price of a batch",
    )
    common.write_record(args, prices + worth, summary=summary, allowed_change=ALLOWED)


if __name__ == "__main__":
    main()
