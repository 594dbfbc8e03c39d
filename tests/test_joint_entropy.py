"The joint-entropy estimators against an independent enumeration, and against what their standard errors promise."
import math
import os

import numpy as np
import pytest
import torch

from everything import *

pytestmark = pytest.mark.filterwarnings("ignore:.*log K")


SEEDS = 200 if os.environ.get("SLOW") == "1" else 40


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_probs(rng, n, K, C):
    "Predictions with hard zeros, certain samples and copies, as float64 probabilities."
    probs = rng.dirichlet(np.full(C, rng.choice([0.2, 1.0, 5.0])), size=(n, K))
    probs[rng.random(probs.shape) < 0.15] = 0
    certain = rng.random((n, K)) < 0.2
    probs[certain | (probs.sum(-1) == 0)] = np.eye(C)[rng.integers(C)]
    probs /= probs.sum(-1, keepdims=True)
    for i in range(1, n):
        if rng.random() < 0.2:
            probs[i] = probs[i - 1]
    return probs


def brute_force(probs):
    "Joint entropy by an outer product over all labels, one axis each, in NumPy and in float64."
    n, K, C = probs.shape
    total = np.zeros((C,) * n)
    for k in range(K):
        joint = np.ones(())
        for i in range(n):
            joint = np.multiply.outer(joint, probs[i, k])
        total += joint / K
    positive = total[total > 0]
    return -(positive * np.log(positive)).sum()


SIZES = [(C, n) for C in range(2, 11) for n in (1, 2, 3, 4)] + [(2, 20), (3, 12), (4, 9), (5, 8), (7, 7), (10, 6)]  # up to 10^6 configurations


@pytest.mark.parametrize("C, n", SIZES)
def test_exact_against_brute_force(C, n):
    rng = np.random.default_rng(1000 * C + n)
    for K in (1, 2, 5) if C**n > 10_000 else (1, 2, 7, 20):
        probs = random_probs(rng, n, K, C)
        log_probs = torch.from_numpy(probs).log()
        truth, noise = brute_force(probs), compute_conditional_entropy(log_probs).sum().item()
        exact = ExactJointEntropy.empty(K, dtype=torch.double).add_variables(log_probs)
        assert abs(exact.compute().item() - truth) < 1e-10
        first = ExactJointEntropy.empty(K, dtype=torch.double).add_variables(log_probs[: n - 1]) if n > 1 else ExactJointEntropy.empty(K, dtype=torch.double)
        assert abs(first.compute_batch(log_probs[n - 1 :]).item() - truth) < 1e-10
        weighted = WeightedJointEntropy(C**n, K, dtype=torch.double).add_variables(log_probs)
        assert weighted.exact and abs(weighted.compute().item() - truth) < 1e-10
        assert abs(weighted.information - (truth - noise)) < 1e-10
        assert abs(DynamicJointEntropy(C**n, n, K, C, dtype=torch.double).add_variables(log_probs).compute().item() - truth) < 1e-10


@pytest.mark.parametrize("seed", range(5))
def test_batch_scores_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    C, K = int(rng.integers(2, 6)), int(rng.integers(1, 9))
    log_probs = torch.from_numpy(random_probs(rng, 12, K, C)).log()
    batch = get_batchbald_batch(log_probs, 4, C**4, torch.double)
    for n in range(1, 5):
        rows = log_probs[batch.indices[:n]]
        truth = brute_force(rows.exp().numpy()) - compute_conditional_entropy(rows).sum().item()
        assert abs(batch.scores[n - 1] - truth) < 1e-10


def test_tiny_probabilities_do_not_become_nan():
    x = torch.tensor([[[-1e-30, -95.0], [-95.0, -1e-30]]] * 12)  # float32: e^-95 is below the smallest normal number
    for state in (WeightedJointEntropy(100, 2).add_variables(x), ExactJointEntropy.empty(2).add_variables(x[:6])):
        assert state.compute().isfinite() and state.posteriors_M_K.isfinite().all()
        assert abs(state.compute().item() - math.log(2)) < 1e-5


def test_sums_over_many_configurations_keep_their_digits():
    rng = torch.rand(100_000, generator=seeded()).double()
    weights = rng**20 / (rng**20).sum()  # very uneven
    posteriors = (3 * torch.randn(100_000, 20, generator=seeded(1))).softmax(1)
    probs = torch.randn(5, 20, 10, generator=seeded(2)).softmax(-1)
    products = torch.einsum("mk,nkc->nmc", posteriors.double(), probs.double())
    exact = -(weights @ (products * products.log()).sum(-1).T)
    state = WeightedJointEntropy(1, 20)
    state.weights_M, state.posteriors_M_K = weights, posteriors
    conditional = -(probs.double() * probs.double().log()).sum(-1) @ (weights @ posteriors.double())
    assert (state.compute_gains(probs.log()) - (exact - conditional)).abs().max() < 2e-7


