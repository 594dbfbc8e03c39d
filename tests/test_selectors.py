"What must hold of every selector: sizes, ties, special values, number formats, bad input, reproducibility."
import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from everything import *

pytestmark = pytest.mark.filterwarnings("ignore:.*log K", "ignore:.*identical parameter samples")  # small K on purpose


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def evaluation(x):
    "A few evaluation points with as many parameter samples as the pool, and classes of their own."
    return pool(5, max(1, x.shape[1]) if x.ndim == 3 else 8, 3, seed=9)


SELECTORS = {
    "bald": lambda x, size: get_bald_batch(x, size),
    "batchbald": lambda x, size: get_batchbald_batch(x, size, 50, generator=seeded()),
    "batchbald double": lambda x, size: get_batchbald_batch(x, size, 50, torch.double, generator=seeded()),
    "plain batchbald": lambda x, size: get_plain_batchbald_batch(x, size, 50, generator=seeded()),
    "1bald": lambda x, size: get_kbald_batch(x, size, 1),
    "2bald": lambda x, size: get_kbald_batch(x, size),
    "3bald": lambda x, size: get_kbald_batch(x, size, 3),
    "largebatchbald": lambda x, size: get_largebatchbald_batch(x, size),
    # with limits that never stop them; tests/test_kbald.py has the others
    "dynamic 2bald": lambda x, size: get_dynamic_kbald_batch(x, size, tolerance=math.inf),
    "dynamic batchbald": lambda x, size: get_dynamic_batchbald_batch(x, size, 50, gain_share=0, ceiling_share=1, generator=seeded()),
    "conservativebald": lambda x, size: get_conservativebald_batch(x, size, threshold=math.inf),
    "budgetbald": lambda x, size: get_budgetbald_batch(x, size, 50, budget=math.inf, generator=seeded()),
    "softmaxbald": lambda x, size: get_softmaxbald_batch(x, size, generator=seeded()),
    "powerbald": lambda x, size: get_powerbald_batch(x, size, generator=seeded()),
    "softrankbald": lambda x, size: get_softrankbald_batch(x, size, generator=seeded()),
    "epig": lambda x, size: get_epig_batch(x, evaluation(x), size),
    "batchepig": lambda x, size: get_batchepig_batch(x, evaluation(x), size, 50, generator=seeded()),
    "batchepigbald": lambda x, size: get_batchepigbald_batch(x, evaluation(x)[:2], size, 50, generator=seeded()),
    "softmaxepig": lambda x, size: get_softmaxepig_batch(x, evaluation(x), size, generator=seeded()),
}
DETERMINISTIC = [name for name in SELECTORS if name not in ("softmaxbald", "powerbald", "softrankbald", "softmaxepig")]
each = pytest.mark.parametrize("select", SELECTORS.values(), ids=SELECTORS.keys())


def pool(N=30, K=8, C=4, seed=0, scale=2.0):
    return (scale * torch.randn(N, K, C, generator=seeded(seed))).double().log_softmax(-1)


@each
def test_distinct_positions_in_range(select):
    batch = select(pool(), 7)
    assert len(batch.indices) == len(batch.scores) == 7
    assert len(set(batch.indices)) == 7 and set(batch.indices) <= set(range(30))
    assert all(type(i) is int for i in batch.indices) and all(type(s) is float for s in batch.scores)


@each
@pytest.mark.parametrize("size", [30, 31, 1000])
def test_batch_as_large_as_the_pool(select, size):
    assert sorted(select(pool(), size).indices) == list(range(30))


@each
def test_empty_batch(select):
    batch = select(pool(), 0)
    assert (batch.indices, batch.scores) == ([], [])


@each
@pytest.mark.parametrize("shape", [(1, 8, 4), (30, 1, 4), (1, 1, 4)])
def test_axes_of_one(select, shape):
    batch = select(pool(*shape), 3)
    assert len(batch.indices) == min(3, shape[0])
    assert all(math.isfinite(s) for s in batch.scores)
    if shape[1] == 1:
        assert all(abs(s) < 1e-6 for s in batch.scores)


@each
@pytest.mark.parametrize("shape", [(30, 8, 1), (1, 1, 1)])
def test_one_class_is_refused(select, shape):
    with pytest.raises(ValueError, match="`log_probs_N_K_C` has shape .* one class"):
        select(pool(*shape), 3)


