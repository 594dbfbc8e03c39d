"Arrays from elsewhere: what goes wrong on the way in is refused or warned of by name, and what can be taken is taken."
import json
import math
import warnings
from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch

from batchbald_nbdev.information import IdenticalSamplesWarning
from everything import *

N, K, C = 12, 6, 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pool(*shape, seed=0):
    return torch.randn(*(shape or (N, K, C)), generator=seeded(seed)).double().log_softmax(-1)


X = pool()
EVALUATION = pool(5, K, 3, seed=1)
SELECTORS = {
    "bald": get_bald_batch, "batchbald": get_batchbald_batch, "plain batchbald": get_plain_batchbald_batch, "2bald": get_kbald_batch,
    "3bald": partial(get_kbald_batch, k=3), "largebatchbald": get_largebatchbald_batch, "dynamic 2bald": get_dynamic_kbald_batch,
    "dynamic batchbald": get_dynamic_batchbald_batch, "conservativebald": get_conservativebald_batch, "budgetbald": get_budgetbald_batch,
    "softmaxbald": get_softmaxbald_batch, "powerbald": get_powerbald_batch, "softrankbald": get_softrankbald_batch,
    "epig": lambda x, size: get_epig_batch(x, EVALUATION, size), "batchepig": lambda x, size: get_batchepig_batch(x, EVALUATION, size),
    "batchepigbald": lambda x, size: get_batchepigbald_batch(x, EVALUATION, size),
    "softmaxepig": lambda x, size: get_softmaxepig_batch(x, EVALUATION, size),
}  # fmt: skip
SCORES = {
    "bald": compute_bald, "mean std": compute_mean_std, "epig": lambda x: compute_epig(x, EVALUATION), "epig bald": lambda x: compute_epig_bald(x, EVALUATION),
    "kbald": compute_kbald, "kbald gains": lambda x: compute_kbald_gains(x, x[:2]), "pairs": lambda x: compute_pair_information(x, x),
}  # fmt: skip
INDIFFERENT = {"entropy": compute_entropy, "conditional entropy": compute_conditional_entropy, "variation ratios": compute_variation_ratios}
CALLS = {f"get {name}": partial(lambda select, x: select(x, 3), select) for name, select in SELECTORS.items()} | SCORES
each = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def refusal(call, *args, **options):
    with pytest.raises(ValueError) as error: call(*args, **options)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    return message


# Axes


@pytest.mark.parametrize("axes", ["".join(p) for p in permutations("NKC")])
@pytest.mark.parametrize("kind", ["probs", "logits", "log_probs"])
def test_axes_in_any_order(axes, kind):
    x = {"probs": X.exp(), "logits": X + 3, "log_probs": X}[kind].permute(*("NKC".index(a) for a in axes)).contiguous()
    for array in (x, x.numpy()):
        torch.testing.assert_close(as_log_probs(array, kind, axes=axes), X)


def test_axes_copy_nothing_that_is_already_there():
    for axes, x in (("NKC", X), ("KNC", X.transpose(0, 1).contiguous()), ("NCK", X.transpose(1, 2).contiguous())):
        assert as_log_probs(x, axes=axes).data_ptr() == x.data_ptr()


def test_axes_with_several_axes_of_samples_are_flattened_in_order():
    x = pool(3, 2, N, C)  # chain, draw
    found = as_log_probs(x, "log_probs", "KKNC")
    assert torch.equal(found, x.reshape(6, N, C).transpose(0, 1)) and found.shape == (N, 6, C)
    assert torch.equal(as_log_probs(x.permute(0, 2, 3, 1), axes="KNCK"), found)
    single_site = as_log_probs(x[:, :1], axes="KKNC")  # (K, 1, N, C) of deterministic sites
    assert torch.equal(single_site, x[:, 0].transpose(0, 1))


@pytest.mark.parametrize("axes", ["", "NC", "NKCC", "NNKC", "nkc", "SNC", "N K C", None, 3, ["N", "K", "C"]])
def test_axes_that_cannot_be_are_refused_with_a_list(axes):
    message = refusal(as_log_probs, X, axes=axes)
    assert message.startswith(f"`axes` is {axes!r}; want ") and all(name in message for name in ("NKC", "KNC", "NCK", "KCN", "KKNC"))


def test_axes_that_are_more_or_fewer_than_the_array_has_are_refused():
    assert "`x` has shape (12, 6, 4), and `axes` names 4 axes" in refusal(as_log_probs, X, axes="KKNC")
    assert 'axes="KKNC"' in refusal(as_log_probs, X[None])


