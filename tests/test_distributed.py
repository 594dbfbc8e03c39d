"Pools in chunks: the same batch as in memory however they are cut, little computed, little sent, and workers that die."
import gc
import math
import os
import pickle
import platform
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given as given_any, settings, strategies as st

from batchbald_nbdev import distributed as parts
from batchbald_nbdev import plain_batchbald
from everything import *

dask = pytest.importorskip("dask", reason="needs dask: pip install 'batchbald_nbdev[dask]'")
da = pytest.importorskip("dask.array", reason="needs dask.array: pip install 'batchbald_nbdev[dask]'")
pytestmark = pytest.mark.filterwarnings("ignore:.*log K")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pool(N=300, K=30, C=4, seed=0):
    g = seeded(seed)
    return (2 * torch.randn(N, 1, C, generator=g) + 1.5 * torch.randn(N, K, C, generator=g)).log_softmax(-1)


def cut(x, chunks, made=None):
    "x as a Dask array; `made` gets the first position of a chunk whenever one is computed."
    chunks = da.core.normalize_chunks((chunks, -1, -1), tuple(x.shape))
    x = x.numpy() if isinstance(x, torch.Tensor) else x

    def make(block_info):
        (start, stop), *_ = block_info[None]["array-location"]
        if made is not None:
            made.append(start)
        return x[start:stop]

    return da.map_blocks(make, chunks=chunks, dtype=x.dtype, meta=np.empty((0, 0, 0), x.dtype))


def assert_same(batch, other, atol=1e-6):
    assert batch.indices == other.indices
    for name in ("scores", "gains", "standard_errors"):
        np.testing.assert_allclose(getattr(batch, name), getattr(other, name), rtol=0, atol=atol)
    assert batch.ceiling == other.ceiling


CHUNKS = [300, 100, 77, 7, (1, 298, 1), (150, 0, 150)]


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("num_samples", [100, 3_000])
def test_any_cut_gives_the_batch_of_one_machine(chunks, num_samples):
    for seed, options in enumerate(({}, {"max_bytes": 1}, {"race_error": 0})):
        x = pool(seed=seed)
        whole = get_batchbald_batch(x, 8, num_samples, generator=seeded(seed))
        assert_same(get_distributed_batchbald_batch(cut(x, chunks), 8, num_samples, generator=seeded(seed), **options), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.double])
@pytest.mark.parametrize("products", [None, torch.double])
def test_number_formats(dtype, products):
    x = pool(seed=2).double().log_softmax(-1).to(dtype)
    batch = get_distributed_batchbald_batch(cut(x, 70), 6, 1_700, products, max_bytes=50_000)
    assert_same(batch, get_batchbald_batch(x, 6, 1_700, products))


def test_the_choice_is_the_full_evaluations():
    "As in the tests of the fast search: every step against all gains under the same state, races and several parts included."
    for seed in range(8):
        x = pool(seed=seed)
        leader = parts._Leader(cut(x, 60), torch.float32, 1e-5, 30_000).start()
        state, picks = WeightedJointEntropy(1_600, 30, generator=seeded(seed)), []
        for _ in range(10):
            gains = state.compute_gains(x)
            gains[picks] = -math.inf
            i, gain, row = leader.choose(state, picks)
            assert gains[i] >= gains.max() - 3e-6 and abs(gain - gains[i]) < 1e-6 and torch.equal(row, x[i : i + 1])
            picks.append(i)
            state.add_variables(row)


