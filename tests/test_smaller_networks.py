"A dropout mask as a smaller network: the same numbers as with masks that are multiplied, for every kind and order of layers."
import copy
import threading
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.testing import assert_close

from batchbald_nbdev import collect, networks, smaller_networks
from batchbald_nbdev.bayesian_models import ConsistentDropout, ConsistentDropout2d, dropout_features, dropout_layers
from batchbald_nbdev.collect import _run_one_by_one, collect_log_probs
from batchbald_nbdev.smaller_networks import SmallerNetworks, count_bytes
from batchbald_nbdev.traced_networks import UnknownStep, find_smaller, make_smaller, trace

Drop, Drop2d = ConsistentDropout, ConsistentDropout2d


def seeded(seed=0): return torch.Generator().manual_seed(seed)


def settled(model, seed=0):
    "In `eval()`, with weights, running statistics and biases that are nobody's default."
    g = seeded(seed)
    with torch.no_grad():
        for o in (*model.parameters(), *model.buffers()):
            if o is not None and o.is_floating_point(): o.copy_(torch.rand(o.shape, generator=g) * 0.8 + 0.1 if o.ndim < 2 else torch.randn(o.shape, generator=g) / o[0].numel() ** 0.5)
    return model.eval().requires_grad_(False)


def draw(model, x, K, seed=0, p=None):
    layers, features, g = dropout_layers(model), dropout_features(model, {}, x[:1]), seeded(seed)
    if p is not None:
        for layer in layers.values(): layer.p = p if layer.p else 0
    return {f"{name}.mask": layers[name].draw_masks(K, shape, g) for name, shape in features.items()}


def check(model, x, K=6, p=None, masks=None):
    "Smaller networks give what masks give that are multiplied one by one; returns them."
    settled(model).to(x.dtype)
    drawn, masks = masks is None, draw(model, x, K, p=p) if masks is None else masks
    with torch.no_grad():
        smaller, expected = make_smaller(model, {}, masks, x[:1]), _run_one_by_one(model, {}, masks, x)
        slack = 1e-12 if x.dtype == torch.double else 1e-5
        assert_close(smaller(masks, x), expected, atol=slack, rtol=slack)
        if drawn and K > 1 and p != 0.9: assert expected.std(0).max() > 1e-3  # masks make a difference
    return smaller


# Layers and orders


class Residual(nn.Module):
    "A sum behind or before dropout, with masks on both sides, on one or on none."

    def __init__(self, order, inplace=False):
        super().__init__()
        self.a, self.b, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8 * 36, 5)
        self.drop, self.other, self.order, self.inplace = Drop2d(), Drop2d(), order, inplace

    def forward(self, x):
        z = self.a(x)
        if self.order == "before": z = self.drop(z + self.b(F.relu(z)))
        if self.order == "same": z = self.drop(z); z = self.b(self.other(z)) + z
        if self.order == "one mask": z = self.drop(z); z = self.b(F.relu(z)) + z
        if self.order == "two layers": z = self.drop(z) + self.other(self.b(z))
        if self.order == "one layer": z = self.drop(z) + self.drop(self.b(z).tanh())
        if self.order == "then cut": z = self.drop(z); z = self.other(self.b(F.relu(z)) + z)
        if self.order == "read twice": z = self.b(self.drop(z)); z = self.other(z) + z
        if self.order == "dropped twice": z = self.b(self.other(z)); z = self.drop(z) + self.other(z).tanh()
        if self.order == "difference": z = self.drop(self.b(z) - z)
        if self.inplace: z += 1 if self.order == "before" else self.b(z)
        return self.last(F.relu(z, inplace=self.inplace).flatten(1))


class Functional(nn.Module):
    "What people write in `forward`."

    def __init__(self, fn, features=6 * 16):
        super().__init__()
        self.fn, self.conv1, self.conv2 = fn, nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.drop1, self.drop2, self.drop3 = Drop2d(), Drop2d(), Drop()
        self.fc1, self.fc2 = nn.Linear(features, 12), nn.Linear(12, 4)

    def forward(self, x):
        return self.fn(self, x)


def usual(self, x):
    x = F.max_pool2d(F.relu(self.drop1(self.conv1(x))), 2, padding=1)
    x = F.relu(self.drop2(self.conv2(x)))
    x = x.view(x.size(0), -1)
    return F.log_softmax(self.fc2(self.drop3(F.relu(self.fc1(x)))), dim=1)


def by_shape(self, x):
    x = self.drop2(torch.tanh(self.conv2(F.relu(self.drop1(self.conv1(x))))))
    x = F.avg_pool2d(x, 3, padding=1)
    n, channels, height, width = x.shape
    return self.fc2(self.drop3(self.fc1(torch.reshape(x, (n, channels * height * width))).relu_()))


def by_mean(self, x):
    x = F.gelu(self.drop1(self.conv1(x)))
    return self.fc2(self.drop3(self.fc1(self.drop2(self.conv2(x)).mean((2, 3)) * 3)))


def by_cat(self, x):
    x = self.drop1(self.conv1(x))
    return self.fc2(self.drop3(self.fc1(torch.cat([self.drop2(self.conv2(x)), x], 1).mean(dim=[-1, -2]))))


def scaled(self, x):
    x = F.silu(self.drop1(self.conv1(x)) / 2)
    x = self.drop2(0.5 * self.conv2(x) + 1) + 2
    return self.fc2(self.drop3(F.elu(self.fc1(F.adaptive_avg_pool2d(x, 4).flatten(1)))))


def gated(self, x):
    x = self.drop1(self.conv1(x))
    x = self.conv2(x * torch.sigmoid(x))
    return self.fc2(F.softplus(self.drop3(self.fc1(torch.flatten(F.adaptive_max_pool2d(self.drop2(x), 4), 1)))))


def branched(self, x):
    x = self.conv2(F.relu(self.drop1(self.conv1(x))))
    return self.fc2(self.drop3(self.fc1(F.adaptive_avg_pool2d(F.relu(x) - torch.tanh(x), 4).flatten(1))))