@each
def test_input_is_not_changed_and_the_global_random_state_is_not_touched(select):
    x = pool()
    before, state = x.clone(), torch.random.get_rng_state()
    select(x, 5)
    assert torch.equal(x, before) and torch.equal(torch.random.get_rng_state(), state)


@each
def test_same_generator_state_same_batch(select):
    assert select(pool(), 9) == select(pool(), 9)


@each
def test_hard_zeros(select):
    x = torch.eye(4)[torch.randint(4, (20, 8), generator=seeded())].log()  # every sample is certain
    batch = select(x, 5)
    assert len(set(batch.indices)) == 5 and all(math.isfinite(s) for s in batch.scores)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_number_formats(name, dtype):
    exact, rounded = SELECTORS[name](pool(), 3), SELECTORS[name](pool().to(dtype), 3)
    tolerance = {torch.float16: 0.01, torch.bfloat16: 0.1, torch.float32: 1e-5}[dtype]
    assert np.abs(np.array(exact.scores) - np.array(rounded.scores)).max() < tolerance


@each
def test_numpy_and_memory_maps(select, tmp_path):
    np.save(tmp_path / "x.npy", pool().float().numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert select(mapped, 5) == select(np.array(mapped), 5) == select(pool().float(), 5)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_ties_go_to_the_lowest_position(name):
    # every point stands there three times, far apart, so that a matrix product may round the copies differently
    x = pool(37, 8, 4).float().repeat(3, 1, 1)
    picks = SELECTORS[name](x, 1).indices
    assert picks[0] < 37
    silent = torch.full((9, 3, 2), 0.5).log()
    assert SELECTORS[name](silent, 4).indices == [0, 1, 2, 3]


@st.composite
def any_pools(draw):
    "A legitimate pool, tensor or array, and for every point the first one that it is a copy of."
    N, K, C = draw(st.integers(1, 12)), draw(st.integers(1, 6)), draw(st.integers(2, 4))
    g = seeded(draw(st.integers(0, 2**31 - 1)))
    probs = (draw(st.sampled_from([0.1, 2.0, 8.0])) * torch.randn(N, K, C, generator=g).double()).softmax(-1)
    if draw(st.booleans()):  # hard zeros: all but the likeliest classes are impossible
        probs = torch.where((probs < 0.3) & (probs < probs.amax(-1, keepdim=True)), 0.0, probs)
        probs = probs / probs.sum(-1, keepdim=True)
    copy_of = list(range(N))
    for n in range(N):
        if draw(st.booleans()): copy_of[n] = copy_of[draw(st.integers(0, n))]
    x = probs[copy_of].log().to(draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])))
    return x.numpy() if x.dtype != torch.bfloat16 and draw(st.booleans()) else x, copy_of


def random_states():
    return torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2:]


steady = settings(max_examples=250, deadline=None, derandomize=True, database=None)


@steady
@given(any_pools(), st.integers(0, 15))
def test_any_pool_any_selector(pool_and_copies, size):
    x, copy_of = pool_and_copies
    before, states = torch.as_tensor(x).clone(), random_states()
    for name, select in SELECTORS.items():
        batch = select(x, size)
        assert len(batch.indices) == len(batch.scores) == min(size, len(x)), name
        assert len(set(batch.indices)) == len(batch.indices) and set(batch.indices) <= set(range(len(x))), name
        assert all(type(i) is int for i in batch.indices) and all(type(s) is float and math.isfinite(s) for s in batch.scores), name
        assert select(x, size) == batch, name
        if name in DETERMINISTIC:  # of equal points the first is picked first
            for n, i in enumerate(batch.indices):
                assert all(j in batch.indices[:n] for j in range(i) if copy_of[j] == copy_of[i]), (name, batch.indices)
    assert torch.equal(torch.as_tensor(x), before) and random_states() == states


@steady
@given(any_pools(), st.integers(1, 60), st.integers(0, 15))
def test_nothing_but_copies_comes_in_order(pool_and_copies, N, size):
    copies = torch.as_tensor(pool_and_copies[0])[:1].repeat(N, 1, 1)
    for name in DETERMINISTIC:
        assert SELECTORS[name](copies, size).indices == list(range(min(size, N))), name


