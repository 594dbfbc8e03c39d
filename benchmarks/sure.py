"""How far off are scores of batches under other masks, and does a batch know it?

    python benchmarks/sure.py [--full] [--fresh]

For three networks (digits with 20 and with 100 labels; a CNN on digits of 28 x 28, 20 labels) and K = 30, 100, 300:

1. *A fixed batch* of ten is scored under many sets of K masks that had no part in picking it: how far scores spread, and what error, bias
   and score without bias the batch reports from one set alone.
2. *Batches of their own* (digits; K = 5, 10, 20 as well): every set of masks picks ten points, and `judge_batch` says what they are worth
   under 10,000 others.

The worth, to which all is compared, is what 10,000 other masks say, with their own bias taken off. Quick: 12 sets. Full: 50.
Finished parts are kept in the record, and a further run goes on after them; `--fresh` begins anew.
"""

import json
import math
import sys
from functools import cache

import common
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from batchbald_nbdev.active_learning import derive_generator, make_seeded
from batchbald_nbdev.all import (
    WeightedJointEntropy,
    collect_log_probs,
    get_balanced_indices,
    get_batchbald_batch,
    get_repeated_digits,
    make_mnist_cnn,
    train_models,
)
from batchbald_nbdev.sampling_error import error_over_samples, leave_each_out
from batchbald_nbdev.second_look import judge_batch

B, NETWORKS = 10, ("digits_20", "digits_100", "cnn_20")
FORMS = {
    "tiny": dict(sets=3, own=2, sizes=(10,), own_sizes=(5,), networks=NETWORKS[:1], judges=200, copies=1, steps=20),
    "quick": dict(sets=12, own=6, sizes=(30, 100), own_sizes=(10, 30), networks=NETWORKS[:2], judges=10_000, copies=3, steps=200),
    "full": dict(sets=50, own=20, sizes=(30, 100, 300), own_sizes=(5, 10, 20, 30, 100), networks=NETWORKS, judges=10_000, copies=3, steps=200),
}