def image(*layers): return (2, 6, 6), lambda: nn.Sequential(*(layer() if callable(layer) and not isinstance(layer, nn.Module) else layer for layer in layers))


def conv(*args, **options): return lambda: nn.Conv2d(*args, **options)


def linear(*args, **options): return lambda: nn.Linear(*args, **options)


def drop2d(): return Drop2d(0.5)


def drop(): return Drop(0.5)


HEAD = nn.Flatten, linear(8 * 9, 10), drop, nn.ReLU, linear(10, 4)
NETWORKS = {
    "drop, pool, relu, conv": image(conv(2, 8, 3, padding=1), drop2d, lambda: nn.MaxPool2d(2), nn.ReLU, conv(8, 8, 3, padding=1), drop2d, *HEAD),
    "relu, drop, conv, pool": image(conv(2, 8, 3, padding=1), nn.ReLU, drop2d, conv(8, 8, 3, padding=1), lambda: nn.AvgPool2d(2), *HEAD),
    "norm, relu, drop": image(conv(2, 8, 3, padding=1), drop2d, conv(8, 8, 3, padding=1, bias=False), lambda: nn.BatchNorm2d(8), nn.ReLU, drop2d, lambda: nn.MaxPool2d(2), *HEAD),
    "drop, norm, relu": image(conv(2, 8, 3, padding=1), drop2d, lambda: nn.BatchNorm2d(8), nn.ReLU, conv(8, 8, 3, padding=1), drop2d, lambda: nn.BatchNorm2d(8, affine=False), lambda: nn.MaxPool2d(2), *HEAD),
    "sigmoid before and behind": image(conv(2, 8, 3, padding=1), drop2d, conv(8, 8, 3), nn.Sigmoid, drop2d, nn.Sigmoid, conv(8, 8, 2), *HEAD),
    "many maps": image(conv(2, 8, 3, padding=1), drop2d, nn.GELU, nn.Tanh, nn.ELU, nn.SiLU, lambda: nn.LeakyReLU(0.2), conv(8, 8, 2, stride=2), nn.Softplus, drop2d, nn.Softplus, *HEAD),
    "pools with padding": image(conv(2, 8, 3, padding=1), drop2d, lambda: nn.MaxPool2d(3, 1, padding=1), conv(8, 8, 3, padding="same"), drop2d, lambda: nn.AvgPool2d(3, 2, padding=1), *HEAD),
    "adaptive pools": image(conv(2, 8, 3), drop2d, lambda: nn.AdaptiveMaxPool2d(3), conv(8, 8, 1), drop2d, lambda: nn.AdaptiveAvgPool2d(3), *HEAD),
    "strides and dilation": image(conv(2, 8, 3, stride=2, padding=2), drop2d, conv(8, 8, 2, dilation=1, padding=1, stride=(2, 1)), drop2d, lambda: nn.AdaptiveAvgPool2d(3), *HEAD),
    "reflected edges": image(conv(2, 8, 3, padding=1), drop2d, conv(8, 8, 3, padding=1, padding_mode="reflect"), drop2d, lambda: nn.MaxPool2d(2), *HEAD),
    "groups": image(conv(2, 8, 3, padding=1), drop2d, conv(8, 8, 3, padding=1, groups=8), drop2d, conv(8, 8, 3, padding=1, groups=2), lambda: nn.MaxPool2d(2), *HEAD),
    "transposed": image(conv(2, 4, 2), drop2d, lambda: nn.ConvTranspose2d(4, 8, 2), drop2d, lambda: nn.MaxPool2d(2), *HEAD),
    "other norms": image(conv(2, 8, 3, padding=1), drop2d, lambda: nn.GroupNorm(2, 8), nn.PReLU, conv(8, 8, 3, padding=1), drop2d, lambda: nn.MaxPool2d(2), nn.Flatten, lambda: nn.LayerNorm(72), *HEAD[1:]),
    "single entries of maps": image(conv(2, 8, 3, padding=1), drop, nn.ReLU, conv(8, 8, 3, padding=1), drop2d, drop, lambda: nn.MaxPool2d(2), *HEAD),
    "inputs": image(drop2d, conv(2, 8, 3, padding=1), drop2d, nn.ReLU, lambda: nn.MaxPool2d(2), nn.Flatten, drop, *HEAD[1:]),
    "two in a row": image(conv(2, 8, 3, padding=1), drop2d, nn.ReLU, drop2d, conv(8, 8, 3, padding=1), drop2d, drop2d, lambda: nn.MaxPool2d(2), *HEAD),
    "channels, then features": image(conv(2, 8, 3, padding=1), drop2d, conv(8, 8, 3, padding=1), drop2d, lambda: nn.MaxPool2d(2), nn.Flatten, drop, *HEAD[1:]),
    "one drops nothing": image(conv(2, 8, 3, padding=1), lambda: Drop2d(0.0), conv(8, 8, 3, padding=1), drop2d, lambda: nn.MaxPool2d(2), *HEAD),
    "outputs": image(conv(2, 8, 3, padding=1), lambda: nn.MaxPool2d(2), *HEAD, drop),
    "outputs that are cut": image(nn.Flatten, linear(72, 9), drop),
    "unflattened": image(nn.Flatten, linear(72, 32), drop, lambda: nn.Unflatten(1, (8, 2, 2)), conv(8, 6, 2), drop2d, nn.Flatten, linear(6, 4)),
    "flattened in part": image(conv(2, 8, 3), drop2d, lambda: nn.Flatten(2), lambda: nn.Conv1d(8, 6, 3), drop2d, nn.Flatten, linear(6 * 14, 4)),
    "log-probabilities": image(conv(2, 8, 3, padding=1), drop2d, lambda: nn.MaxPool2d(2), *HEAD, lambda: nn.LogSoftmax(1)),
    "layers in place": image(conv(2, 8, 3, padding=1), lambda: nn.ReLU(inplace=True), lambda: Drop2d(0.5, inplace=True), conv(8, 8, 3, padding=1), drop2d, lambda: nn.LeakyReLU(inplace=True), lambda: nn.MaxPool2d(2), *HEAD),
    "signals": ((3, 20), lambda: nn.Sequential(nn.Conv1d(3, 8, 5), Drop2d(), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 6, 3), nn.BatchNorm1d(6), Drop2d(), nn.Flatten(), nn.Linear(36, 4))),
    "volumes": ((2, 5, 5, 5), lambda: nn.Sequential(nn.Conv3d(2, 6, 3), Drop2d(), nn.ReLU(), nn.Conv3d(6, 8, 2), nn.BatchNorm3d(8), Drop2d(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(8, 4))),
    "vectors": ((7,), lambda: nn.Sequential(nn.Linear(7, 30), nn.BatchNorm1d(30), nn.Tanh(), Drop(), nn.Linear(30, 20), nn.Sigmoid(), Drop(), nn.Linear(20, 3))),
    "dropout first": ((7,), lambda: nn.Sequential(Drop(), nn.Linear(7, 30), nn.BatchNorm1d(30), nn.Softsign(), Drop(), nn.BatchNorm1d(30), nn.Linear(30, 3, bias=False))),
    "sequences": ((5, 6), lambda: nn.Sequential(nn.Linear(6, 8), Drop(), nn.ReLU(), nn.Linear(8, 6), Drop2d(), nn.Flatten(), nn.Linear(30, 4))),
    **{f"residual, {order}": ((2, 6, 6), lambda order=order: Residual(order)) for order in ("before", "same", "one mask", "two layers", "one layer", "then cut", "read twice", "dropped twice", "difference")},
    **{f"residual, in place, {order}": ((2, 6, 6), lambda order=order: Residual(order, True)) for order in ("before",)},
    **{fn.__name__: ((2, 6, 6), lambda fn=fn, features=features: Functional(fn, features)) for fn, features in ((usual, 96), (by_shape, 24), (by_mean, 6), (by_cat, 14), (scaled, 96), (gated, 96), (branched, 96))},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_and_order_of_layers(name, p, dtype):
    shape, make = NETWORKS[name]
    for n in (1, 7): check(make(), torch.randn(n, *shape, generator=seeded(1), dtype=dtype), K=8, p=p)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_sample_and_masks_that_keep_nothing_or_all(name):
    shape, make = NETWORKS[name]
    model, x = settled(make()), torch.randn(3, *shape, generator=seeded(1))
    check(model, x, K=1, p=0.5)
    masks = draw(model, x, 3 + 2 * len(dropout_layers(model)), p=0.5)
    for o in masks.values(): o[0], o[1] = 0, o.max()
    for i, o in enumerate(masks.values()): o[3 + 2 * i] = 0; o[4 + 2 * i] = o.max()
    check(model, x, masks=masks)
    check(model, x, masks={name: o * 0 if i == 0 else o for i, (name, o) in enumerate(masks.items())})  # one layer never keeps anything


SHAPES = [conv(2, 8, 3, padding=1), conv(8, 8, 3, padding=1), lambda: nn.Conv2d(8, 8, 1)]
MAPS = [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Softplus, drop2d, drop2d, drop, lambda: nn.BatchNorm2d(8), lambda: nn.MaxPool2d(3, 1, 1), lambda: nn.AvgPool2d(3, 1, 1), lambda: nn.GroupNorm(4, 8), conv(8, 8, 3, padding=1, groups=4)]


@pytest.mark.parametrize("seed", range(60))
def test_networks_that_are_made_up(seed):
    g = seeded(seed)
    def pick(items): return items[int(torch.randint(len(items), (), generator=g))]()
    layers = [SHAPES[0]()]
    for _ in range(int(torch.randint(2, 5, (), generator=g))):
        layers += [pick(MAPS) for _ in range(int(torch.randint(4, (), generator=g)))] + [pick(SHAPES[1:])]
    layers += [pick(MAPS) for _ in range(3)] + [nn.Flatten(), nn.Linear(8 * 25, 9), pick([nn.ReLU, nn.Tanh, nn.Sigmoid]), Drop(), pick([nn.ReLU, nn.Sigmoid, nn.Identity]), nn.Linear(9, 3)]
    x = torch.randn(1 + seed % 5, 2, 5, 5, generator=g).double()  # a norm of what hardly varies is beyond float32
    check(nn.Sequential(*layers), x, K=5, p=[0.1, 0.5, 0.9][seed % 3])


# Contributions that masks add up


ROOM = {"much": (2**25, 2**22), "little": (2**15, 1)}  # bytes of contributions and of sums at a time


@pytest.fixture(params=ROOM)
def summed(request, monkeypatch):
    "Contributions are added up wherever they can be."
    for name, value in zip(("_GAIN", "_ROWS", "BLOCK", "CACHE"), (1e-9, 1, *ROOM[request.param])): monkeypatch.setattr(smaller_networks, name, value)


NONE_SHARED = {  # where the first layer with weights reads what varies, or what is not cut by channels
    "drop, norm, relu", "reflected edges", "groups", "transposed", "other norms", "single entries of maps", "two in a row", "outputs that are cut", "unflattened", "sequences", "residual, same",
    "residual, two layers", "residual, in place, before", "gated",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_contributions_give_the_same(name, summed):
    shape, make = NETWORKS[name]
    for n in (1, 7): smaller = check(make(), torch.randn(n, *shape, generator=seeded(1), dtype=torch.double), K=8)
    if smaller_networks.CACHE > 1: assert bool(smaller.shared) == (name not in NONE_SHARED), name
    test_one_sample_and_masks_that_keep_nothing_or_all(name)


@pytest.mark.parametrize("seed", range(60))
def test_contributions_in_networks_that_are_made_up(seed, summed): test_networks_that_are_made_up(seed)


@pytest.mark.parametrize("p, K, shared", [(0.5, 100, True), (0.5, 20, False), (0.1, 20, True), (0.9, 100, False)])
def test_contributions_are_added_up_where_that_is_less_work(p, K, shared):
    "A convolution of 5 x 5 pixels and 32 channels: 800 (1 - p)^2 multiply-adds beside 32 + 3 * 800 / K, and 70 for what is written."
    model, x = networks.make_mnist_cnn().eval().requires_grad_(False), torch.randn(70, 1, 28, 28, generator=seeded())
    masks = draw(model, x, K, p=p)
    smaller = find_smaller(model, {}, masks, x[:1], rows=512)
    assert bool(smaller.shared) == shared
    assert not find_smaller(model, {}, masks, x[:1], rows=512, max_bytes=2**26).shared  # no room for blocks
    few = {name: mask[:5] for name, mask in masks.items()}
    assert_close(smaller(few, x), _run_one_by_one(model, {}, few, x), atol=1e-5, rtol=1e-5)


def test_contributions_are_added_up_on_a_cpu_and_in_blocks_of_some_inputs(monkeypatch):
    model, x = networks.make_mnist_cnn().eval().requires_grad_(False), torch.randn(1, 1, 28, 28, generator=seeded())
    masks = draw(model, x, 100)
    steps, one = make_smaller(model, {}, masks, x).steps, 4 * 33 * 64 * 8 * 8  # bytes of an input's contributions
    assert smaller_networks.find_shared(steps, x, masks) and not smaller_networks.find_shared(steps, x.to("meta"), masks)
    for rows, shared in ((7, False), (8, True)):
        monkeypatch.setattr(smaller_networks, "BLOCK", rows * one)
        assert bool(smaller_networks.find_shared(steps, x, masks)) == shared


def test_smaller_networks_are_not_lost_where_sharing_takes_the_room():
    "A wide layer behind, whose weights are copied for each mask, wants many inputs at a time."
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), Drop2d(0.2), nn.ReLU(), nn.Conv2d(16, 64, 5), Drop2d(0.2), nn.ReLU(), nn.Flatten(), nn.Linear(36864, 10)).eval().requires_grad_(False)
    x = torch.randn(3, 1, 28, 28, generator=seeded())
    masks = draw(model, x, 100)
    assert make_smaller(model, {}, masks, x[:1]).shared
    smaller = find_smaller(model, {}, masks, x[:1], rows=64, max_bytes=2**28)
    assert smaller is not None and not smaller.shared


