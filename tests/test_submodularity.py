"Joint information of labels is non-negative, monotone and submodular, and at most the sum of BALD scores: on any pool, as the package computes it."
from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from everything import *

pytestmark = pytest.mark.filterwarnings("ignore:.*log K")  # small K on purpose
SLACK = 1e-10


@st.composite
def pools(draw):
    "Probabilities (N, K, C), rows smooth, with hard zeros, certain or all but certain; some points are copies of others."
    N, K, C = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = np.exp(rng.normal(size=(N, K, C)) * 2)
    kinds = np.array(draw(st.lists(st.sampled_from(["smooth", "zeros", "certain", "nearly"]), min_size=N, max_size=N)))
    best = rows == rows.max(-1, keepdims=True)
    rows = np.where((kinds == "zeros")[:, None, None] & (rows < 1) & ~best, 0, rows)
    rows = np.where((kinds == "certain")[:, None, None], best, rows)
    rows = np.where((kinds == "nearly")[:, None, None], best + 1e-9, rows)
    copy_of = [draw(st.integers(0, n)) for n in range(N)]  # of itself or of an earlier point
    return (rows / rows.sum(-1, keepdims=True))[copy_of]


def brute_force(probs_B_K_C):
    "I(y_1 ... y_B; w) as the mean over w of the divergence of p(y | w) from p(y): another road than the package's."
    B, K, C = probs_B_K_C.shape
    total = 0.0
    for labels in product(range(C), repeat=B):
        given_w_K = np.prod([probs_B_K_C[b, :, c] for b, c in enumerate(labels)], axis=0) * np.ones(K)
        possible = given_w_K > 0
        total += (given_w_K[possible] * np.log(given_w_K[possible] / given_w_K.mean())).sum() / K
    return total


def of_the_package(probs_B_K_C):
    "The same from `ExactJointEntropy` and `compute_conditional_entropy`."
    if not len(probs_B_K_C): return 0.0
    x = log(probs_B_K_C)
    joint = ExactJointEntropy.empty(x.shape[1], dtype=torch.double).add_variables(x)
    return (joint.compute() - compute_conditional_entropy(x).sum()).item()


def log(probs):
    with np.errstate(divide="ignore"): return torch.from_numpy(np.log(probs))


def plus(S, *points): return tuple(sorted({*S, *points}))


def check_every_set(f, N, singles, ceiling):
    "All properties for every set; `f` maps sorted tuples to values, `singles` are BALD scores."
    for S in f:
        outside = [x for x in range(N) if x not in S]
        assert -SLACK <= f[S] <= sum(singles[x] for x in S) + SLACK  # non-negative, and appendix B.1
        assert f[S] <= ceiling + SLACK
        for x in outside:
            gain = f[plus(S, x)] - f[S]
            assert gain >= -SLACK  # monotone
            for size in range(len(S)):
                for A in combinations(S, size): assert f[plus(A, x)] - f[A] >= gain - SLACK  # diminishing returns
        for x, y in combinations(outside, 2):
            assert f[plus(S, x)] + f[plus(S, y)] >= f[plus(S, x, y)] + f[S] - SLACK  # definition A.1, eq. 14
            assert f[plus(S, x, y)] - f[S] <= (f[plus(S, x)] - f[S]) + (f[plus(S, y)] - f[S]) + SLACK  # the poster's form


def values(score, probs_N_K_C):
    N = len(probs_N_K_C)
    return {S: score(probs_N_K_C[list(S)]) for size in range(N + 1) for S in combinations(range(N), size)}


steady = settings(max_examples=300, deadline=None, derandomize=True, database=None)


@steady
@given(pools())
def test_properties_of_joint_information(probs_N_K_C):
    N, K, C = probs_N_K_C.shape
    plain, package = values(brute_force, probs_N_K_C), values(of_the_package, probs_N_K_C)
    singles = [plain[(n,)] for n in range(N)]
    scores = compute_bald(log(probs_N_K_C)).tolist()
    assert np.allclose(list(plain.values()), list(package.values()), rtol=0, atol=SLACK)
    assert np.allclose(singles, scores, rtol=0, atol=SLACK)
    check_every_set(plain, N, singles, np.log(K))
    check_every_set(package, N, scores, np.log(K))


@steady
@given(pools(), st.integers(0, 6))
def test_batches_report_the_joint_information_of_what_they_picked(probs_N_K_C, size):
    N, K, C = probs_N_K_C.shape
    batch = get_batchbald_batch(log(probs_N_K_C), size, C**N, torch.double)
    exact = [brute_force(probs_N_K_C[batch.indices[:n]]) for n in range(min(size, N) + 1)]
    assert np.allclose(batch.scores, exact[1:], rtol=0, atol=SLACK)
    assert np.allclose(batch.gains, np.diff(exact), rtol=0, atol=SLACK)
    assert all(later <= earlier + SLACK for earlier, later in zip(batch.gains, batch.gains[1:]))
    assert batch.standard_errors == [0.0] * min(size, N)
    for n in range(min(size, N)):  # greedy: no other point would have added more
        others = [brute_force(probs_N_K_C[batch.indices[:n] + [i]]) for i in range(N) if i not in batch.indices[:n]]
        assert max(others) <= batch.scores[n] + SLACK

    top = get_bald_batch(log(probs_N_K_C), size)
    singles = np.array([brute_force(probs_N_K_C[[n]]) for n in range(N)])
    assert np.allclose(top.scores, np.sort(singles)[::-1][:size], rtol=0, atol=SLACK)  # what maximises eq. 3
    assert np.allclose(top.scores, singles[top.indices], rtol=0, atol=SLACK)
    assert sum(top.scores) >= brute_force(probs_N_K_C[top.indices]) - SLACK  # appendix B.1
    if 0 < size < N:
        best = max(brute_force(probs_N_K_C[list(S)]) for S in combinations(range(N), size))
        assert (1 - (1 - 1 / size) ** size) * best - SLACK <= batch.scores[-1] <= best + SLACK


def test_the_pools_have_what_tends_to_break_things():
    found = set()

    @steady
    @given(pools())
    def look(probs_N_K_C):
        N, K, C = probs_N_K_C.shape
        found.update({("K = 1", K == 1), ("hard zero", bool((probs_N_K_C == 0).any())), ("classes", C)})
        found.add(("copy", any(np.array_equal(a, b) for a, b in combinations(probs_N_K_C, 2))))
        found.add(("nearly certain", bool(((0 < probs_N_K_C) & (probs_N_K_C < 1e-8)).any())))

    look()
    assert found >= {("K = 1", True), ("hard zero", True), ("copy", True), ("nearly certain", True), ("classes", 2), ("classes", 3), ("classes", 4)}