@pytest.mark.parametrize("who_rises", ["the named point", "a point of a part"])
@pytest.mark.parametrize("asked_before", [False, True])
def test_a_rise_in_one_part_counts_in_all(who_rises, asked_before):
    "Bounds are set by hand as resampling may leave them: too low by d at one place, so that they may be too low by 2 d elsewhere."
    x, d = pool(200, seed=4), 0.015
    order = compute_bald(x).argsort(descending=True)
    best, reached = compute_bald(x)[order[:2]].tolist()
    assert 1e-4 < best - reached < d / 2
    here, there = [order[1], *order[120:]], [order[0], *order[2:101]]  # the best point is in the second part
    x = x[torch.stack(here + there)]
    leader = parts._Leader(cut(x, (len(here), len(there))), torch.float32, 0, 2**28).start()
    for p, bounds in leader.answers.items():
        part = leader.parts[p].compute()
        bounds_n = part.bounds_n.clone()
        if p == 0:
            bounds_n[0 if who_rises == "the named point" else 1] -= d
            assert bounds_n[0] == bounds_n.max()
        else:
            bounds_n[:] = reached - 1.3 * d  # these are bounds, if loose ones, of points that gain less
            bounds_n[0] = reached - 1.5 * d  # but the best point is above its own
            bounds_n[-1] = reached + d if asked_before else reached - 1.2 * d
        part = parts._make_part(bounds_n, torch.zeros(len(bounds_n), dtype=torch.bool), part.kept_r, part.log_probs_r_K_C, 0.0, 2**20, 1e-6)
        leader.parts[p], leader.answers[p] = dask.delayed(part, traverse=False), part.answer
    asks, ask = [], leader.ask
    leader.ask = lambda tasks: asks.append(1) or ask(tasks)
    assert leader.choose(WeightedJointEntropy(100, 30), [])[0] == len(here)
    assert len(asks) <= 2  # parts are told, and need not find out


def test_who_is_named_wins_if_races_drop_everybody(monkeypatch):
    monkeypatch.setattr(parts, "best_candidate", lambda state, rows, bounds_N, incumbent, **_: (bounds_N.clamp_(max=incumbent - 0.1), 0.0))
    x = pool()
    leader = parts._Leader(cut(x, 60), torch.float32, 1e-5, 2**28).start()
    i, gain, row = leader.choose(WeightedJointEntropy(100, 30), [])
    assert i == get_bald_batch(x, 1).indices[0] and abs(gain - compute_bald(x).max()) < 1e-6 and torch.equal(row, x[i : i + 1])


def test_hard_zeros():
    x = torch.eye(4)[torch.randint(4, (40, 8), generator=seeded())].log()  # every sample is certain
    for size in (2, 6):
        assert_same(get_distributed_batchbald_batch(cut(x, 9), size, max_bytes=1), get_batchbald_batch(x, size))


@pytest.mark.parametrize("max_bytes", [1, 2**28])
def test_copies_in_different_parts_go_to_the_lowest_position(max_bytes):
    for seed in range(4):
        x = pool(37, 8, 4, seed).repeat(4, 1, 1)  # copies in other parts, and at other places in them
        for chunks in (37, 20, 100):
            assert_same(get_distributed_batchbald_batch(cut(x, chunks), 7, max_bytes=max_bytes), get_batchbald_batch(x, 7))
    silent = torch.full((9, 3, 2), 0.5).log()
    assert get_distributed_batchbald_batch(cut(silent, 2), 4, max_bytes=max_bytes).indices == [0, 1, 2, 3]


def test_a_tie_with_another_parts_best_is_seen():
    "0.7 ± rounding: the winner is the lowest position within rounding of the best of all, and not the best of its part."
    slack, rows = 1e-6, torch.zeros(4, 1, 1)
    first = parts._front(torch.tensor([0.1, 0.7, 0.7 + 3e-7, 0.7 + 2e-7]).double(), torch.tensor([3, 5, 7, 8]), rows, slack)
    assert [(round((b - 0.7) * 1e7), i) for b, i, _ in first] == [(0, 5), (3, 7)]
    for best in (0.7 + 3e-7, 0.7 + 9e-7, 0.7 + 1.2e-6):  # whatever the best elsewhere, the first within rounding of it is there
        expected = next(i for b, i in ((0.7, 5), (0.7 + 3e-7, 7)) if b >= best - slack)
        assert next(i for b, i, _ in first if b >= best - slack) == expected


def test_given_points_condition_and_are_not_returned():
    x = pool(seed=3)
    for points in ([], [5], [299, 5, 60, 61], np.array([0, 299])):
        batch = get_distributed_batchbald_batch(cut(x, 60), 6, 900, pending=points, max_bytes=40_000)
        assert_same(batch, get_batchbald_batch(x, 6, 900, pending=points))
        assert not set(batch.indices) & set(points)
    top = get_bald_batch(x, 2).indices  # what would be picked first
    assert_same(get_distributed_batchbald_batch(cut(x, 60), 3, pending=iter(top)), get_batchbald_batch(x, 3, pending=top))
    assert sorted(get_distributed_batchbald_batch(cut(x[:20], 6), 99, 300, pending=[0, 7, 19]).indices) == [i for i in range(20) if i not in (0, 7, 19)]