def test_a_channel_contributes_once_for_all_masks(monkeypatch):
    model, x = networks.make_mnist_cnn().eval().requires_grad_(False), torch.randn(70, 1, 28, 28, generator=seeded())
    masks, seen = draw(model, x, 100), []
    smaller = make_smaller(model, {}, masks, x[:1])
    shared, = smaller.shared
    def call(x, weight, bias, call=shared.layer.call): seen.append((tuple(x.shape[:2]), tuple(weight.shape[:2]), bias)); return call(x, weight, bias)
    shared.layer.call = call
    smaller(masks, x)
    assert seen == [((35, 1), (64, 1), None)] * 64  # 70 inputs in two blocks of 32 channels each, and no mask


# What is computed, and what not


def test_only_what_is_kept_is_computed_and_read(monkeypatch):
    model = settled(nn.Sequential(nn.Conv2d(1, 8, 3), Drop2d(), nn.ReLU(), nn.Conv2d(8, 10, 3), nn.BatchNorm2d(10), Drop2d(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(40, 12), Drop(), nn.Linear(12, 3)))
    x = torch.randn(4, 1, 8, 8, generator=seeded())
    masks = draw(model, x, 5)
    smaller, seen = make_smaller(model, {}, masks, x[:1]), []
    for step in (*smaller.once, *smaller.each):
        if isinstance(step, smaller_networks.Weighted):
            def call(x, weight, bias, call=step.call): seen.append((tuple(x.shape[:2]), tuple(weight.shape[:2]))); return call(x, weight, bias)
            step.call = call
    smaller(masks, x)
    assert seen.pop(0) == ((4, 1), (8, 1))  # once, in full
    for k in range(5):
        first, second, third = (max(1, int((o[k] > 0).sum())) for o in masks.values())
        assert seen[3 * k : 3 * k + 3] == [((4, first), (second, first)), ((4, 4 * second), (third, 4 * second)), ((4, third), (3, third))]
    assert len(seen) == 15


def test_what_lies_before_the_first_layer_that_reads_a_mask_is_computed_once():
    kinds = [type(o).__name__ for o in check(NETWORKS["drop, pool, relu, conv"][1](), torch.randn(3, 2, 6, 6, generator=seeded())).once]
    assert kinds == ["Weighted", "Drop", "ByChannel", "ByChannel"]


PACKAGE = {  # is the network taken as smaller ones, for 512 inputs and 20 masks at p = 0.5?
    "make_mlp": ((64,), False),
    "make_mnist_cnn": ((1, 28, 28), True),
    "make_emnist_cnn": ((1, 28, 28), True),
    "make_cinic10_vgg": ((3, 32, 32), False),  # the head alone has dropout, and its weights would be copied for each mask
    "make_cifar10_resnet": ((3, 32, 32), False),
}


@pytest.mark.parametrize("name", PACKAGE)
def test_the_networks_of_the_package(name):
    if name in ("make_cinic10_vgg", "make_cifar10_resnet") and not find_spec("torchvision"): pytest.skip("needs torchvision")
    shape, expected = PACKAGE[name]
    model, x = getattr(networks, name)().eval().requires_grad_(False), torch.randn(3, *shape, generator=seeded())
    masks = draw(model, x, 20)
    smaller = find_smaller(model, {}, masks, x[:1], rows=512)
    assert (smaller is not None) == expected
    some = {name: o[:3] for name, o in masks.items()}
    if smaller: assert_close(smaller(some, x), _run_one_by_one(model, {}, some, x), atol=1e-5, rtol=1e-5)
    make_smaller(model, {}, masks, x[:1])  # each could be
    assert find_smaller(model, {}, masks, x[:1], rows=1) is None  # but not for a single input


def test_all_networks_are_named():
    assert set(PACKAGE) == set(networks.__all__)


# What is left as it is


class Spied(nn.Linear):
    def forward(self, x): return super().forward(x) + 1


class Quiet(nn.Linear): pass


class Fork(nn.Module):
    def __init__(self, fn): super().__init__(); self.fn, self.drop, self.fc, self.number = fn, Drop(), nn.Linear(8, 8), 3

    def forward(self, x): return self.fn(self, x)


def writes_and_reads(self, x): z = self.fc(x); y = F.relu_(z); return self.drop(y) + z
def writes_into_a_view(self, x): z = self.fc(x); y = z.view(-1, 2, 4); y.relu_(); return self.drop(z)
def writes_into_its_input(self, x): return self.fc(self.drop(x.relu_()))
def draws(self, x): return self.drop(self.fc(x)) + torch.randn(8)
def draws_like(self, x): return self.drop(self.fc(x)) + torch.randn_like(x)
def branches(self, x): return self.drop(self.fc(x)) if x.sum() > -1e9 else x
def reads_a_number(self, x): return self.drop(self.fc(x)) * x.mean().item()
def own_weights(self, x): return F.linear(self.drop(x), self.fc.weight)
def of_the_batch(self, x): return self.drop(self.fc(x)) - x.mean(0)
def along_the_batch(self, x): return self.drop(self.fc(x)).softmax(0)
def transposed(self, x): return self.drop(self.fc(x)).t().reshape(-1, 8)
def with_its_size(self, x): return self.drop(self.fc(x)) * x.size(0)
def sorted_(self, x): return self.drop(self.fc(x)).sort(1)[0]
def in_a_tuple(self, x): return self.drop(self.fc(x)), x
def in_a_dictionary(self, x): return {"logits": self.drop(self.fc(x))}
def in_bfloat16(self, x):
    with torch.autocast("cpu", torch.bfloat16): return self.drop(self.fc(x)).float()


LEFT = {
    fn.__name__: lambda fn=fn: Fork(fn)
    for fn in (writes_and_reads, writes_into_a_view, writes_into_its_input, draws, draws_like, branches, reads_a_number, own_weights, of_the_batch, along_the_batch, transposed, with_its_size, sorted_, in_a_tuple, in_a_dictionary, in_bfloat16)
} | {
    "a subclass with a forward": lambda: nn.Sequential(Drop(), Spied(8, 4)),
    "a subclass": lambda: nn.Sequential(Drop(), Quiet(8, 4)),
    "weight norm": lambda: nn.Sequential(Drop(), nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))),
    "spectral norm with hooks": lambda: nn.Sequential(Drop(), nn.utils.spectral_norm(nn.Linear(8, 4))),
    "recurrent": lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.GRU(4, 4)),
    "pooled features": lambda: nn.Sequential(Drop(), nn.MaxPool1d(2), nn.Linear(4, 4)),
    "pool with positions": lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), Drop2d(), nn.MaxPool1d(2, return_indices=True)),
    "softmax over inputs": lambda: nn.Sequential(Drop(), nn.Linear(8, 4), nn.Softmax(0)),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_certain_is_left(name):
    model, x = settled(LEFT[name]()), torch.rand(4, 8, generator=seeded()) + 0.1
    masks = {f"{key}.mask": torch.tensor([[2.0, 0.0] * 4] * 3) if not isinstance(layer, Drop2d) else torch.ones(3, 2, 1) for key, layer in dropout_layers(model).items()}
    assert find_smaller(model, {}, masks or {"x": torch.ones(1)}, x[:1], rows=10**9) is None


