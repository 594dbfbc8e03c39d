"""BatchBALD here and in three other libraries, interleaved in one process, on the same predictions.

    make bench                              installs the other libraries into .venv-bench, and runs this among others
    .venv-bench/bin/python benchmarks/peers.py [--full]

Quick: 2,000 points of a network trained on 20 digits, and `batchbald_redux` also on one of 100 digits. Full: also `batchbald_redux` in
float64, 20,000 points for it in float32 and float64, and 60,000 for this package alone. K = 100 parameter samples, C = 10 classes,
M = 10,000 configurations, a batch of 10. Every library gets its input in the layout and the precision that it works with, made before
the clock starts. A peer that would pass --limit gets fewer points and its time is scaled, which the record says.
"""

import os
import sys

if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"  # the others' progress bars take time, if little; read when tqdm is imported

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import common
import numpy as np
import torch
from torch import Tensor

from batchbald_nbdev.active_learning import derive_generator
from batchbald_nbdev.all import get_bald_batch, get_batchbald_batch

SIZES = {"tiny": dict(N=60, K=20, M=400, B=5), "quick": dict(N=2_000, K=100, M=10_000, B=10), "full": dict(N=2_000, K=100, M=10_000, B=10)}
DRAWS = {"tiny": 2_000, "quick": 200_000, "full": 1_000_000}


# How each library is called. A function gets predictions and sizes, prepares, and returns the call that is measured; that returns the picks.


def ours(x: Tensor, B: int, M: int | None, seed: int, dtype: torch.dtype | None = None) -> Callable:
    options = {} if M is None else {"num_samples": M}
    return lambda: get_batchbald_batch(x, B, dtype=dtype, generator=derive_generator(seed, "ours"), progress=False, **options).indices


def bald(x: Tensor, B: int, M: int, seed: int) -> Callable:
    return lambda: get_bald_batch(x, B).indices


def batchbald_redux(x: Tensor, B: int, M: int, seed: int, dtype: torch.dtype = torch.float32) -> Callable:
    from batchbald_redux.batchbald import get_batchbald_batch as theirs

    def call():
        with torch.random.fork_rng(devices=[]):  # it draws from the global generator
            torch.manual_seed(seed)
            return theirs(x, B, M, dtype=dtype).indices

    return call


def scikit_activeml(x: Tensor, B: int, M: int, seed: int) -> Callable:
    from skactiveml.pool import BatchBALD

    committee, X = common.activeml_committee(x.double().exp().transpose(0, 1).contiguous().numpy())

    def call():
        # The indices are the query's own: where points tie, it draws among them, and the largest utilities say less
        strategy = BatchBALD(n_MC_samples=M, sample_predictions_method_name="members", random_state=seed)
        return strategy.query(X, np.full(len(X), np.nan), committee, fit_ensemble=False, batch_size=B).tolist()

    return call


def in_order_of_picks(ranks_N: np.ndarray, scores_N: np.ndarray, B: int) -> list[int]:
    """Baal's picks, first pick first. It ranks by score, which grows from pick to pick, so the first pick is the last of its B; what it
    did not pick has a score of 0 or below."""
    return [int(i) for i in ranks_N[:B] if scores_N[i] > 0][::-1]