@pytest.mark.parametrize("shape", [(30, 8, 4), (30, 1, 4), (1, 8, 4), (1, 1, 4)])
@pytest.mark.parametrize("size", [0, 1, 30, 31])
def test_sizes(shape, size):
    x = pool(*shape)
    for max_bytes in (1, 2**28):
        batch = get_distributed_batchbald_batch(cut(x, 7), size, 300, torch.double, max_bytes=max_bytes)
        assert len(batch.indices) == min(size, shape[0]) and len(set(batch.indices)) == len(batch.indices)
        assert batch.indices[:6] == get_batchbald_batch(x, size, 300, torch.double).indices[:6]


@st.composite
def any_cuts(draw):
    "A pool with copies and hard zeros, and how it is cut."
    N, K, C = draw(st.integers(1, 14)), draw(st.integers(1, 6)), draw(st.integers(2, 4))
    probs = (draw(st.sampled_from([0.5, 2.0, 8.0])) * torch.randn(N, K, C, generator=seeded(draw(st.integers(0, 2**31 - 1)))).double()).softmax(-1)
    if draw(st.booleans()):
        probs = torch.where((probs < 0.3) & (probs < probs.amax(-1, keepdim=True)), 0.0, probs)
    x = (probs / probs.sum(-1, keepdim=True)).log()[draw(st.lists(st.integers(0, N - 1), min_size=1, max_size=20))]
    edges = sorted(draw(st.lists(st.integers(0, len(x)), max_size=4)))
    return x, tuple(b - a for a, b in zip([0, *edges], [*edges, len(x)]))


@settings(max_examples=40, deadline=None)
@given_any(any_cuts(), st.sampled_from([1, 200, 2**20]), st.integers(0, 3))
def test_any_pool_cut_anyhow(case, max_bytes, size):
    x, chunks = case
    whole = get_batchbald_batch(x, size, dtype=torch.double)
    assert_same(get_distributed_batchbald_batch(cut(x, chunks), size, dtype=torch.double, max_bytes=max_bytes), whole)


def test_chunks_along_other_axes_and_of_unknown_length():
    x = pool()
    whole = get_batchbald_batch(x, 5)
    assert_same(get_distributed_batchbald_batch(da.from_array(x.numpy(), chunks=(70, 11, 3)), 5), whole)
    odd = cut(x, 70)[da.arange(300, chunks=70) % 2 == 1]
    assert math.isnan(odd.shape[0])
    assert_same(get_distributed_batchbald_batch(odd, 5, pending=[2, 90]), get_batchbald_batch(x[1::2], 5, pending=[2, 90]))
    assert sorted(get_distributed_batchbald_batch(odd, 1_000, 50).indices) == list(range(150))
    with pytest.raises(ValueError, match="`pending` has positions outside the pool of 150"):
        get_distributed_batchbald_batch(odd, 5, pending=[150])
    with pytest.raises(ValueError, match="unknown number of parameter samples"):
        get_distributed_batchbald_batch(da.from_array(x.numpy())[:, da.arange(30, chunks=30) % 2 == 1], 5)


# How much is computed and sent


def test_a_chunk_is_computed_once_while_what_is_kept_suffices():
    made, x = [], pool(2_000)
    get_distributed_batchbald_batch(cut(x, 100, made), 10)
    assert sorted(made) == list(range(0, 2_000, 100))