def test_hooks_and_what_was_exchanged_are_left():
    x = torch.randn(4, 8, generator=seeded())
    def make(): return settled(nn.Sequential(nn.Linear(8, 9), Drop(), nn.Linear(9, 3)))
    masks = draw(make(), x, 3)
    def hooked(model): model[2].register_forward_hook(lambda module, args, output: output * 2)
    def prehooked(model): model.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    def exchanged(model): model[0].forward = lambda x: F.linear(x, model[0].weight) * 2
    def compiled(model): model[2].compile(backend="eager")
    def wrapped(model): model[2] = torch.compile(model[2], backend="eager")
    def quantised(model): model[2] = torch.ao.nn.quantized.dynamic.Linear(9, 3)
    def parametrised(model): nn.utils.parametrize.register_parametrization(model[2], "weight", nn.Identity())
    assert find_smaller(make(), {}, masks, x[:1], rows=10**9) is not None
    for change in (hooked, prehooked, exchanged, compiled, wrapped, quantised, parametrised):
        model = make()
        try: change(model)
        except (RuntimeError, AttributeError): continue  # not in this build of PyTorch
        assert find_smaller(model, {}, masks, x[:1], rows=10**9) is None, change.__name__
    hook = nn.modules.module.register_module_forward_hook(lambda *args: None)
    try: assert find_smaller(make(), {}, masks, x[:1], rows=10**9) is None
    finally: hook.remove()


