"""Is the batch as good as the plain evaluation's? And how few configurations are enough?

    python benchmarks/quality.py [--full]

1. Batches of 10 from pools of real predictions, by `get_batchbald_batch` and by the plain loop (every candidate, at every step, on all M
   configurations), judged by their joint information under an estimate that neither of them uses.
2. What decides a pick is the difference between candidates. Its noise over seeds, for the candidates that matter after 6, 8 and 10 picks,
   by weighted configurations for several M and by eq. 36 with 10,000; and the smallest M that is no noisier.

Quick: 4 pools of 500 points and M = 2,000. Full: 20 pools of 2,000 points and M = 10,000. All for networks trained on 20 and on 100 digits.
"""

import math
import statistics
import time

import common
import torch
from torch import Tensor

from batchbald_nbdev.active_learning import derive_generator
from batchbald_nbdev.all import WeightedJointEntropy, compute_conditional_entropy, get_batchbald_batch
from batchbald_nbdev.plain_batchbald import get_plain_batchbald_batch

POOLS = {
    "tiny": dict(pools=2, N=60, K=20, M=200, B=5, draws=2_000),
    "quick": dict(pools=4, N=500, K=100, M=2_000, B=10, draws=200_000),
    "full": dict(pools=20, N=2_000, K=100, M=10_000, B=10, draws=1_000_000),
}
NOISE = {
    "tiny": dict(N=60, K=20, picks=(3, 4), budgets=(50, 100), reference=200, seeds=3, candidates=5),
    "quick": dict(N=1_000, K=100, picks=(6, 8, 10), budgets=(500, 1_000, 2_000, 4_000), reference=10_000, seeds=8, candidates=20),
    "full": dict(N=2_000, K=100, picks=(6, 8, 10), budgets=(250, 500, 1_000, 1_500, 2_000, 3_000, 4_000, 6_000, 10_000), reference=10_000, seeds=64, candidates=30),
}
ALLOWED = -0.001  # of the joint information


def compare_batches(args, *, pools: int, N: int, K: int, M: int, B: int, draws: int) -> list[dict]:
    "A row for each pool: both batches and what they are worth."
    rows = []
    for labels in (20, 100):
        start = time.perf_counter()
        for pool in range(pools):
            if pool and time.perf_counter() - start > args.limit / 2:
                break
            seed = args.seed + pool
            x = common.make_predictions(N, K, labels=labels, seed=seed)
            generator = derive_generator(seed, "ours")
            batches = {
                "ours": lambda: get_batchbald_batch(x, B, M, generator=generator).indices,
                "default": lambda: get_batchbald_batch(x, B, generator=generator).indices,
                "plain": lambda: get_plain_batchbald_batch(x, B, M, generator=derive_generator(seed, "plain")).indices,
            }
            row = {"question": "batches", "labels": labels, "seed": seed, "N": N, "K": K, "C": 10, "B": B, "M": M}
            for name, call in batches.items():
                run = common.measure(call)
                information, error = common.joint_information(x, run.result, draws, seed)
                row |= {f"{name}_indices": run.result, f"{name}_seconds": run.seconds, f"{name}_information": information, f"{name}_error": error}
            for name in ("ours", "default"):
                row[f"{name}_change"] = row[f"{name}_information"] / row["plain_information"] - 1
                row[f"{name}_same"] = len({*row[f"{name}_indices"]} & {*row["plain_indices"]})
            rows.append(row)
        common.say(f"{labels} labels: {sum(o['labels'] == labels for o in rows)} of {pools} pools")
    return rows


