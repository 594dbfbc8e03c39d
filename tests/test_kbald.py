"k-BALD, its stopping rules and its relatives against joint tables, and the lazy search against the full one."
import math
import warnings
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch

from batchbald_nbdev import kbald
from everything import *

pytestmark = pytest.mark.filterwarnings("ignore:.*log K")  # small K on purpose
TIGHT = dict(rtol=0, atol=1e-10)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pool(N=8, K=6, C=3, seed=0, zeros=False, copies=False):
    "Predictions in float64; with hard zeros, or with every second point a copy of the one before."
    probs = (2 * torch.randn(N, K, C, generator=seeded(seed))).double().softmax(-1)
    if zeros:
        probs = torch.where((probs < 0.3) & (probs < probs.amax(-1, keepdim=True)), 0.0, probs)
        probs = probs / probs.sum(-1, keepdim=True)
    if copies:
        probs[1::2] = probs[: len(probs) // 2 * 2 : 2]
    return probs.log()


POOLS = [
    pytest.param(dict(C=2, seed=1), id="C=2"),
    pytest.param(dict(C=3, seed=2), id="C=3"),
    pytest.param(dict(N=6, K=4, C=4, seed=3), id="C=4"),
    pytest.param(dict(C=3, seed=4, zeros=True), id="hard zeros"),
    pytest.param(dict(C=3, seed=5, copies=True), id="copies"),
    pytest.param(dict(K=1, C=3, seed=6), id="K=1"),
]


def terms(x, S):
    "Interaction information of the labels in S, from their joint table."
    return compute_interaction_information(compute_joint_probs(x[list(S)]))


def brute_kbald(x, batch, k):
    "Eq. 6, cut off after terms of k labels."
    value = compute_bald(x[list(batch)]).sum().item() if len(batch) else 0.0
    return value + sum((-1) ** (r + 1) * terms(x, S) for r in range(2, min(k, len(batch)) + 1) for S in combinations(batch, r))


def exact_information(x, batch):
    if not len(batch):
        return 0.0
    joint = ExactJointEntropy.empty(x.shape[1], dtype=torch.double).add_variables(x[list(batch)])
    return (joint.compute() - compute_conditional_entropy(x[list(batch)]).sum()).item()


def brute_search(score, N, size, given=()):
    "Greedy by brute force: first of the best, but for rounding."
    picks = []
    for _ in range(min(size, N - len(set(given)))):
        values = {i: score([*given, *picks, i]) for i in range(N) if i not in picks and i not in given}
        picks.append(next(i for i, v in values.items() if v >= max(values.values()) - 1e-11))
    base = score(list(given))
    return picks, [score([*given, *picks[: n + 1]]) - base for n in range(len(picks))]


# Scores


@pytest.mark.parametrize("options", POOLS)
def test_pair_information_is_that_of_the_joint_tables(options):
    x = pool(**options)
    found = compute_pair_information(x, x[:3])
    true = [[compute_mutual_information(compute_joint_probs(x[[n, b]]), 0, 1) for b in range(3)] for n in range(len(x))]
    assert np.allclose(found, true, **TIGHT) and (found >= 0).all()
    bald = compute_bald(x)
    assert (found <= torch.minimum(bald[:, None], bald[:3]) + 1e-10).all()
    assert compute_pair_information(x, x[:0]).shape == (len(x), 0)


def test_pair_information_in_blocks_is_the_same(monkeypatch):
    x = pool(60, 9, 4)
    whole = compute_pair_information(x, x[:11])
    monkeypatch.setattr("batchbald_nbdev.information.BLOCK_ELEMENTS", 7 * 9 * 4)
    assert np.allclose(compute_pair_information(x, x[:11]), whole, **TIGHT)
    assert np.allclose(compute_pair_information(x.float(), x[:11].float()), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", POOLS)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 9])
def test_gains_and_scores_are_those_of_eq_6(options, k):
    x = pool(**options)
    for m in range(6):
        picks = list(range(m))
        brute = [brute_kbald(x, [*picks, n], k) - brute_kbald(x, picks, k) for n in range(m, len(x))]
        assert np.allclose(compute_kbald_gains(x[m:], x[:m], k), brute, **TIGHT)
        if m:
            assert abs(compute_kbald(x[:m], k) - brute_kbald(x, picks, k)) < 1e-10


@pytest.mark.parametrize("options", POOLS)
def test_from_k_equal_to_b_on_it_is_the_joint_information(options):
    x = pool(**options)
    for B in range(1, 6):
        for k in (B, B + 1, 50):
            assert abs(compute_kbald(x[:B], k) - exact_information(x, range(B))) < 1e-10


def test_total_correlation_by_its_terms():
    x = pool(6, 5, 3)
    for B in range(2, 6):
        total = compute_total_correlation(compute_joint_probs(x[:B]))
        assert abs(compute_bald(x[:B]).sum().item() - compute_kbald(x[:B], B) - total) < 1e-10


def test_it_extrapolates_what_a_point_is_worth_beside_fewer_picks():
    "The polynomial of degree k - 1 through the mean gains beside 0 to k - 1 of the picks, read off at all of them."
    x = pool(7, 6, 3, 8)
    gain = lambda T: exact_information(x, [*T, 6]) - exact_information(x, T)
    for m in range(1, 7):
        mean = [np.mean([gain(T) for T in combinations(range(m), r)]) for r in range(m + 1)]
        for k in range(1, m + 2):
            line = np.polynomial.Polynomial.fit(range(k), mean[:k], k - 1)
            assert abs(compute_kbald_gains(x[6:], x[:m], k).item() - line(m)) < 1e-8


# The search


@pytest.mark.parametrize("options", POOLS)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_search_against_brute_force(options, k):
    x = pool(**options)
    for given in ([], [4, 1]):
        picks, scores = brute_search(lambda batch: brute_kbald(x, batch, k), len(x), 5, given)
        batch = get_kbald_batch(x, 5, k, pending=given)
        assert np.allclose(batch.scores, scores, **TIGHT) and np.allclose(np.cumsum(batch.gains), batch.scores, **TIGHT)
        assert batch.indices == picks


@pytest.mark.parametrize("options", POOLS)
def test_with_k_from_b_on_it_is_batchbald(options):
    x = pool(**options)
    exact = get_batchbald_batch(x, 5, 4**5, torch.double)
    for k in (5, 6, 40):
        batch = get_kbald_batch(x, 5, k)
        assert batch.indices == exact.indices and np.allclose(batch.scores, exact.scores, **TIGHT)


def spread_pool(N=700, K=20, C=4, seed=0):
    g = seeded(seed)
    return (2 * torch.randn(N, 1, C, generator=g) + 1.5 * torch.randn(N, K, C, generator=g)).double().log_softmax(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.double])
@pytest.mark.parametrize("k", [2, 3, 12])
def test_the_lazy_search_is_the_full_one(k, dtype, monkeypatch):
    monkeypatch.setattr(kbald, "_block", 16)  # so that little is looked at without need
    for seed in range(3):
        x = spread_pool(300 if k > 2 else 700, 20, 2 if k > 2 else 4, seed=seed).to(dtype)
        for given in ([], [5, 77, 123]):
            lazy, full = (get_kbald_batch(x, 8, k, pending=given, lazy=o) for o in (True, False))
            assert lazy.indices == full.indices and np.allclose(lazy.scores, full.scores, rtol=0, atol=1e-10 if dtype == torch.double else 1e-5)


def test_where_gains_rise_nobody_is_passed_over(monkeypatch):
    monkeypatch.setattr(kbald, "_block", 16)
    x = example_log_probs(20)[:300].float().log_softmax(-1)
    batch, full = (get_kbald_batch(x, 16, 3, lazy=o) for o in (True, False))
    assert batch.indices == full.indices and batch.gains[-1] > 2 * min(batch.gains)


def test_the_lazy_search_leaves_most_candidates_alone(monkeypatch):
    looked, original = [], kbald._Expansion.gains

    def gains(self, candidates_n):
        looked.append(len(candidates_n))
        return original(self, candidates_n)

    monkeypatch.setattr(kbald._Expansion, "gains", gains)
    x = spread_pool(4_000)
    lazy = get_kbald_batch(x, 8)
    some = sum(looked)
    looked.clear()
    assert get_kbald_batch(x, 8, lazy=False).indices == lazy.indices
    assert sum(looked) == sum(range(3_993, 4_001)) and some < sum(looked) / 2


def test_who_missed_several_picks_gets_them_all():
    "A candidate far down comes up after many picks of one kind, and its gain is then what the definition says."
    heads = torch.tensor([[0.9, 0.1], [0.1, 0.9]] * 4, dtype=torch.double)
    other = torch.tensor([[0.85, 0.15]] * 4 + [[0.15, 0.85]] * 4, dtype=torch.double)
    x = torch.stack([heads] * 300 + [other]).log()
    batch = get_kbald_batch(x, 4)
    assert batch.indices[1] == 300  # the second kind
    again = get_kbald_batch(x, 300)
    for n in (3, 50, 299):
        assert abs(again.gains[n] - compute_kbald_gains(x[again.indices[n]][None], x[again.indices[:n]], 2).item()) < 1e-10


@pytest.mark.parametrize("k", [2, 3, 9])
@pytest.mark.parametrize("max_bytes", [1, 10_000, 2**20])
def test_any_budget_of_memory_gives_the_same_batch(k, max_bytes):
    x = spread_pool(600, 12, 2)
    whole, small = get_kbald_batch(x, 8, k), get_kbald_batch(x, 8, k, max_bytes=max_bytes)
    assert small.indices == whole.indices and np.allclose(small.scores, whole.scores, **TIGHT)


def test_out_of_memory_halves_the_blocks_and_changes_nothing(monkeypatch):
    x, calls, original = spread_pool(600), [], kbald.mean_gains
    whole = {k: get_kbald_batch(x, 6, k) for k in (2, 3)}

    def sometimes(*args):
        calls.append(args[-1])
        if len(calls) % 5 == 4:  # not the first of an update, so that parts of it have been summed
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*args)

    monkeypatch.setattr(kbald, "mean_gains", sometimes)
    monkeypatch.setattr(kbald, "_block", 300)
    for k in (2, 3):
        calls.clear()
        batch = get_kbald_batch(x, 6, k)
        assert batch.indices == whole[k].indices and np.allclose(batch.scores, whole[k].scores, **TIGHT)
        assert min(calls) < max(calls)


