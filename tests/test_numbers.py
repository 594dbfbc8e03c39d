"Counts, numbers and positions that cannot be: every public function names the argument, or takes what is too large for what it means."
import math
from decimal import Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from batchbald_nbdev import bayesian_models, checks
from everything import *
from batchbald_nbdev.datasets import ActiveLearningData

pytestmark = pytest.mark.filterwarnings("ignore:.*log K", "ignore:.*identical parameter samples")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


X, E, SCORES = (torch.randn(*shape, generator=seeded()).double().log_softmax(-1) for shape in ((9, 5, 3), (4, 5, 2),
    (9,)))
LABELS = torch.arange(9) % 3
PAIR = (torch.randn(9, 4, generator=seeded(1)), LABELS), (torch.randn(6, 4, generator=seeded(2)), LABELS[:6])
DATA = make_active_learning_data(*PAIR)


def network():
    return nn.Sequential(nn.Linear(4, 8), ConsistentDropout(), nn.Linear(8, 3))


def trained(**options):
    torch.manual_seed(0)
    models = [network()]
    train_models(models, [PAIR[0][0]], [LABELS], [(0,)], **{"steps": 2, "minibatch_size": 4} | options)
    return [p.detach().clone() for p in models[0].parameters()]


def trials(**options):
    rows = next(run_trials([DATA], {"bald": get_method("bald")}, network, **{"steps": 1, "budget": 7, "size": 1,
        "per_class": 1, "samples": 2, "test_samples": 2} | options))
    return [(row["accuracy"], row["nll"], row["indices"]) for row in rows]


def joint(make):
    return lambda **options: make(**options).compute()


def collected(num_samples=3, **options):
    torch.manual_seed(0)
    return collect_log_probs(network(), PAIR[0][0], num_samples, **options)


def digits(**options):
    data = get_repeated_digits(**{"repeats": 2, "originals": 30, "test": 10, "validation": 5} | options)
    return data.pool_inputs, data.test_inputs


def made(**options):
    data = make_active_learning_data(*PAIR, **options)
    return data.pool_inputs, data.pool_originals


def labelling(**options):
    panel = Labelling(PAIR[0][0], **{"image_shape": (2, 2), "classes": 3, "methods": ["bald"], "steps": 1, "samples": 2,
        "batch_size": 2, "start": {0: 0, 1: 1, 2: 2}} | options)
    return panel.batches["bald"]["indices"]


def shapes(make):
    return lambda **options: [tuple(p.shape) for p in make(**options).parameters()]


