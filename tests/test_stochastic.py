"Draws without replacement against brute force; limits, special scores and what no draw may do."
import math
import os
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from everything import *

SLOW = os.environ.get("SLOW") == "1"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


DRAWS = {"softmax": get_softmax_batch, "power": get_power_batch, "softrank": get_softrank_batch}
each = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())


# Brute force, from the definitions and without a logarithm


def ranks(scores):
    return [1 + sum(other > s for other in scores) for s in scores]


def shared_rank_weights(scores, T):
    "r^(-1/T), where equal scores share the weights of the ranks that they occupy."
    tied = [scores.count(s) for s in scores]
    return [sum((r + j) ** (-1 / T) for j in range(n)) / n for r, n in zip(ranks(scores), tied)]


WEIGHTS = {
    "softmax": lambda scores, T: [math.exp(s / T) for s in scores],
    "power": lambda scores, T: [max(s, 0) ** (1 / T) for s in scores],
    "softrank": shared_rank_weights,
}


def ordered_draws(weights, B):
    "Probability of every ordered draw of B points; when only zero weights are left, they are equally likely."
    found = {(): 1.0}
    for _ in range(B):
        longer = {}
        for order, p in found.items():
            left = [i for i in range(len(weights)) if i not in order]
            total = math.fsum(weights[i] for i in left)
            for i in left:
                longer[order + (i,)] = p * (weights[i] / total if total > 0 else 1 / len(left))
        found = longer
    return found


def test_brute_force_itself():
    assert ordered_draws([1, 2, 3], 2)[2, 0] == pytest.approx(3 / 6 * 1 / 3)
    assert ordered_draws([0, 1, 0], 2) == {(1, 0): 0.5, (1, 2): 0.5, **{o: 0 for o in [(0, 1), (0, 2), (2, 0), (2, 1)]}}
    assert math.fsum(ordered_draws([0.1, 3, 0.5, 2], 3).values()) == pytest.approx(1)
    assert shared_rank_weights([0.5, 0.9, 0.5], 1.0) == pytest.approx([(1 / 2 + 1 / 3) / 2, 1, (1 / 2 + 1 / 3) / 2])


def count_draws(draw, scores, B, draws, seed=0, **options):
    g, counts = seeded(seed), {}
    for _ in range(draws):
        order = tuple(draw(scores, B, generator=g, **options).indices)
        counts[order] = counts.get(order, 0) + 1
    return counts


def tail_probability(counts, expected):
    "Pearson's chi-square test against exact probabilities; rare outcomes are put together, impossible ones must not occur."
    draws = sum(counts.values())
    if any(expected[o] == 0 for o in counts):
        return 0.0
    cells = [(counts.get(o, 0), draws * p) for o, p in expected.items() if p > 0]
    rare = [cell for cell in cells if cell[1] < 5]
    cells = [cell for cell in cells if cell[1] >= 5] + ([tuple(map(sum, zip(*rare)))] if rare else [])
    return chi2.sf(sum((n - e) ** 2 / e for n, e in cells), len(cells) - 1) if len(cells) > 1 else 1.0