def test_sets_in_chunks_are_all_there(monkeypatch):
    x = pool(12, 6, 3)
    whole = get_kbald_batch(x, 10, 4)
    monkeypatch.setattr(kbald, "_chunk_entries", 1)  # one set at a time
    batch = get_kbald_batch(x, 10, 4)
    assert batch.indices == whole.indices and np.allclose(batch.scores, whole.scores, rtol=0, atol=1e-8)


def test_float32_keeps_three_bald_in_line():
    x = example_log_probs(20)[:300].double().log_softmax(-1)
    wide, narrow = get_kbald_batch(x, 20, 3), get_kbald_batch(x, 20, 3, torch.float32)
    assert wide.indices == narrow.indices and np.abs(np.array(wide.gains) - narrow.gains).max() < 1e-4


def test_copies_come_in_order_however_many_terms_there_are():
    x = example_log_probs(20)[[757]].float().log_softmax(-1).repeat(600, 1, 1)
    for k in (2, 3):
        assert get_kbald_batch(x, 40, k).indices == list(range(40))


def test_three_bald_of_fifty_points_from_a_thousand_is_allowed_and_more_is_refused_with_a_reason():
    with pytest.raises(ValueError, match=r"3-BALD.*product.*`k` or `batch_size`"):
        kbald._check_work(10**6, 100, 10, 3, 1_000)
    for N, k, most in ((1_000, 3, 49), (60_000, 3, 49), (10**6, 2, 500), (1_000, 4, 30), (1_000, 1, 10**6), (1_000, 99, 4)):
        kbald._check_work(N, 100, 10, k, most)
    for k, most in ((8, 9), (8, 7)):  # few products, but of tables of 10^7 configurations
        with pytest.raises(ValueError, match=r"8-BALD.*2\^30 entries"):
            kbald._check_work(1, 100, 10, k, most)
    for k, size in ((5, 60), (99, 50), (10**9, 10**6)):
        with pytest.raises(ValueError, match="`k`"):
            get_kbald_batch(example_log_probs(20), size, k)