@cache
def make_network(name: str, seed: int, copies: int, steps: int):  # model, inputs of the pool
    labels = int(name.split("_")[1])
    if name.startswith("digits"):
        model, originals = common._trained(labels, seed)
        inputs = originals.repeat(copies, 1)
        return model, inputs + 0.1 * torch.randn(inputs.shape, generator=derive_generator(seed, "noise"))
    data = get_repeated_digits(repeats=1, noise=0.0, originals=1150, test=500, validation=100, generator=derive_generator(seed, "data"))
    images = torch.nn.functional.interpolate(data.pool_inputs.view(-1, 1, 8, 8), size=(28, 28), mode="bilinear")
    train = get_balanced_indices(data.pool_labels, labels // 10, generator=derive_generator(seed, "initial"))
    others = torch.ones(len(images), dtype=torch.bool)
    others[train] = False
    model = make_seeded(make_mnist_cnn, derive_generator(seed, labels, "weights"))
    train_models([model], [images[train]], [data.pool_labels[train]], [(seed, labels)], steps=steps)
    return model, images[others]


def score(log_probs_S_B_K_C: Tensor, worth_B) -> list[dict]:
    "Picks under S sets of masks, after each pick: what their scores do, and what they say of themselves. Worths are numbers, or one for each set."
    S, _, K, _ = log_probs_S_B_K_C.shape
    told_S_B, bias_S_B, error_S_B = (torch.zeros(S, B, dtype=torch.double) for _ in range(3))
    for s, log_probs_B_K_C in enumerate(log_probs_S_B_K_C):
        state = WeightedJointEntropy(4_000, K, generator=torch.Generator().manual_seed(s))
        for b in range(B):
            state.add_variables(log_probs_B_K_C[b : b + 1])
            values_K, bias = leave_each_out(state.weights_M, state.posteriors_M_K)
            told_S_B[s, b], bias_S_B[s, b], error_S_B[s, b] = state.information, bias, error_over_samples(values_K)
    return [describe(b, K, told_S_B[:, b], bias_S_B[:, b], error_S_B[:, b], worth_B[b]) for b in range(B)]


def describe(b: int, K: int, told_S: Tensor, bias_S: Tensor, error_S: Tensor, worth) -> dict:
    "One line of the record; `worth` is a number or one for each set."
    held = lambda scores_S: ((scores_S - worth).abs() <= 2 * error_S).double().mean().item()
    off = lambda scores_S: (scores_S - worth).mean().item()
    fixed = {} if isinstance(worth, Tensor) else {"spread": told_S.std().item(), "spread_debiased": (told_S + bias_S).std().item()}
    mean_worth = worth.mean().item() if isinstance(worth, Tensor) else worth
    return {
        "picks": b + 1, "share": told_S.mean().item() / math.log(K), "score": told_S.mean().item(), "worth": mean_worth, **fixed,
        "error": error_S.median().item(), "bias": off(told_S), "bias_debiased": off(told_S + bias_S),
        "held": held(told_S), "held_debiased": held(told_S + bias_S), "below": (told_S + bias_S <= worth + 2 * error_S).double().mean().item(),
    }  # fmt: skip


def pick(model, inputs: Tensor, K: int, key: tuple):
    return get_batchbald_batch(collect_log_probs(model, inputs, K, generator=derive_generator(*key, "masks")), B)


def judge(model, inputs: Tensor, picks, judges: int, seed: int):
    "Worth of picks: 10,000 masks that nobody else has, and few configurations, since their noise is small."
    generator = derive_generator(seed, "judge")
    return judge_batch(model, picks, judges, inputs=inputs, num_configurations=1_000, generator=generator)


def run_fixed(name: str, K: int, seed: int, form: dict) -> list[dict]:
    model, inputs = make_network(name, seed, form["copies"], form["steps"])
    batch = pick(model, inputs, K, (seed, name, K, "first"))
    worth, sets = judge(model, inputs, batch, form["judges"], seed), form["sets"]
    fresh = collect_log_probs(model, inputs[batch.indices], K * sets, generator=derive_generator(seed, name, K, "fresh"))
    lines = score(fresh.unflatten(1, (sets, K)).transpose(0, 1), worth.debiased_scores)
    return [{"network": name, "K": K, "part": "fixed", "sets": sets} | line for line in lines]


def run_own(name: str, K: int, seed: int, form: dict) -> list[dict]:
    model, inputs = make_network(name, seed, form["copies"], form["steps"])
    picked, worths, indices = [], [], []
    for s in range(form["own"]):
        log_probs_N_K_C = collect_log_probs(model, inputs, K, generator=derive_generator(seed, name, K, s, "masks"))
        batch = get_batchbald_batch(log_probs_N_K_C, B)
        picked.append(log_probs_N_K_C[batch.indices])
        worths.append(judge(model, inputs, batch, form["judges"], seed).debiased_scores)
        indices.append({*batch.indices})
    worth_S_B = torch.tensor(worths, dtype=torch.double)
    same = [len(a & b) for i, a in enumerate(indices) for b in indices[:i]]
    lines = score(torch.stack(picked), worth_S_B.T)
    lines[-1] |= {"same_of_ten": sum(same) / len(same), "worth_spread": worth_S_B[:, -1].std().item()}
    return [{"network": name, "K": K, "part": "own", "sets": form["own"]} | line for line in lines]


def show_two(seed: int, form: dict) -> dict:
    "Two sets of masks, what each picks, and a map of the pool: for a picture."
    K = form["sizes"][-2 if len(form["sizes"]) > 2 else -1]
    model, inputs = make_network("digits_20", seed, form["copies"], form["steps"])
    map_N_2 = torch.tensor(PCA(2, random_state=0).fit_transform(inputs.numpy()))
    two, first = [], None
    for s in range(2):
        log_probs_N_K_C = collect_log_probs(model, inputs, K, generator=derive_generator(seed, "digits_20", K, s, "masks"))
        batch = get_batchbald_batch(log_probs_N_K_C, B)
        first = first or (log_probs_N_K_C, batch)
        worth = judge(model, inputs, batch, form["judges"], seed)
        images = [[round(v, 1) for v in inputs[i].tolist()] for i in batch.indices]
        places = [[round(v, 2) for v in map_N_2[i].tolist()] for i in batch.indices]
        facts = {"indices": batch.indices, "scores": batch.scores, "sampling_errors": batch.sampling_errors}
        two.append(facts | {"debiased_scores": batch.debiased_scores, "worth": worth.debiased_scores, "images": images, "places": places})
    log_probs_N_K_C, batch = first
    state = WeightedJointEntropy(4_000, K).add_variables(log_probs_N_K_C[batch.indices[:5]])
    gains_N = state.compute_gains(log_probs_N_K_C)
    gains_N[batch.indices[:5]] = 0
    top = gains_N.argsort(descending=True)[:300]
    return {"K": K, "sets": two, "gains_after_five": [round(v, 4) for v in gains_N[top].tolist()], "positions_after_five": top.tolist()}


def main(argv: list[str] | None = None) -> None:
    anew = dict(action="store_true", help="begin anew, and do not go on from the record")
    args = common.parse("sure", __doc__, argv, {"tiny": 60, "quick": 600, "full": 7_200}, fresh=anew)
    common.ignore_ceiling()
    form, rows = FORMS[args.form], common.read_rows(args)
    two = json.loads(args.out.read_text()).get("two") if rows else None
    two = two or show_two(args.seed, form)
    parts = [(name, K, "fixed") for name in form["networks"] for K in form["sizes"]]
    parts += [(name, K, "own") for name in form["networks"] for K in form["own_sizes"] if name != "cnn_20"]  # for that it takes hours
    done = {(row["network"], row["K"], row["part"]) for row in rows}
    for name, K, part in parts:
        if (name, K, part) in done:
            continue
        common.say(f"{name}, K = {K}, {part}")
        rows += {"fixed": run_fixed, "own": run_own}[part](name, K, args.seed, form)
        common.save_record(args, common.make_record(args, rows, two=two))
    common.write_record(args, rows, two=two)
    header = ["network", "K", "part", "picks", "I / log K", "worth", "bias", "debiased", "spread", "error", "held", "held, debiased"]
    keys = ["share", "worth", "bias", "bias_debiased", "spread", "error", "held", "held_debiased"]
    table = [[row["network"], row["K"], row["part"], row["picks"], *(f"{row[k]:.3f}" if k in row else "" for k in keys)] for row in rows]
    common.print_table(header, table)


if __name__ == "__main__":
    sys.exit(main())