def test_masks_of_other_kinds_are_left():
    class Softer(Drop): pass

    x = torch.randn(4, 8, generator=seeded())
    model = settled(nn.Sequential(nn.Linear(8, 9), Drop(), nn.Linear(9, 3)))
    masks = draw(model, x, 3)
    noise = {"1.mask": torch.rand(3, 9, generator=seeded())}
    assert find_smaller(model, {}, noise, x[:1], rows=10**9) is None
    model[1] = Softer()
    assert find_smaller(model, {}, masks, x[:1], rows=10**9) is None
    assert find_smaller(model, {}, masks, (x[:1], x[:1]), rows=10**9) is None and find_smaller(model, {}, masks, {"input": x[:1]}, rows=10**9) is None


def test_several_inputs_are_left():
    class Two(nn.Module):
        def __init__(self): super().__init__(); self.net = nn.Sequential(nn.Linear(8, 9), Drop(), nn.Linear(9, 3))
        def forward(self, x, mask=None): return self.net(x) if mask is None else self.net(x * mask)

    check(Two(), torch.randn(4, 8, generator=seeded()))  # what has a default is not passed
    model, x = settled(Two()), torch.randn(4, 8, generator=seeded())
    masks = draw(model.net, x, 3)
    assert find_smaller(model, {}, {f"net.{name}": o for name, o in masks.items()}, (x[:1], x[:1]), rows=10**9) is None


