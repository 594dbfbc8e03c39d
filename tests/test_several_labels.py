"Several labels for each input: the group's information against brute force, bounds, batches, bad input."
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from batchbald_nbdev import several_labels
from everything import *

pytestmark = pytest.mark.filterwarnings("ignore:.*log K", "ignore:.*identical parameter samples")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pool(N, L, K, C, seed=0, scale=2.0, zeros=False, dtype=torch.double):
    "Random predictions of L labels; with `zeros` many classes cannot be."
    logits = scale * torch.randn(N, L, K, C, generator=seeded(seed), dtype=torch.double)
    if zeros:
        never = torch.rand(N, L, K, C, generator=seeded(seed + 1)) < 0.4
        never[..., 0] = False
        logits = logits.masked_fill(never, -math.inf)
    return logits.log_softmax(-1).to(dtype)


def brute(log_probs_V_K_C):
    "Information of some labels about the parameters, by a loop over all configurations, in NumPy."
    p = np.exp(np.asarray(log_probs_V_K_C, dtype=np.float64))
    V, K, C = p.shape
    joint, noise = 0.0, 0.0
    for labels in itertools.product(range(C), repeat=V):
        product_K = np.ones(K)
        for v, c in enumerate(labels):
            product_K = product_K * p[v, :, c]
        total = product_K.mean()
        joint -= total * math.log(total) if total > 0 else 0
    for v, k, c in itertools.product(range(V), range(K), range(C)):
        noise -= p[v, k, c] * math.log(p[v, k, c]) / K if p[v, k, c] > 0 else 0
    return joint - noise


def greedy(x, B, pending=()):
    "Algorithm 1 over groups by brute force: picks, and the joint information after each."
    V = lambda points: torch.cat([x[n] for n in points])
    before, picks, scores = brute(V(pending)) if pending else 0.0, [], []
    for _ in range(B):
        left = [n for n in range(len(x)) if n not in picks and n not in pending]
        found = [brute(V([*pending, *picks, n])) for n in left]
        picks.append(left[int(np.argmax(np.round(found, 11)))])
        scores.append(max(found) - before)
    return picks, scores


SIZES = [(1, 3, 2), (2, 3, 2), (2, 4, 3), (3, 5, 2), (4, 4, 2), (3, 3, 4), (6, 5, 2), (5, 2, 3), (2, 1, 2)]  # L, K, C


# Scores


@pytest.mark.parametrize("L, K, C", SIZES)
@pytest.mark.parametrize("zeros", [False, True])
def test_the_score_of_a_group_is_that_of_all_configurations(L, K, C, zeros):
    x = pool(6, L, K, C, zeros=zeros)
    expected = torch.tensor([brute(group) for group in x])
    torch.testing.assert_close(compute_multilabel_bald(x), expected, atol=1e-10, rtol=0)
    torch.testing.assert_close(compute_multilabel_bald(x.float()), expected, atol=3e-6, rtol=0)


@pytest.mark.parametrize("L, K, C", SIZES)
def test_the_sum_of_single_scores_is_an_upper_bound(L, K, C):
    x = pool(6, L, K, C)
    summed_N = compute_summed_bald(x)
    torch.testing.assert_close(summed_N, compute_bald(x.flatten(0, 1)).view(6, L).sum(1), atol=1e-12, rtol=0)
    assert (compute_multilabel_bald(x) <= summed_N + 1e-12).all()
    assert (compute_multilabel_bald(x) <= math.log(K) + 1e-12).all()


def test_two_samples_that_say_00_and_11():
    x = torch.tensor([[[[1.0, 0], [0, 1]], [[1, 0], [0, 1]]]], dtype=torch.double).log()
    assert compute_multilabel_bald(x).item() == pytest.approx(math.log(2), abs=1e-12)
    assert compute_summed_bald(x).item() == pytest.approx(2 * math.log(2), abs=1e-12)
    softmax = torch.tensor([[0.0, 0], [1, 1]]).log_softmax(-1)[None]
    assert compute_bald(softmax).item() == 0