@pytest.mark.parametrize("k", [0, -1, 1.5, "2", None, True])
def test_bad_k(k):
    for call in (lambda: get_kbald_batch(pool(), 2, k), lambda: compute_kbald(pool(), k), lambda: compute_kbald_gains(pool(), pool(), k)):
        with pytest.raises(ValueError, match="`k`"):
            call()


def test_bad_picks_are_named():
    x = pool()
    for wrong in (x[:, :3], x[..., :2].log_softmax(-1), x[0], x.exp(), x * math.nan):
        for score in (compute_pair_information, compute_kbald_gains):
            with pytest.raises(ValueError, match="log_probs_B_K_C"):
                score(x, wrong)


def test_candidates_are_checked_though_there_are_no_picks():
    x = pool()
    with pytest.raises(ValueError, match="log_probs_N_K_C.*probabilities"):
        compute_pair_information(x.exp(), x[:0])


def test_the_batch_that_is_scored_is_named():
    x = pool()
    with pytest.raises(ValueError, match=r"`log_probs_B_K_C` has shape .*\(B points"):
        compute_kbald(x[0])
    with pytest.raises(ValueError, match="`log_probs_B_K_C` looks like probabilities"):
        compute_kbald(x.exp())


def test_a_score_above_log_k_warns():
    x = example_log_probs(20)[:100, :10].double().log_softmax(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CeilingWarning)
        short = get_kbald_batch(x, 3)
    assert short.scores[-1] < math.log(10)
    for k in (1, 3):
        with pytest.warns(CeilingWarning, match="log K = 2.303.*K = 10") as caught:
            batch = get_kbald_batch(x, 20, k)
        first = next(n for n, score in enumerate(batch.scores, 1) if score > math.log(10))
        (warning,) = caught
        assert f"the first {first} of 20 picks have a {k}-BALD score" in str(warning.message) and warning.filename == __file__


