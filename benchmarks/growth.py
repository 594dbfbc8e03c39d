"""How does the time of BatchBALD grow with N, K, C, M and the batch? One size changes, the others stay.

    python benchmarks/growth.py [--full]

Quick: up to 64,000 points. Full: up to 1,000,000 points (4 GB in float32), 100 classes, 1,000 parameter samples, batches of 100. Batches
also show whether scores stay finite, gains stay positive, and the warning near log K appears.
"""

import math
import statistics
import warnings

import common
from torch import Tensor

from batchbald_nbdev.active_learning import derive_generator
from batchbald_nbdev.all import CeilingWarning, get_bald_batch, get_batchbald_batch

BASE = {
    "tiny": {"N": 60, "K": 20, "C": 10, "M": 100, "B": 4},
    "quick": {"N": 4_000, "K": 100, "C": 10, "M": 1_000, "B": 10},
    "full": {"N": 20_000, "K": 100, "C": 10, "M": 10_000, "B": 10},
}
AXES = {
    "tiny": {"N": [30, 60], "K": [10, 20], "C": [2, 20], "M": [50, 100], "B": [2, 30]},
    "quick": {"N": [1_000, 4_000, 16_000, 64_000], "K": [20, 100, 500], "C": [2, 10, 50], "M": [300, 1_000, 3_000, 10_000], "B": [1, 10, 30, 100]},
    "full": {
        "N": [1_000, 4_000, 20_000, 60_000, 250_000, 1_000_000],
        "K": [10, 30, 100, 300, 1_000],
        "C": [2, 5, 10, 20, 50, 100],
        "M": [100, 300, 1_000, 3_000, 10_000, 30_000, 100_000],
        "B": [1, 2, 5, 10, 20, 50, 100],
    },
}


def run(x: Tensor, B: int, M: int, seed: int, repeats: int, limit: float) -> dict:
    "Time, BALD's time, and what the last batch looked like."
    caught = []

    def call():
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            batch = get_batchbald_batch(x, B, M, generator=derive_generator(seed, "growth"))
        caught[:] = found
        return batch

    runs = common.interleave({"bald": lambda: get_bald_batch(x, B), "ours": call}, repeats, limit)
    batch = runs["ours"][-1].result
    steps = [b - a for a, b in zip([0.0, *batch.scores], batch.scores)]
    return {
        **common.summarise(runs["ours"]),
        "bald_seconds": statistics.median(o.seconds for o in runs["bald"]),
        "score": batch.scores[-1],
        "ceiling": batch.ceiling,
        "finite": all(map(math.isfinite, [*batch.scores, *batch.gains])),
        "smallest_gain": min([*batch.gains, *steps]),
        "ceiling_warning": any(issubclass(o.category, CeilingWarning) for o in caught),
    }


def walk(axis: str, values: list[int], base: dict, args) -> list[dict]:
    "Runs along one axis, with the sizes of the rows that could not be afforded marked."
    N = max(values) if axis == "N" else base["N"]
    K = max(values) if axis == "K" else base["K"]
    pool = common.make_predictions(N, K, seed=args.seed)
    rows, pace = [], 0.0  # seconds for each unit of the axis, as last seen
    for value in values:
        size = base | {axis: value}
        row = {"axis": axis, **size, "labels": 20}
        if pace * value > args.limit:
            rows.append(row | {"not_run": f"would take some {pace * value:,.0f} s, more than --limit"})
            continue
        common.say(f"{axis} = {value:,}")
        x = common.change_classes(pool[: size["N"], : size["K"]].contiguous(), size["C"])
        found = run(x, size["B"], size["M"], args.seed, 1 if args.form == "tiny" else 3, args.limit / 4)
        pace = found["seconds"] / value
        rows.append(row | found | {"times_bald": found["seconds"] / found["bald_seconds"]})
    return rows


def exponent(rows: list[dict]) -> float | None:
    "p where time grows as size^p between the smallest and the largest that ran."
    ran = [(o[o["axis"]], o["seconds"]) for o in rows if "seconds" in o]
    return math.log(ran[-1][1] / ran[0][1]) / math.log(ran[-1][0] / ran[0][0]) if len(ran) > 1 else None


def main(argv: list[str] | None = None) -> None:
    args = common.parse("growth", __doc__, argv, {"tiny": 10, "quick": 10, "full": 300})
    base, rows, exponents = BASE[args.form], [], {}
    for axis, values in AXES[args.form].items():
        found = walk(axis, values, base, args)
        rows += found
        exponents[axis] = exponent(found)
        power = "" if exponents[axis] is None else f"; time as {axis} to the {exponents[axis]:.2f}"
        common.print_table(
            [axis, "time", "BALD", "times BALD", "memory", "score of log K", "warned"],
            [
                [f"{o[axis]:,}", o["not_run"]] + [""] * 5
                if "not_run" in o
                else [
                    f"{o[axis]:,}", common.show_seconds(o["seconds"]), common.show_seconds(o["bald_seconds"]), f"{o['times_bald']:.3g}",
                    common.show_bytes(o["peak_bytes"]), f"{o['score']:.3f} of {o['ceiling']:.3f}", "yes" if o["ceiling_warning"] else "no",
                ]
                for o in found
            ],
            f"{axis}, the others at {', '.join(f'{k} = {v:,}' for k, v in base.items() if k != axis)}{power}",
        )  # fmt: skip
    ran = [o for o in rows if "seconds" in o]
    sound = all(o["finite"] and o["smallest_gain"] >= 0 and o["score"] <= o["ceiling"] + 1e-9 for o in ran)
    print(f"\nall scores finite, no gain negative, none above log K: {'yes' if sound else 'NO'}")
    common.write_record(args, rows, base=base, exponents=exponents, sound=sound)


if __name__ == "__main__":
    main()
