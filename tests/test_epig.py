"EPIG against enumeration by hand, its sampling, its budget of memory, and what it must refuse."
from functools import partial
import math
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from batchbald_nbdev import epig, plain_batchbald
from everything import *

pytestmark = pytest.mark.filterwarnings("ignore:.*log K")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pool(N=12, K=6, C=3, seed=0, zeros=False):
    x = (2 * torch.randn(N, K, C, generator=seeded(seed)).double()).softmax(-1)
    if zeros:
        x = torch.where((x < 0.3) & (x < x.amax(-1, keepdim=True)), 0.0, x)
    return (x / x.sum(-1, keepdim=True)).log()


def entropy(*rows):
    "Joint entropy of the labels of these points, configuration by configuration in plain Python."
    probs = [row.exp().tolist() for row in rows]
    total, K = 0.0, len(probs[0])
    for labels in product(*(range(len(p[0])) for p in probs)):
        p = sum(math.prod(point[k][c] for point, c in zip(probs, labels)) for k in range(K)) / K
        total -= p * math.log(p) if p > 0 else 0.0
    return total


def information(ys, zs):
    return entropy(*ys) + entropy(*zs) - entropy(*ys, *zs)


def mean_information(ys, evaluation):
    return sum(information(ys, [e]) for e in evaluation) / len(evaluation)


def parameters(ys):
    "What labels say about the parameters."
    noise = sum(compute_conditional_entropy(y[None]).item() for y in ys)
    return entropy(*ys) - noise


def greedy(score, N, size, given=()):
    picks, scores = [], []
    for _ in range(size):
        values = {i: score([*given, *picks, i]) for i in range(N) if i not in picks and i not in given}
        best = max(values.values())
        picks.append(min(i for i, v in values.items() if v > best - 1e-12))
        scores.append(values[picks[-1]] - (score(list(given)) if given else 0))
    return picks, scores


CASES = [(pool(7, 6, 3, s, z), pool(4, 6, D, s + 50, z)) for s, z, D in ((0, False, 3), (1, True, 2), (2, False, 4), (3, True, 3), (4, True, 2))]
each_case = pytest.mark.parametrize("x, y", CASES)


@each_case
def test_epig_is_the_mean_over_single_labels(x, y):
    expected = [mean_information([n], y) for n in x]
    assert np.allclose(compute_epig(x, y), expected, rtol=0, atol=1e-10)
    batch = get_epig_batch(x, y, 3)
    assert batch.indices == sorted(range(7), key=lambda i: (-round(expected[i], 11), i))[:3]
    assert np.allclose(batch.scores, np.array(expected)[batch.indices], rtol=0, atol=1e-10)


@pytest.mark.parametrize("score", [compute_epig, compute_epig_bald, *(lambda x, y, f=f: f(x, y, 2) for f in (get_epig_batch, get_batchepig_batch, get_batchepigbald_batch, get_softmaxepig_batch))])
def test_evaluation_inputs_of_one_class_are_refused(score):
    with pytest.raises(ValueError, match="`log_probs_E_K_C` has shape .* one class"):
        score(pool(7, 6, 3), pool(4, 6, 1))


@each_case
def test_epig_bald_is_the_information_about_all_labels(x, y):
    expected = [information([n], list(y)) for n in x]
    assert np.allclose(compute_epig_bald(x, y), expected, rtol=0, atol=1e-10)
    assert (compute_epig_bald(x, y) >= compute_epig(x, y) - 1e-12).all()


@each_case
def test_two_models_give_the_difference_of_their_bald_scores(x, y):
    z = pool(*x.shape, seed=7)[:, :4]  # other samples, and fewer
    scores = compute_epig_bald(x, log_probs_after_N_K_C=z)
    assert np.allclose(scores, [parameters([a]) - parameters([b]) for a, b in zip(x, z)], rtol=0, atol=1e-10)
    back = compute_epig_bald(z, log_probs_after_N_K_C=x)
    assert torch.allclose(back, -scores, rtol=0, atol=1e-12) and min(back.min(), scores.min()) < 0  # and is left as it is


