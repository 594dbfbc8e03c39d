"""How far is BatchBALD from what it cannot do without? Against plain BALD on the same predictions, and against one pass of reading them.

    python benchmarks/limit.py [--full]

On one thread and on two, in fresh processes that take turns; within a process all calls take turns. K = 100, C = 10, a batch of 10.
Quick: 20,000 points of a network trained on 20 digits. Full: also 60,000, and 100 digits. --threads has no effect here, and --limit is for
one size and number of threads.
"""

import json
import os
import statistics
import tempfile
from pathlib import Path

import common
import numpy as np
import torch

from batchbald_nbdev.active_learning import derive_generator
from batchbald_nbdev.all import get_bald_batch, get_batchbald_batch

SIZES = {"tiny": ([60], 100, 3, 1), "quick": ([20_000], 10_000, 10, 5), "full": ([20_000, 60_000], 10_000, 10, 15)}  # N, M, B, calls of each kind
ROUNDS = {"tiny": 1, "quick": 2, "full": 3}  # processes of each number of threads
READ = "read once"


def child(path: str, N: int, M: int, B: int, repeats: int, limit: float, seed: int) -> dict:
    common.ignore_ceiling()
    x = torch.from_numpy(np.load(path)[:N])

    def batchbald(**options):
        return lambda: get_batchbald_batch(x, B, generator=derive_generator(seed, "limit"), **options)

    calls = {READ: x.sum, "BALD": lambda: get_bald_batch(x, B), f"BatchBALD, M = {M:,}": batchbald(num_samples=M), "BatchBALD, default M": batchbald()}
    for call in (x[:50].sum, lambda: get_bald_batch(x[:50], B), lambda: get_batchbald_batch(x[:50], B)):
        call()
    return {name: {"seconds": [o.seconds for o in runs], "peak_bytes": runs[-1].peak_bytes} for name, runs in common.interleave(calls, repeats, limit).items()}


def main(argv: list[str] | None = None) -> None:
    args = common.parse("limit", __doc__, argv, {"tiny": 10, "quick": 10, "full": 600})
    if args.child:
        print(json.dumps(child(**json.loads(args.child))))
        return
    pools, M, B, repeats = SIZES[args.form]
    threads_tried, rows = [1, 2] if (os.cpu_count() or 1) > 1 else [1], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.npy"
        for labels in (20, 100) if args.form == "full" else (20,):
            np.save(path, common.make_predictions(max(pools), labels=labels, seed=args.seed).numpy())
            for N in pools:
                found = {}  # (method, threads) -> seconds
                for _ in range(ROUNDS[args.form]):
                    for threads in threads_tried:
                        common.say(f"{labels} labels, {N:,} points, {threads} thread{'s' * (threads > 1)}")
                        share = args.limit / ROUNDS[args.form]
                        for name, runs in common.run_child(__file__, threads, path=str(path), N=N, M=M, B=B, repeats=repeats, limit=share, seed=args.seed).items():
                            kept = found.setdefault((name, threads), {"seconds": [], "peak_bytes": None})
                            kept["seconds"] += runs["seconds"]
                            kept["peak_bytes"] = runs["peak_bytes"]
                for (name, threads), kept in found.items():
                    median = {o: statistics.median(found[o, threads]["seconds"]) for o in (name, READ, "BALD")}
                    rows.append({
                        "method": name, "labels": labels, "N": N, "K": 100, "C": 10, "B": B, "M": M if "M =" in name else common.default_num_samples() if "default" in name else None,
                        "threads": threads, "seconds": median[name], "min_seconds": min(kept["seconds"]), "all_seconds": kept["seconds"], "peak_bytes": kept["peak_bytes"],
                        "times_bald": median[name] / median["BALD"], "times_read": median[name] / median[READ],
                        "times_one_thread": median[name] / statistics.median(found[name, 1]["seconds"]),
                    })  # fmt: skip
    common.print_table(
        ["labels", "N", "method", "threads", "time", "times BALD", "times reading", "of its time on one thread"],
        [[o["labels"], f"{o['N']:,}", o["method"], o["threads"], common.show_seconds(o["seconds"]), f"{o['times_bald']:.3g}", f"{o['times_read']:.3g}", f"{o['times_one_thread']:.0%}"] for o in rows],
    )
    ours = [o for o in rows if "BatchBALD" in o["method"]]
    largest = [o for o in ours if o["N"] == max(pools)]
    slower = [o for o in ours if o["threads"] > 1 and o["times_one_thread"] > 1]
    print(f"\nN = {max(pools):,}: {min(o['times_bald'] for o in largest):.1f} to {max(o['times_bald'] for o in largest):.1f} times BALD. ", end="")
    print(f"Two threads slower than one: {len(slower)} of {sum(o['threads'] > 1 for o in ours)}.")
    common.write_record(args, rows, threads_tried=threads_tried)


if __name__ == "__main__":
    main()
