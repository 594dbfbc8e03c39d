"""What does a batch of inputs with several labels cost, beside adding up the BALD scores of their labels?

    python benchmarks/labels.py [--full]

Pairs of scikit-learn's digits, a network with twelve sigmoids trained on 36 of them, and eight of its labels: six digits, even, above four. The sum,
the groups' own scores and a batch of ten take turns in one process, K = 100. --limit is for all rounds of one size.
"""

from functools import partial

import common

from batchbald_nbdev.active_learning import derive_generator, make_seeded
from batchbald_nbdev.all import collect_log_probs, get_balanced_indices, make_mlp, train_models
from batchbald_nbdev.datasets import get_digit_pairs
from batchbald_nbdev.several_labels import compute_multilabel_bald, compute_summed_bald, get_multilabel_batchbald_batch

SIZES = {
    "tiny": dict(N=60, K=10, repeats=1, M=(50,)),
    "quick": dict(N=5_000, K=100, repeats=3, M=(1_000, 4_000)),
    "full": dict(N=5_000, K=100, repeats=9, M=(1_000, 4_000)),
}
LABELS = [0, 1, 2, 3, 4, 5, 10, 11]


def make_predictions(N: int, K: int, seed: int):  # log_probs_N_L_K_C
    data = get_digit_pairs(originals=N, generator=derive_generator(seed, "data"))
    train = get_balanced_indices(data.pool_labels, 3 if N >= 600 else 1, generator=derive_generator(seed, "initial"))
    model = make_seeded(partial(make_mlp, 128, 128, 12), derive_generator(seed, "weights"))
    train_models([model], [data.pool_inputs[train]], [data.pool_labels[train]], [(seed,)])
    return collect_log_probs(model, data.pool_inputs, K, outputs="sigmoids")[:, LABELS].contiguous()


def main(argv=None):
    args = common.parse("labels", __doc__, argv, {"tiny": 60, "quick": 300, "full": 3_600})
    common.ignore_ceiling()
    size = SIZES[args.form]
    x = make_predictions(size["N"], size["K"], args.seed)
    get_multilabel_batchbald_batch(x[:200], 3)  # what is imported at the first call
    calls = {("sum", None): lambda: compute_summed_bald(x), ("groups", None): lambda: compute_multilabel_bald(x)}
    calls |= {("batch of ten", M): lambda M=M: get_multilabel_batchbald_batch(x, 10, M) for M in size["M"]}
    rows, (N, L, K, C) = [], x.shape
    for (name, M), runs in common.interleave(calls, size["repeats"], args.limit).items():
        rows.append({"method": name, "N": N, "L": L, "K": K, "C": C, "M": M, **common.summarise(runs)})
    for row in rows:
        row["times_sum"] = row["min_seconds"] / rows[0]["min_seconds"]
    shown = [[o["method"], o["M"] or "", common.show_seconds(o["min_seconds"]), f"{o['times_sum']:.1f}"] for o in rows]
    common.print_table(["what", "M", "least time", "times the sum"], shown)
    common.write_record(args, rows)


if __name__ == "__main__":
    main()