POOLS = {
    "two": ([0.3, 0.5], 1, 0.5),
    "spread": ([0.2, 0.5, 0.3, 0.05], 2, 0.5),
    "warm": ([0.2, 0.5, 0.3, 0.05], 3, 3.0),
    "signs": ([0.2, -0.3, 0.0, 0.5, 0.4], 3, 0.3),
    "ties": ([0.4, 0.1, 0.4, 0.4, 0.1, 0.6], 3, 1.0),
    "all equal": ([0.7] * 4, 2, 0.25),
    "far up": ([1e4, 1e4 - 0.5, 1e4 - 1], 2, 0.5),  # exp(1e4) is beyond float64
    "small": ([1e-300, 3e-300, 2e-300, 0.0], 3, 1.0),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("pool", POOLS)
def test_ordered_draws_have_the_exact_distribution(name, pool):
    scores, B, T = POOLS[pool]
    level = max(scores) if name == "softmax" else 0.0  # a common constant says nothing to softmax, and brute force could not bear it
    if name == "power" and pool == "small": weights = [s * 1e300 for s in scores]
    else: weights = WEIGHTS[name]([s - level for s in scores], T)
    counts = count_draws(DRAWS[name], torch.tensor(scores).double() if pool != "small" else np.array(scores), B, 4000 if SLOW else 1500, temperature=T)
    assert tail_probability(counts, ordered_draws(weights, B)) > 1e-3


@pytest.mark.parametrize("name", DRAWS)
def test_the_comparison_would_notice_wrong_weights(name):
    scores, B, T = [0.2, 0.5, 0.3, 0.05], 2, 0.25
    counts = count_draws(DRAWS[name], scores, B, 1500, temperature=T)
    for wrong in (0.75 * T, 1.33 * T):
        assert tail_probability(counts, ordered_draws(WEIGHTS[name](scores, wrong), B)) < 1e-4
    for other in DRAWS.keys() - {name}:
        assert tail_probability(counts, ordered_draws(WEIGHTS[other](scores, T), B)) < 1e-4
    # and draws *with* replacement, of which those with a repetition are thrown away
    weights = np.array(WEIGHTS[name](scores, T))
    p = weights / weights.sum()
    pairs = {o: p[o[0]] * p[o[1]] for o in permutations(range(4), 2)}
    total = sum(pairs.values())
    assert tail_probability(counts, {o: q / total for o, q in pairs.items()}) < 1e-4


@pytest.mark.parametrize("name", DRAWS)
def test_inclusion_probabilities(name):
    scores, B, T, draws = [0.2, 0.5, 0.3, 0.05, 0.45, 0.21], 3, 0.5, 2000
    counts, exact = count_draws(DRAWS[name], scores, B, draws, seed=1, temperature=T), ordered_draws(WEIGHTS[name](scores, T), B)
    for i in range(6):
        p, seen = math.fsum(q for o, q in exact.items() if i in o), sum(n for o, n in counts.items() if i in o) / draws
        assert abs(seen - p) < 4 * math.sqrt(p * (1 - p) / draws)
    sets = {S: math.fsum(exact[o] for o in permutations(S)) for S in combinations(range(6), B)}
    by_set = {}
    for o, n in counts.items(): by_set[tuple(sorted(o))] = by_set.get(tuple(sorted(o)), 0) + n
    assert tail_probability(by_set, sets) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWS)
def test_tail_probabilities_are_uniform_over_seeds(name):
    "A bias too small for one comparison shows in the sum of fifty."
    scores, B, T = [0.2, 0.5, 0.3, 0.05, 0.45, 0.2], 3, 0.5
    total = {}
    for seed in range(50):
        for o, n in count_draws(DRAWS[name], scores, B, 2000, seed, temperature=T).items(): total[o] = total.get(o, 0) + n
    assert tail_probability(total, ordered_draws(WEIGHTS[name](scores, T), B)) > 1e-3


def test_the_batch_is_the_order_in_which_clocks_ring():
    "With the generator's own uniform numbers: an exponential clock of each point's weight, the first to ring first."
    scores = random_scores(1000)
    for seed in range(3):
        clocks = -torch.log1p(-torch.rand(1000, generator=seeded(seed), dtype=torch.double))
        assert get_softmax_batch(scores, 1000, temperature=0.3, generator=seeded(seed)).indices == (clocks / (scores / 0.3).exp()).argsort().tolist()
        assert get_power_batch(scores, 1000, temperature=0.3, generator=seeded(seed)).indices == (clocks / scores ** (1 / 0.3)).argsort().tolist()
        weights = torch.tensor(shared_rank_weights(scores.tolist(), 2.0)).double()
        assert get_softrank_batch(scores, 1000, temperature=2.0, generator=seeded(seed)).indices == (clocks / weights).argsort().tolist()


# Temperature


def random_scores(N=60, seed=0):
    "Positive multiples of 1/1024, of which ten stand there twice."
    values = 1 + torch.randperm(1023, generator=seeded(seed))[: N - 10]
    return torch.cat([values, values[:10]])[torch.randperm(N, generator=seeded(seed + 1))].double() / 1024


@each
def test_temperature_zero_is_top_k(draw):
    scores = random_scores()
    for generator in (None, seeded(3)):
        assert draw(scores, 20, temperature=0, generator=generator) == get_top_k_batch(scores, 20)