@pytest.mark.parametrize("kind", ["probs", "log_probs"])
def test_points_classes_samples_are_refused_with_the_axes_to_name(kind):
    x = X if kind == "log_probs" else X.exp()
    for axes in ("NCK", "KCN"):
        wrong = x.permute(*("NKC".index(a) for a in axes))
        message = refusal(as_log_probs, wrong, kind)
        assert 'axes="NCK"' in message and "KCN" in message and "axis 1" in message
    for axes in ("CNK", "CKN"):
        message = refusal(as_log_probs, x.permute(*("NKC".index(a) for a in axes)), kind)
        assert 'axes="CNK"' in message and "CKN" in message and "axis 0" in message
    message = refusal(as_log_probs, x, kind, axes="NCK")  # as it should have been
    assert 'axes="NKC"' in message and "axis 2" in message


@each
def test_points_classes_samples_are_refused_by_everything_that_takes_predictions(call):
    message = refusal(call, pool(N, C, K).transpose(1, 2))
    assert '`as_log_probs(x, axes="NCK")`' in message and "log_probs_" in message
    assert 'kind="probs", axes="NCK"' in refusal(call, pool(N, C, K).transpose(1, 2).exp())


def test_points_classes_samples_of_logits_and_normalised_samples_first_cannot_be_told():
    "What chapter 00 says of them."
    assert as_log_probs(torch.randn(N, C, K, generator=seeded()), "logits").shape == (N, C, K)
    assert as_log_probs(X.transpose(0, 1)).shape == (K, N, C)


# Rounded probabilities

SMALLEST = torch.tensor([[[0.3333, 0.3333, 0.3333], [0.9, 0.05, 0.05]], [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounded_probabilities_are_no_logits(dtype):
    for x in (SMALLEST.to(dtype), pool(50, K, 10).exp().mul(1e3).round().div(1e3).to(dtype), X.exp().to(dtype)):
        message = refusal(as_log_probs, x, "logits")
        assert "looks like probabilities" in message and "kind" in message
    message = refusal(as_log_probs, SMALLEST.to(dtype), "logits")
    assert 'kind="probs"' in message and "`renormalise=True`" in message
    as_log_probs(SMALLEST - 1, "logits")  # logits that happen to look so have a way in


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounded_probabilities_are_renormalised_when_that_is_asked_for(dtype):
    x = SMALLEST.to(dtype)
    message = refusal(as_log_probs, x, "probs")
    assert "misses the sum 1 by 0.0001" in message and "rounded" in message and "`renormalise=True`" in message
    bald_N = compute_bald(as_log_probs(x, "probs", renormalise=True))
    torch.testing.assert_close(bald_N, torch.tensor([0.1849, 0.3099]).double(), atol=5e-5, rtol=0)


def test_rounded_probabilities_give_the_picks_of_exact_ones():
    exact = pool(60, 8, 3, seed=4).mul(2).log_softmax(-1)
    rounded = as_log_probs(exact.exp().numpy().round(4), "probs", renormalise=True)
    assert get_batchbald_batch(rounded, 3).indices == get_batchbald_batch(exact, 3).indices


def test_what_is_further_from_one_than_rounding_is_not_renormalised():
    for off in (0.8, 1.2):
        message = refusal(as_log_probs, off * X.exp(), "probs", renormalise=True)
        assert "misses the sum 1 by 0.2" in message and "allowed 0.05" in message
    assert "-" in refusal(as_log_probs, X, "probs", renormalise=True)


def test_rounded_logarithms_are_renormalised_too():
    rounded = X.mul(1e3).round().div(1e3)
    assert "renormalise" in refusal(as_log_probs, rounded)
    torch.testing.assert_close(as_log_probs(rounded, renormalise=True), rounded.log_softmax(-1))


@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16, torch.float32])
def test_the_slack_follows_the_digits_that_a_file_has(narrow, wide):
    if narrow == wide: return
    x = pool(200, K, 10)
    stored = x.exp().to(narrow).to(wide)
    torch.testing.assert_close(as_log_probs(stored, "probs").double(), x, atol=0.02, rtol=0.02)
    logs = x.to(narrow).to(wide)
    assert as_log_probs(logs) is not None and check_log_probs(logs) == (200, K, 10)
    assert get_bald_batch(logs, 3).indices == get_bald_batch(x.to(narrow), 3).indices
    almost = logs.clone()
    almost[0, 0, 0] *= 1 + 8 * torch.finfo(wide).eps  # one number with more digits: then a deviation is no rounding
    assert "misses 1 by" in refusal(check_log_probs, almost)


def test_python_s_floats_of_a_float32_softmax_are_taken():
    stored = np.array(X.exp().float().tolist())
    assert stored.dtype == np.float64 and as_log_probs(stored, "probs").dtype == torch.float64


# One column


@pytest.mark.parametrize("kind", ["probs", "logits", "log_probs"])
def test_one_column_is_refused_with_the_two_that_are_meant(kind):
    message = refusal(as_log_probs, torch.rand(N, K, 1, generator=seeded()), kind)
    assert "one class" in message and "[1 - p, p]" in message and "softplus" in message and "(12, 6, 1)" in message


@each
def test_one_column_is_refused_by_everything_that_takes_predictions(call):
    for x in (torch.zeros(N, K, 1), torch.rand(N, K, 1)):
        message = refusal(call, x)
        assert "one class" in message and "[1 - p, p]" in message and "`log_probs_" in message


@pytest.mark.parametrize("call", INDIFFERENT.values(), ids=INDIFFERENT.keys())
def test_one_column_is_refused_by_what_needs_no_disagreement_too(call):
    assert "one class" in refusal(call, torch.zeros(N, K, 1))


def test_one_column_becomes_two_as_the_message_says():
    z = torch.randn(N, K, 1, generator=seeded()).double()
    from torch.nn.functional import softplus

    p = z.sigmoid()
    torch.testing.assert_close(as_log_probs(torch.cat([1 - p, p], -1), "probs"), torch.cat([-softplus(z), -softplus(-z)], -1))


# Identical samples


def identical(x):
    return x[:, :1].expand_as(x)


def warnings_of(call, *args):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args)
    return [w for w in caught if issubclass(w.category, IdenticalSamplesWarning)]


