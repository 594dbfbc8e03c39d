"Masks by design: how often what is kept together, each mask alone as ever, the same masks for all inputs, whatever the batches."
import itertools
import math
import warnings

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from batchbald_nbdev import collect, mask_designs
from batchbald_nbdev.bayesian_models import ConsistentDropout, ConsistentDropout2d, dropout_features, dropout_layers
from batchbald_nbdev.collect import _run_one_by_one, collect_log_probs
from batchbald_nbdev.experiments import presets
from batchbald_nbdev.mask_designs import DESIGNS, choose_design, draw_balanced, draw_masks, draw_orthogonal, hadamard_columns
from batchbald_nbdev.networks import make_mlp
from batchbald_nbdev.smaller_networks import SmallerNetworks

DESIGNED = [name for name in DESIGNS if name != "independent"]


def seeded(seed=0): return torch.Generator().manual_seed(seed)


def signs(kept_K_F): return kept_K_F.float() * 2 - 1


def wide(p=0.5):
    "Enough work for smaller networks, with few inputs; channels and features."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 64, 3, padding=1), ConsistentDropout2d(p), nn.ReLU(), nn.Conv2d(64, 96, 3), ConsistentDropout2d(p), nn.ReLU()
        return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(96 * 16, 32), ConsistentDropout(p), nn.ReLU(), nn.Linear(32, 5)).eval()


IMAGES = torch.randn(40, 1, 8, 8, generator=seeded())


# Arrays


def test_columns_are_those_of_a_hadamard_matrix():
    orders = [n for n in range(1, 700) if mask_designs._is_order(n)]
    for n in orders:
        signs_n_n = hadamard_columns(n, torch.arange(n)).float()
        assert torch.equal(signs_n_n @ signs_n_n.T, n * torch.eye(n)) and (signs_n_n[0] == 1).all()
        some = torch.randperm(n, generator=seeded())[:7]
        assert torch.equal(hadamard_columns(n, some).float(), signs_n_n[some])
    gaps = [b - a for a, b in itertools.pairwise(orders)]
    assert max(gaps) <= 20 and {4, 8, 12, 20, 24, 128, 256} <= set(orders)