# What each takes: (function, what it is called with besides, its counts, its numbers)
CALLS = {
    **{
        f.__name__: (f, {"log_probs_N_K_C": X, size: 3, **options}, [size, *counts], numbers)
        for f, size, options, counts, numbers in [
            (get_bald_batch, "batch_size", {}, [], []),
            (get_batchbald_batch, "batch_size", {}, ["num_samples", "max_bytes"], ["race_error"]),
            (get_plain_batchbald_batch, "batch_size", {}, ["num_samples"], []),
            (get_kbald_batch, "batch_size", {}, ["k", "max_bytes"], []),
            (get_largebatchbald_batch, "batch_size", {}, ["max_bytes"], []),
            (get_dynamic_kbald_batch, "max_batch_size", {}, ["max_bytes"], ["tolerance"]),
            (get_dynamic_batchbald_batch, "max_batch_size", {}, ["num_samples", "max_bytes"],
                ["gain_share", "ceiling_share"]),
            (get_conservativebald_batch, "max_batch_size", {}, [], ["threshold"]),
            (get_budgetbald_batch, "max_batch_size", {}, ["num_samples"], ["budget"]),
            (get_softmaxbald_batch, "batch_size", {}, [], ["temperature"]),
            (get_powerbald_batch, "batch_size", {}, [], ["temperature"]),
            (get_softrankbald_batch, "batch_size", {}, [], ["temperature"]),
            (get_epig_batch, "batch_size", {"log_probs_E_K_C": E}, ["max_bytes"], []),
            (get_batchepig_batch, "batch_size", {"log_probs_E_K_C": E}, ["num_samples", "max_bytes"], []),
            (get_batchepigbald_batch, "batch_size", {"log_probs_E_K_C": E}, ["num_samples"], []),
            (get_softmaxepig_batch, "batch_size", {"log_probs_E_K_C": E}, ["max_bytes"], ["temperature"]),
        ]
    },
    **{f.__name__: (f, {"scores_N": SCORES, "batch_size": 3}, ["batch_size"],
        ["temperature"]) for f in (get_softmax_batch, get_power_batch, get_softrank_batch)},
    "get_top_k_batch": (get_top_k_batch, {"scores_N": SCORES, "batch_size": 3}, ["batch_size"], []),
    "get_random_batch": (get_random_batch, {"N": 9, "batch_size": 3}, ["N", "batch_size"], []),
    "Round": (lambda **sizes: methods["batchbald"](Round(pool_size=len(X), predict=lambda _: X, **sizes)).indices,
        {"batch_size": 3}, ["batch_size", "num_samples"], []),
    "compute_epig": (compute_epig, {"log_probs_N_K_C": X, "log_probs_E_K_C": E}, ["max_bytes"], []),
    "compute_epig_bald": (compute_epig_bald, {"log_probs_N_K_C": X, "log_probs_E_K_C": E}, ["num_samples"], []),
    "compute_kbald": (compute_kbald, {"log_probs_B_K_C": X[:3]}, ["k"], []),
    "compute_kbald_gains": (compute_kbald_gains, {"log_probs_N_K_C": X, "log_probs_B_K_C": X[:2]}, ["k", "max_bytes"],
        []),
    "check_log_probs": (check_log_probs, {"log_probs_N_K_C": X}, [], ["atol"]),
    "make_binary_pair": (make_binary_pair, {"correlation": 0.5, "confidence": 0.5}, ["K"],
        ["correlation", "confidence"]),
    "ExactJointEntropy.empty": (joint(ExactJointEntropy.empty), {}, ["K"], []),
    "SampledJointEntropy.empty": (joint(SampledJointEntropy.empty), {}, ["K"], []),
    "SampledJointEntropy.sample": (joint(SampledJointEntropy.sample), {"probs_N_K_C": X[:2].exp()}, ["M"], []),
    "SampledJointEntropy.add_variables": (joint(lambda M2: SampledJointEntropy.empty(5,
        dtype=torch.double).add_variables(X[:2], M2)), {}, ["M2"], []),
    "DynamicJointEntropy": (joint(lambda **o: DynamicJointEntropy(**{"M": 9, "max_N": 3, "K": 4,
        "C": 4} | o).add_variables(torch.full((1, o.get("K", 4), 4), 1 / 4).log())), {}, ["M", "max_N", "K", "C"], []),
    "WeightedJointEntropy": (joint(lambda **o: WeightedJointEntropy(**{"num_samples": 9, "K": 4} | o)), {},
        ["num_samples", "K"], []),
    "ConsistentDropout": (lambda p: ConsistentDropout(p).p, {}, [], ["p"]),
    "make_mlp": (shapes(make_mlp), {}, ["features", "hidden", "classes"], ["p"]),
    "make_mnist_cnn": (shapes(make_mnist_cnn), {}, ["classes"], ["p"]),
    "collect_log_probs": (collected, {}, ["num_samples", "max_bytes"], []),
    "get_repeated_digits": (digits, {}, ["repeats", "originals", "test", "validation"], ["noise"]),
    "make_active_learning_data": (made, {}, ["repeats", "num_classes"], ["noise"]),
    "get_balanced_indices": (get_balanced_indices, {"labels_N": LABELS, "per_class": 1}, ["per_class", "num_classes"],
        []),
    "flip_labels": (lambda fraction: flip_labels(DATA, fraction).pool_labels, {}, [], ["fraction"]),
    "make_imbalanced": (lambda fractions: make_imbalanced(DATA, {0: fractions}).pool_labels, {}, [], ["fractions"]),
    "train_models": (trained, {}, ["steps", "minibatch_size", "patience", "epoch_steps"], ["learning_rate"]),
    "run_trials": (trials, {}, ["seed", "size", "samples", "budget", "per_class", "test_samples", "together", "steps",
        "minibatch_size", "configs"], ["learning_rate"]),
    "Labelling": (labelling, {}, ["steps", "samples", "batch_size", "seed"], []),
}  # fmt: skip
NONE_IS_FINE = {("check_log_probs", "atol"), ("make_active_learning_data", "num_classes"),
    ("get_balanced_indices", "num_classes"), ("run_trials", "together")}