@each
@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-12])
def test_nearly_zero_is_top_k_up_to_ties(draw, temperature):
    scores = torch.cat([random_scores(), torch.tensor([-3.0, -2.0])])
    if draw is get_power_batch: scores = scores.clamp_min(0)
    for seed in range(5):
        batch = draw(scores, 62, temperature=temperature, generator=seeded(seed))
        assert batch.scores == sorted(scores.tolist(), reverse=True)
    assert len({tuple(draw(scores, 62, temperature=temperature, generator=seeded(s)).indices) for s in range(5)}) == 5  # ties in any order


@each
def test_infinity_is_the_random_batch(draw):
    scores = [0.0, 5.0, -1.0, -2.0, 3.0, 1e300]
    for seed in range(5):
        assert draw(scores, 4, temperature=math.inf, generator=seeded(seed)).indices == get_random_batch(6, 4, generator=seeded(seed)).indices
    positive = random_scores()
    for temperature in (1e17, 1e308):  # in the limit the same
        assert draw(positive, 9, temperature=temperature, generator=seeded()).indices == get_random_batch(60, 9).indices


def test_random_batches_are_uniform():
    def draw(scores, B, generator): return get_random_batch(4, B, generator=generator)
    assert tail_probability(count_draws(draw, None, 2, 1500), dict.fromkeys(permutations(range(4), 2), 1 / 12)) > 1e-3
    assert get_random_batch(4, 9).scores == [0.0] * 4 and get_random_batch(1, 1).indices == [0] and get_random_batch(3, 0).indices == []


@each
def test_temperature_one_is_crossed_without_a_seam(draw):
    scores = random_scores()
    assert draw(scores, 60, temperature=1.0).indices == draw(scores, 60, temperature=1 + 1e-12).indices


@each
@pytest.mark.parametrize("temperature", [-1, -1e-300, -math.inf, math.nan, None, "0.5", True, [0.5, 0.5]])
def test_bad_temperature(draw, temperature):
    with pytest.raises(ValueError, match="temperature"):
        draw([0.1, 0.2], 1, temperature=temperature)


def test_temperature_may_be_any_kind_of_number():
    for one in (1, np.float32(1), torch.tensor(1.0)):
        assert get_softmax_batch(random_scores(), 9, temperature=one) == get_softmax_batch(random_scores(), 9, temperature=1.0)


def test_defaults_are_those_of_the_contract():
    scores, x = random_scores(), example_log_probs(20)[:60]
    for draw, short, T in ((get_softmax_batch, get_softmaxbald_batch, 1 / 8), (get_power_batch, get_powerbald_batch, 1 / 4), (get_softrank_batch, get_softrankbald_batch, 1)):
        assert draw(scores, 30) == draw(scores, 30, temperature=T) and draw(scores, 30) != draw(scores, 30, temperature=2 * T)
        assert short(x, 30) == draw(compute_bald(x), 30, temperature=T)
        assert short(x, 30, temperature=0.7, generator=seeded(5)) == draw(compute_bald(x), 30, temperature=0.7, generator=seeded(5))


# Special scores


@pytest.mark.parametrize("temperature", [1e-3, 1 / 4, 1, 100])
def test_power_draws_zeros_last_and_uniformly(temperature):
    scores, last = np.array([0.0, 1e-300, -1.0, 3.0, -0.0, -1e300, 5e-324]), []
    for seed in range(400):
        batch = get_power_batch(scores, 7, temperature=temperature, generator=seeded(seed))
        assert set(batch.indices[:3]) == {1, 3, 6}
        last.append(batch.indices[3])
    assert tail_probability({i: last.count(i) for i in set(last)}, dict.fromkeys([0, 2, 4, 5], 1 / 4)) > 1e-3


@each
def test_infinite_scores(draw):
    firsts = set()
    for seed in range(30):
        picks = draw([-math.inf, math.inf, 0.3, math.inf, -math.inf], 5, temperature=0.1, generator=seeded(seed)).indices
        if draw is not get_softrank_batch:  # which looks at the order alone
            assert set(picks[:2]) == {1, 3} and picks[2] == 2
        firsts.add(picks[0])
    assert {1, 3} <= firsts