@pytest.mark.parametrize("most", [2, 4, 8])
def test_groups_too_large_for_one_table_go_block_by_block(monkeypatch, most):
    "Exact all the same while the configurations fit."
    monkeypatch.setattr(several_labels, "GROUP", most)
    for zeros in (False, True):
        x = pool(5, 6, 5, 2, zeros=zeros)
        expected = torch.tensor([brute(group) for group in x])
        torch.testing.assert_close(compute_multilabel_bald(x), expected, atol=1e-10, rtol=0)


def test_groups_beyond_the_configurations_are_estimated():
    "13 labels have 8,192 configurations: with fewer, close to what all of them say."
    x = pool(8, 13, 20, 2, scale=1.0)
    exact_N = compute_multilabel_bald(x, 2**13)
    for M, slack in ((16, 0.1), (64, 0.03)):
        found_N = compute_multilabel_bald(x, M)
        assert (found_N - exact_N).abs().max() < slack and not torch.equal(found_N, exact_N)
    assert torch.equal(compute_multilabel_bald(x, 64), compute_multilabel_bald(x, 64))
    assert (compute_multilabel_bald(x, 1) > 0).all()


# Padding


def test_padding_by_a_mask_or_by_a_certain_class_says_nothing():
    x, mask = pool(6, 4, 5, 3), torch.rand(6, 4, generator=seeded(3)) < 0.6
    mask[0], mask[1] = True, False
    expected = torch.tensor([brute(group[there]) if there.any() else 0.0 for group, there in zip(x, mask)])
    certain = torch.where(mask[..., None, None], x, torch.tensor([1.0, 0, 0]).log())
    garbage = x.masked_fill(~mask[..., None, None], math.nan)
    for found in (
        compute_multilabel_bald(certain), compute_multilabel_bald(garbage, mask_N_L=mask),
        compute_multilabel_bald(garbage, mask_N_L=mask.long().numpy()),
    ):  # fmt: skip
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    summed = compute_bald(x.flatten(0, 1)).view(6, 4).mul(mask).sum(1)
    torch.testing.assert_close(compute_summed_bald(garbage, mask_N_L=mask), summed, atol=1e-10, rtol=0)
    for select in (get_multilabel_batchbald_batch, get_multilabel_bald_batch):
        assert select(certain, 4).indices == select(garbage, 4, mask_N_L=mask).indices


# Batches


@pytest.mark.parametrize("L, K, C", [(1, 3, 2), (2, 4, 2), (2, 3, 3), (3, 4, 2), (4, 5, 2)])
@pytest.mark.parametrize("zeros", [False, True])
def test_batches_are_those_of_brute_force(L, K, C, zeros):
    x, B = pool(6, L, K, C, zeros=zeros), 3 if L < 4 else 2
    for pending in ((), (4,)):
        picks, scores = greedy(x, B, pending)
        batch = get_multilabel_batchbald_batch(x, B, 10**6, pending=pending)
        assert batch.indices == picks and batch.standard_errors == [0] * B
        np.testing.assert_allclose(batch.scores, scores, atol=1e-10, rtol=0)
        assert batch.ceiling == math.log(K) and batch.told_apart is None
        np.testing.assert_allclose(np.cumsum(batch.gains), batch.scores, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.double])
@pytest.mark.parametrize("M", [50, 400])
def test_one_label_gives_todays_batches_to_the_last_digit(dtype, M):
    for seed in range(4):
        x = pool(300, 1, 12, 4, seed=seed, dtype=dtype)
        assert torch.equal(compute_multilabel_bald(x), compute_bald(x[:, 0]))
        assert torch.equal(compute_summed_bald(x), compute_bald(x[:, 0]))
        found = get_multilabel_bald_batch(x, 9)  # which also says where many labels end: at log K
        assert found.ceiling == pytest.approx(math.log(12)) and replace(found, ceiling=None) == get_bald_batch(x[:, 0], 9)
        for pending in ((), (3, 8)):
            options = dict(pending=pending, generator=seeded(seed))
            found = get_multilabel_batchbald_batch(x, 9, M, **options)
            assert found == get_batchbald_batch(x[:, 0], 9, M, **options | {"generator": seeded(seed)})


def test_one_label_of_many_classes_gives_todays_batches_too():
    x = pool(60, 1, 12, 300, dtype=torch.float32)  # more classes than one table has configurations
    assert get_multilabel_batchbald_batch(x, 6, 500) == get_batchbald_batch(x[:, 0], 6, 500)