HUGE = [10**20, 2**62, 2**63, 10**400, 10**5000, np.uint64(2**63)]
ENDLESS = [10**20, 10**400, 10**5000, Fraction(10**400, 3), Decimal("1e500"), np.float64(1e308)]
NOTHING = [b"3", "3", "", True, np.bool_(True), 1j, np.complex128(1), torch.tensor(1 + 0j), object(), [], [1, 2], (),
    torch.tensor([1, 2]), np.array([1, 2]), np.array("3")]
NOTHING += [torch.tensor(3, device="meta"), torch.tensor(True), math.nan, Decimal("nan"), Decimal("snan"),
    np.float32("nan"), -(10**20), -(10**400), -(10**5000), -math.inf]
NO_COUNT = [*NOTHING, 2.5, 3.0, math.inf, Fraction(6, 2), Decimal(3), np.float64(3), torch.tensor(3.0), 1e300]


def arguments(place):
    return [pytest.param(name, argument, id=f"{name} {argument}") for name,
        call in CALLS.items() for argument in call[place]]


def equal(a, b):
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def refuses(name, argument, value):
    function, options, *_ = CALLS[name]
    with pytest.raises(ValueError, match=f"`{argument}`") as error: function(**options | {argument: value})
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("name, argument", arguments(2))
def test_what_is_no_count_is_named(name, argument):
    for value in NO_COUNT: refuses(name, argument, value)
    if (name, argument) not in NONE_IS_FINE: refuses(name, argument, None)


@pytest.mark.parametrize("name, argument", arguments(3))
def test_what_is_no_number_is_named(name, argument):
    for value in NOTHING: refuses(name, argument, value)
    if (name, argument) not in NONE_IS_FINE: refuses(name, argument, None)


@pytest.mark.parametrize("name, argument", arguments(2))
def test_a_count_too_large_is_named_or_means_all(name, argument):
    function, options, *_ = CALLS[name]
    results = []
    for value in HUGE:
        try: results.append(function(**options | {argument: value}))
        except ValueError as e: assert f"`{argument}`" in str(e) and "\n" not in str(e) and len(str(e)) < 400, e
    assert len(results) in (0, len(HUGE))  # all or none of them
    if argument != "seed": assert all(equal(result, results[0]) for result in results)
    if argument in ("batch_size", "max_batch_size") and name not in ("train_models", "run_trials"):
        assert results and (name == "Labelling" or equal(results[0], function(**options | {argument: 9})))
    if argument in ("max_bytes", "num_samples") and name != "collect_log_probs": assert equal(results[0],
        function(**options | {argument: 2**40 if argument == "max_bytes" else 2**30}))


@pytest.mark.parametrize("name, argument", arguments(3))
def test_a_number_too_large_is_named_or_infinite(name, argument):
    function, options, *_ = CALLS[name]
    for value in ENDLESS:
        try: result = function(**options | {argument: value})
        except ValueError as e: assert (f"`{argument}`" in str(e) or argument == "learning_rate" and "NaN" in str(e)) and "\n" not in str(e) and len(str(e)) < 400, e
        else:
            if argument == "noise": assert value == 10**20 and all(x.isfinite().all() for x in result)
            else: assert equal(result, function(**options | {argument: math.inf}))


@pytest.mark.parametrize("name, argument", arguments(2))
def test_a_count_of_any_kind(name, argument):
    function, options, *_ = CALLS[name]
    number = {"make_binary_pair": 4, "K": 4, "C": 4, "max_N": 3, "originals": 30, "budget": 7, "num_classes": 3,
        "classes": 3}.get(argument, 4 if name == "make_binary_pair" else 1)
    for value in (np.int64(number), np.uint8(number), torch.tensor(number), np.array(number)):
        assert equal(function(**options | {argument: value}), function(**options | {argument: number}))


@pytest.mark.parametrize("name, argument", arguments(3))
def test_a_number_of_any_kind(name, argument):
    function, options, *_ = CALLS[name]
    plain = function(**options | {argument: 0.25})
    for value in (Fraction(1, 4), Decimal("0.25"), np.float32(0.25), np.float16(0.25), np.longdouble(0.25),
        torch.tensor(0.25), np.array(0.25), torch.tensor(0.25, requires_grad=True)):
        assert equal(function(**options | {argument: value}), plain)