@each
def test_identical_samples_are_warned_of_once_and_where_they_came_from(call):
    for dtype in (torch.float16, torch.float32, torch.float64):
        (found,) = warnings_of(call, identical(X).to(dtype))
        assert "K = 6" in str(found.message) and "axis 1" in str(found.message) and found.filename == __file__


@each
def test_a_single_difference_is_enough_not_to_warn(call):
    x = identical(X).clone()
    x[-1, -1] = x[-1, -1].flip(0)
    assert not warnings_of(call, x) and not warnings_of(call, X)


@each
def test_one_sample_is_as_it_was(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try: call(X[:, :1])
        except ValueError as e: assert "same samples" in str(e)  # evaluation inputs that have six
    assert not [w for w in caught if issubclass(w.category, IdenticalSamplesWarning)]


@pytest.mark.parametrize("call", INDIFFERENT.values(), ids=INDIFFERENT.keys())
def test_identical_samples_are_fine_where_nothing_is_ranked_by_disagreement(call):
    assert not warnings_of(call, identical(X)) and not warnings_of(lambda: get_random_batch(N, 3))


def test_samples_that_differ_by_rounding_alone_are_warned_of():
    noise = 1e-8 * torch.randn(N, K, C, generator=seeded()).double()
    assert len(warnings_of(compute_bald, (identical(X) + noise).log_softmax(-1).float())) == 1
    assert not warnings_of(compute_bald, (identical(X) + noise).log_softmax(-1))  # float64 tells them apart


def test_identical_samples_of_evaluation_inputs_are_warned_of():
    for name in ("epig", "batchepig", "batchepigbald", "softmaxepig"):
        select = {"epig": get_epig_batch, "batchepig": get_batchepig_batch, "batchepigbald": get_batchepigbald_batch, "softmaxepig": get_softmaxepig_batch}[name]
        (found,) = warnings_of(select, X, identical(EVALUATION), 2)
        assert "`log_probs_E_K_C`" in str(found.message)


def test_identical_samples_that_come_in_many_blocks_are_warned_of_once():
    x = identical(pool(700, 50, 100)).half()  # four blocks
    assert len(warnings_of(compute_bald, x)) == 1
    x = x.clone()
    x[-1, 3] = x[-2, 0]
    assert not warnings_of(compute_bald, x)


def test_identical_samples_can_be_silenced_by_their_class():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", IdenticalSamplesWarning)
        get_bald_batch(identical(X), 2)
    assert issubclass(IdenticalSamplesWarning, UserWarning)


def test_what_is_refused_is_not_warned_of():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        refusal(get_bald_batch, identical(X) + 1, 2)
    assert not caught


# Several labels


def test_independent_sigmoids_are_refused_and_it_says_why_a_softmax_would_be_wrong():
    samples = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[0.2, 0.9], [0.4, 0.8]]])  # the first two become equal by a softmax: BALD 0, not log 2
    assert compute_bald(samples.log_softmax(-1))[0] < 1e-6
    for x in (samples, torch.rand(N, K, C, generator=seeded())):
        for renormalise in (False, True):
            message = refusal(as_log_probs, x, "probs", renormalise=renormalise)
            assert "independent sigmoids" in message and "several labels" in message and "softmax" in message and "log 2" in message
            assert "renormalise" not in message