def test_a_group_of_labels_is_one_label_with_all_their_configurations():
    "Two binary labels are one of four classes, as long as nothing is estimated, and nearly so after that."
    x = pool(200, 2, 12, 2)
    flat = (x[:, 0, :, :, None] + x[:, 1, :, None, :]).flatten(2)
    for B, M in ((5, 4**5), (8, 1_000)):
        found, expected = get_multilabel_batchbald_batch(x, B, M), get_batchbald_batch(flat, B, M)
        told = min(len(found.indices), found.told_apart or B, expected.told_apart or B, 5)
        assert found.indices[:told] == expected.indices[:told]
        errors = np.array(found.standard_errors) + expected.standard_errors
        assert (np.abs(np.subtract(found.scores, expected.scores)) <= 5 * errors + 2e-3).all()


@pytest.mark.parametrize("most", [2, 4])
def test_large_groups_pick_as_small_ones_do(monkeypatch, most):
    x = pool(40, 4, 6, 2, zeros=True)
    expected = get_multilabel_batchbald_batch(x, 3, 10**5)
    monkeypatch.setattr(several_labels, "GROUP", most)
    found = get_multilabel_batchbald_batch(x, 3, 10**5)
    assert found.indices == expected.indices and found.standard_errors == [0] * 3
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-10, rtol=0)
    sampled = get_multilabel_batchbald_batch(x, 8, 100)
    assert len(set(sampled.indices)) == 8 and max(sampled.scores) <= math.log(6)
    assert min(np.diff(sampled.scores)) >= 0 and max(sampled.standard_errors) > 0


def test_lazy_and_racing_searches_pick_what_the_full_search_picks():
    x = pool(400, 4, 20, 2, scale=1.5, dtype=torch.float32)
    full = get_multilabel_batchbald_batch(x, 8, 2_000, lazy=False, race_error=0)
    fast = get_multilabel_batchbald_batch(x, 8, 2_000)
    told = fast.told_apart or 8
    assert told > 2 and fast.indices[:told] == full.indices[:told]


def test_copies_are_not_picked_while_others_say_more():
    x = pool(12, 3, 8, 2)
    batch = get_multilabel_batchbald_batch(torch.cat([x, x]), 4, 10**5)
    assert len({n % 12 for n in batch.indices}) == 4 and max(batch.indices) < 12


def test_scores_lie_within_four_standard_errors_and_these_agree_with_the_spread():
    x = pool(30, 4, 30, 2, scale=1.0)
    picks = get_multilabel_batchbald_batch(x, 6, 10**6 // 4).indices
    runs = [get_multilabel_batchbald_batch(x[picks], 6, 300, generator=seeded(s)) for s in range(30)]
    by_size = [dict(zip(map(frozenset, itertools.accumulate([[i] for i in run.indices])), run.scores)) for run in runs]
    last = [run.scores[-1] for run in runs]
    claimed = np.mean([run.standard_errors[-1] for run in runs])
    assert all(len(scores) == 6 for scores in by_size)
    assert 0.5 < np.std(last, ddof=1) / claimed < 2


def test_k_of_one_teaches_nothing():
    x = pool(5, 3, 1, 2)
    assert compute_multilabel_bald(x).abs().max() < 1e-12
    batch = get_multilabel_batchbald_batch(x, 3)
    assert batch.indices == [0, 1, 2] and batch.ceiling == 0 and max(batch.scores) < 1e-12


def test_sizes_at_the_edge():
    x = pool(3, 2, 4, 2)
    assert get_multilabel_batchbald_batch(x, 0).indices == []
    assert sorted(get_multilabel_batchbald_batch(x, 9).indices) == [0, 1, 2]
    assert get_multilabel_batchbald_batch(x, 9, pending=[0, 1, 2]).indices == []
    assert get_multilabel_batchbald_batch(x[:1], 1).indices == [0]


def test_inputs_are_never_changed_and_other_layouts_are_fine():
    x = pool(9, 3, 5, 2, dtype=torch.float32)
    before = x.clone()
    expected = get_multilabel_batchbald_batch(x, 4, 100)
    turned = x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)  # (K, N, L, C) in memory
    assert get_multilabel_batchbald_batch(turned, 4, 100) == expected
    assert get_multilabel_batchbald_batch(x.numpy(), 4, 100) == expected
    assert torch.equal(x, before)