def test_counts_that_may_also_be_lists():
    for wrong in (x for x in NO_COUNT + HUGE if not isinstance(x, (list, tuple)) and getattr(x, "ndim", 0) == 0):
        with pytest.raises(ValueError, match="`validation`"): make_active_learning_data(*PAIR, validation=wrong)
        with pytest.raises(ValueError, match="`classes`"): Labelling(PAIR[0][0], image_shape=(2, 2), classes=wrong)


POSITIONS = {
    "get_batchbald_batch": lambda given: get_batchbald_batch(X, 3, pending=given),
    "get_plain_batchbald_batch": lambda given: get_plain_batchbald_batch(X, 3, pending=given),
    "get_kbald_batch": lambda given: get_kbald_batch(X, 3, pending=given),
    "get_largebatchbald_batch": lambda given: get_largebatchbald_batch(X, 3, pending=given),
    "get_dynamic_kbald_batch": lambda given: get_dynamic_kbald_batch(X, 3, pending=given),
    "get_dynamic_batchbald_batch": lambda given: get_dynamic_batchbald_batch(X, 3, pending=given),
    "get_conservativebald_batch": lambda given: get_conservativebald_batch(X, 3, pending=given),
    "get_budgetbald_batch": lambda given: get_budgetbald_batch(X, 3, pending=given),
    "get_batchepig_batch": lambda given: get_batchepig_batch(X, E, 3, pending=given),
    "get_batchepigbald_batch": lambda given: get_batchepigbald_batch(X, E, 3, pending=given),
    "softmaxbald": lambda given: get_method("softmaxbald")(Round(3, 9, lambda _: X, pending=given)),
}


@pytest.mark.parametrize("name", POSITIONS)
def test_positions(name):
    select = POSITIONS[name]
    plain = select([2, 5])
    for same in ((5, 2), [2, 5, 2], {5, 2}, np.array([2, 5]), np.array([2, 5], dtype=np.uint8), torch.tensor([5, 2]),
        iter([5, 2]), range(2, 6, 3), {2: "a", 5: "b"}, [np.int64(2), torch.tensor(5)], torch.tensor([[2], [5]])):
        assert select(same) == plain
    for none in ((), [], np.array([], dtype=np.int64), torch.tensor([],
        dtype=torch.long)): assert select(none) == select([])
    for wrong in ([9], [-1], [10**20], [-(10**20)], [10**5000], [2.0], [True], [None], ["2"], "2", "25", b"\x02", 2,
        None, 2.5, [2.5], [math.nan], np.array([True] * 9), torch.tensor([True] * 9),
                  np.array([2.0]), torch.tensor([2.0]), [1j], [[2, 5]], torch.tensor([2], device="meta"),
                      torch.tensor(2), np.array(2)):  # fmt: skip
        with pytest.raises(ValueError, match="`pending`") as error: select(wrong)
        assert len(str(error.value)) < 400


def test_more_than_memory_is_refused_before_it_is_allocated(monkeypatch):
    "With the machine's own memory for what is far beyond any, and with a small one for what shows that nothing has changed."
    x = torch.randn(4, 100, 10, generator=seeded()).log_softmax(-1)
    state = SampledJointEntropy.empty(100).add_variables(x[:1], 1000)
    with pytest.raises(ValueError, match="`M2` is too large: 10,000,000,000,000 configurations under 100 parameter samples would take .* GB"): state.add_variables(x[1:], 10**10)
    monkeypatch.setattr(checks, "get_memory", lambda device: 2e6)
    with pytest.raises(ValueError, match="`M2`"): state.add_variables(x[1:], 1000)
    with pytest.raises(ValueError, match="`M`"): SampledJointEntropy.sample(x.exp(), 10**5)
    assert state.compute() == SampledJointEntropy.empty(100).add_variables(x[:1],
        1000).compute() and len(state.weights_M) == 1000
    exact, weighted, dynamic = ExactJointEntropy.empty(100), WeightedJointEntropy(10**5, 100,
        generator=seeded()), DynamicJointEntropy(10**5, 4, 100, 10)
    for one, argument in ((exact, "log_probs_N_K_C"), (weighted, "num_samples"), (dynamic, "log_probs_N_K_C")):
        one.add_variables(x[:1])
        entropy = one.compute()
        with pytest.raises(ValueError, match=f"`{argument}` is too large"): one.add_variables(x[1:])
        assert one.compute() == entropy and len(one.weights_M) == 10 and one.add_variables(x[1:2]).compute() > entropy
    assert weighted.exact and torch.equal(weighted.generator.get_state(), seeded().get_state())
    with pytest.raises(ValueError, match="`max_N`"): DynamicJointEntropy(10, 1000, 100, 10)
    with pytest.raises(ValueError, match="`N`"): get_random_batch(10**5, 3)
    with pytest.raises(ValueError, match="`num_samples`"): collected(10**5)