def test_one_row_that_is_wrong_is_not_taken_for_sigmoids():
    x = X.exp()
    x[0, 0] *= 0.5
    assert "sigmoids" not in refusal(as_log_probs, x, "probs") and "misses the sum 1 by 0.5" in refusal(as_log_probs, x, "probs")


# The command


@pytest.fixture
def files(tmp_path):
    x = example_log_probs(20)[:60, :8].double().log_softmax(-1)
    np.save(tmp_path / "plain.npy", x.numpy())
    np.save(tmp_path / "knc.npy", x.transpose(0, 1).numpy())
    np.save(tmp_path / "nck.npy", x.transpose(1, 2).numpy())
    np.save(tmp_path / "kknc.npy", x.reshape(60, 4, 2, 10).permute(1, 2, 0, 3).numpy())
    np.save(tmp_path / "rounded.npy", x.exp().numpy().round(4))
    np.save(tmp_path / "same.npy", x[:, :1].expand(-1, 8, -1).numpy())
    np.save(tmp_path / "column.npy", x[..., :1].numpy())
    return tmp_path


def test_select_takes_axes_and_records_them(files, call):
    expected = [row["position"] for row in select_batch(files / "plain.npy", size=4)]
    for name, axes in (("knc", "KNC"), ("nck", "NCK"), ("kknc", "KKNC")):
        out, _ = call("batchbald_select", files / f"{name}.npy", "--axes", axes, "--size", 4, "--out", files / f"{name}.json")
        written = json.loads((files / f"{name}.json").read_text())
        assert written["axes"] == axes and [row["position"] for row in written["picks"]] == expected
        assert out.startswith(f"{name}.npy: 60 points, 8 parameter samples, 10 classes\n")
    (a, b) = (select_batch(files / f"{name}.npy", axes=axes, method="epig", size=3, evaluation=files / f"{name}.npy") for name, axes in (("plain", "NKC"), ("knc", "KNC")))
    assert a == b


def test_select_renormalises_and_records_it(files, call):
    call("batchbald_select", files / "rounded.npy", "--kind", "probs", "--renormalise", "--size", 4, "--out", files / "picks.json")
    written = json.loads((files / "picks.json").read_text())
    assert written["renormalise"] is True and written["axes"] == "NKC"
    assert [row["position"] for row in written["picks"]][:2] == [row["position"] for row in select_batch(files / "plain.npy", size=4)][:2]


def test_select_speaks_of_its_options(files, refused):
    for args, message in (
        (("nck.npy",), "--axes NCK"), (("nck.npy", "--axes", "CNN"), "`axes` is 'CNN'; want"), (("plain.npy", "--axes", "NCK"), "--axes NKC"),
        (("rounded.npy", "--kind", "probs"), "--renormalise"), (("rounded.npy", "--kind", "logits"), "--kind probs --renormalise"),
        (("column.npy",), "one class"), (("kknc.npy",), "--axes KKNC"), (("rounded.npy",), "--kind probs"),
    ):
        refused("batchbald_select", files / args[0], *args[1:], message=message)


def test_select_warns_of_identical_samples(files, call):
    for method, loud in (("batchbald", True), ("softmaxbald", True), ("epig", True), ("meanstd", True), ("entropy", False), ("random", False)):
        _, err = call("batchbald_select", files / "same.npy", "--method", method, "--size", 3)
        lines = [line for line in err.splitlines() if "K = 8" in line and "identical" in line]
        assert len(lines) == loud, err


# Tables, and sigmoids


def test_tables_of_pandas_are_read():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(torch.rand(6, 4, generator=seeded()).numpy())
    assert get_top_k_batch(table[0], 3).indices == get_top_k_batch(table[0].to_numpy(), 3).indices
    with pytest.raises(ValueError, match=r"has shape \(6, 4\); want three non-empty axes"): get_bald_batch(table, 2)
    with pytest.raises(ValueError, match="masked array"): get_bald_batch(np.ma.masked_array(X.numpy()), 2)


def test_outputs_of_sigmoids_are_warned_of():
    sigmoids = torch.rand(10, 5, 3, generator=seeded()) * 0.9
    with pytest.warns(UserWarning, match="`x` has only values from 0 to 1 whose rows do not sum to 1, as independent sigmoids"): as_log_probs(sigmoids, "logits")
    model, other = (torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Sigmoid()) for _ in range(2))
    with pytest.warns(UserWarning, match="`model` returns only values from 0 to 1, as independent sigmoids do"): collect_ensemble_log_probs([model, other], 10 * torch.randn(60, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_log_probs(torch.zeros(4, 3, 2), "logits")  # an untrained last layer
        as_log_probs(sigmoids - 0.5, "logits")
