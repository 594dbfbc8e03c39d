"""How long does a batch from a pool of ten million points take, in how little memory, and is it still the same when a worker dies?

    python benchmarks/many_machines.py [--full]

The pool is made on the fly, chunk by chunk, and is nowhere as a whole: points with 16 features, K = 20 linear classifiers around a common
one, C = 10 classes, float16. A batch of 10, M as by default. Each run is a fresh process with Dask's threads, as many as there are cores;
its peak is all the memory it ever had, libraries included. Chunks computed again are those beyond one pass over the pool. Then a cluster of
two worker processes, left alone and with one of them killed after the fifth pick. Up to 1,000,000 points the batch is compared with that of
`get_batchbald_batch` on the pool in memory (400 MB).
Quick: 100,000 and 1,000,000 points. Full: also 10,000,000.
"""

import json
import os
import signal
import time
from unittest.mock import patch

import common
import dask.array
import numpy as np
import torch

from batchbald_nbdev import plain_batchbald
from batchbald_nbdev.active_learning import derive_generator
from batchbald_nbdev.all import get_batchbald_batch, get_distributed_batchbald_batch

K, C, B = 20, 10, 10
SIZES = {"tiny": [2_000], "quick": [100_000, 1_000_000], "full": [100_000, 1_000_000, 10_000_000]}
BUDGETS = {"tiny": [1], "quick": [2**28, 2**22], "full": [2**28, 2**22]}  # of kept rows; for all sizes but the largest
CLUSTER = {"tiny": (2_000, 1), "quick": (100_000, 2**22), "full": (1_000_000, 2**24)}  # points, budget
IN_MEMORY = 1_000_000
LIMIT = 4 * 2**30
KILL_AFTER = 5

computed = []  # the chunks that this process made


def make_pool(N: int, seed: int) -> dask.array.Array:  # log_probs_N_K_C, float16
    g = derive_generator(seed, "classifiers")
    weights_F_KC = (torch.randn(16, 1, C, generator=g) + 0.12 * torch.randn(16, K, C, generator=g)).flatten(1)

    def make_chunk(block_info):
        (start, stop), *_ = block_info[None]["array-location"]
        computed.append(start)
        g = derive_generator(seed, "points", start)
        scales_n_1 = (0.5 * torch.randn(stop - start, 1, generator=g) - 0.5).exp()  # some are nearer to all boundaries than others
        points_n_F = scales_n_1 * torch.randn(stop - start, 16, generator=g)
        return (points_n_F @ weights_F_KC).view(-1, K, C).log_softmax(-1).half().numpy()

    chunks = dask.array.core.normalize_chunks((min(10_000, N // 8), K, C), (N, K, C))
    return dask.array.map_blocks(make_chunk, chunks=chunks, dtype=np.float16, meta=np.empty((0, 0, 0), np.float16))


def peak_bytes() -> int | None:
    try:
        return common._status_bytes("VmHWM")
    except OSError:
        return None


def select(x, max_bytes: int, seed: int) -> dict:
    start = time.perf_counter()
    batch = get_distributed_batchbald_batch(x, B, max_bytes=max_bytes, generator=derive_generator(seed, "configurations"))
    return {"seconds": time.perf_counter() - start, "indices": batch.indices, "scores": batch.scores}


def compare(rows: list[dict], x, seed: int) -> list[dict]:
    "Are these the batch of one machine that has the pool in memory?"
    if len(x) > IN_MEMORY:
        return [row | {"same_batch": None} for row in rows]
    log_probs_N_K_C = x.compute()
    start = time.perf_counter()
    batch = get_batchbald_batch(log_probs_N_K_C, B, generator=derive_generator(seed, "configurations"))
    seconds = time.perf_counter() - start
    same = [row["indices"] == batch.indices and np.allclose(row["scores"], batch.scores, rtol=0, atol=1e-6) for row in rows]
    return [row | {"same_batch": o, "in_memory_seconds": seconds} for row, o in zip(rows, same)]


def run_threads(N: int, max_bytes: int, seed: int) -> list[dict]:
    x, before = make_pool(N, seed), len(computed)
    row = {"run": "threads", "chunks": x.numblocks[0]} | select(x, max_bytes, seed)
    row |= {"peak_bytes": peak_bytes(), "computed_again": len(computed) - before - row["chunks"]}
    return compare([row], x, seed)


def run_cluster(N: int, max_bytes: int, seed: int) -> list[dict]:
    from dask.distributed import Client, LocalCluster

    x, rows, steps = make_pool(N, seed), [], plain_batchbald._steps
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, Client(cluster) as client:

        def killing(batch_size, progress):
            for pick in steps(batch_size, progress):
                if pick == KILL_AFTER:
                    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
                yield pick

        for run, how in (("2 workers", steps), (f"2 workers, one killed after {KILL_AFTER} picks", killing)):
            with patch.object(plain_batchbald, "_steps", how):
                found = select(x, max_bytes, seed)
            rows.append({"run": run, "chunks": x.numblocks[0], "computed_again": None, "peak_bytes": max(client.run(peak_bytes).values())} | found)
    return compare(rows, x, seed)


def child(cluster: bool, **task) -> list[dict]:
    common.ignore_ceiling()
    return (run_cluster if cluster else run_threads)(**task)


def main(argv: list[str] | None = None) -> None:
    args = common.parse("many_machines", __doc__, argv, {"tiny": 60, "quick": 60, "full": 1200})
    if args.child:
        print(json.dumps(child(**json.loads(args.child))))
        return
    sizes, rows, pace = SIZES[args.form], [], 0.0  # pace: seconds for each point, as last seen
    tasks = [(N, max_bytes, False) for N in sizes for max_bytes in BUDGETS[args.form] if N != max(sizes) or max_bytes == BUDGETS[args.form][0]]
    for N, max_bytes, cluster in [*tasks, (*CLUSTER[args.form], True)]:
        row = {"N": N, "K": K, "C": C, "B": B, "M": common.default_num_samples(), "max_bytes": max_bytes}
        if pace * N > args.limit:
            rows.append(row | {"run": "cluster" if cluster else "threads", "not_run": f"would take some {pace * N:,.0f} s, more than --limit"})
            continue
        common.say(f"{N:,} points, {common.show_bytes(max_bytes)} of rows kept{', two workers' * cluster}")
        task = {"cluster": cluster, "N": N, "max_bytes": max_bytes, "seed": args.seed}
        found = child(**task) if args.form == "tiny" else common.run_child(__file__, args.threads, **task)
        pace = max(o["seconds"] for o in found) / N
        rows += [row | o for o in found]
    common.print_table(
        ["N", "run", "rows kept", "time", "peak memory", "chunks computed again", "same batch as in memory"],
        [
            [
                f"{o['N']:,}",
                o["run"],
                common.show_bytes(o["max_bytes"]),
                common.show_seconds(o.get("seconds")) or o["not_run"],
                common.show_bytes(o.get("peak_bytes")),
                "" if o.get("computed_again") is None else o["computed_again"],
                {True: "yes", False: "NO", None: ""}[o.get("same_batch")],
            ]
            for o in rows
        ],
    )
    peak = max((o.get("peak_bytes") or 0 for o in rows), default=0)
    print(f"\nmost memory of a process: {common.show_bytes(peak)} ({'under' if peak < LIMIT else 'OVER'} {common.show_bytes(LIMIT)})")
    common.write_record(args, rows, budget_bytes=LIMIT)


if __name__ == "__main__":
    main()