def test_what_is_an_information_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", CeilingWarning)
        for dtype in (torch.float32, torch.double):
            get_kbald_batch(torch.eye(2).repeat(8, 1, 1).log(), 8, 8, dtype)  # log K to the last digit
            get_kbald_batch(pool(K=1), 8, dtype=dtype)


# When to stop


def test_dynamic_kbald_stops_where_the_orders_part():
    for seed, given in ((0, []), (1, [3, 8]), (2, [])):
        x = pool(25, 8, 3, seed)
        whole, base = get_kbald_batch(x, 12, pending=given), brute_kbald(x, given, 3)
        apart = [abs(brute_kbald(x, [*given, *whole.indices[: i + 1]], 3) - base - whole.scores[i]) for i in range(12)]
        ends = set()
        for tolerance in (0, 0.01, 0.05, 0.2, 1.0, math.inf):
            fits = [i == 0 or tolerance == math.inf or a <= tolerance * abs(s) + 1e-9 for i, (a, s) in enumerate(zip(apart, whole.scores))]
            n = fits.index(False) if False in fits else 12
            batch = get_dynamic_kbald_batch(x, 12, tolerance=tolerance, pending=given)
            assert batch.indices == whole.indices[:n] and np.allclose(batch.scores, whole.scores[:n], **TIGHT)
            ends.add(n)
        assert len(ends) > 3 and 12 in ends