def test_half_precision_is_normalised_label_by_label():
    x = pool(20, 8, 10, 2)
    half_N, full_N = compute_multilabel_bald(x.half()), compute_multilabel_bald(x)
    assert (half_N - full_N).abs().max() < 0.01
    assert len(get_multilabel_batchbald_batch(x.half(), 5, 500).indices) == 5


# Bad input


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x: x[:, 0], r"`log_probs_N_L_K_C` has shape \(4, 5, 2\).*four"),
        (lambda x: x[..., :1], "`log_probs_N_L_K_C`.*one class"),
        (lambda x: x[:0], "non-empty"),
        (lambda x: x.exp(), "probabilities"),
        (lambda x: 3 * x, "not normalised"),
        (lambda x: x.clone().fill_(math.nan), "NaN"),
        (lambda x: x.long(), "dtype"),
        (lambda x: "x", "tensor"),
    ],
)
def test_bad_predictions_are_named(change, words):
    x = pool(4, 3, 5, 2)
    for call in (compute_multilabel_bald, compute_summed_bald, lambda x: get_multilabel_batchbald_batch(x, 2)):
        with pytest.raises(ValueError, match=words):
            call(change(x))


@pytest.mark.parametrize("mask", [torch.ones(4, 2), torch.ones(4, 3) * 0.5, torch.full((4, 3), 2), "x", [[True]] * 4])
def test_bad_masks_are_named(mask):
    with pytest.raises(ValueError, match="`mask_N_L`"):
        compute_multilabel_bald(pool(4, 3, 5, 2), mask_N_L=mask)


def test_other_arguments_are_named():
    x = pool(4, 3, 5, 2)
    for name, value in (("num_samples", 0), ("batch_size", -1), ("pending", [9]), ("race_error", 0.7), ("max_bytes", 0)):
        options = {"batch_size": 2} | {name: value}
        with pytest.raises(ValueError, match=f"`{name}`"):
            get_multilabel_batchbald_batch(x, **options)


def test_functions_of_one_label_say_where_several_are_scored():
    x = pool(4, 3, 5, 2)
    for call in (compute_bald, lambda x: get_batchbald_batch(x, 2)):
        with pytest.raises(ValueError, match="compute_multilabel_bald"):
            call(x)


def test_labels_are_converted_from_any_order_of_the_axes():
    x = pool(4, 3, 5, 2)
    for axes in ("NLKC", "KNLC", "NLCK", "CKLN"):
        turned = x.permute(["NLKC".index(axis) for axis in axes])
        assert torch.equal(as_log_probs(turned.exp(), kind="probs", axes=axes), as_log_probs(x.exp(), kind="probs", axes="NLKC"))
    p_N_L_K = x[..., 1].exp()
    found = as_log_probs(torch.stack([1 - p_N_L_K, p_N_L_K], -1), kind="probs", axes="NLKC")
    assert torch.allclose(found, x, atol=1e-12)


def test_messages_name_the_conversion_of_several_labels():
    x = pool(4, 3, 5, 2)
    for call in (compute_multilabel_bald, lambda x: get_multilabel_batchbald_batch(x, 2)):
        with pytest.raises(ValueError, match=r'kind="probs", axes="NLKC"'):
            call(x.exp())
        with pytest.raises(ValueError, match=r'axes="NLCK"'):
            call(x.transpose(2, 3).contiguous())
        with pytest.raises(ValueError, match=r"torch.stack\(\[1 - p, p\], -1\)"):
            call(x[..., 1].exp())
    for axes in ("NLK", "LKC", "NLLC"):
        with pytest.raises(ValueError, match="`axes`"):
            as_log_probs(x, axes=axes)


def test_scores_near_the_ceiling_are_warned_of():
    x = pool(6, 8, 4, 2, scale=9.0)
    with pytest.warns(CeilingWarning, match=r"\d of 3 picks score more than .* log K = 1.386"):
        batch = get_multilabel_bald_batch(x, 3)
    assert batch.ceiling == pytest.approx(math.log(4)) and max(batch.scores) <= batch.ceiling


@pytest.mark.parametrize("L", [3, 12])
def test_ties_go_to_the_lowest_place(L):
    x = pool(1, L, 6, 2).expand(40, L, 6, 2)
    assert get_multilabel_batchbald_batch(x, 1).indices == [0]
    assert get_multilabel_batchbald_batch(x, 1, pending=[0, 1]).indices == [2]