@each_case
def test_batchepig_against_brute_force(x, y):
    score = lambda S: mean_information([x[i] for i in S], y)
    for given in ((), (5, 2)):
        batch = get_batchepig_batch(x, y, 3, pending=given)
        picks, scores = greedy(score, 7, 3, given)
        assert batch.indices == picks and np.allclose(batch.scores, scores, rtol=0, atol=1e-10)
        assert batch.standard_errors == [0.0] * 3 and np.allclose(np.cumsum(batch.gains), batch.scores, rtol=0, atol=1e-12)
        assert batch.ceiling == pytest.approx(np.mean([parameters([e]) for e in y]), abs=1e-12)


@pytest.mark.parametrize("x, y", [(x, y[:2]) for x, y in CASES])
def test_batchepigbald_against_brute_force(x, y):
    z = pool(*x.shape, seed=9)[:, :5]
    jointly = lambda S: information([x[i] for i in S], list(y))
    models = lambda S: parameters([x[i] for i in S]) - parameters([z[i] for i in S])
    for score, ceiling, options in ((jointly, parameters(list(y)), {"log_probs_E_K_C": y}), (models, math.log(6), {"log_probs_E_K_C": None, "log_probs_after_N_K_C": z})):
        for given in ((), (4,)):
            batch = get_batchepigbald_batch(x, batch_size=2, num_samples=1000, pending=given, **options)
            picks, scores = greedy(score, 7, 2, given)
            assert batch.indices == picks and np.allclose(batch.scores, scores, rtol=0, atol=1e-10)
            assert batch.standard_errors == [0.0] * 2 and batch.ceiling == pytest.approx(ceiling, abs=1e-10)
            assert get_batchepigbald_batch(x, batch_size=0, num_samples=1000, pending=given, **options).ceiling == pytest.approx(ceiling, abs=1e-10)


def test_scores_of_two_models_may_fall_and_are_not_touched():
    x, z = pool(8, 6, 3), pool(8, 6, 3, seed=1)
    batch = get_batchepigbald_batch(x, None, 6, 3**6, log_probs_after_N_K_C=z)
    assert min(batch.gains) < 0
    S = batch.indices
    assert batch.scores[5] == pytest.approx(parameters(list(x[S])) - parameters(list(z[S])), abs=1e-10)
    dull = (0.3 * x.exp() + 0.7 / 3).log()
    scores = get_batchepigbald_batch(dull, None, 6, 3**6, log_probs_after_N_K_C=z, pending=[0, 1]).scores
    assert max(scores) < 0 and scores == sorted(scores, reverse=True)


def test_rounding_makes_no_score_negative():
    x, y = pool(200, 1, 5), pool(9, 1, 4, seed=1)  # with one sample there is nothing to learn
    for dtype in (torch.float32, torch.double):
        for scores in (compute_epig(x, y, dtype), compute_epig_bald(x, y, dtype=dtype)):
            assert 0 <= scores.min() and scores.max() < 1e-6


def test_epig_bald_turns_into_bald_when_the_evaluation_labels_tell_the_samples_apart():
    x, y = pool(20, 8, 3), pool(60, 8, 3, seed=1)
    assert np.allclose(compute_epig_bald(x, y), compute_bald(x), atol=1e-3)
    assert compute_epig(x, y).max() < 0.5 * compute_bald(x).max()


def test_what_does_not_bear_on_the_evaluation_set_counts_for_nothing():
    a, b = torch.arange(16) // 4, torch.arange(16) % 4  # parameters are pairs (a, b), all equally likely
    of_a, of_b = (0.7 * torch.eye(4).double()[p] + 0.075 for p in (a, b))
    loud = torch.eye(4).double()[b]
    x = torch.stack([loud, loud, of_b, of_a, of_b, of_a]).log()
    y = torch.stack([of_a, of_a]).log()
    assert set(get_bald_batch(x, 2).indices) == {0, 1}
    assert get_epig_batch(x, y, 2).indices == get_batchepig_batch(x, y, 2).indices == get_batchepigbald_batch(x, y, 2).indices == [3, 5]
    assert compute_epig(x, y)[[0, 1, 2, 4]].max() < 1e-12 and compute_epig_bald(x, y)[[0, 1, 2, 4]].max() < 1e-12


def test_batchepig_sees_what_single_scores_cannot():
    b1, b2 = torch.arange(4) // 2, torch.arange(4) % 2
    sure = torch.eye(2).double()
    x, y = torch.stack([sure[b1] * 0.98 + 0.01, sure[b1] * 0.98 + 0.01, sure[b2]]).log(), torch.stack([sure[b1], sure[b2] * 0.9 + 0.05]).log()
    assert get_epig_batch(x, y, 2).indices == [0, 1] and get_batchepig_batch(x, y, 2).indices == [0, 2]