def test_dynamic_kbald_refuses_before_the_search_by_its_own_arguments():
    wide = torch.zeros(6, 100, 500).log_softmax(-1)
    for given, size in (((), 5), ((0, 3), 1)):
        with pytest.raises(ValueError, match="3-BALD.*`max_batch_size`.*`tolerance`") as error:
            get_dynamic_kbald_batch(wide, size, pending=given)
        assert "`k`" not in str(error.value) and "`batch_size`" not in str(error.value)
    assert get_dynamic_kbald_batch(wide, 2).indices == [0, 1]  # no triples


def test_dynamic_kbald_with_infinite_tolerance_does_without_3bald(monkeypatch):
    wide = torch.zeros(6, 100, 500).log_softmax(-1)
    assert get_dynamic_kbald_batch(wide, 5, tolerance=math.inf).indices == [0, 1, 2, 3, 4]
    monkeypatch.setattr(kbald, "compute_kbald_gains", None)
    assert len(get_dynamic_kbald_batch(pool(), 5, tolerance=math.inf).indices) == 5


def test_what_is_too_large_is_said_in_arguments_that_there_are():
    wide = torch.zeros(2, 1, 2**13).log_softmax(-1)
    for select, size in ((get_dynamic_kbald_batch, "max_batch_size"), (get_largebatchbald_batch, "batch_size")):
        with pytest.raises(ValueError, match=f"a smaller `{size}`") as error:
            select(torch.full((10**6, 1, 2), math.log(0.5)), 10**6)
        assert "`k`" not in str(error.value)
    with pytest.raises(ValueError, match="a smaller `k` or fewer picks"):
        compute_kbald_gains(wide, wide, 3)


def test_dynamic_batchbald_stops_by_gain_and_by_ceiling():
    for seed in range(2):
        x = pool(40, 12, 3, seed)
        for given in ([], [3, 8]):
            whole = get_batchbald_batch(x, 20, 3**9, torch.double, pending=given)
            used = exact_information(x, given)
            for gain_share, ceiling_share in ((0.5, 1), (0.1, 1), (0, 0.5), (0, 0.8), (0.3, 0.7), (0, 1)):
                batch = get_dynamic_batchbald_batch(x, 20, 3**9, torch.double, gain_share=gain_share, ceiling_share=ceiling_share, pending=given)
                n = len(batch.indices)
                assert 1 <= n and batch.indices == whole.indices[:n] and batch.ceiling == whole.ceiling
                assert len(batch.scores) == len(batch.gains) == len(batch.standard_errors) == n
                kept = [i == 0 or (g >= gain_share * whole.gains[0] and (ceiling_share == 1 or used + s <= ceiling_share * math.log(12))) for i, (g, s) in enumerate(zip(whole.gains, whole.scores))]
                if n <= 8:  # enumerated, so that longer and shorter runs report the same
                    assert n == (kept.index(False) if False in kept else 20)


def test_dynamic_batchbald_is_a_prefix_and_moves_the_generator_on():
    x = spread_pool(200, 30, 5)
    for end in (3, 8, 11, 16, 30):
        batch = get_dynamic_batchbald_batch(x, end, 200, gain_share=0, ceiling_share=1, generator=seeded(4))
        whole = get_batchbald_batch(x, end, 200, generator=seeded(4))
        assert batch == whole
    g = seeded(4)
    first, second = (get_dynamic_batchbald_batch(x, 12, 200, gain_share=0, ceiling_share=1, generator=g) for _ in range(2))
    assert first.scores != second.scores