@steady
@given(any_pools(), st.sampled_from(["NaN", "+inf", "shifted", "logits", "probabilities", "axes"]), st.integers(0, 2**31 - 1))
def test_one_bad_row_anywhere_is_named(pool_and_copies, kind, where):
    x = torch.as_tensor(pool_and_copies[0]).clone()
    n, k = where % x.shape[0], where // 100 % x.shape[1]
    if kind == "NaN": x[n, k, 0] = math.nan
    if kind == "+inf": x[n, k, 0] = math.inf
    if kind == "shifted": x[n, k] -= 0.5
    if kind == "logits": x[n, k] = 3 + torch.rand(x.shape[2], generator=seeded(where))
    if kind == "probabilities": x = x.exp()
    if kind == "axes": x = [x[0], x[:0], x[:, :0], x[..., :0], x[None]][where % 5]
    for name, select in SELECTORS.items():
        with pytest.raises(ValueError, match="log_probs_N_K_C"):
            select(x, 2)


BAD = {
    "NaN": (lambda: pool() * math.nan, "NaN"),
    "+inf": (lambda: pool().masked_fill(torch.eye(30, 8, dtype=torch.bool)[..., None], math.inf), "inf"),
    "two axes": (lambda: pool()[0], "axes"),
    "empty pool": (lambda: pool()[:0], "axes"),
    "no classes": (lambda: pool()[..., :0], "axes"),
    "unnormalised": (lambda: pool() - 1, "logits"),
    "logits": (lambda: torch.randn(30, 8, 4, generator=seeded()), "logits"),
    "probabilities": (lambda: pool().exp(), "probabilities"),
    "whole numbers": (lambda: torch.zeros(30, 8, 1, dtype=torch.long), "dtype"),
    "words": (lambda: np.array([[["a"]]]), "log_probs_N_K_C"),
    "sparse": (lambda: pool().to_sparse(), "to_dense"),
}


@each
@pytest.mark.parametrize("bad", BAD)
def test_bad_input(select, bad):
    make, message = BAD[bad]
    with pytest.raises(ValueError, match=message) as error:
        select(make(), 3)
    assert "log_probs_N_K_C" in str(error.value)


@pytest.mark.parametrize("device", ["nope", 0.5, "cuda:99"])
@pytest.mark.parametrize("select", [
    get_bald_batch, get_batchbald_batch, get_plain_batchbald_batch, get_kbald_batch, get_largebatchbald_batch, get_dynamic_kbald_batch,
    get_dynamic_batchbald_batch, get_conservativebald_batch, get_budgetbald_batch, compute_kbald_gains, compute_pair_information,
    *(lambda x, size, device, f=f: f(x, evaluation(x), size, device=device) for f in (get_epig_batch, get_batchepig_batch)),
    lambda x, size, device: WeightedJointEntropy(4, 8, device=device),
    lambda x, size, device: ExactJointEntropy.empty(8, device),
])  # fmt: skip
def test_bad_device(select, device):
    size = pool()[:2] if select in (compute_kbald_gains, compute_pair_information) else 2
    with pytest.raises(ValueError, match="`device`"):
        select(pool(), size, device=device)


@each
@pytest.mark.parametrize("size", [-1, 2.5, None, True])
def test_bad_batch_size(select, size):
    with pytest.raises(ValueError, match="batch_size"):
        select(pool(), size)


@pytest.mark.parametrize("seed", range(5))
def test_batchbald_reports_what_the_contract_says(seed):
    x = pool(200, 12, 5, seed)
    batch = get_batchbald_batch(x, 15, 60, generator=seeded(seed))
    assert batch.ceiling == math.log(12)
    assert all(g >= 0 for g in batch.gains)
    assert all(0 <= a <= b <= batch.ceiling for a, b in zip(batch.scores, batch.scores[1:]))
    assert batch.standard_errors[:3] == [0.0] * 3  # 25 configurations of two points fit into 60, and the third needs no storing
    assert np.allclose(batch.scores[:3], np.cumsum(batch.gains[:3]), atol=1e-12)
    assert min(batch.standard_errors[4:]) > 0


def test_batchbald_first_picks_against_enumeration():
    x = pool(25, 6, 3, 4)
    batch = get_batchbald_batch(x, 4, 81, torch.double)
    for n in range(1, 5):
        rows = x[batch.indices[:n]]
        joint = ExactJointEntropy.empty(6, dtype=torch.double).add_variables(rows).compute() - compute_conditional_entropy(rows).sum()
        assert abs(joint.item() - batch.scores[n - 1]) < 1e-10