def sampled_scores(log_probs_B_K_C: Tensor, candidates_n_K_C: Tensor, M: int, generator: torch.Generator) -> Tensor:  # scores_n
    """The candidates' scores by eq. 36, up to what they share: M configurations of the picked labels, as many from each parameter sample,
    and the mean entropy of the candidate's label given each, less its conditional entropy."""
    B, K, C = log_probs_B_K_C.shape
    log_joints_M_K = torch.zeros(K * (M // K), K, dtype=torch.double)
    for log_probs_K_C in log_probs_B_K_C.double():
        labels_M = torch.multinomial(log_probs_K_C.exp(), M // K, replacement=True, generator=generator).flatten()
        log_joints_M_K += log_probs_K_C.T[labels_M]
    posteriors_M_K = log_joints_M_K.softmax(1).float()
    probs_K_nC = candidates_n_K_C.float().exp().transpose(0, 1).flatten(1)
    sums_nC = torch.zeros(probs_K_nC.shape[1], dtype=torch.double)
    for posteriors_m_K in posteriors_M_K.split(1_000):
        products_m_nC = posteriors_m_K @ probs_K_nC
        sums_nC -= (products_m_nC * products_m_nC.clamp_min(1e-30).log()).sum(0, dtype=torch.double)
    return sums_nC.view(len(candidates_n_K_C), C).sum(1) / len(posteriors_M_K) - compute_conditional_entropy(candidates_n_K_C)


def weighted_scores(log_probs_B_K_C: Tensor, candidates_n_K_C: Tensor, M: int, generator: torch.Generator) -> Tensor:  # scores_n
    state = WeightedJointEntropy(M, log_probs_B_K_C.shape[1], generator=generator)
    return state.add_variables(log_probs_B_K_C).compute_gains(candidates_n_K_C)


def compare_noise(args, *, N: int, K: int, picks: tuple, budgets: tuple, reference: int, seeds: int, candidates: int) -> list[dict]:
    "A row for each estimator, M and number of picks."
    rows = []
    for labels in (20, 100):
        x = common.make_predictions(N, K, labels=labels, seed=args.seed)
        chosen = get_batchbald_batch(x, max(picks), 4_000, generator=derive_generator(args.seed, "noise")).indices
        for n in picks:
            batch_B_K_C = x[chosen[:n]]
            gains_N = weighted_scores(batch_B_K_C, x, 1_000, derive_generator(args.seed, "rank"))
            gains_N[chosen[:n]] = -math.inf
            contenders = x[gains_N.topk(candidates + 1).indices]  # the first is the leader, which the others are compared with
            for name, scores, M in [("eq. 36", sampled_scores, reference), *(("weighted", weighted_scores, M) for M in budgets)]:
                scores_S_n = torch.stack([scores(batch_B_K_C, contenders, M, derive_generator(args.seed, "noise", name, M, n, s)) for s in range(seeds)])
                noise_n = (scores_S_n - scores_S_n[:, :1])[:, 1:].std(0)
                rows.append({
                    "question": "noise", "labels": labels, "N": N, "K": K, "C": 10, "picks": n, "method": name, "M": M, "seeds": seeds,
                    "noise": noise_n.median().item(), "largest_noise": noise_n.max().item(),
                })  # fmt: skip
            common.say(f"{labels} labels, {n} picks")
    return rows


def smallest_budget(rows: list[dict], labels: int, picks: int) -> int | None:
    "The smallest M from which on the weighted configurations are no noisier than eq. 36."
    here = [o for o in rows if (o["labels"], o["picks"]) == (labels, picks)]
    allowed, = [o["noise"] for o in here if o["method"] == "eq. 36"]
    smallest = None
    for row in sorted((o for o in here if o["method"] == "weighted"), key=lambda o: -o["M"]):
        if row["noise"] > allowed:
            break
        smallest = row["M"]
    return smallest


def main(argv: list[str] | None = None) -> None:
    args = common.parse("quality", __doc__, argv, {"tiny": 60, "quick": 60, "full": 3_600})
    common.ignore_ceiling()
    size, noise = POOLS[args.form], NOISE[args.form]
    batches = compare_batches(args, **size)
    summary, table = {"planned_pools": size["pools"], "allowed_change": ALLOWED}, []
    for labels in (20, 100):
        here = [o for o in batches if o["labels"] == labels]
        for name in ("ours", "default"):
            changes = [o[f"{name}_change"] for o in here]
            mean, error = statistics.mean(changes), statistics.stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else None
            M = size["M"] if name == "ours" else common.default_num_samples()
            summary[f"{name}_{labels}"] = {"M": M, "pools": len(here), "mean_change": mean, "error": error, "met": mean >= ALLOWED}
            information = [statistics.mean(o[f"{o_name}_information"] for o in here) for o_name in (name, "plain")]
            same = sum(o[f"{name}_same"] for o in here) / sum(o["B"] for o in here)
            show_error = "" if error is None else f" ± {error:.3%}"
            table.append([labels, len(here), f"{M:,}", f"{information[0]:.4f}", f"{information[1]:.4f}", f"{mean:+.3%}{show_error}", f"{same:.0%}", "yes" if mean >= ALLOWED else "NO"])
    common.print_table(["labels", "pools", "M", "nats", f"nats, plain, M = {size['M']:,}", "change", "picks in common", f"at least {ALLOWED:.1%}"], table, "Joint information of the batch")

    rows = compare_noise(args, **noise)
    smallest = {f"{labels}_{n}": smallest_budget(rows, labels, n) for labels in (20, 100) for n in noise["picks"]}
    found = list(smallest.values())
    summary |= {"smallest_M": smallest, "smallest_M_for_all": None if None in found else max(found), "default_M": common.default_num_samples()}
    common.print_table(
        ["labels", "picks", f"eq. 36, M = {noise['reference']:,}", *(f"M = {M:,}" for M in noise["budgets"]), "smallest M"],
        [
            [labels, n, *(f"{o['noise']:.5f}" for o in rows if (o["labels"], o["picks"]) == (labels, n)), smallest[f"{labels}_{n}"] or "none of these"]
            for labels in (20, 100)
            for n in noise["picks"]
        ],
        "Noise of the difference between two candidates (nats)",
    )
    print(f"\nsmallest M for all: {summary['smallest_M_for_all'] or 'none of these'}; the default is {summary['default_M']:,}")
    common.write_record(args, batches + rows, summary=summary)


if __name__ == "__main__":
    main()