def test_dynamic_batchbald_without_limits_goes_on_to_the_end():
    for seed in range(5):  # few configurations, so that what is given and what is picked may seem to pass log K together
        x = pool(20, 4, 3, seed)
        batch = get_dynamic_batchbald_batch(x, 99, 5, gain_share=0, ceiling_share=1, pending=range(10), generator=seeded(seed))
        assert sorted(batch.indices) == list(range(10, 20))


def test_dynamic_batchbald_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", CeilingWarning)
        get_dynamic_batchbald_batch(pool(30, 3, 3), 20, gain_share=0, ceiling_share=1)
    with pytest.warns(CeilingWarning):  # and leaves the filters as they were
        get_batchbald_batch(pool(30, 3, 3), 20)


@pytest.mark.parametrize("threshold", [0, 0.01, 0.05, 0.2, math.inf])
def test_conservative_batches_share_little(threshold):
    for options in (dict(N=30, K=8, C=3, seed=1), dict(N=30, K=8, C=3, seed=2, copies=True)):
        x = pool(**options)
        order = get_bald_batch(x, 30).indices
        for given in ([], [order[3], order[7]]):
            picks = []
            for i in order:
                if i not in given and all(terms(x, (i, j)) <= threshold for j in [*given, *picks]):
                    picks.append(i)
            batch = get_conservativebald_batch(x, 99, threshold=threshold, pending=given)
            assert batch.indices == picks and np.allclose(batch.scores, compute_bald(x)[picks], **TIGHT)
            assert get_conservativebald_batch(x, 4, threshold=threshold, pending=given).indices == picks[:4]


def test_what_shares_exactly_the_threshold_may_stay():
    silent = pool(K=1)
    assert get_conservativebald_batch(silent, 99, threshold=0).indices == get_bald_batch(silent, 99).indices
    sure = torch.eye(2).repeat(3, 4, 1).double().log()  # eight samples, certain of one class or the other: pairs share log 2
    assert len(get_conservativebald_batch(sure, 99, threshold=math.log(2)).indices) == 3
    assert len(get_conservativebald_batch(sure, 99, threshold=0.69).indices) == 1


def test_conservative_batches_in_blocks_are_the_same(monkeypatch):
    x = pool(40, 8, 3)
    whole = get_conservativebald_batch(x, 99, threshold=0.05, pending=[1, 2, 30])
    for block in (1, 3, 16):
        monkeypatch.setattr(kbald, "_block", block)
        assert get_conservativebald_batch(x, 99, threshold=0.05, pending=[1, 2, 30]) == whole


@pytest.mark.parametrize("budget", [0, 0.02, 0.1, 0.5, math.inf])
def test_budget_batches_stay_within_their_total_correlation(budget, monkeypatch):
    monkeypatch.setattr(kbald, "_block", 12)  # blocks of three
    for seed in range(3):
        x = pool(10, 6, 2, seed)
        order = get_bald_batch(x, 10).indices
        total = lambda batch: compute_total_correlation(compute_joint_probs(x[batch])) if batch else 0.0
        for given in ([], [order[1], order[4]]):
            picks = []
            for i in order:
                if i not in given and total([*given, *picks, i]) - total(given) <= budget + 1e-11:
                    picks.append(i)
            batch = get_budgetbald_batch(x, 99, 2**10, torch.double, budget=budget, pending=given)
            assert batch.indices == picks
            known = exact_information(x, given)
            assert np.allclose(batch.scores, [exact_information(x, [*given, *picks[: n + 1]]) - known for n in range(len(picks))], **TIGHT)
            assert np.allclose(np.cumsum(batch.gains), batch.scores, **TIGHT) and batch.ceiling == math.log(6)
            assert get_budgetbald_batch(x, 3, 2**10, torch.double, budget=budget, pending=given).indices == picks[:3]