def test_evidence_after_two_calls_is_that_of_each_configuration():
    x = torch.randn(2, 4, 3, generator=seeded()).double().log_softmax(-1)
    state = SampledJointEntropy.empty(4, dtype=torch.double).add_variables(x[:1], 3).add_variables(x[1:], 5)
    joint = torch.einsum("kc,kd->cdk", x[0].exp(), x[1].exp()).reshape(9, 4)
    listed = {tuple(np.round((row / row.sum()).numpy(), 9)): row.mean().log().item() for row in joint}
    for posterior, evidence in zip(state.posteriors_M_K, state.log_evidence_M):
        assert abs(listed[tuple(np.round(posterior.numpy(), 9))] - evidence.item()) < 1e-9


def reference_information(log_probs_B_K_C, num_samples):
    "Information after each point, from one run with many configurations."
    state = WeightedJointEntropy(num_samples, log_probs_B_K_C.shape[1], generator=seeded(12345))
    return np.array([state.add_variables(row[None]).information for row in log_probs_B_K_C])


@pytest.mark.parametrize("labels, num_samples", [(20, 300), (100, 1000)])
def test_scores_lie_within_four_standard_errors(labels, num_samples):
    "At least 195 of 200 seeds (39 of 40 in the short run), over all picks of each batch, each against a reference of its own batch."
    x, within, references = example_log_probs(labels)[:500], 0, {}
    for seed in range(SEEDS):
        batch = get_batchbald_batch(x, 9, num_samples, generator=seeded(seed))
        key = tuple(batch.indices)
        if key not in references:
            references[key] = reference_information(x[batch.indices], 30 * num_samples)
        errors = np.array(batch.standard_errors)
        within += (np.abs(np.array(batch.scores) - references[key]) <= 4 * errors + 1e-6).all()
    assert within >= 195 / 200 * SEEDS


@pytest.mark.slow
@pytest.mark.parametrize("labels", [20, 100])
def test_less_noise_than_equation_36_and_no_bias(labels):
    "M = 10,000, K = 100, C = 10, the default arithmetic: 6, 8 and 10 points."
    x = example_log_probs(labels)
    x = x[get_batchbald_batch(x, 10).indices].float().log_softmax(-1)
    noise = compute_conditional_entropy(x).cumsum(0)
    eq36, weighted = [], []
    for seed in range(40):
        eq36.append([(SampledJointEntropy.sample(x[:n].exp(), 10_000, generator=seeded(seed)).compute() - noise[n - 1]).item() for n in (6, 8, 10)])
        state = WeightedJointEntropy(10_000, 100, generator=seeded(seed))
        information = [state.add_variables(row[None]).information for row in x]
        weighted.append([information[n - 1] for n in (6, 8, 10)])
    eq36, weighted, reference = np.array(eq36), np.array(weighted), reference_information(x, 400_000)[[5, 7, 9]]
    spread = weighted.std(0, ddof=1)
    print(labels, "sd eq. 36", eq36.std(0, ddof=1), "weighted", spread, "off", (weighted.mean(0) - reference) / (spread / 40**0.5))
    assert (eq36.std(0, ddof=1) >= 5 * spread).all()
    assert (np.abs(weighted.mean(0) - reference) <= 3.5 * spread / 40**0.5).all()


def test_no_posterior_is_too_small_for_arithmetic_at_full_speed():
    x = (8 * torch.randn(30, 40, 3, generator=seeded(0))).log_softmax(-1)
    state = WeightedJointEntropy(500, 40).add_variables(x)
    W = state.posteriors_M_K
    assert ((W == 0) | (W >= 1e-18)).all() and (W == 0).any() and torch.allclose(W.sum(1), torch.ones(len(W)))