def test_few_chunks_are_computed_again():
    "Points that tell little in most parts: with room for an eighth of the rows, only a part that lost its lead is read again."
    x = pool(2_000)
    x[200:] = (0.2 * x[200:]).log_softmax(-1)
    made = []
    batch = get_distributed_batchbald_batch(cut(x, 100, made), 4, max_bytes=x.nbytes // 8)
    assert_same(batch, get_batchbald_batch(x, 4))
    assert 20 <= len(made) <= 20 + 2 * 4 and set(made[20:]) <= {0, 100}
    made.clear()
    assert get_distributed_batchbald_batch(cut(x, 100, made), 4, max_bytes=1).indices == batch.indices
    assert len(made) > 20  # one row each does not suffice


def test_parts_that_cannot_win_are_not_asked(monkeypatch):
    x, looks, look = pool(2_000), [], parts._look
    x[200:] = (0.2 * x[200:]).log_softmax(-1)
    monkeypatch.setattr(parts, "_look", lambda *args, **kwargs: looks.append((args[4], kwargs["race_error"])) or look(*args, **kwargs))
    get_distributed_batchbald_batch(cut(x, 100), 4)
    assert len(looks) <= 2 * 4
    assert all(floor > 0 and race_error == 1e-4 / 4 for floor, race_error in looks)  # and who is asked knows what to reach


def test_answers_are_small_and_the_state_is_sent_once(monkeypatch):
    x, sizes, states, persist, compute = pool(4_000), [], [], dask.persist, dask.compute

    def measured(*args):
        found = compute(*args)
        sizes.extend(len(pickle.dumps(o)) for o in found)
        return found

    def counted(*tasks):
        states.append(len({key for task in tasks for key in task.dask if "SimpleNamespace" in str(key)}))
        return persist(*tasks)

    monkeypatch.setattr(dask, "compute", measured)
    monkeypatch.setattr(dask, "persist", counted)
    get_distributed_batchbald_batch(cut(x, 500), 6)
    assert max(sizes) < 10 * 30 * 4 * 4 + 2_000  # ten rows and some numbers
    assert states[0] == 0 and set(states[1:]) == {1}  # nothing at the start, then one for all parts


def test_old_parts_are_freed(monkeypatch):
    alive, choose = [], parts._Leader.choose

    def counted(self, *args):
        result = choose(self, *args)
        gc.collect()
        alive.append(sum(type(o) is parts._Part for o in gc.get_objects()))
        return result

    monkeypatch.setattr(parts._Leader, "choose", counted)
    get_distributed_batchbald_batch(cut(pool(seed=5), 30), 6, max_bytes=20_000)
    assert alive == [10] * 6


def test_all_parts_together_keep_what_max_bytes_allows():
    x = pool(1_000)
    for max_bytes, allowed in ((2**16, 2**16), (2**28, x.nbytes), (1, 10 * 30 * 4 * 4)):
        leader = parts._Leader(cut(x, 100), torch.float32, 1e-5, max_bytes).start()
        assert allowed * 0.9 < sum(o.log_probs_r_K_C.nbytes for o in dask.compute(*leader.parts.values())) <= allowed


MEMORY = r"""
import re
import dask.array as da, numpy as np, torch
from batchbald_nbdev.distributed import _Leader

def make(block_info):
    (start, stop), *_ = block_info[None]["array-location"]
    return torch.randn(stop - start, 20, 10, generator=torch.Generator().manual_seed(start)).log_softmax(-1).half().numpy()

def start(parts):
    x = da.map_blocks(make, chunks=((2_000,) * parts, (20,), (10,)), dtype=np.float16, meta=np.empty((0, 0, 0), np.float16))
    return _Leader(x, torch.float32, 0, parts * 2**15).start()

def megabytes():
    with open("/proc/self/status") as status: return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 2**10

start(8)  # what a first call loads belongs to the libraries
before = megabytes()
leader = start(150)
print(megabytes() - before)
"""


@pytest.mark.skipif(not (sys.platform == "linux" and platform.libc_ver()[0] == "glibc"), reason="needs Linux with glibc")
def test_memory_is_that_of_what_is_kept_and_not_of_the_chunks():
    "120 MB of chunks pass through and 7 MB of bounds and kept rows stay; what malloc held between them was another 100 MB and more."
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60


def test_dask_is_told_how_large_a_part_is():
    from dask.sizeof import sizeof

    part = parts._start(pool(1_000), torch.float32, 400, 1e-6)
    assert 0 <= sizeof(part) - (8 * 1_000 + (8 + 4 * 30 * 4) * 400) < 100


def test_a_part_keeps_the_highest_bounds_and_never_changes():
    x = pool(100)
    part = parts._start(x.numpy(), torch.float32, 10, 1e-6)
    assert part.kept_r.tolist() == sorted(get_bald_batch(x, 10).indices) and torch.equal(part.log_probs_r_K_C, x[part.kept_r])
    assert len(pickle.dumps(part.log_probs_r_K_C)) < x.nbytes / 2  # and not a view of all of it
    before = [o.clone() for o in (part.bounds_n, part.kept_r, part.log_probs_r_K_C)]
    state = WeightedJointEntropy(900, 30).add_variables(x[[3, 4]])
    options = {"state": state, "taken": [3, 4], "incumbent": -math.inf, "violation": 0.0, "race_error": 1e-5, "elements": 2**18, "room": 10, "slack": 1e-6}
    new = parts._look(part, x.numpy(), **options)
    assert all(torch.equal(a, b) for a, b in zip(before, (part.bounds_n, part.kept_r, part.log_probs_r_K_C)))
    assert new.kept_r.tolist() == new.bounds_n.argsort(descending=True, stable=True)[:10].sort().values.tolist() != part.kept_r.tolist()
    assert parts._look(part, None, **options).log_probs_r_K_C is part.log_probs_r_K_C  # what stays is not copied
    assert (new.bounds_n[[3, 4]] == -math.inf).all() and (new.bounds_n <= part.bounds_n + 1e-6).all()


# What is wrong, and said


def test_what_is_not_a_dask_array_is_refused():
    for x in (pool(), pool().numpy(), [[[0.0]]], None, dask.delayed(1)):
        with pytest.raises(ValueError, match=r"from_array\(x, chunks=\(10_000, -1, -1\)\)"):
            get_distributed_batchbald_batch(x, 3)


@pytest.mark.parametrize("select", [get_batchbald_batch, get_plain_batchbald_batch, get_bald_batch, get_kbald_batch], ids=lambda o: o.__name__)
def test_in_memory_selectors_do_not_load_a_dask_array(select):
    made = []
    with pytest.raises(ValueError, match="`log_probs_N_K_C` is a Dask collection.*get_distributed_batchbald_batch"):
        select(cut(pool(), 50, made), 3)
    assert made == []


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda x: x.exp(), "looks like probabilities"),
        (lambda x: x + 1, "logits"),
        (lambda x: x.index_fill(0, torch.tensor([200]), math.nan), "contains NaN"),
        (lambda x: x.index_fill(0, torch.tensor([200]), math.inf), r"contains \+inf"),
        (lambda x: x.long(), "dtype"),
    ],
)
def test_bad_data_is_named(spoil, message):
    with pytest.raises(ValueError, match=f"`log_probs_N_K_C` .*{message}"):
        get_distributed_batchbald_batch(cut(spoil(pool()), 60), 3)


