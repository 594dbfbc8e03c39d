"The fast BatchBALD against the plain loop, within its budget of memory, and interrupted."
import math
import os
import warnings

import numpy as np
import pytest
import torch

from batchbald_nbdev import batchbald
from everything import *

pytestmark = pytest.mark.filterwarnings("ignore:.*log K")
SLOW = os.environ.get("SLOW") == "1"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pool(N=300, K=30, C=4, seed=0):
    g = seeded(seed)
    return (2 * torch.randn(N, 1, C, generator=g) + 1.5 * torch.randn(N, K, C, generator=g)).log_softmax(-1)


def copies(seed=0):
    return pool(40, 30, 4, seed).repeat(6, 1, 1)


@pytest.mark.parametrize("make", [pool, copies])
@pytest.mark.parametrize("dtype", [torch.float32, torch.double])
def test_with_everything_off_it_is_the_plain_evaluation(make, dtype):
    for seed in range(3):
        x = make(seed=seed)
        plain = get_plain_batchbald_batch(x, 8, 700, dtype, generator=seeded(seed))
        fast = get_batchbald_batch(x, 8, 700, dtype, generator=seeded(seed), lazy=False, race_error=0)
        assert fast.indices == plain.indices and np.allclose(fast.scores, plain.scores, atol=1e-6)


@pytest.mark.parametrize("make", [pool, copies])
def test_lazy_and_racing_pick_the_same_while_enumerated(make):
    for seed in range(5):
        x = make(seed=seed)
        plain = get_plain_batchbald_batch(x, 6, 4**6, generator=seeded(seed))
        for options in ({"race_error": 0}, {"lazy": False}, {}):
            assert get_batchbald_batch(x, 6, 4**6, generator=seeded(seed), **options).indices == plain.indices


def test_the_choice_is_the_full_evaluations():
    "Step by step on the same state: 1,000 steps (200 in the short run); a difference may be no larger than the tie that rounding makes."
    differ = 0
    for seed in range(100 if SLOW else 20):
        x = pool(seed=seed)
        rows, bounds, g = batchbald.Rows(x, torch.float32, torch.device("cpu"), 2**25), compute_bald(x), seeded(seed)
        state = WeightedJointEntropy(1600, 30, generator=g)
        for _ in range(10):
            gains = state.compute_gains(x).masked_fill(bounds == -math.inf, -math.inf)
            i, _ = batchbald.best_candidate(state, rows, bounds, generator=g)
            differ += bool(gains[i] < gains.max() - 3e-6)
            bounds[i] = -math.inf
            state.add_variables(x[i : i + 1])
    assert differ <= (1 if SLOW else 0)


def test_who_is_dropped_just_below_the_leader_does_not_win_by_a_tie(monkeypatch):
    class JustBelow:  # a race in which everybody seems to be worth half a rounding error less than the leader
        def __init__(self, kept, scale, posteriors, gains, means):
            self.best, self.size, self.controls = means.max(), len(kept), 1

        def __call__(self, probs, entropies):
            return (self.best - 5e-6 - 5e-7).expand(len(probs)), torch.zeros(len(probs)).double()

    monkeypatch.setattr(batchbald, "_Level", JustBelow)
    for seed in range(5):
        x = pool(seed=seed)
        plain = get_plain_batchbald_batch(x, 7, 1600, generator=seeded(seed))
        assert get_batchbald_batch(x, 7, 1600, generator=seeded(seed), lazy=False).indices == plain.indices


def test_no_worse_than_plain_in_what_it_picks():
    for seed in range(4):
        x = pool(500, seed=seed)
        worth = []
        for batch in (get_plain_batchbald_batch(x, 8, 400), get_batchbald_batch(x, 8, 400)):
            worth.append(WeightedJointEntropy(20_000, 30).add_variables(x[batch.indices]).information)
        assert worth[1] >= 0.999 * worth[0] - 0.002