# Around a call


def test_layers_that_are_called_twice_and_shared_weights():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv, self.drop, self.norm = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3, padding=1), Drop2d(), nn.BatchNorm2d(8)
            self.twin, self.last, self.again = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8 * 36, 8 * 36), nn.Linear(8 * 36, 8 * 36)
            self.twin.weight, self.again.weight, self.drop2 = self.conv.weight, self.last.weight, Drop()

        def forward(self, x):
            x = self.drop(self.norm(self.conv(F.relu(self.drop(self.first(x))))))
            x = self.drop(self.norm(self.conv(x)) + self.twin(x))
            return self.again(self.drop2(self.last(self.drop2(x.flatten(1)))))

    check(Twice(), torch.randn(3, 2, 6, 6, generator=seeded()))


def test_state_is_taken_from_where_it_is_told():
    model, x = settled(networks.make_mnist_cnn()), torch.randn(3, 1, 28, 28, generator=seeded())
    masks, state = draw(model, x, 4), {name: o * 0.9 + 0.01 for name, o in model.named_parameters()}
    smaller = make_smaller(model, state, masks, x[:1])
    assert_close(smaller(masks, x), _run_one_by_one(model, state, masks, x), atol=1e-5, rtol=1e-5)
    tied = settled(nn.Sequential(nn.Linear(8, 8), Drop(), nn.LayerNorm(8), nn.Linear(8, 8)))
    tied[3].weight = tied[0].weight
    x = torch.randn(3, 8, generator=seeded())
    masks, state = draw(tied, x, 4), {name: o * 0.9 + 0.01 for name, o in tied.named_parameters()}
    assert_close(make_smaller(tied, state, masks, x[:1])(masks, x), _run_one_by_one(tied, state, masks, x))


def test_a_trace_leaves_nothing_behind():
    class Counts(nn.Module):
        def __init__(self): super().__init__(); self.net, self.calls, self.kept, self.all = NETWORKS["usual"][1](), 0, {}, []
        def forward(self, x):
            self.calls += 1
            self.kept["x"] = x
            self.all.append(x)
            self.seen = x
            return self.net(x)

    model = settled(Counts())
    before = [dict(vars(o)) for o in model.modules()]
    trace(model)
    assert [dict(vars(o)) for o in model.modules()] == before and not (model.kept or model.all or model.calls)


def test_others_may_predict_while_a_model_is_looked_at():
    model, x, failed, done = settled(NETWORKS["usual"][1]()), torch.randn(2, 2, 6, 6, generator=seeded()), [], threading.Event()
    expected = model(x)

    def predict():
        while not done.is_set():
            if not torch.equal(model(x), expected): failed.append(1)

    thread = threading.Thread(target=predict)
    thread.start()
    try:
        for _ in range(30): trace(model)
    finally:
        done.set()
        thread.join()
    assert not failed


# In `collect_log_probs`


def wide():
    "Enough work for smaller networks, with few inputs."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), Drop2d(), nn.ReLU(), nn.Conv2d(64, 96, 3), Drop2d(), nn.ReLU(), nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(96 * 16, 32), Drop(), nn.ReLU(), nn.Linear(32, 5)).eval()


@pytest.fixture
def runs(monkeypatch):
    "How many masks and inputs came to smaller networks, call by call."
    seen, call = [], SmallerNetworks.__call__
    monkeypatch.setattr(SmallerNetworks, "__call__", lambda self, masks, x: seen.append((len(next(iter(masks.values()))), len(x))) or call(self, masks, x))
    return seen


def without(monkeypatch, *args, **options):
    with monkeypatch.context() as patched:
        patched.setattr(collect, "find_smaller", lambda *args: None)
        return collect_log_probs(*args, **options)