def test_masks_go_with_blocks_of_nobody():
    x, mask = pool(3, 2, 5, 3), torch.tensor([[1, 1], [0, 0], [1, 0]]).bool()
    whole = get_multilabel_batchbald_batch(x, 3, 1000, mask_N_L=mask)
    assert get_multilabel_batchbald_batch(x, 3, 1000, mask_N_L=mask, max_bytes=1).indices == whole.indices


def test_labels_that_say_all_leave_the_rest_tied():
    x = torch.full((20, 2, 400), -math.inf)
    for k in range(2): x[:, k, 200 * k : 200 * k + 200] = torch.randn(20, 200, generator=seeded(k)).log_softmax(-1)
    assert get_multilabel_batchbald_batch(x[:, None], 3).indices == [0, 1, 2]


def test_identical_samples_are_warned_of_by_name():
    x = pool(4, 3, 1, 2).expand(4, 3, 5, 2)
    with pytest.warns(IdenticalSamplesWarning, match=r"`log_probs_N_L_K_C` has K = 5.*\(axis 2\)"):
        compute_multilabel_bald(x)


# Models, the command, the loop


def test_collected_sigmoids_are_those_of_a_plain_loop():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 9), torch.nn.ReLU(), ConsistentDropout(0.5), torch.nn.Linear(9, 4))
    x = torch.randn(20, 5, generator=seeded())
    found_N_L_K_2 = collect_log_probs(net, x, 6, outputs="sigmoids")
    assert found_N_L_K_2.shape == (20, 4, 6, 2)
    as_classes = collect_log_probs(net, x, 6)  # the same masks: differences of logits are those of log-probabilities
    logits_N_L_K = (found_N_L_K_2[..., 1] - found_N_L_K_2[..., 0]).transpose(1, 2)
    differences = logits_N_L_K - logits_N_L_K[..., :1]
    torch.testing.assert_close(differences, as_classes - as_classes[..., :1], atol=1e-5, rtol=1e-5)
    parts = collect_log_probs(net, x.split(7), 6, outputs="sigmoids", max_bytes=1_000)
    torch.testing.assert_close(parts, found_N_L_K_2)
    half = collect_log_probs(net, x, 6, outputs="sigmoids", dtype=torch.float16)
    assert half.dtype == torch.float16 and len(get_multilabel_batchbald_batch(half, 3, 100).indices) == 3


def test_collected_positions_are_those_of_the_logits(tmp_path):
    logits_N_L_C = torch.randn(12, 3, 4, generator=seeded())
    members = [lambda x, k=k: logits_N_L_C[x[:, 0].long()] * (k + 1) for k in range(5)]
    x = torch.arange(12.0)[:, None]
    found = collect_ensemble_log_probs(members, [x[:5], x[5:]], outputs="positions", out=tmp_path / "x.npy")
    expected = torch.stack([(logits_N_L_C * (k + 1)).log_softmax(-1) for k in range(5)], 2)
    torch.testing.assert_close(torch.from_numpy(np.array(found)), expected)


@pytest.mark.parametrize("outputs, words", [("positions", 'outputs="sigmoids"'), ("labels", "`outputs`"), (None, "`outputs`")])
def test_what_a_model_returns_is_never_guessed(outputs, words):
    with pytest.raises(ValueError, match=words):
        collect_ensemble_log_probs([torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)], torch.ones(4, 2), outputs=outputs)
    cube = lambda x: torch.zeros(len(x), 3, 2)
    with pytest.raises(ValueError, match=r"shape \(4, 3, 2\).*outputs=\"positions\""):
        collect_ensemble_log_probs([cube, lambda x: cube(x)], torch.ones(4, 2))