@pytest.mark.parametrize("max_bytes", [1, 10_000, 2**20, 2**30])
def test_any_budget_of_memory_gives_the_same_batch(max_bytes):
    x = pool(600)
    assert get_batchbald_batch(x, 8, 1000, max_bytes=max_bytes).indices == get_batchbald_batch(x, 8, 1000).indices


def test_memory_maps_and_float16(tmp_path):
    x = pool(800).half()
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert get_batchbald_batch(mapped, 8) == get_batchbald_batch(x, 8)


def test_an_interruption_leaves_nothing_behind(monkeypatch):
    x, calls = pool(), []
    before = x.clone()
    original = batchbald.best_candidate

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    whole = get_batchbald_batch(x, 6)
    monkeypatch.setattr(batchbald, "best_candidate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get_batchbald_batch(x, 6, progress=True)
    monkeypatch.undo()
    assert torch.equal(x, before) and get_batchbald_batch(x, 6) == whole


@pytest.mark.parametrize("wrong", [-0.1, 0.5, 1, float("nan"), "no", None])
def test_bad_race_error(wrong):
    with pytest.raises(ValueError, match="race_error"):
        get_batchbald_batch(pool(), 2, race_error=wrong)


@pytest.mark.gpu
def test_on_cuda_it_agrees_with_the_cpu():
    x = pool(2000)
    cpu, gpu = get_batchbald_batch(x, 10), get_batchbald_batch(x.cuda(), 10)
    assert cpu.indices[:5] == gpu.indices[:5]
    assert all(abs(a - b) <= 5 * (e + f) + 1e-4 for a, b, e, f in zip(cpu.scores, gpu.scores, cpu.standard_errors, gpu.standard_errors))
    assert get_batchbald_batch(x, 10, device="cuda").indices == gpu.indices


def test_labels_in_step_with_the_comb_hide_no_winner():
    "Configurations come in the order of their labels, so that every eighth has the same last label; a level must not be made of such."
    sample_K = torch.arange(4**6)
    digits = [sample_K // 4**j % 4 for j in range(6)]
    values_N_K = torch.stack([*digits[:5], *[digits[4]] * 40, digits[5] * (digits[4] != 0), *(digits[5] * (digits[4] == v) for v in range(4))])
    x = (0.99 * torch.nn.functional.one_hot(values_N_K, 4) + 0.01 / 4).log()
    state = WeightedJointEntropy(4_000, 4**6).add_variables(x[:5])
    gains, bounds = state.compute_gains(x), compute_bald(x)
    gains[:5] = bounds[:5] = -math.inf
    rows = batchbald.Rows(x, torch.float32, torch.device("cpu"), 2**27)
    for seed in range(20):
        i, _ = batchbald.best_candidate(state, rows, bounds.clone(), generator=seeded(seed))
        assert i == gains.argmax() == 45


def test_a_level_with_few_different_configurations_is_not_believed(monkeypatch):
    class Sure:  # of the opposite of what is true, and of few degrees of freedom
        def __init__(self, kept, scale, posteriors, gains, means):
            self.size, self.controls = len(kept), len(kept.unique()) - batchbald.FREEDOM + 1

        def __call__(self, probs, entropies):
            return torch.full((len(probs),), -1.0).double(), torch.zeros(len(probs)).double()

    monkeypatch.setattr(batchbald, "_Level", Sure)
    monkeypatch.setattr(batchbald, "FIRST", (2, 2))  # so that winners race
    x = pool()
    assert get_batchbald_batch(x, 8, 1600, lazy=False).indices == get_plain_batchbald_batch(x, 8, 1600).indices


@pytest.mark.parametrize("dtype", [torch.float32, torch.double])
def test_where_nothing_is_left_to_learn_nothing_is_looked_at(monkeypatch, dtype):
    x, looked_at = (40 * torch.randn(600, 8, 3, generator=seeded(1))).double().log_softmax(-1), []
    mean_gains, race = batchbald.mean_gains, batchbald._race
    monkeypatch.setattr(batchbald, "mean_gains", lambda *args: looked_at.append(len(args[3])) or mean_gains(*args))
    monkeypatch.setattr(batchbald, "_race", lambda block_n, *args: looked_at.append(len(block_n)) or race(block_n, *args))
    plain = get_plain_batchbald_batch(x, 40, 2_000, dtype)
    looked_at.clear()
    fast = get_batchbald_batch(x, 40, 2_000, dtype)
    assert fast.indices == plain.indices
    assert plain.gains[20] == 0 and sum(looked_at) < 20 * 600
    told = {i for i, gain in zip(plain.indices, plain.gains) if gain > 1e-5}
    assert plain.indices[len(told) + 3 :] == sorted(plain.indices[len(told) + 3 :])  # then in order of position


SHORT = [  # what says that memory ran out
    "CUDA error: out of memory",
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "MPS backend out of memory (MPS allocated: 1 GB)",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "CUDA error: CUSPARSE_STATUS_INSUFFICIENT_RESOURCES when calling `cusparseCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "FIND was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes",
]
BROKEN = ["CUDA error: an illegal memory access was encountered", "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED", "shapes differ"]


@pytest.mark.parametrize("kind", [RuntimeError, getattr(torch, "AcceleratorError", RuntimeError)])
@pytest.mark.parametrize("said", SHORT)
def test_blocks_are_halved_whatever_says_that_memory_ran_out(said, kind):
    def step(elements):
        if elements > 2**15: raise kind(said)
        return "done"

    assert batchbald.halving(step, 2**18) == ("done", 2**15)


@pytest.mark.parametrize("error", [*map(RuntimeError, BROKEN), AttributeError("out of memory")], ids=str)
def test_nothing_is_halved_for_other_errors(error):
    def step(elements):
        assert elements == 2**18
        raise error

    with pytest.raises(type(error)): batchbald.halving(step, 2**18)


def test_late_picks_are_as_good_as_the_best_within_the_error():
    "Near the ceiling candidates are no longer told apart, which costs less than the estimate can tell."
    for seed in range(3):
        x, worth = pool(400, seed=seed), []
        fast, full = get_batchbald_batch(x, 40, 1600), get_batchbald_batch(x, 40, 1600, race_error=0)
        assert 0 < fast.told_apart < 40 and full.told_apart is None
        assert fast.indices[: fast.told_apart] == full.indices[: fast.told_apart] and len(set(fast.indices)) == 40
        for batch in (fast, full):
            worth.append(WeightedJointEntropy(16_000, 30).add_variables(x[batch.indices]).information)
        assert worth[0] >= 0.995 * worth[1]


def test_of_copies_the_first_is_picked_while_candidates_are_told_apart():
    x = pool(60, seed=3).repeat(5, 1, 1)
    batch = get_batchbald_batch(x, 20, 400)
    told = batch.indices[: batch.told_apart]
    assert 6 < len(told) < 20 and len(set(batch.indices)) == 20
    assert all(i < 60 or i - 60 in told for i in told)


def test_while_all_configurations_are_there_all_picks_are_told_apart():
    assert get_batchbald_batch(pool(50), 6, 4**6).told_apart is None


def test_what_is_told_and_what_is_left_are_all_there_is_while_all_configurations_are_there():
    x = pool(30, 30, 4).double()
    state = WeightedJointEntropy(4**5, 30, dtype=torch.double)
    for i in range(5):
        assert abs(state.miss()) < 1e-12
        state.add_variables(x[i : i + 1])
    for i in range(5, 12): state.add_variables(x[i : i + 1])
    assert not state.exact and state.miss() != 0


@pytest.mark.parametrize("options", [{}, {"lazy": False}, {"race_error": 0.4}, {"pending": [3]}])
def test_where_the_labels_so_far_say_all_the_rest_ties(options):
    "Two samples that share no class: one label tells them apart, and under every configuration nothing is left."
    x = torch.full((20, 2, 400), -math.inf)
    for k in range(2): x[:, k, 200 * k : 200 * k + 200] = (0.3 * torch.randn(20, 200, generator=torch.Generator().manual_seed(k))).log_softmax(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch, plain = get_batchbald_batch(x, 3, **options), get_plain_batchbald_batch(x, 3, pending=options.get("pending", ()))
    assert batch.indices == plain.indices == [0, 1, 2] and batch.scores == pytest.approx(plain.scores, abs=1e-6)


@pytest.mark.parametrize("M", [1, 300])
def test_gains_are_float64_sums_of_their_products(M):
    "Float32 sums over thousands of classes are wrong by more than what makes a tie, and points that say the same differ."
    C, K, n = 5_000, 20, 7
    x = (0.5 * torch.randn(n, K, C, generator=seeded(0))).log_softmax(-1)
    W_M_K = torch.softmax(torch.randn(M, K, generator=seeded(1)), 1)
    weights_M, W_K_M = torch.full((M,), 1 / M, dtype=torch.double), W_M_K.T.contiguous()
    probs_n_C_K, entropies_n_K = batchbald.Rows(x, torch.float32, "cpu", 2**27)(torch.arange(n))
    products_n_C_M, known_K = (probs_n_C_K @ W_K_M).double(), W_M_K.double().T @ weights_M
    expected_n = -torch.xlogy(products_n_C_M, products_n_C_M).sum(1) @ weights_M - entropies_n_K.double() @ known_K
    gains_n = batchbald.mean_gains(weights_M, W_K_M, known_K, probs_n_C_K, entropies_n_K, 2**18)
    assert (gains_n - expected_n).abs().max() < 1e-7


def make_step(N=30, M=200):
    x, state = pool(N, 20, 4), WeightedJointEntropy(M, 20)
    return batchbald._Step(state, batchbald.Rows(x, torch.float32, "cpu", 2**24), compute_bald(x), 2**18)


def test_a_step_knows_the_best_gain_and_by_how_much_gains_were_above_their_bounds():
    step = make_step()
    step.note(torch.tensor([3, 5]), torch.tensor([0.3, 0.9], dtype=torch.double), torch.tensor([0.5, 0.4], dtype=torch.double))
    assert (step.incumbent.item(), round(step.violation.item(), 9)) == (0.5, 0.2)
    assert step.bounds_N[[3, 5]].tolist() == [0.5, 0.4]
    step.note(torch.tensor([7]), torch.tensor([0.6], dtype=torch.double), torch.tensor([0.45], dtype=torch.double))  # neither is new
    assert (step.incumbent.item(), round(step.violation.item(), 9)) == (0.5, 0.2)
    assert step.reaches(torch.tensor([0.0, 0.099, 0.101, 0.5], dtype=torch.double)).tolist() == [False, False, True, True]


def test_where_nothing_is_left_to_learn_bounds_below_a_tie_do_not_reach():
    step = make_step()
    step.note(torch.tensor([0]), torch.tensor([0.1], dtype=torch.double), torch.tensor([0.0], dtype=torch.double))
    tie = step.tolerance
    assert step.reaches(torch.tensor([0.0, 0.5 * tie, 2 * tie], dtype=torch.double)).tolist() == [False, False, True]


def test_what_late_picks_leave_out_could_tell_next_to_nothing():
    shares_M = torch.logspace(-9, 0, 400, dtype=torch.double)
    weights_M, left_M = shares_M.sqrt() / shares_M.sqrt().sum(), shares_M.sqrt()
    kept = batchbald.keep_telling(weights_M, left_M, torch.rand(400, 5))
    told, all_told = kept[0] @ kept[1], weights_M @ left_M
    assert len(kept[0]) == len(kept[1]) == len(kept[2]) < 400 and told >= (1 - 1e-3) * all_told


@pytest.mark.parametrize("N", [1, 2, 12, 20])
def test_a_batch_of_the_whole_pool_has_each_point_once(N):
    assert sorted(get_batchbald_batch(pool(N, 30, 4), N, 300).indices) == list(range(N))