def test_ties_go_to_the_lowest_position_however_products_round():
    x, y = pool(37, 8, 4).float().repeat(3, 1, 1), pool(5, 8, 3, seed=1).float()
    for select in (get_epig_batch, get_batchepig_batch, get_batchepigbald_batch):
        indices = select(x, y, 12).indices
        for n, i in enumerate(indices):
            assert all(j in indices[:n] for j in range(i % 37, i, 37))


@pytest.mark.parametrize("select", [get_epig_batch, get_batchepig_batch, get_batchepigbald_batch])
def test_what_is_better_by_a_rounding_error_is_not_better(select):
    x, y, nearly = pool(), pool(4, seed=1), 1e-13 * pool(seed=2).exp()
    best = select(x, y, 1).indices[0]
    other = (x.exp() * (1 - 1e-13) + nearly).log()
    assert select(torch.cat([x[[best]], other[[best]]]), y, 1).scores != select(torch.cat([other[[best]], x[[best]]]), y, 1).scores
    assert select(torch.cat([x[[best]], other[[best]]]), y, 1).indices == select(torch.cat([other[[best]], x[[best]]]), y, 1).indices == [0]


@pytest.mark.parametrize("M, E, num", [(1, 5, 3), (4, 5, 20), (40, 5, 20), (40, 5, 3), (7, 3, 20)])
def test_pairs_share_the_weight_evenly(M, E, num):
    weights = torch.rand(M, generator=seeded()).double()
    weights /= weights.sum()
    counts = torch.zeros(E, M).double()
    for seed in range(2000):
        points, configurations, weight = epig._pairs(weights, E, num, seeded(seed))
        assert len(weight) <= max(num, E) and weight.sum().item() == pytest.approx(1)
        assert torch.allclose(torch.zeros(E).double().index_add_(0, points, weight), torch.full((E,), 1 / E).double())
        counts.index_put_((points, configurations), weight, accumulate=True)
    error = 4 * (weights / (E * E * max(1, num // E)) / 2000).sqrt() + 1e-12
    assert ((counts / 2000 - weights / E).abs() < error).all()  # every pair as often as it weighs
    if M * E <= num:
        assert torch.allclose(counts / 2000, (weights / E).expand(E, M))


def test_combs_of_different_points_are_shifted_against_each_other():
    points, configurations, _ = epig._pairs(torch.full((1000,), 1e-3).double(), 10, 20, seeded())
    gaps = (configurations.sort().values.diff() - 50).abs()
    assert gaps.max() <= 1  # twenty teeth, 50 configurations apart
    assert configurations.view(10, 2).diff(dim=1).tolist() == [[500]] * 10
    assert epig._pairs(torch.full((1000,), 1e-3).double(), 10, 20, seeded(1))[1].tolist() != configurations.tolist()


def test_pairs_are_drawn_with_the_callers_generator(monkeypatch):
    original, seen, generator = epig._pairs, [], seeded(5)
    monkeypatch.setattr(epig, "_pairs", lambda *args: (seen.append(args[-1]), original(*args))[1])
    get_batchepig_batch(pool(), pool(4, seed=1), 4, generator=generator)
    assert len(seen) == 4 and all(g is generator for g in seen)


def test_gains_from_a_sample_of_pairs_are_unbiased():
    x, y = pool(5, 10, 3), pool(4, 10, 3, seed=1)
    state = WeightedJointEntropy(1000, 10, dtype=torch.double).add_variables(pool(3, 10, 3, seed=2))
    gains = lambda num, seed: epig._gains_of(x, y, state.posteriors_M_K, epig._pairs(state.weights_M, 4, num, seeded(seed)), 2**20)
    exact, sampled = gains(10**6, 0), torch.stack([gains(12, seed) for seed in range(500)])
    assert sampled.std(0).min() > 1e-4
    assert ((sampled.mean(0) - exact).abs() < 4 * sampled.std(0) / math.sqrt(500)).all()


@pytest.mark.parametrize("select, sizes", [(get_batchepig_batch, (5, 60)), (get_batchepigbald_batch, (4, 60))])
def test_standard_errors_agree_with_the_spread_over_50_seeds(select, sizes):
    size, num = sizes  # all points of the pool, so that every seed scores the same batch
    x, y = pool(size, 20, 4, 3), pool(4, 20, 3, seed=4)
    batches = [select(x, y, size, num, generator=seeded(seed)) for seed in range(50)]
    scores, errors = [b.scores[-1] for b in batches], [b.standard_errors[-1] for b in batches]
    assert 0.5 < np.std(scores, ddof=1) / np.median(errors) < 2
    exact = mean_information(list(x), y) if select is get_batchepig_batch else information(list(x), list(y))
    assert abs(np.mean(scores) - exact) < 4 * np.std(scores) / math.sqrt(50) + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_batchepig_reports_information(seed):
    x, y = pool(60, 12, 5, seed), pool(9, 12, 4, seed + 20)
    batch = get_batchepig_batch(x, y, 12, 60, generator=seeded(seed))
    assert all(0 <= a <= b <= batch.ceiling for a, b in zip(batch.scores, batch.scores[1:])) and min(batch.gains) >= 0
    assert np.allclose(np.cumsum(batch.gains), batch.scores) and batch.standard_errors[:2] == [0.0, 0.0] and min(batch.standard_errors[3:]) > 0
    rest = get_batchepig_batch(x, y, 12, 60, pending=batch.indices, generator=seeded(seed))
    assert not set(rest.indices) & set(batch.indices) and rest.scores[-1] <= batch.ceiling - batch.scores[-1] + 0.02


@pytest.mark.parametrize("E", [1, 3, 30])
def test_the_ceiling_of_batchepigbald_is_what_the_evaluation_labels_tell(E):
    x, y = pool(60, 12, 5), pool(E, 12, 4, seed=20)
    batch = get_batchepigbald_batch(x, y, 12, 60)
    known = WeightedJointEntropy(4**6, 12, dtype=torch.double).add_variables(y).information
    assert batch.ceiling == pytest.approx(known, rel=1e-9 if E < 3 else 0.03) and batch.ceiling <= math.log(12)
    assert all(0 <= a <= b <= batch.ceiling for a, b in zip(batch.scores, batch.scores[1:])) and batch.scores[-1] > 0.8 * batch.ceiling
    if E == 1:
        other = get_batchepig_batch(x, y, 12, 60)  # of one label both are the same
        assert batch.ceiling == pytest.approx(other.ceiling, abs=1e-10) and batch.indices[:2] == other.indices[:2]


def test_what_is_reported_beyond_given_points():
    values = torch.tensor([[0.2, 0.5, 0.7, 0.65, 1.2]]).double().repeat(16, 1)
    values[8:, 2:] += 0.1  # half of the runs see more in the picks
    batch = plain_batchbald.report_runs([4, 2, 9], values, 1.1)
    assert batch.indices == [4, 2, 9] and batch.ceiling == 1.1
    assert np.allclose(batch.scores, [0.25, 0.25, 0.6]) and np.allclose(batch.gains, [0.25, 0.0, 0.35])  # do not fall, and 1.1 less 0.5 is all there is
    assert np.allclose(batch.standard_errors, [0.05 * math.sqrt(16 / 15) / 4] * 3)
    assert np.allclose(plain_batchbald.report_runs([4, 2, 9], values, 1.1, bounded=False).scores, [0.25, 0.2, 0.75])
    assert np.allclose(plain_batchbald.report_runs([1] * 5, -values, 1.1).scores, 0.0)


def test_epig_and_bald_of_a_pool_that_is_its_own_evaluation_set():
    x = pool(15, 9, 3)
    pairs = torch.stack([compute_epig(x, x[[e]]) for e in range(15)])
    assert torch.allclose(pairs, pairs.T, rtol=0, atol=1e-12) and torch.allclose(pairs.mean(0), compute_epig(x, x), rtol=0, atol=1e-12)
    assert (pairs <= torch.minimum(compute_bald(x), compute_bald(x)[:, None]) + 1e-12).all()


class Largest(TorchDispatchMode):
    "Remembers the largest tensor that any operation made."

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.bytes = max([self.bytes, *(t.untyped_storage().nbytes() for t in tree_leaves(result) if isinstance(t, torch.Tensor))])
        return result


@pytest.mark.parametrize("run", [compute_epig, lambda x, y, max_bytes: get_batchepig_batch(x, y, 2, 2000, max_bytes=max_bytes)])
def test_memory_stays_within_the_budget(run):
    x, y = pool(400, 40, 5).float(), pool(400, 40, 5, seed=1).float()  # 16 MB of joint tables; 2,000 pairs are 1.6 MB, and their tables 80 MB
    largest = Largest()
    with largest:
        small = run(x, y, max_bytes=2**20)
    assert largest.bytes <= 2**20
    whole = run(x, y, max_bytes=2**28)
    assert small.indices == whole.indices if isinstance(small, CandidateBatch) else torch.allclose(small, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("max_bytes", [1, 1000, 2**16, 2**24])
def test_any_budget_gives_the_same(max_bytes):
    x, y = pool(50, 7, 3), pool(20, 7, 4, seed=1)
    assert torch.allclose(compute_epig(x, y, max_bytes=max_bytes), compute_epig(x, y), rtol=0, atol=1e-12)
    assert get_epig_batch(x, y, 5, max_bytes=max_bytes).indices == get_epig_batch(x, y, 5).indices
    assert get_batchepig_batch(x, y, 5, max_bytes=max_bytes) == get_batchepig_batch(x, y, 5)


def test_what_runs_out_of_memory_is_tried_in_smaller_blocks(monkeypatch):
    x, y, original, asked = pool(), pool(4, seed=1), epig._evaluation_gains, []
    whole = compute_epig(x, y)

    def sometimes(*args):
        asked.append(args[-1])
        if len(asked) < 3: raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*args)

    monkeypatch.setattr(epig, "_evaluation_gains", sometimes)
    assert torch.equal(compute_epig(x, y), whole) and [asked[0] // a for a in asked] == [1, 2, 4]


def test_formats_of_pool_and_evaluation_set_may_differ(tmp_path):
    x, y = pool(40, 8, 4), pool(6, 8, 3, seed=1)
    np.save(tmp_path / "x.npy", x.float().numpy()), np.save(tmp_path / "y.npy", y.half().numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r"), np.load(tmp_path / "y.npy", mmap_mode="r")
    before = x.clone(), y.clone()
    for select in (get_epig_batch, get_batchepig_batch, get_batchepigbald_batch, get_softmaxepig_batch):
        exact = select(x, y, 4)
        assert np.allclose(select(x.float(), y.float(), 4).scores, exact.scores, atol=1e-5)
        assert np.allclose(select(x.half(), y, 4).scores, exact.scores, atol=1e-2) and np.allclose(select(x, y.bfloat16(), 4).scores, exact.scores, atol=0.1)
        assert select(*mapped, 4) == select(x.float(), y.half(), 4)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert compute_epig(x.float(), y).dtype == torch.double
    assert not torch.equal(compute_epig(x, y, torch.float32), compute_epig(x, y))


@pytest.mark.parametrize("select", [get_batchepig_batch, get_batchepigbald_batch, get_softmaxepig_batch])
def test_no_generator_means_seed_0_and_not_the_global_state(select):
    x, y = example_log_probs(20)[:60], example_log_probs(20)[60:66]
    options = {} if select is get_softmaxepig_batch else {"num_samples": 40}
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    assert select(x, y, 6, **options) == select(x, y, 6, **options) == select(x, y, 6, generator=seeded(0), **options)
    assert select(x, y, 6, **options) != select(x, y, 6, generator=seeded(1), **options)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_softmax_has_its_temperature_in_units_of_the_largest_score():
    x, y = pool(30, 8, 3), pool(5, 8, 3, seed=1)
    scores = compute_epig(x, y)
    for temperature in (0.0, 1 / 8, 3.0, math.inf):
        expected = get_softmax_batch(scores, 9, temperature=temperature * scores.max().item(), generator=seeded(3))
        found = get_softmaxepig_batch(x, y, 9, temperature=temperature, generator=seeded(3))
        assert (found.indices, found.scores) == (expected.indices, expected.scores)
    assert get_softmaxepig_batch(x, y, 9, generator=seeded(3)) == get_softmaxepig_batch(x, y, 9, temperature=1 / 8, generator=seeded(3))
    silent = pool(30, 8, 3)[:, :1].expand(30, 8, 3)  # all samples alike: nothing to learn, all scores 0 but for rounding
    picks = [get_softmaxepig_batch(silent, y, 1, generator=seeded(s)).indices[0] for s in range(300)]
    assert len(set(picks)) == 30 and max(map(picks.count, picks)) < 30
    for wrong in (-1, math.nan, None, "warm", True, [1, 2]):
        with pytest.raises(ValueError) as error: get_softmaxepig_batch(x, y, 9, temperature=wrong)
        assert str(error.value).startswith(f"`temperature` is {wrong!r};")  # as it was given, not in other units
    for budget in (1, 2**16): assert get_softmaxepig_batch(x, y, 9, max_bytes=budget).indices == get_softmaxepig_batch(x, y, 9).indices
    with pytest.raises(ValueError, match="max_bytes"): get_softmaxepig_batch(x, y, 9, max_bytes=0)


SELECT = {
    "epig scores": lambda x, y: compute_epig(x, y),
    "epig": lambda x, y: get_epig_batch(x, y, 2),
    "softmaxepig": lambda x, y: get_softmaxepig_batch(x, y, 2),
    "batchepig": lambda x, y: get_batchepig_batch(x, y, 2),
    "no batchepig": lambda x, y: get_batchepig_batch(x, y, 0),
    "epig-bald scores": lambda x, y: compute_epig_bald(x, y),
    "batchepigbald": lambda x, y: get_batchepigbald_batch(x, y, 2),
}
BAD = {
    "empty": (lambda y: y[:0], "axes"),
    "two axes": (lambda y: y[0], "axes"),
    "fewer samples": (lambda y: y[:, :5], "parameter samples"),
    "NaN": (lambda y: y * math.nan, "NaN"),
    "+inf in one place": (lambda y: y.index_fill(0, torch.tensor([3]), math.inf), "inf"),
    "probabilities": (lambda y: y.exp(), "probabilities"),
    "logits": (lambda y: y + 1, "logits"),
    "whole numbers": (lambda y: torch.zeros(4, 6, 1, dtype=torch.long), "dtype"),
}


@pytest.mark.parametrize("run", SELECT.values(), ids=SELECT)
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_evaluation_set_is_named(run, bad):
    make, message = BAD[bad]
    with pytest.raises(ValueError, match=message) as error:
        run(pool(), make(pool(4, seed=1)))
    assert "`log_probs_E_K_C`" in str(error.value) and "N points" not in str(error.value)


def test_a_bad_pool_is_named_even_where_nothing_is_picked():
    for select in (get_epig_batch, get_batchepig_batch, get_batchepigbald_batch, get_softmaxepig_batch):
        with pytest.raises(ValueError, match="`log_probs_N_K_C`"): select(pool().exp(), pool(4, seed=1), 0)


@pytest.mark.parametrize("run", [lambda z: compute_epig_bald(pool(), log_probs_after_N_K_C=z), lambda z: get_batchepigbald_batch(pool(), None, 2, log_probs_after_N_K_C=z)])
def test_a_bad_second_model_is_named(run):
    for wrong in (pool(11), pool(C=4), pool()[0], pool().exp(), pool() * math.nan):
        with pytest.raises(ValueError, match="`log_probs_after_N_K_C`"): run(wrong)
    with pytest.raises(ValueError, match="`log_probs_E_K_C`.*`log_probs_after_N_K_C`"): run(None)
    for both in (compute_epig_bald, lambda x, y, **options: get_batchepigbald_batch(x, y, 2, **options)):
        with pytest.raises(ValueError, match="not both"): both(pool(), pool(4), log_probs_after_N_K_C=pool())


@pytest.mark.parametrize("options", [{"log_probs_E_K_C": pool(4, seed=1)}, {"log_probs_E_K_C": None, "log_probs_after_N_K_C": pool(seed=2)}])
@pytest.mark.parametrize("select", [get_batchepig_batch, get_batchepigbald_batch])
def test_given_points(select, options):
    if select is get_batchepig_batch and options["log_probs_E_K_C"] is None: pytest.skip("needs an evaluation set")
    x = pool()
    assert len(select(x, batch_size=99, num_samples=50, pending=range(8), **options).indices) == 4
    assert select(x, batch_size=3, pending=range(12), **options).indices == []
    for wrong in ([12], [-1], "12", 3, None):
        with pytest.raises(ValueError, match="`pending`"): select(x, batch_size=3, pending=wrong, **options)


@pytest.mark.parametrize("select", [get_batchepig_batch, get_batchepigbald_batch])
def test_a_batch_that_uses_up_the_samples_warns_its_caller_once(select):
    x, y = pool(30, 3, 3), pool(4, 3, 3, seed=1)
    with pytest.warns(CeilingWarning, match="picks use more than 95%") as caught:
        select(x, y, 10, 300)
    assert len(caught) == 1 and caught[0].filename == __file__ and "of 10 picks" in str(caught[0].message)


@pytest.mark.parametrize("select", [compute_epig_bald, lambda x, y, **o: get_batchepigbald_batch(x, y, 1, **o), lambda x, y, **o: get_batchepigbald_batch(x, y, 0, **o)])
def test_evaluation_labels_that_use_up_the_samples_are_warned_of(select):
    x, y = pool(20, 8, 3), pool(60, 8, 3, seed=1)
    with pytest.warns(CeilingWarning, match="60 evaluation points use more than 95%.*BALD") as caught:
        select(x, y)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        select(x, y[:2])
        select(x, None, log_probs_after_N_K_C=pool(20, 8, 3, seed=1))
        select(x[:, :1], y[:, :1])


def test_no_warning_below_the_ceiling_or_where_there_is_nothing_to_learn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for select in (get_batchepig_batch, get_batchepigbald_batch):
            select(pool(30, 50, 3), pool(4, 50, 3, seed=1), 2)
            select(pool(40, 1, 7).float(), pool(4, 1, 3, seed=1), 20)
            select(pool(), pool(4, seed=1), 0)


@pytest.mark.gpu
def test_on_cuda_it_agrees_with_the_cpu():
    x, y = pool(2000, 40, 5).float(), pool(100, 40, 4, seed=1).float()
    assert torch.allclose(compute_epig(x.cuda(), y.cuda()).cpu(), compute_epig(x, y), rtol=0, atol=1e-6)
    assert torch.allclose(compute_epig(x, y, device="cuda").cpu(), compute_epig(x, y), rtol=0, atol=1e-6)
    for select in (get_epig_batch, get_batchepig_batch, get_batchepigbald_batch):
        cpu, gpu = select(x, y, 4), select(x, y, 4, device="cuda")
        assert cpu.indices[:2] == gpu.indices[:2] and np.allclose(cpu.scores[:2], gpu.scores[:2], atol=1e-4)
        assert select(x.cuda(), y.cuda(), 4).indices == gpu.indices
        assert len(select(x.cuda(), y, 4, pending=[1, 2]).indices if select is not get_epig_batch else [0] * 4) == 4


@pytest.mark.parametrize("given", [(), (3, 7)])
def test_methods_of_the_loop_ask_about_the_evaluation_inputs(given):
    x, y = pool(30, 40, 4, 1), pool(6, 40, 3, 2)
    rest = [i for i in range(30) if i not in given]

    def batch(method, evaluation_inputs=y):
        round = Round(4, 30, lambda inputs: x if inputs is None else inputs, generator=seeded(5), pending=given, num_samples=200, evaluation_inputs=evaluation_inputs)
        return methods[method](round)

    def top(scores_N): return [rest[i] for i in get_top_k_batch(scores_N[rest], 4).indices]

    assert batch("epig").indices == top(compute_epig(x, y))
    assert batch("epigbald").indices == top(compute_epig_bald(x, y, 200, generator=seeded(5)))
    assert batch("epigbald").indices != top(compute_epig(x, y))
    assert batch("epigbald", None).indices == top(compute_epig_bald(x, x, 200, generator=seeded(5)))
    assert batch("batchepig") == get_batchepig_batch(x, y, 4, 50, pending=given, generator=seeded(5))
    assert batch("batchepigbald") == get_batchepigbald_batch(x, y, 4, 200, pending=given, generator=seeded(5))
    assert batch("softmaxepig").indices == [rest[i] for i in get_softmaxepig_batch(x[rest], y, 4, generator=seeded(5)).indices]


def test_a_pool_that_is_refused_leaves_the_generator_as_it_was():
    generator = seeded()
    for call in (compute_epig_bald, partial(get_batchepigbald_batch, batch_size=2)):
        with pytest.raises(ValueError, match="`log_probs_N_K_C`"):
            call(log_probs_N_K_C=torch.rand(6, 3, 2), log_probs_E_K_C=torch.rand(9, 3, 2).log_softmax(-1), num_samples=7, generator=generator)
    assert torch.equal(generator.get_state(), seeded().get_state())