@pytest.mark.parametrize("draw", [get_top_k_batch, get_softmax_batch, get_power_batch, get_softrank_batch])
def test_whole_scores(draw):
    plain = draw(torch.tensor([1.0, 0.0, 3.0, 0.0]).double(), 3)
    for same in ([1, 0, 3, 0], (1, 0, 3, 0), np.array([1, 0, 3, 0]), np.array([1, 0, 3, 0], dtype=np.uint8),
        torch.tensor([1, 0, 3, 0]), torch.tensor([1, 0, 3, 0], dtype=torch.int16), [1, 0.0, 3, 0]):
        assert draw(same, 3) == plain
    assert draw([True, False, False], 3) == draw([1.0, 0.0, 0.0], 3) == draw(torch.tensor([True, False, False]), 3)
    assert get_top_k_batch([1.0, 1.0 + 1e-9], 1).indices == [1] and get_top_k_batch([2**53 - 1, 2**53],
        2) == CandidateBatch([2.0**53, 2.0**53 - 1], [1, 0])
    for wrong in ([1, 10**20], [2**53, 2**53 + 1], torch.tensor([-(2**60), 1]), [1, None], [1, "a"], [1j, 0], [[1, 2]],
        [], np.array(3), 3, "12", {}, None, [1, [2]], torch.ones(2, device="meta")):
        with pytest.raises(ValueError, match="`scores_N`"): draw(wrong, 1)


def test_a_refusal_draws_nothing():
    generator = seeded(3)
    for argument, refused in {
        "batch_size": lambda: get_random_batch(9, -1, generator=generator),
        "log_probs_N_K_C": lambda: SampledJointEntropy.empty(5).add_variables(X.exp(), 3, generator=generator),
        "pending": lambda: get_batchepigbald_batch(X, E, 2, 3, pending=[9], generator=generator),
        "max_bytes": lambda: get_softmaxepig_batch(X, E, 2, max_bytes=0, generator=generator),
    }.items():
        with pytest.raises(ValueError, match=f"`{argument}`"): refused()
        assert torch.equal(generator.get_state(), seeded(3).get_state())


@pytest.mark.parametrize("draw", [get_softmax_batch, get_power_batch, get_softrank_batch])
def test_a_generator_is_looked_at_where_none_is_needed(draw):
    with pytest.raises(ValueError, match="`generator`"): draw(SCORES, 2, temperature=0, generator=0)


@pytest.mark.parametrize("dtype, slack", [(torch.half, 2e-2), (torch.bfloat16, 5e-2), (torch.float, 1e-4), (torch.double, 1e-8)])
def test_sums_may_miss_one_by_what_the_dtype_allows(dtype, slack):
    "As the contract says; off on one side and on the other, by less and by more than that, beyond what rounding to the dtype adds."
    for off in (-slack, slack):
        for share, fine in ((0.5, True), (2, False)):
            row = torch.tensor([0.5, 0.5 + share * off], dtype=torch.double).log().expand(3, 2, 2).to(dtype)
            if fine: assert len(get_bald_batch(row, 1).indices) == 1
            else:
                with pytest.raises(ValueError, match="misses 1 by"): get_bald_batch(row, 1)


@pytest.mark.parametrize("temperature", [0, 0.1, math.inf])
def test_draws_ask_for_a_generator_at_every_temperature(temperature):
    scores, draws = compute_bald(X), (get_softmax_batch, get_power_batch, get_softrank_batch)
    calls = [partial(draw, scores, 3) for draw in draws]
    calls += [partial(draw, X, 3) for draw in (get_softmaxbald_batch, get_powerbald_batch, get_softrankbald_batch)]
    for call in (*calls, partial(get_softmaxepig_batch, X, E, 3)):
        with pytest.raises(ValueError, match="`generator` is 0"): call(temperature=temperature, generator=0)