@pytest.mark.parametrize("batch_size", [30, 40, 100])
@pytest.mark.parametrize("max_bytes", [1, 4_000_000, 2**28])
def test_collected_predictions_are_the_same(batch_size, max_bytes, monkeypatch, runs):
    model, x = wide(), torch.randn(40, 1, 8, 8, generator=seeded())
    expected = without(monkeypatch, model, x, 20, generator=seeded(3))
    assert not runs
    got = collect_log_probs(model, x.split(batch_size), 20, generator=seeded(3), max_bytes=max_bytes)
    assert_close(got, expected, atol=1e-5, rtol=1e-5)
    one = count_bytes(make_smaller(model, {}, draw(model, x, 2), x[:1]))[0]
    if max_bytes == 1:  # one input at a time is not worth the copies of weights
        assert {rows for _, rows in runs} == {1}
    else:
        assert sum(masks * rows for masks, rows in runs if rows > 1) >= 20 * 30  # the last ten, if any, may be too few
        assert max(rows for _, rows in runs) == min(batch_size, 40, max_bytes // one)


def test_batches_of_another_shape_are_multiplied(monkeypatch, runs):
    model, x = wide(), [torch.randn(30, 1, size, size, generator=seeded(size)) for size in (8, 9, 8)]
    expected = without(monkeypatch, model, x, 20)
    assert_close(collect_log_probs(model, x, 20), expected, atol=1e-5, rtol=1e-5)
    assert [rows for _, rows in runs] == [1, 1, 30, 30]


def test_small_networks_are_multiplied_to_the_last_bit(monkeypatch, runs):
    net, x = networks.make_mlp().eval(), torch.randn(900, 64, generator=seeded())
    for K in (1, 10, 100): assert torch.equal(collect_log_probs(net, x, K), without(monkeypatch, net, x, K))
    assert not runs


def test_memory_that_runs_out_is_halved(monkeypatch):
    model, x, sizes, call = wide(), torch.randn(40, 1, 8, 8, generator=seeded()), [], SmallerNetworks.__call__

    def cramped(self, masks, x):
        sizes.append(len(x))
        if len(x) > 12: raise torch.OutOfMemoryError("no room")
        return call(self, masks, x)

    expected = without(monkeypatch, model, x, 20)
    monkeypatch.setattr(SmallerNetworks, "__call__", cramped)
    assert_close(collect_log_probs(model, x, 20), expected, atol=1e-5, rtol=1e-5)
    assert sizes[:5] == [1, 1, 40, 20, 10] and max(sizes[4:]) == 10


def test_modes_dtypes_and_inputs_are_as_before(runs, monkeypatch):
    model, x = wide(), torch.randn(40, 1, 8, 8, generator=seeded())
    before, expected = x.clone(), collect_log_probs(model, x, 20)
    model.train()
    assert torch.equal(collect_log_probs(model, x, 20), expected) and model.training and torch.equal(x, before)
    assert torch.equal(collect_log_probs(model, x, 20, device="cpu"), expected)
    assert torch.equal(collect_log_probs(torch.compile(model, backend="eager"), x, 20), expected)
    assert_close(collect_log_probs(copy.deepcopy(model).double(), x.double(), 20, dtype=torch.double), without(monkeypatch, copy.deepcopy(model).double(), x.double(), 20, dtype=torch.double), atol=1e-12, rtol=1e-12)
    assert len(runs) == 3 * 5
    half = copy.deepcopy(model).bfloat16()
    assert_close(collect_log_probs(half, x.bfloat16(), 20), without(monkeypatch, half, x.bfloat16(), 20), atol=0.1, rtol=0)


def test_what_a_model_returns_is_still_looked_at():
    class Probabilities(nn.Module):
        def __init__(self): super().__init__(); self.net = wide()
        def forward(self, x): return self.net(x).softmax(1)

    with pytest.raises(ValueError, match="returns probabilities"): collect_log_probs(Probabilities(), torch.randn(40, 1, 8, 8, generator=seeded()), 20)
    with pytest.raises(ValueError, match="NaN or infinite"): collect_log_probs(wide(), torch.full((40, 1, 8, 8), torch.nan), 20)


def test_a_network_that_draws_is_still_refused():
    class Draws(nn.Module):
        def forward(self, x): return x + torch.randn_like(x)

    with pytest.raises(ValueError, match="draws random numbers"): collect_log_probs(nn.Sequential(Draws(), *wide()).eval(), torch.randn(40, 1, 8, 8, generator=seeded()), 20)


# What somebody found who wanted it to break


def head(*layers): return nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), ConsistentDropout2d(0.5), nn.ReLU(), nn.Conv2d(64, 96, 3), ConsistentDropout2d(0.5), nn.ReLU(), *layers).eval()


@pytest.mark.parametrize("layers", [[nn.Conv2d(96, 5, 1)], [nn.Conv2d(96, 5, 1), nn.Flatten(2)], [nn.Conv2d(96, 5, 1), nn.AdaptiveAvgPool2d(1)]], ids=["maps", "rows", "pooled"])
def test_outputs_that_are_no_logits_are_refused_as_ever(layers):
    with pytest.raises(ValueError, match=r"`model` returns shape \(.*\) for .* inputs; want a tensor of logits"):
        collect_log_probs(head(*layers), torch.randn(40, 1, 8, 8), 20)


class Writes(nn.Module):
    "Adds into a tensor that is read by another name, too."
    def __init__(self):
        super().__init__()
        self.a, self.side, self.d = nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 64, 1, bias=False), ConsistentDropout2d(0.5)
        self.side = nn.Conv2d(1, 64, 1, bias=False)
        self.b, self.c, self.o = nn.Conv2d(64, 96, 3, padding=1), nn.Conv2d(64, 96, 3, padding=1), nn.Linear(96, 5)
    def forward(self, x):
        z = self.a(x)
        y = z
        y += self.side(x)
        return self.o(F.adaptive_max_pool2d(self.b(self.d(y)).relu() + self.c(z), 1).flatten(1))


@pytest.mark.parametrize("order", ["same", "then cut"])
def test_a_sum_in_place_of_what_others_read_is_multiplied(order):
    model, x = settled(Residual(order, True)), torch.randn(5, 2, 6, 6, generator=seeded())
    with pytest.raises(UnknownStep, match="writes into what others read"): make_smaller(model, {}, draw(model, x, 4), x[:1])


class InAList(nn.Module):
    "Calls its dropout where a trace does not see it."
    def __init__(self, how):
        super().__init__()
        self.a, self.d, self.b, self.o, self.how = nn.Conv2d(1, 64, 3, bias=False), ConsistentDropout2d(0.5), nn.Conv2d(64, 96, 3, bias=False), nn.Linear(96, 5, bias=False), how
        self.held, self.call = [self.d], lambda x: self.d(x)
    def drop(self, x):
        if self.how == "list": return self.held[0](x)
        if self.how == "lambda": return self.call(x)
        return 2 * self.d(x) if isinstance(x, torch.Tensor) else x
    def forward(self, x): return self.o(self.b(self.drop(self.a(x))).relu().mean((2, 3)))


@pytest.mark.parametrize("make", [Writes, partial(InAList, "list"), partial(InAList, "lambda"), partial(InAList, "isinstance")], ids=["writes", "list", "lambda", "isinstance"])
def test_a_blank_first_image_hides_nothing(make):
    torch.manual_seed(0)
    model, x = make().eval(), torch.randn(40, 1, 8, 8)
    x[0] = 0
    got = collect_log_probs(model, x, 20, generator=torch.Generator().manual_seed(0))
    masks = model.d.draw_masks(20, (64, *((8, 8) if make is Writes else (6, 6))), torch.Generator().manual_seed(0))
    for k in range(20):
        model.d.mask = masks[k]
        with torch.no_grad(): assert_close(got[:, k], model(x).log_softmax(-1), atol=1e-4, rtol=1e-4)