CONDITIONED = [
    get_batchbald_batch,
    get_kbald_batch,
    partial(get_kbald_batch, k=3),
    get_largebatchbald_batch,
    partial(get_dynamic_kbald_batch, tolerance=math.inf),
    partial(get_dynamic_batchbald_batch, gain_share=0, ceiling_share=1),
    partial(get_budgetbald_batch, budget=math.inf),
]


@pytest.mark.parametrize("select", CONDITIONED)
def test_given_points_are_not_returned_and_condition_the_rest(select):
    x = pool(20, 50, 3, 7)
    first = select(x, 6)
    rest = select(x, 3, pending=first.indices[:3])
    assert rest.indices == first.indices[3:6]
    assert np.allclose(rest.scores, np.array(first.scores[3:]) - first.scores[2], atol=1e-5)
    assert len(select(x, 99, pending=range(15)).indices) == 5
    assert select(x, 3, pending=range(20)).indices == []
    for wrong in ([20], [-1], [1.5], "12", 3, None, np.arange(20) < 5, torch.arange(20) < 5, [True, "a"]):
        with pytest.raises(ValueError, match="`pending`"):
            select(x, 3, pending=wrong)


POINT_BY_POINT = {
    "bald": lambda x, size, **o: get_bald_batch(x, size, **o),
    "top-k": lambda x, size, **o: get_top_k_batch(compute_bald(x), size, **o),
    "softmax": lambda x, size, **o: get_softmax_batch(compute_bald(x), size, generator=seeded(), **o),
    "power": lambda x, size, **o: get_power_batch(compute_bald(x), size, generator=seeded(), **o),
    "softrank": lambda x, size, **o: get_softrank_batch(compute_bald(x), size, generator=seeded(), **o),
    "softmaxbald": lambda x, size, **o: get_softmaxbald_batch(x, size, generator=seeded(), **o),
    "powerbald": lambda x, size, **o: get_powerbald_batch(x, size, generator=seeded(), **o),
    "softrankbald": lambda x, size, **o: get_softrankbald_batch(x, size, generator=seeded(), **o),
    "random": lambda x, size, **o: get_random_batch(len(x), size, generator=seeded(), **o),
    "epig": lambda x, size, **o: get_epig_batch(x, evaluation(x), size, **o),
    "softmaxepig": lambda x, size, **o: get_softmaxepig_batch(x, evaluation(x), size, generator=seeded(), **o),
    "softmaxepig, T = 0": lambda x, size, **o: get_softmaxepig_batch(x, evaluation(x), size, temperature=0, **o),
}


@pytest.mark.parametrize("select", POINT_BY_POINT.values(), ids=POINT_BY_POINT.keys())
def test_where_points_are_scored_one_by_one_pending_ones_are_left_out(select):
    x, out = pool(20, 8, 3, 7), [3, 19, 0, 3]
    left = [i for i in range(20) if i not in out]
    for size in (0, 4, 99):
        batch, rest = select(x, size, pending=iter(out)), select(x[left], size)
        assert batch.indices == [left[i] for i in rest.indices] and np.allclose(batch.scores, rest.scores, atol=1e-12)
    assert select(x, 3, pending=range(20)).indices == []
    for wrong in ([20], [-1], [1.5], "12", 3, None, np.arange(20) < 5):
        with pytest.raises(ValueError, match="`pending`"):
            select(x, 3, pending=wrong)


@pytest.mark.parametrize("name", [name for name in SELECTORS if name != "batchbald double"])
def test_float64_is_computed_in_float64_and_all_else_is_not(name):
    x = pool(25, 8, 4, 3)
    x[20:] = x[:5] + 1e-9 * torch.randn(5, 8, 4, generator=seeded()).double()  # what float32 cannot tell apart
    x = x.log_softmax(-1)
    scores = SELECTORS[name](x, 8).scores
    with_less = SELECTORS[name](x.float(), 8).scores
    assert scores != with_less


def test_get_batchbald_batch_follows_the_input():
    x = pool(25, 8, 4, 3)
    for select in (get_batchbald_batch, get_plain_batchbald_batch, get_dynamic_batchbald_batch, get_budgetbald_batch):
        default, double = select(x, 6, 20), select(x, 6, 20, torch.double)
        single, low = select(x, 6, 20, torch.float32), select(x.float(), 6, 20)
        assert default == double and default.scores != single.scores and low.scores != double.scores