def baal(x: Tensor, B: int, M: int, seed: int) -> Callable:
    from baal.active.heuristics import BatchBALD

    probs_N_C_K = x.double().exp().transpose(1, 2).contiguous().numpy()
    # Its `num_samples` counts the picks after the first, and `num_draw` the configurations for each of the K parameter samples
    heuristic = BatchBALD(num_samples=B - 1, num_draw=M // x.shape[1])

    def call():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return in_order_of_picks(*heuristic.get_ranks(probs_N_C_K), B)

    return call


PEERS = {
    "batchbald_redux, float32": (batchbald_redux, "batchbald_redux", "exact while C^n <= M, then eq. 36 with M/K draws for each parameter sample; chunks of 1,024 points"),
    "batchbald_redux, float64": (
        lambda *args: batchbald_redux(*args, dtype=torch.double),
        "batchbald_redux",
        "exact while C^n <= M, then eq. 36 with M/K draws for each parameter sample; chunks of 1,024 points",
    ),
    "scikit-activeml": (scikit_activeml, "skactiveml", "float64 only; exact while C^n <= M, then eq. 36 with M/K draws for each parameter sample; all points at once"),
    "baal": (baal, "baal", "float64 only; eq. 36 from the second pick on (never exact), M/K draws for each parameter sample; all points at once"),
}


def missing_peers() -> list[str]:
    return sorted({module for _, module, _ in PEERS.values() if find_spec(module) is None})


def repeated(indices: list[int]) -> list[int]:
    "Indices that a batch names more than once."
    return sorted({i for i in indices if indices.count(i) > 1})


# Measuring


def free_bytes() -> int | None:
    try:
        line, = [o for o in Path("/proc/meminfo").read_text().splitlines() if o.startswith("MemAvailable")]
        return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        return None


def affordable(name: str, x: Tensor, B: int, M: int, seed: int, limit: float) -> tuple[int, float, str]:
    "How many of the N points a peer gets so that it ends within `limit` seconds and the memory there is; seconds that do not grow with N; why not all."
    N, K, C = x.shape
    few, more = max(B, 20), max(B, 60, N // 20)
    base, seconds = (common.measure(PEERS[name][0](x[:n], B, M, seed)).seconds for n in (few, more))
    slope = max((seconds - base) / max(more - few, 1), 1e-9)
    fixed = max(base - slope * few, 0.0)
    points, why = N, ""
    if fixed + slope * N > limit:
        points, why = int((limit - fixed) / slope), f"all {N:,} points would take some {fixed + slope * N:,.0f} s"
    if "redux" not in name:  # the others hold N x M x C numbers at a time: products, logarithms, and two more of that size
        needed, free = 4 * points * M * C * 8, free_bytes()
        if free and needed > 0.8 * free:
            points, why = int(points * 0.8 * free / needed), f"all {N:,} points would need some {4 * N * M * C * 8 / 2**30:.0f} GB of memory"
    return max(min(more, N), points), fixed, why


def compare(x: Tensor, names: list[str], args, *, B: int, M: int, labels: int, rounds: int) -> list[dict]:
    "A row for each method: this package and BALD before every peer, so that all see the same weather."
    N, K, C = x.shape
    calls = {"ours": ours(x, B, M, args.seed), "ours, default M": ours(x, B, None, args.seed), "BALD": bald(x, B, M, args.seed)}
    if any("float64" in name for name in names):
        calls["ours, float64"] = ours(x, B, M, args.seed, torch.double)
    for call in (get_bald_batch, get_batchbald_batch):
        call(x[:50], 2)  # the first call of anything pays for more than itself
    runs = {name: [] for name in [*calls, *names]}
    points = {name: affordable(name, x, B, M, args.seed, args.limit) for name in names}
    for _ in range(rounds):
        for name in names or [None]:
            for own, found in common.interleave(calls, 1).items():
                runs[own] += found
            if name:
                common.say(f"  {name}, {points[name][0]:,} points")
                runs[name].append(common.measure(PEERS[name][0](x[: points[name][0]], B, M, args.seed)))
    rows = []
    for name, found in runs.items():
        n, fixed, why = points.get(name, (N, 0.0, ""))
        row = {"method": name, "labels": labels, "N": N, "K": K, "C": C, "B": B, "M": M, "dtype": "float64" if name in ("scikit-activeml", "baal") or "float64" in name else "float32"}
        row |= common.summarise(found)
        if name == "ours, default M":
            row["M"] = common.default_num_samples()
        if name == "BALD":
            row["M"] = None
        if name in PEERS:
            row["how"] = PEERS[name][2]
        row["scaled"] = n < N
        if n < N:
            row["scaled_how"] = f"{why}; ran on {n:,} of them, and the time that grows with the points ({fixed:.1f} s do not) is in proportion; memory and batch are of the smaller run"
            for key in ("seconds", "min_seconds"):
                row[key] = fixed + (row[key] - fixed) * N / n
        row["indices"] = [int(i) for i in found[-1].result]
        row["repeated"] = repeated(row["indices"])
        indices = list(dict.fromkeys(row["indices"]))  # a label that is asked for twice tells nothing new
        row["information"], row["information_error"] = common.joint_information(x, indices, DRAWS[args.form], args.seed)
        rows.append(row)
    own, = [o["seconds"] for o in rows if o["method"] == "ours"]
    for row in rows:
        row["times_ours"] = row["seconds"] / own
    return rows


def show(rows: list[dict]) -> None:
    common.print_table(
        ["labels", "N", "method", "M", "time", "times ours", "memory", "joint information (nats)", "named twice"],
        [
            [
                o["labels"], f"{o['N']:,}", o["method"], f"{o['M']:,}" if o["M"] else "",
                common.show_seconds(o["seconds"]) + (" (scaled)" if o["scaled"] else ""), f"{o['times_ours']:,.3g}",
                common.show_bytes(o["peak_bytes"]), f"{o['information']:.4f} ± {o['information_error']:.4f}" + (" (fewer points)" if o["scaled"] else ""),
                ", ".join(map(str, o["repeated"])),
            ]
            for o in rows
        ],
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    args = common.parse("peers", __doc__, argv, {"tiny": 60, "quick": 120, "full": 1_800})
    common.ignore_ceiling()
    missing = missing_peers()
    if missing and args.form != "tiny":
        sys.exit(f"peers.py: not installed here: {', '.join(missing)}. `make bench` installs them into .venv-bench and runs this; --tiny runs without them.")
    names = [name for name, (_, module, _) in PEERS.items() if module not in missing]
    size = SIZES[args.form]
    single = [o for o in names if "float64" not in o]
    redux = [o for o in names if "redux" in o]
    tasks = {
        "tiny": [(20, size["N"], single)],
        "quick": [(20, size["N"], single), (100, size["N"], single[:1])],
        "full": [(20, size["N"], names), (100, size["N"], single[:1]), (20, 20_000, redux), (100, 20_000, []), (20, 60_000, []), (100, 60_000, [])],
    }[args.form]
    rows = []
    for labels, N, here in tasks:
        common.say(f"{labels} labels, {N:,} points")
        x = common.make_predictions(N, size["K"], labels=labels, seed=args.seed)
        found = compare(x, here, args, B=size["B"], M=size["M"], labels=labels, rounds=1 if here else 3)
        show(found)
        rows += found
    common.write_record(args, rows, one_process=True, missing=missing)


if __name__ == "__main__":
    main()