def test_runs_side_by_side_say_what_runs_one_by_one_say(monkeypatch):
    from batchbald_nbdev import joint_entropy
    from batchbald_nbdev.joint_entropy import estimate_information

    x = (2 * torch.randn(9, 30, 4, generator=seeded(0))).log_softmax(-1)
    together = torch.cat([estimate_information(x, 1024, generator=seeded(s)) for s in range(4)])
    monkeypatch.setattr(joint_entropy, "ENTRIES", 1)
    alone = torch.cat([estimate_information(x, 1024, generator=seeded(s)) for s in range(4)])
    assert torch.allclose(together[:, :6], alone[:, :6], atol=1e-6)  # 4**5 configurations are all there, and one point more
    error = (together.var(0) + alone.var(0)).sqrt() / 64**0.5
    assert ((together.mean(0) - alone.mean(0)).abs() <= 5 * error + 1e-6).all()
    assert ((together.std(0)[6:] / alone.std(0)[6:] - 1).abs() < 0.5).all() and (alone.std(0)[6:] > 0).all()


@pytest.mark.parametrize("num_samples, points", [(1024, 9), (50, 4), (4, 6), (4096, 3)])
def test_what_a_search_has_enumerated_is_not_enumerated_again(num_samples, points):
    from batchbald_nbdev.joint_entropy import estimate_information

    x, g = (2 * torch.randn(points, 30, 4, generator=seeded(0))).log_softmax(-1), seeded(3)
    anew = estimate_information(x, num_samples, generator=seeded(3))
    state = WeightedJointEntropy(num_samples, 30, generator=g).add_variables(x)
    g.manual_seed(3)
    if not state.exact: torch.rand((), dtype=torch.double, generator=g)  # enumerating draws one number at its end
    assert torch.equal(estimate_information(x, num_samples, state=state, generator=g), anew)
    told = [WeightedJointEntropy(10**6, 30).add_variables(x[:n]).information for n in range(1, len(state.told) + 1)]
    assert torch.allclose(torch.tensor(state.told), torch.tensor(told), atol=1e-6)
    if not state.exact: assert state.whole.exact and len(state.told) == 1 + len(state.whole.told)


def test_runs_stop_following_what_has_nothing_left_to_tell(monkeypatch):
    from batchbald_nbdev import joint_entropy
    from batchbald_nbdev.joint_entropy import estimate_information

    x, kept = (4 * torch.randn(64, 30, 4, generator=seeded(0))).log_softmax(-1), []
    monkeypatch.setattr(joint_entropy, "ENTRIES", 1)  # one run after the other
    undecided = joint_entropy._undecided
    monkeypatch.setattr(joint_entropy, "_undecided", lambda *state: kept.append(undecided(*state)) or kept[-1])
    some = estimate_information(x, 400)
    monkeypatch.setattr(joint_entropy, "NOTHING_LEFT", -1.0)
    every = estimate_information(x, 400)
    assert 0 in map(len, kept) and any(0 < len(kept_m) < 100 for kept_m in kept)
    assert torch.allclose(some[0, :7], every[0, :7], atol=1e-6)  # until something was left out the same draws
    assert (some.diff(dim=1) >= 0).all()
    error = (some[:, -1].var() + every[:, -1].var()).sqrt() / 4
    assert (some[:, -1].mean() - every[:, -1].mean()).abs() < 5 * error


def test_what_is_left_out_has_next_to_nothing_left_to_tell():
    from batchbald_nbdev.joint_entropy import NOTHING_LEFT, _undecided, entropies_left

    posteriors_M_K = torch.softmax(torch.linspace(0, 40, 50)[:, None] * torch.randn(50, 8, generator=seeded(1)), 1)
    weights_M = torch.rand(50, generator=seeded(2)).double()
    share_M = weights_M / weights_M.sum() * entropies_left(posteriors_M_K)
    kept_m = _undecided(weights_M / weights_M.sum(), posteriors_M_K)
    assert 0 < len(kept_m) < 50 and share_M.sum() - share_M[kept_m].sum() <= NOTHING_LEFT
    assert share_M.sum() - share_M[kept_m[share_M[kept_m].argsort()[1:]]].sum() > NOTHING_LEFT  # and no more could go


def test_what_a_label_tells_is_a_float64_sum_of_its_products():
    from batchbald_nbdev.joint_entropy import _branch, _label_probs

    rows_C1_K, W_M_K = torch.softmax(0.5 * torch.randn(5_001, 20, generator=seeded(0)), 0), torch.full((1, 20), 0.05)
    gains_M, _ = _branch(torch.ones(1).double(), W_M_K, rows_C1_K)
    *probs_C_M, known_M = _label_probs(W_M_K, rows_C1_K).double()
    probs_C_M = torch.stack(probs_C_M)
    assert (gains_M - (-torch.xlogy(probs_C_M, probs_C_M).sum(0) - known_M)).abs().max() < 1e-7
