"""How much memory does BatchBALD take beyond its input, for pools of up to a million points?

    python benchmarks/memory.py [--full]

Each run is a fresh process. Its input, float16 in a file that is mapped into memory or a float32 tensor, is made block by block and read
once before the measurement starts, so that what is counted is what selecting adds. K = 100, C = 10, a batch of 10, M as by default.
Quick: 20,000 and 100,000 points. Full: also 1,000,000 (2 GB of disk in the folder for temporary files, which TMPDIR names, and 4 GB of
memory).
"""

import json
import tempfile
from pathlib import Path

import common
import numpy as np
import torch

from batchbald_nbdev.active_learning import derive_generator
from batchbald_nbdev.all import get_bald_batch, get_batchbald_batch

SIZES = {"tiny": [60], "quick": [20_000, 100_000], "full": [20_000, 100_000, 1_000_000]}
KINDS = {"tensor": "float32 tensor", "map": "float16 memory map"}
BUDGET = 512 * 2**20


def child(path: str, N: int, kind: str, method: str, seed: int) -> dict:
    common.ignore_ceiling()
    mapped = np.load(path, mmap_mode="r")[:N]
    if kind == "map":
        x = mapped
        for n in range(0, N, 10_000):
            x[n : n + 10_000].max()  # pages of the file count as memory from when they are first read
    else:
        x = torch.empty(mapped.shape)
        for n in range(0, N, 10_000):
            x[n : n + 10_000] = torch.tensor(mapped[n : n + 10_000]).float().log_softmax(-1)
    select = {"BALD": get_bald_batch, "BatchBALD": lambda x, B: get_batchbald_batch(x, B, generator=derive_generator(seed, "memory"))}[method]
    select(x[:50], 10)  # what a first call loads belongs to the libraries
    run = common.measure(lambda: select(x, 10))
    return {"seconds": run.seconds, "peak_bytes": run.peak_bytes, "input_bytes": x.nbytes}


def main(argv: list[str] | None = None) -> None:
    args = common.parse("memory", __doc__, argv, {"tiny": 60, "quick": 60, "full": 600})
    if args.child:
        print(json.dumps(child(**json.loads(args.child))))
        return
    sizes, rows, pace = SIZES[args.form], [], {}  # pace: seconds for each point, as last seen
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.npy"
        stored = np.lib.format.open_memmap(path, "w+", np.float16, (max(sizes), 100, 10))
        for block, log_probs_n_K_C in common.iter_predictions(max(sizes), seed=args.seed):
            stored[block] = log_probs_n_K_C.numpy()
        stored.flush()
        del stored
        for N in sizes:
            for kind, words in KINDS.items():
                for method in ("BALD", "BatchBALD") if args.form == "full" else ("BatchBALD",):
                    M = common.default_num_samples() if method == "BatchBALD" else None
                    row = {"method": method, "N": N, "K": 100, "C": 10, "B": 10, "M": M, "input": words, "labels": 20}
                    expected = pace.get((kind, method), 0.0) * N
                    if expected > args.limit:
                        rows.append(row | {"not_run": f"would take some {expected:,.0f} s, more than --limit"})
                        continue
                    common.say(f"{method}, {N:,} points, {words}")
                    found = common.run_child(__file__, args.threads, path=str(path), N=N, kind=kind, method=method, seed=args.seed)
                    pace[kind, method] = found["seconds"] / N
                    rows.append(row | found)
    ran = [o for o in rows if "seconds" in o]
    if any(o["peak_bytes"] is None for o in ran):
        common.say("memory.py: this system does not say how much memory was taken; Linux's /proc does. The record has times only.")
    common.print_table(
        ["N", "input", "its size", "method", "memory beyond it", "time"],
        [
            [f"{o['N']:,}", o["input"], common.show_bytes(o.get("input_bytes")), o["method"], common.show_bytes(o.get("peak_bytes")), common.show_seconds(o.get("seconds")) or o["not_run"]]
            for o in rows
        ],
    )
    peak = max((o["peak_bytes"] or 0 for o in ran if o["method"] == "BatchBALD"), default=0)
    print(f"\nmost memory beyond the input: {common.show_bytes(peak)} ({'under' if peak < BUDGET else 'OVER'} {common.show_bytes(BUDGET)})")
    common.write_record(args, rows, budget_bytes=BUDGET)


if __name__ == "__main__":
    main()