def test_budget_batches_report_estimates_with_honest_errors():
    x = spread_pool(60, 30, 4)
    batch = get_budgetbald_batch(x, 12, 64, budget=math.inf)
    assert batch.indices == get_bald_batch(x, 12).indices and len(batch.standard_errors) == 12
    assert batch.standard_errors[:3] == [0, 0, 0] and min(batch.standard_errors[4:]) > 0
    assert np.allclose(batch.scores[:3], [exact_information(x, batch.indices[: n + 1]) for n in range(3)], rtol=0, atol=1e-5)
    for given in ([], [5, 9]):
        runs = [get_budgetbald_batch(x, 12, 64, budget=math.inf, pending=given, generator=seeded(s)) for s in range(50)]
        spread, told = np.std([o.scores[-1] for o in runs], ddof=1), np.mean([o.standard_errors[-1] for o in runs])
        assert 0.5 < spread / told < 2
        true = exact_information(x, runs[0].indices[:6] + given) - exact_information(x, given)
        assert abs(np.mean([o.scores[5] for o in runs]) - true) < 0.02
    assert get_budgetbald_batch(x, 12, 64, budget=math.inf, generator=seeded(3)) == get_budgetbald_batch(x, 12, 64, budget=math.inf, generator=seeded(3))


def test_budget_batches_warn_near_the_ceiling():
    x = example_log_probs(20)[:, :10].float().log_softmax(-1)
    with pytest.warns(CeilingWarning, match="use more than 95%") as caught:
        batch = get_budgetbald_batch(x, 20, budget=math.inf)
    assert len(caught) == 1 and caught[0].filename == __file__ and batch.scores[-1] <= batch.ceiling == math.log(10)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CeilingWarning)
        get_budgetbald_batch(x, 3, budget=math.inf)


@pytest.mark.parametrize("options", POOLS)
def test_large_batchbald_counts_pairs_twice(options):
    x = pool(**options)

    def score(batch):
        return sum(compute_bald(x[batch])).item() - 2 * sum(terms(x, S) for S in combinations(batch, 2)) if batch else 0.0

    for given in ([], [4, 1]):
        picks, scores = brute_search(score, len(x), 5, given)
        batch = get_largebatchbald_batch(x, 5, pending=given)
        assert batch.indices == picks and np.allclose(batch.scores, scores, **TIGHT)


LIMITS = {
    "tolerance": lambda v: get_dynamic_kbald_batch(pool(), 2, tolerance=v),
    "gain_share": lambda v: get_dynamic_batchbald_batch(pool(), 2, gain_share=v),
    "ceiling_share": lambda v: get_dynamic_batchbald_batch(pool(), 2, ceiling_share=v),
    "threshold": lambda v: get_conservativebald_batch(pool(), 2, threshold=v),
    "budget": lambda v: get_budgetbald_batch(pool(), 2, budget=v),
}


@pytest.mark.parametrize("name", LIMITS)
def test_bad_limits_are_named(name):
    for wrong in (-0.1, math.nan, None, "0.1", b"0.1", True, np.True_, torch.tensor(True), torch.ones(2), [0.1], 1j, *([1.5, 10**400] if "share" in name else [])):
        with pytest.raises(ValueError, match=name):
            LIMITS[name](wrong)


@pytest.mark.parametrize("name", LIMITS)
def test_limits_may_be_numbers_of_numpy_and_of_tensors(name):
    for number in (1, 0.5):
        for same in (np.float32(number), np.float64(number), np.array(number), torch.tensor(number)) + ((np.int64(1),) if number == 1 else ()):
            assert LIMITS[name](same) == LIMITS[name](number)


@pytest.mark.gpu
@pytest.mark.parametrize("select", [get_kbald_batch, partial(get_kbald_batch, k=3), get_dynamic_kbald_batch, get_largebatchbald_batch, get_conservativebald_batch, get_budgetbald_batch])
def test_on_cuda_it_agrees_with_the_cpu(select):
    x = spread_pool(2_000)
    assert select(x.cuda(), 8).indices == select(x, 8).indices