@each
@pytest.mark.parametrize("temperature", [0, 5e-324, 0.1, 1.0, 1e308, math.inf])
def test_minus_infinity_is_never_drawn_while_others_are_left(draw, temperature):
    scores, thirds, lasts = np.array([0.0, -math.inf, -1.0, 2.0, -math.inf]), set(), set()
    for seed in range(60):
        picks = draw(scores, 5, temperature=temperature, generator=seeded(seed)).indices
        assert set(picks[3:]) == {1, 4}
        assert draw(scores, 2, temperature=temperature, generator=seeded(seed)).indices == picks[:2]
        thirds.add(picks[2]), lasts.add(picks[4])
    assert temperature < math.inf or thirds == {0, 2, 3}  # random among the others
    assert lasts == {4} if temperature == 0 else lasts == {1, 4}
    assert draw([-math.inf] * 3, 2, temperature=temperature).scores == [-math.inf] * 2


def test_extreme_scores_and_temperatures_do_not_overflow():
    for seed in range(20):
        assert set(get_power_batch([0.0, 1.0, 0.0, 2.0, 0.0], 2, temperature=1e308, generator=seeded(seed)).indices) == {1, 3}
    assert get_softmax_batch([-1e4, 1e4, 0.0], 3).indices == [1, 2, 0]
    assert get_softmax_batch(np.array([1e308, -1e308, 0.0]), 3, temperature=1e-300).indices == [0, 2, 1]
    assert get_softmax_batch(np.array([1e308, -1e308, 0.0]), 3, temperature=2.0).indices == [0, 2, 1]
    assert get_power_batch(np.array([1e-300, 0.0, 1e300]), 3, temperature=0.5).indices == [2, 0, 1]


def test_invariances():
    scores = random_scores()
    batch = get_softmax_batch(scores, 60, generator=seeded(1))
    assert batch.indices == get_softmax_batch(scores - 2.0**20, 60, generator=seeded(1)).indices
    assert batch.indices == get_softmax_batch(4 * scores, 60, temperature=4 / 8, generator=seeded(1)).indices
    assert get_power_batch(scores, 60).indices == get_power_batch(scores * 2.0**-1000, 60).indices == get_power_batch(scores.sqrt(), 60, temperature=1 / 8).indices
    assert get_softrank_batch(scores, 60).indices == get_softrank_batch(scores.exp() - 9, 60).indices


@each
def test_number_formats_and_containers(draw):
    scores = (random_scores() * 64).round() / 64  # exact in every format
    batches = [draw(x, 9) for x in (scores, scores.half(), scores.bfloat16(), scores.numpy(), scores.tolist(), scores.clone().requires_grad_())]
    assert all(batch == batches[0] for batch in batches)


# What no draw may do


@each
def test_a_longer_batch_begins_with_the_shorter_one_and_reports_the_given_scores(draw):
    scores = random_scores() - 0.2
    batch = draw(scores, 99, temperature=0.5)
    assert sorted(batch.indices) == list(range(60)) and batch.scores == scores[batch.indices].tolist()
    assert all(type(i) is int for i in batch.indices) and all(type(s) is float for s in batch.scores)
    for B in (0, 1, 7, 59): assert draw(scores, B, temperature=0.5).indices == batch.indices[:B]
    assert batch.scores != sorted(batch.scores, reverse=True)  # the order is that of the draw


@each
def test_the_generator_is_the_only_source_of_chance(draw):
    scores, before = random_scores(), torch.random.get_rng_state()
    copy = scores.clone()
    assert draw(scores, 9) == draw(scores, 9) == draw(scores, 9, generator=seeded(0)) != draw(scores, 9, generator=seeded(1))
    g = seeded(0)
    assert draw(scores, 9, generator=g) != draw(scores, 9, generator=g)  # it moves on
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    draw(scores, 9), get_random_batch(60, 9)
    assert torch.equal(torch.random.get_rng_state(), state) and torch.equal(scores, copy)
    torch.random.set_rng_state(before)


@each
def test_bad_scores_and_sizes(draw):
    for scores in ([], [[0.1]], [math.nan, 1.0], ["a"], [1j]):
        with pytest.raises(ValueError, match="scores_N"): draw(scores, 1)
    for size in (-1, 1.5, None):
        with pytest.raises(ValueError, match="batch_size"): draw([0.1, 0.2], size)
    with pytest.raises(ValueError, match="generator"): draw([0.1, 0.2], 1, generator=3)


def test_random_batch_bad_input():
    for N in (0, -1, 1.5, None):
        with pytest.raises(ValueError, match="`N`"): get_random_batch(N, 1)
    with pytest.raises(ValueError, match="batch_size"): get_random_batch(3, -1)