@pytest.mark.parametrize("K, F", [(8, 4), (16, 7), (24, 12), (40, 20), (256, 128), (256, 96)])
@pytest.mark.parametrize("seed", [0, 1])
def test_strength_three(K, F, seed):
    "All products of up to three signs sum to zero, which is to say that all eight combinations of three features are as frequent."
    assert choose_design(K, F) == (3, K, K // 2)
    x = signs(draw_orthogonal(K, F, seeded(seed))).double()
    assert not x.sum(0).any() and torch.equal(x.T @ x, K * torch.eye(F).double())
    for i in range(F):
        product_F_F = (x * x[:, i : i + 1]).T @ x
        product_F_F[i, i], apart = 0, torch.eye(F, dtype=torch.bool).logical_not()
        assert not product_F_F[apart].any()
    counts = torch.stack([(draw_orthogonal(K, F, seeded(seed))[:, list(o)] * torch.tensor([1, 2, 4])).sum(1).bincount(minlength=8) for o in itertools.islice(itertools.combinations(range(F), 3), 50)])
    assert (counts == K // 8).all()


@pytest.mark.parametrize("K, F", [(4, 3), (12, 11), (16, 15), (20, 13), (104, 103), (256, 224)])
def test_strength_two(K, F):
    assert choose_design(K, F) == (2, K, K - 1)
    kept_K_F = draw_orthogonal(K, F, seeded())
    x = signs(kept_K_F)
    assert not x.sum(0).any() and torch.equal(x.T @ x, K * torch.eye(F))
    for i, j in itertools.islice(itertools.combinations(range(F), 2), 80):
        assert (kept_K_F[:, i] + 2 * kept_K_F[:, j].long()).bincount(minlength=4).tolist() == [K // 4] * 4


@pytest.mark.parametrize("K, F", [(8, 3), (8, 4), (4, 3), (6, 3), (5, 4)])
def test_each_mask_alone_is_uniform(K, F, monkeypatch):
    "Over all flips each of K masks is each mask once, whatever columns and rows were drawn; so any mean is unbiased, exactly."
    value_of = torch.rand(2**F, generator=seeded()).double()
    for seed in range(3):
        codes = []
        for flips in itertools.product((0, 1), repeat=F):
            monkeypatch.setattr(torch, "randint", lambda *args, **options: torch.tensor(flips, dtype=torch.int8)[:, None])
            codes.append((draw_orthogonal(K, F, seeded(seed)) * 2 ** torch.arange(F)).sum(1))
        codes_R_K = torch.stack(codes)
        for codes_R in codes_R_K.T: assert sorted(codes_R.tolist()) == list(range(2**F))
        assert_close(value_of[codes_R_K].mean(), value_of.mean())


def test_groups_are_balanced_and_meet_by_chance():
    x = signs(draw_orthogonal(64, 630, seeded())).double()
    assert not x.sum(0).any()
    products = (x.T @ x)[~torch.eye(630, dtype=torch.bool)]
    by_chance = math.comb(32, 16) ** 2 / math.comb(64, 32)  # of two balanced features in 64 masks
    own = (10 * 63 * 62) / (630 * 629)
    assert abs((products == 0).double().mean() - (own + (1 - own) * by_chance)) < 0.01
    assert abs(products.square().mean() / (1 - own) - 64 * 64 / 63) < 2


def test_a_few_more_features_take_a_larger_array():
    assert choose_design(100, 103) == (2, 104, 103) and choose_design(100, 104) == (2, 108, 107)
    assert choose_design(100, 128) == (2, 132, 131) and choose_design(100, 140) == (2, 104, 103)
    assert choose_design(256, 128) == (3, 256, 128) and choose_design(256, 129) == (2, 256, 255)


@pytest.mark.parametrize("K, F", [(100, 40), (100, 128), (50, 128), (10, 128), (3, 5), (2, 1), (1, 9)])
def test_cut_arrays_vary_as_said(K, F):
    "The mean of a feature over K of n rows has the variance (n - K) / (n - 1) / K."
    n = choose_design(K, F).rows
    means = torch.stack([signs(draw_orthogonal(K, F, g)).mean(0) for g in [seeded()] for _ in range(400)])
    assert_close(means.square().mean().item(), (n - K) / (n - 1) / K, atol=0.03 / K, rtol=0.15)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("K", [1, 2, 7, 64])
def test_balanced(p, K):
    kept = torch.stack([draw_balanced(K, 50, p, g) for g in [seeded()] for _ in range(400)])
    counts = kept.sum(1).unique().tolist()
    assert set(counts) <= {math.floor(K * (1 - p)), math.ceil(K * (1 - p))}
    slack = 5 * (p * (1 - p) / (400 * 50)) ** 0.5 + 1e-6
    assert (kept.float().mean((0, 2)) - (1 - p)).abs().max() < slack  # each mask
    assert (kept.float().mean((0, 1)) - (1 - p)).abs().max() < 7 * slack  # each feature


def test_blocks_of_features_are_drawn_alike(monkeypatch):
    monkeypatch.setattr(mask_designs, "_SHUFFLED", 100)
    kept_K_F = draw_balanced(30, 40, 0.5, seeded())
    assert (kept_K_F.sum(0) == 15).all() and kept_K_F.shape == (30, 40) and len(kept_K_F.T.unique(dim=0)) == 40


# Layers


def test_layers_share_one_array_and_others_are_balanced():
    layers = {"a": ConsistentDropout2d(0.5), "b": ConsistentDropout(0.25), "c": ConsistentDropout(0.5), "d": ConsistentDropout(0.0)}
    features = {"a": (30, 5, 5), "b": (10,), "c": (4, 5), "d": (3,)}
    masks = draw_masks(layers, features, 128, seeded(), "orthogonal")
    assert [(name, tuple(o.shape), o.dtype) for name, o in masks.items()] == [
        ("a", (128, 30, 1, 1), torch.float32), ("b", (128, 10), torch.float32), ("c", (128, 4, 5), torch.float32), ("d", (128, 3), torch.float32)]
    x = torch.cat([masks["a"].flatten(1), masks["c"].flatten(1)], 1) - 1
    assert torch.equal(x.T @ x, 128 * torch.eye(50))
    assert ((masks["b"] > 0).sum(0) == 96).all() and (masks["d"] == 1).all()
    assert_close(masks["b"].mean(0), torch.ones(10))
    independent = draw_masks(layers, features, 128, seeded())
    g = seeded()
    for name, layer in layers.items(): assert torch.equal(independent[name], layer.draw_masks(128, features[name], g))


def test_layers_with_draws_of_their_own_keep_them():
    class Gaussian(ConsistentDropout):
        def draw_masks(self, n, features, generator): return 1 + torch.randn(n, *features, generator=generator)

    masks = draw_masks({"a": Gaussian(), "b": ConsistentDropout()}, {"a": (3,), "b": (4,)}, 16, seeded(), "orthogonal")
    assert list(masks) == ["a", "b"] and len(masks["a"].unique()) == 48
    assert masks["b"].unique().tolist() == [0, 2]


@pytest.mark.parametrize("masks", ["hadamard", "", None, 3, ["balanced"]])
def test_other_names_are_refused(masks):
    with pytest.raises(ValueError, match="`masks` is .*; want one of: independent, balanced, orthogonal"):
        collect_log_probs(make_mlp(), torch.zeros(2, 64), 3, masks=masks)


@pytest.mark.parametrize("wrong", [-1, 0, 2.5, 8.0, "8", None, True, math.inf, 2**62, 10**400])
def test_counts_that_are_none_are_refused_by_name(wrong):
    for name, call in {
        "num_samples": lambda: choose_design(wrong, 8), "num_features": lambda: choose_design(8, wrong),
    }.items():
        with pytest.raises(ValueError, match=f"`{name}` is"): call()
    with pytest.raises(ValueError, match="`num_samples` is"): draw_orthogonal(wrong, 8, seeded())
    with pytest.raises(ValueError, match="`num_features` is"): draw_orthogonal(8, wrong, seeded())
    layers = {"a": ConsistentDropout(0.5)}
    for masks in DESIGNS:
        if not isinstance(wrong, int) or wrong < 1 or wrong is True:
            with pytest.raises(ValueError, match="`num_samples` is"): draw_masks(layers, {"a": (4,)}, wrong, seeded(), masks)


def test_other_arguments_of_designs_are_refused_by_name():
    layers = {"a": ConsistentDropout(0.5)}
    for masks in DESIGNS:
        with pytest.raises(ValueError, match="`generator`"): draw_masks(layers, {"a": (4,)}, 8, 3, masks)
        with pytest.raises(ValueError, match="`features` names 'b'; want names of `layers`: a"): draw_masks(layers, {"b": (4,)}, 8, seeded(), masks)
        assert torch.equal(draw_masks(layers, {"a": (4,)}, 8, None, masks)["a"], draw_masks(layers, {"a": (4,)}, 8, seeded(), masks)["a"])
    with pytest.raises(ValueError, match="`generator`"): draw_orthogonal(8, 4, 3)
    assert torch.equal(draw_orthogonal(8, 4), draw_orthogonal(8, 4, seeded()))
    with pytest.raises(ValueError, match="`num_samples` is too large"): draw_orthogonal(2**30, 2**30, seeded())
    for p in (-0.1, 1.5, None, math.nan):
        with pytest.raises(ValueError, match="`p` is"): draw_balanced(8, 4, p, seeded())
    with pytest.raises(ValueError, match="`masks` is"): draw_masks(layers, {"a": (4,)}, 8, seeded(), torch.zeros(3))


# In `collect_log_probs`


def draw(model, x, K, masks, seed=0):
    drawn = draw_masks(dropout_layers(model), dropout_features(model, {}, x[:1]), K, seeded(seed), masks)
    return {f"{name}.mask": mask for name, mask in drawn.items()}


@pytest.fixture
def runs(monkeypatch):
    "How many inputs came to smaller networks, call by call."
    seen, call = [], SmallerNetworks.__call__
    monkeypatch.setattr(SmallerNetworks, "__call__", lambda self, masks, x: seen.append(len(x)) or call(self, masks, x))
    return seen


@pytest.mark.parametrize("masks", DESIGNED)
@pytest.mark.parametrize("p", [0.5, 0.3])
def test_smaller_networks_and_multiplied_masks_say_the_same(masks, p, runs, monkeypatch):
    model = wide(p)
    with torch.no_grad(): expected = _run_one_by_one(model, {}, draw(model, IMAGES, 20, masks), IMAGES).log_softmax(-1).transpose(0, 1)
    for batch_size, max_bytes in ((40, 2**28), (30, 4_000_000), (7, 1)):
        got = collect_log_probs(model, IMAGES.split(batch_size), 20, generator=seeded(), max_bytes=max_bytes, masks=masks)
        assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert p < 0.5 or 40 in runs  # else too little is left out
    monkeypatch.setattr(collect, "find_smaller", lambda *args: None)
    assert_close(collect_log_probs(model, IMAGES, 20, generator=seeded(), masks=masks), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("masks", DESIGNED)
def test_parts_of_a_pool_meet_the_same_masks(masks, tmp_path):
    model, pool = make_mlp().eval(), torch.randn(90, 64, generator=seeded())
    whole = collect_log_probs(model, pool, 20, generator=seeded(4), masks=masks)
    parts = [collect_log_probs(model, x, 20, generator=seeded(4), masks=masks) for x in pool.split(25)]
    assert_close(torch.cat(parts), whole)
    for batches in (pool.split(7), pool.split(90)): assert_close(collect_log_probs(model, batches, 20, generator=seeded(4), masks=masks), whole)
    mapped = collect_log_probs(model, pool.split(11), 20, generator=seeded(4), masks=masks, out=tmp_path / "x.npy")
    assert_close(torch.tensor(mapped), whole)
    assert not torch.equal(collect_log_probs(model, pool, 20, generator=seeded(5), masks=masks), whole)
    assert torch.equal(collect_log_probs(model, pool, 20, masks=masks), collect_log_probs(model, pool, 20, generator=seeded(0), masks=masks))


def test_masks_one_after_the_other():
    class Guarded(nn.Sequential):
        def forward(self, x):
            z = super().forward(x)
            return z if z.isfinite().all() else z.nan_to_num()

    model, pool = make_mlp().eval(), torch.randn(9, 64, generator=seeded())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slowly = collect_log_probs(Guarded(*model), pool, 12, masks="orthogonal")
    assert_close(slowly, collect_log_probs(model, pool, 12, masks="orthogonal"))


def test_means_vary_less_than_under_independent_masks():
    "A network that adds up its features: with balanced masks nothing of the mean is left to chance, and with orthogonal ones of pairs neither."
    class Sums(nn.Module):
        def __init__(self): super().__init__(); self.drop = ConsistentDropout(0.5)
        def forward(self, x):
            z = self.drop(x)
            return torch.stack([z.sum(1), (z[:, :-1] * z[:, 1:]).sum(1)], 1)

    x, model = torch.rand(1, 20, generator=seeded()), Sums()
    def spread(masks, part):
        drawn = [draw(model, x, 64, masks, seed)["drop.mask"] for seed in range(50)]
        return torch.stack([model.forward(x * mask)[:, part].mean() for mask in drawn]).std().item()

    model.eval()
    independent = [spread("independent", part) for part in (0, 1)]
    assert spread("balanced", 0) < 1e-5 < 0.05 < independent[0] and spread("balanced", 1) > 0.05
    assert max(spread("orthogonal", part) for part in (0, 1)) < 1e-5


def test_presets_say_how_masks_are_drawn():
    assert all(preset["masks"] == "independent" for preset in presets.values())