def test_the_command_picks_from_files_of_several_labels(tmp_path):
    x = pool(30, 3, 8, 2, dtype=torch.float32)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "k.npy", x.permute(2, 0, 1, 3).numpy())
    for method, expected in (
        ("batchbald", get_multilabel_batchbald_batch(x, 4, 300).indices),
        ("bald", get_multilabel_bald_batch(x, 4).indices),
        ("summedbald", get_top_k_batch(compute_summed_bald(x), 4).indices),
    ):
        found = select_batch(tmp_path / "x.npy", labels=True, method=method, size=4, configs=300)
        if method != "batchbald":  # draws of another generator
            assert [row["position"] for row in found] == expected
        turned = select_batch(tmp_path / "k.npy", labels=True, axes="KNLC", method=method, size=4, configs=300)
        assert turned == found
    out = tmp_path / "picks.json"
    select_batch(tmp_path / "x.npy", labels=True, size=2, pending=None, out=str(out))
    assert '"labels": 3' in out.read_text()
    for options, words in (
        (dict(labels=True, method="2bald"), "`method` is '2bald'"), (dict(labels=True, axes="NCK"), "`axes`"),
        (dict(labels=True, plot=str(tmp_path / "p.png")), "`plot`"), (dict(), "four|axes"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            select_batch(tmp_path / "x.npy", **options)


def test_methods_that_are_not_made_for_labels_say_so():
    x = pool(9, 3, 5, 2)
    for name in ("2bald", "epig", "entropy"):
        with pytest.raises(ValueError, match=f"{name}.*several labels.*batchbald"):
            get_method(name)(Round(2, 9, lambda _: x, several_labels=True))
    for name in ("random", "bald", "summedbald", "batchbald", "softmaxbald@0.5", "powerbald", "softrankbald"):
        round = Round(2, 9, lambda _: x, several_labels=True, pending=[3], generator=seeded(), num_samples=50)
        assert 3 not in get_method(name)(round).indices


def test_the_loop_runs_with_several_labels():
    data = get_digit_pairs(2, originals=40, test=20, validation=10)
    make = lambda: make_mlp(128, 8, 12)
    named = {name: methods[name] for name in ("random", "summedbald", "batchbald")}
    how = dict(size=3, budget=24 + 3, samples=6, configs=50, steps=5, test_samples=4)
    rounds = list(run_trials([data], named, make, **how))
    assert [len(rows) for rows in rounds] == [3, 3] and rounds[0][0]["labels"] == 24
    assert all(len(labels) == 12 for row in rounds[0] for labels in row["classes"])
    again = list(run_trials([data], named, make, **how, done=rounds[0]))
    assert [row["accuracy"] for row in again[0]] == [row["accuracy"] for row in rounds[1]]
    with pytest.raises(ValueError, match="12"):
        run_trials([data], named, lambda: make_mlp(128, 8, 10), **how)


def test_evaluate_takes_labels_one_by_one():
    x, labels = pool(7, 3, 5, 2), torch.randint(2, (7, 3), generator=seeded())
    accuracy, nll = evaluate(x, labels)
    mean = x.exp().mean(2)
    assert accuracy == pytest.approx((mean.argmax(-1) == labels).double().mean().item())
    assert nll == pytest.approx(-mean.gather(2, labels[..., None]).log().sum((1, 2)).mean().item())


def test_a_method_for_one_label_is_refused_before_anything_is_trained(tmp_path, refused):
    args = "--dataset digit_pairs --trials 1 --budget 34 --steps 5 --repeats 1 --test_samples 4 --samples 5".split()
    refused("batchbald_compare", *args, "--methods", "random,2bald", "--out", tmp_path / "out", message="the method '2bald' is not made for several labels for each input; want one of: random, bald, summedbald")


def test_a_second_look_is_refused_before_anything_is_trained(tmp_path, refused):
    args = "--dataset digit_pairs --methods random --trials 1 --budget 34 --steps 5 --repeats 1".split()
    refused("batchbald_compare", *args, "--judge", 30, "--out", tmp_path / "out", message="`judge` is 30, and `digit_pairs` has several labels for each input; want 0")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="`judge` is 30, and `digit_pairs` has several labels"):
        run_trials([get_digit_pairs(2, originals=40, test=20, validation=10)], {"random": methods["random"]}, lambda: make_mlp(128, 8, 12), judge=30)


def test_a_score_never_exceeds_log_K():
    x = (4 * torch.randn(40, 30, 8, 2, generator=torch.Generator().manual_seed(0))).double().log_softmax(-1)
    for M in (8, 100, 4_000):
        scores_N = compute_multilabel_bald(x, M)
        assert scores_N.max() <= math.log(8) and scores_N.min() > 0.9 * math.log(8)