def test_a_large_logit_hides_nothing():
    torch.manual_seed(0)
    model, x = InAList("isinstance").eval(), torch.randn(40, 1, 8, 8)
    model.o.bias = nn.Parameter(torch.tensor([0.0, 0, 0, 0, -1e9]))
    masks = {"d.mask": model.d.draw_masks(20, (64, 6, 6), torch.Generator().manual_seed(0))}
    assert find_smaller(model, {}, masks, x[:1], rows=10**9) is None


def test_wide_linear_layers_of_few_inputs_are_multiplied():
    "Their weights would be copied for each mask."
    model = nn.Sequential(nn.Flatten(), ConsistentDropout(0.5), nn.Linear(12544, 512), nn.ReLU(), ConsistentDropout(0.5), nn.Linear(512, 10)).eval()
    masks = {"1.mask": model[1].draw_masks(20, (12544,), torch.Generator()), "4.mask": model[4].draw_masks(20, (512,), torch.Generator())}
    x = torch.randn(1, 12544)
    assert find_smaller(model, {}, masks, x, rows=64) is None and find_smaller(model, {}, masks, x, rows=10**5) is not None
    assert find_smaller(model, {}, masks, x, rows=10**5, max_bytes=2**20) is None  # neither inputs nor weights fit


class Hyper(nn.Linear):
    "Its weights come from elsewhere."
    def __init__(self, i, o):
        super().__init__(i, o)
        weight = self.weight.data
        del self.weight
        self.mu = nn.Parameter(weight)
    def forward(self, x): return F.linear(x, self.mu, self.bias)


def test_layers_without_weights_of_their_own_are_run():
    model = nn.Sequential(nn.Linear(4, 8), ConsistentDropout(0.5), Hyper(8, 3)).eval()
    assert collect_log_probs(model, torch.randn(5, 4), 3).shape == (5, 3, 3)


class ReadLater(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.drop, self.c2, self.c3, self.head = nn.Conv2d(1, 64, 3, padding=1), ConsistentDropout2d(0.5), nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1), nn.Linear(64, 5)
    def forward(self, x):
        z = self.c1(x)
        h = self.c2(self.drop(z)) + z
        return self.head((h + self.c3(z)).mean((2, 3)))


def test_what_is_read_once_and_for_each_mask_is_kept():
    torch.manual_seed(0)
    model, x = ReadLater().eval(), torch.randn(6, 1, 8, 8)
    masks = {"drop.mask": model.drop.draw_masks(8, (64, 8, 8), torch.Generator().manual_seed(0))}
    with torch.no_grad(): got = make_smaller(model, {}, masks, x[:1])(masks, x)
    for k in range(8):
        model.drop.mask = masks["drop.mask"][k]
        with torch.no_grad(): assert_close(got[k], model(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["list", "lambda"])
def test_dropout_that_no_trace_sees_is_named(how):
    model, x = InAList(how).eval(), torch.randn(1, 1, 8, 8)
    with pytest.raises(UnknownStep, match="d is called where no trace sees it"): make_smaller(model, {}, {"d.mask": model.d.draw_masks(4, (64, 6, 6), seeded())}, x)


class Branches(nn.Module):
    "Asks whether its input is a tensor, which a trace answers otherwise."
    def __init__(self, bias):
        super().__init__()
        self.a, self.d, self.b, self.o = nn.Conv2d(1, 64, 3, bias=False), ConsistentDropout2d(0.5), nn.Conv2d(64, 96, 3, bias=False), nn.Linear(96, 5, bias=False)
        if bias: self.o.bias = nn.Parameter(torch.tensor([0.0, 0, 0, 0, -1e9]))
    def forward(self, x):
        if isinstance(x, torch.Tensor): x = 3 * x
        return self.o(self.b(self.d(self.a(x))).relu().mean((2, 3)))


@pytest.mark.parametrize("bias", [False, True], ids=["blank", "one large logit"])
def test_what_is_made_is_compared_on_other_inputs_and_class_by_class(bias):
    torch.manual_seed(0)
    model = Branches(bias).eval()
    x = torch.randn(1, 1, 8, 8) if bias else torch.zeros(1, 1, 8, 8)
    with pytest.raises(UnknownStep, match="other outputs than the model's"): make_smaller(model, {}, {"d.mask": model.d.draw_masks(4, (64, 6, 6), seeded())}, x)


def test_what_comes_at_a_time_and_copies_of_weights_fit_into_memory():
    linear = nn.Sequential(nn.Flatten(), ConsistentDropout(0.5), nn.Linear(12544, 512), nn.ReLU(), ConsistentDropout(0.5), nn.Linear(512, 10)).eval()
    x, masks = torch.randn(1, 12544), {"1.mask": linear[1].draw_masks(20, (12544,), seeded()), "4.mask": linear[4].draw_masks(20, (512,), seeded())}
    assert find_smaller(linear, {}, masks, x, rows=10**5, max_bytes=2**23) is None  # so few inputs at a time as are not worth it
    conv = nn.Sequential(nn.Conv2d(512, 512, 1), ConsistentDropout2d(0.5), nn.Conv2d(512, 512, 5, padding=2), ConsistentDropout2d(0.5), nn.Flatten(), nn.Linear(2048, 10)).eval()
    x, masks = torch.randn(1, 512, 2, 2), {f"{i}.mask": conv[i].draw_masks(20, (512, 2, 2), seeded(i)) for i in (1, 3)}
    copied = 4 * 512 * 512 * 25 / 4  # bytes: a quarter of the weights
    taken = {share: find_smaller(conv, {}, masks, x, rows=10**5, max_bytes=share * copied) is not None for share in (0.9, 1.2)}
    assert taken == {0.9: False, 1.2: True}
