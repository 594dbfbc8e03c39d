"""What does k-BALD save, and what does it cost? Against BALD on large pools, and against BatchBALD, plain and fast, for several batch sizes.

    python benchmarks/kbald.py [--full]

1. 2-BALD and BatchBALD beside BALD on the same predictions: K = 100, C = 10, a batch of 10.
2. Table 1 of the k-BALD paper (Kirsch, 2023): the time of BatchBALD by the plain loop and as it is, of 2-BALD and of 3-BALD for batches of 5, 10, 20
   and 50, with the joint information that each batch reaches under an estimate that none of them uses.

Times are also given as multiples of one time of BALD for each pool, the median over all sizes of batch: what BALD takes does not depend on it.

All calls of one size take turns in one process. Quick: 20,000 and 60,000 points, and 2,000 for the table. Full: also networks trained on 100
digits, and 10,000 points for the table. --limit is for one size and number of labels.
"""

import statistics

import common

from batchbald_nbdev.active_learning import derive_generator
from batchbald_nbdev.all import get_bald_batch, get_batchbald_batch, get_kbald_batch
from batchbald_nbdev.plain_batchbald import get_plain_batchbald_batch

SIZES = {
    "tiny": dict(pools=[60], N=60, K=20, batches=(3, 5), repeats=1, draws=2_000, labels=(20,)),
    "quick": dict(pools=[20_000, 60_000], N=2_000, K=100, batches=(5, 10, 20, 50), repeats=5, draws=100_000, labels=(20,)),
    "full": dict(pools=[20_000, 60_000], N=10_000, K=100, batches=(5, 10, 20, 50), repeats=9, draws=1_000_000, labels=(20, 100)),
}


def methods(x, B: int, seed: int) -> dict:
    "Calls by name; M is the default of both forms of BatchBALD."
    return {
        "BALD": lambda: get_bald_batch(x, B),
        "2-BALD": lambda: get_kbald_batch(x, B, 2),
        "3-BALD": lambda: get_kbald_batch(x, B, 3),
        "BatchBALD": lambda: get_batchbald_batch(x, B, generator=derive_generator(seed, "kbald")),
        "BatchBALD, plain loop": lambda: get_plain_batchbald_batch(x, B, generator=derive_generator(seed, "kbald")),
    }


def measure(x, names, B: int, args, *, question: str, labels: int, repeats: int, draws: int) -> list[dict]:
    "A row for each method."
    N, K, C = x.shape
    calls = {name: call for name, call in methods(x, B, args.seed).items() if name in names}
    rows = []
    for name, runs in common.interleave(calls, repeats, args.limit).items():
        batch = runs[-1].result
        information, error = common.joint_information(x, batch.indices, draws, args.seed)
        rows.append({
            "question": question, "method": name, "labels": labels, "N": N, "K": K, "C": C, "B": B,
            "M": common.default_num_samples() if "Batch" in name else None, **common.summarise(runs),
            "indices": batch.indices, "score": sum(batch.scores) if name == "BALD" else batch.scores[-1], "information": information, "information_error": error,
        })  # fmt: skip
    common.say(f"{labels} labels, {N:,} points, a batch of {B}")
    return rows


def add_times_bald(rows: list[dict]) -> None:
    "Times as multiples of BALD's on the same pool, of which there is one for all sizes of batch."
    for row in rows:
        runs = [s for o in rows if o["method"] == "BALD" and (o["labels"], o["N"]) == (row["labels"], row["N"]) for s in o["all_seconds"]]
        row["bald_seconds"] = statistics.median(runs)
        row["times_bald"] = row["seconds"] / row["bald_seconds"]


def main(argv: list[str] | None = None) -> None:
    args = common.parse("kbald", __doc__, argv, {"tiny": 10, "quick": 20, "full": 600})
    common.ignore_ceiling()
    size = SIZES[args.form]
    rows, warm = [], common.make_predictions(60, size["K"], seed=args.seed)
    for call in methods(warm, 2, args.seed).values():
        call()  # the first call of anything pays for more than itself
    shared = dict(repeats=size["repeats"], draws=size["draws"])
    for labels in size["labels"]:
        x = common.make_predictions(max(size["pools"]), size["K"], labels=labels, seed=args.seed)
        for N in size["pools"]:
            rows += measure(x[:N], ("BALD", "2-BALD", "BatchBALD"), min(10, N), args, question="passes", labels=labels, **shared)
        for B in size["batches"]:
            rows += measure(x[: size["N"]], methods(x, B, args.seed), B, args, question="table 1", labels=labels, **shared)
    add_times_bald(rows)

    common.print_table(
        ["labels", "N", "B", "method", "M", "time", "times BALD", "memory", "its own score (nats)", "joint information (nats)"],
        [
            [
                o["labels"], f"{o['N']:,}", o["B"], o["method"], o["M"] or "", common.show_seconds(o["seconds"]), f"{o['times_bald']:.3g}", common.show_bytes(o["peak_bytes"]),
                f"{o['score']:.3f}", f"{o['information']:.4f} ± {o['information_error']:.4f}",
            ]
            for o in rows
        ],
    )  # fmt: skip
    pairs = [o for o in rows if o["question"] == "passes" and o["method"] == "2-BALD"]
    print(f"\n2-BALD for a batch of 10: {min(o['times_bald'] for o in pairs):.1f} to {max(o['times_bald'] for o in pairs):.1f} times BALD")
    common.write_record(args, rows)


if __name__ == "__main__":
    main()