def test_copies_under_other_names_are_picked_by_their_position():
    for seed in range(10):
        x, y = pool(12, 6, 3, seed).float(), pool(5, 6, 3, seed + 100).float()
        twice = torch.cat([x, x])[torch.randperm(24, generator=seeded(seed))].log_softmax(-1)
        order = get_epig_batch(twice, y, 24).indices
        for i, j in ((i, j) for i in range(24) for j in range(i) if torch.equal(twice[i], twice[j])):
            assert order.index(j) < order.index(i)


@pytest.mark.parametrize("select", [get_batchbald_batch, get_softmaxbald_batch, get_powerbald_batch, get_softrankbald_batch])
def test_no_generator_means_seed_0_and_not_the_global_state(select):
    x = example_log_probs(20)[:100]
    torch.manual_seed(7)
    assert select(x, 8) == select(x, 8) == select(x, 8, generator=seeded(0))
    assert select(x, 8) != select(x, 8, generator=seeded(1))


def test_the_cap_leaves_room_only_for_what_given_points_have_not_told():
    for seed in range(20):
        x = pool(30, 5, 3, seed, scale=4.0)
        given = get_batchbald_batch(x, 8, 1000).indices
        known = WeightedJointEntropy(10_000, 5, dtype=torch.double).add_variables(x[given]).information
        batch = get_batchbald_batch(x, 10, 20, pending=given, generator=seeded(seed))
        assert all(0 <= a <= b for a, b in zip(batch.scores, batch.scores[1:])) and np.allclose(np.cumsum(batch.gains), batch.scores)
        assert batch.scores[-1] <= math.log(5) - known + 0.15  # what is given has an error at 20 configurations, too


def test_a_batch_at_the_ceiling_has_gains_that_sum_to_its_score():
    x = example_log_probs(20)[:100, 20:30]
    for seed in range(10):
        batch = get_batchbald_batch(x, 20, 100, generator=seeded(seed))
        assert batch.scores[-1] <= batch.ceiling and np.allclose(np.cumsum(batch.gains), batch.scores)


def test_the_warning_points_at_the_caller():
    with pytest.warns(CeilingWarning) as caught:
        get_batchbald_batch(pool(30, 3, 3), 10)
    assert len(caught) == 1 and caught[0].filename == __file__


def test_progress_changes_nothing(capsys):
    assert get_batchbald_batch(pool(), 5, progress=True) == get_batchbald_batch(pool(), 5)
    assert "5/5" in capsys.readouterr().err


def test_given_points_count_towards_the_ceiling():
    x = torch.eye(2)[torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1]])].clamp(0.01, 0.99).double().log()
    with pytest.warns(UserWarning, match="what is pending"):  # two labels all but settle which of four samples is right
        batch = get_batchbald_batch(x, 2, pending=[0, 1])
    assert batch.scores[-1] < 0.1 * math.log(4)


def test_standard_errors_with_given_points_are_those_of_what_is_beyond_them():
    known = get_batchbald_batch(example_log_probs(20), 8).indices
    silent = torch.full((3, 100, 10), 0.1, dtype=torch.float16).log()  # says nothing about the parameters, so there is nothing to be unsure of
    x = torch.cat([example_log_probs(20)[known], silent])
    assert max(get_batchbald_batch(x[:8], 8, 300).standard_errors) > 0.01
    batch = get_batchbald_batch(x, 3, 300, pending=range(8))
    assert max(batch.scores) < 1e-5 and max(batch.standard_errors) < 1e-5


@pytest.mark.slow
def test_standard_errors_agree_with_the_spread_over_50_seeds():
    for labels in (20, 100):
        x = example_log_probs(labels)
        batches = [get_batchbald_batch(x, 12, generator=seeded(seed)) for seed in range(50)]
        spread = np.std([b.scores for b in batches], axis=0, ddof=1)
        typical = np.median([b.standard_errors for b in batches], axis=0)
        assert (spread[:4] < 1e-6).all() and (typical[:4] == 0).all()
        assert (typical[5:] > spread[5:] / 2).all() and (typical[5:] < spread[5:] * 2).all()


def test_a_masked_array_is_refused():
    with pytest.raises(ValueError, match="masked"):
        get_batchbald_batch(np.ma.masked_array(pool().numpy(), mask=False), 2)