@pytest.mark.parametrize("shape", [(300, 30), (300, 30, 4, 1), (0, 30, 4), (300, 0, 4)])
def test_bad_shapes_are_named(shape):
    with pytest.raises(ValueError, match="`log_probs_N_K_C` has shape .* want three non-empty axes"):
        get_distributed_batchbald_batch(da.zeros(shape, chunks=-1), 3)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="`log_probs_N_K_C` has shape .* one class"):
        get_distributed_batchbald_batch(cut(pool()[..., :1], 60), 3)


def test_identical_samples_are_warned_of_once_if_they_are_so_in_every_chunk():
    x = pool()[:, :1].expand(-1, 8, -1).clone()
    for max_bytes in (1, 2**28):  # the search ends, with ties in order
        with pytest.warns(IdenticalSamplesWarning):
            assert get_distributed_batchbald_batch(cut(x, 60), 3, max_bytes=max_bytes).indices == get_batchbald_batch(x, 3).indices == [0, 1, 2]
    with pytest.warns(IdenticalSamplesWarning) as caught:
        get_distributed_batchbald_batch(cut(x, 60), 2)
    assert len(caught) == 1 and caught[0].filename == __file__
    x[250, 3] = x[250, 3].flip(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_distributed_batchbald_batch(cut(x, 60), 2)


@pytest.mark.parametrize(
    "options, name",
    [({"batch_size": -1}, "batch_size"), ({"num_samples": 0}, "num_samples"), ({"pending": [300]}, "pending"), ({"generator": 0}, "generator"), ({"race_error": 0.5}, "race_error")]
    + [({"max_bytes": 0}, "max_bytes"), ({"dtype": torch.float16}, "dtype")],
)
def test_bad_arguments_are_named_before_anything_is_computed(options, name):
    made = []
    with pytest.raises(ValueError, match=f"`{name}`"):
        get_distributed_batchbald_batch(cut(pool(), 50, made), **({"batch_size": 2} | options))
    assert made == []


def test_chunks_that_are_not_as_declared():
    x = pool(50)
    for found in (x[:40], x[:, :20], x[:, :, :3].log_softmax(-1)):
        blocks = [da.from_delayed(dask.delayed(o.numpy()), (50, 30, 4), np.float32) for o in (x, found)]
        with pytest.raises(ValueError, match=r"chunk of shape \(.*\) that should have \(50, 30, 4\)"):
            get_distributed_batchbald_batch(da.concatenate(blocks), 2)


def test_a_chunk_that_is_damaged_when_it_is_read_again_is_an_error():
    "Also where the rows that were kept to compare with are sound."
    x, times = pool(300), []
    kept = compute_bald(x).argmax()

    def make(block_info):
        times.append(1)
        y = x.clone() if len(times) == 1 else torch.full_like(x, math.nan).index_copy(0, kept[None], x[kept : kept + 1])
        return y.numpy()

    damaged = da.map_blocks(make, chunks=((300,), (30,), (4,)), dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    with pytest.raises(ValueError, match="NaN"): get_distributed_batchbald_batch(damaged, 5, max_bytes=1)
    assert len(times) > 1


def test_a_chunk_that_comes_out_different_is_an_error():
    times = []

    def make(block_info):
        times.append(1)
        return pool(seed=len(times)).numpy()

    unseeded = da.map_blocks(make, chunks=((300,), (30,), (4,)), dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    with pytest.raises(ValueError, match="came out different"):
        get_distributed_batchbald_batch(unseeded, 5, max_bytes=1)


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(ImportError, match=r"pip install 'dask\[array,distributed\]'"):
        get_distributed_batchbald_batch(pool(), 3)


def test_the_ceiling_warning_points_here():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        get_distributed_batchbald_batch(cut(pool(300, 5), 100), 8)
    assert [(o.category, o.filename) for o in caught] == [(CeilingWarning, __file__)]


def test_progress_and_reproducibility(capsys):
    x = cut(pool(), 60)
    assert get_distributed_batchbald_batch(x, 5, 100, generator=seeded(3), progress=True) == get_distributed_batchbald_batch(x, 5, 100, generator=seeded(3))
    assert "BatchBALD: 100%" in capsys.readouterr().err


# On a cluster


def test_a_cluster_with_a_worker_killed_half_way_picks_the_same(monkeypatch):
    Client = pytest.importorskip("dask.distributed", reason="needs dask.distributed: pip install 'batchbald_nbdev[dask]'").Client
    from dask.distributed import LocalCluster

    x = pool(400, seed=7)
    whole, killed, steps = get_batchbald_batch(x, 6), [], plain_batchbald._steps
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, Client(cluster) as client:

        def kill_after_three(batch_size, progress):
            for pick in steps(batch_size, progress):
                if pick == 3:
                    held = client.has_what()
                    assert all(held.values())  # both workers have parts
                    pid = next(iter(client.run(os.getpid).values()))
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                yield pick

        monkeypatch.setattr(plain_batchbald, "_steps", kill_after_three)
        batch = get_distributed_batchbald_batch(da.from_array(x.numpy(), chunks=(50, -1, -1)), 6, max_bytes=20_000)
        monkeypatch.undo()
        assert killed and killed[0] not in client.run(os.getpid).values()
        assert_same(batch, whole)
        with pytest.raises(ValueError, match="looks like probabilities"):
            get_distributed_batchbald_batch(da.from_array(x.exp().numpy(), chunks=(200, -1, -1)), 2)


def test_chunks_that_turn_out_empty_are_refused():
    x = cut(pool(), 100)
    with pytest.raises(ValueError, match="no points"):
        get_distributed_batchbald_batch(x[x.sum((1, 2)) > 1e9], 3)
