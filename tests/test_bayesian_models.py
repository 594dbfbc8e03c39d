"Collecting predictions: whatever the batches, the memory, the storage and the state that the model is in. And networks."
import copy
import io
import pickle
import subprocess
import sys
from functools import partial
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Sampler, SequentialSampler, Subset, SubsetRandomSampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from batchbald_nbdev import active_learning, networks
from everything import *
from batchbald_nbdev.collect import _Bytes, _split
from batchbald_nbdev.image_sets import image_sets


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(*layers):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make_consistent(nn.Sequential(*(layer() for layer in layers))).eval()


def make_cnn():
    return make(
        lambda: nn.Conv2d(1, 4, 3), lambda: nn.BatchNorm2d(4), lambda: nn.Dropout2d(0.3), nn.ReLU, nn.Flatten,
        lambda: nn.Linear(144, 32), lambda: nn.Dropout(0.5), lambda: nn.Linear(32, 5),
    )  # fmt: skip


@pytest.fixture
def model():
    return make_cnn()


@pytest.fixture
def images():
    return torch.randn(23, 1, 8, 8, generator=seeded())


def mask_by_mask(model, x, K, generator):
    "The oracle: the same masks, handed in one at a time, for all inputs at once."
    features = dropout_features(model, {}, x[:1])
    masks = {name: layer.draw_masks(K, features[name], generator) for name, layer in dropout_layers(model).items()}
    model = copy.deepcopy(model).eval()
    rows = []
    for k in range(K):
        for name, layer in dropout_layers(model).items():
            layer.mask = masks[name][k]
        rows.append(model(x).log_softmax(-1))
    return torch.stack(rows, 1).detach()


@pytest.mark.parametrize("layer, shape", [(ConsistentDropout(0.2), (6, 7)), (ConsistentDropout2d(0.2), (6, 1))])
def test_masks_have_mean_one(layer, shape):
    masks = layer.draw_masks(5000, (6, 7), seeded())
    assert masks.shape == (5000, *shape) and set(masks.unique().tolist()) == {0, 1.25}
    assert abs(masks.mean() - 1) < 4 * (0.25 / masks.numel()) ** 0.5  # variance p / (1 - p)


# Batches and memory


@pytest.mark.parametrize("batch_size", [1, 2, 7, 22, 23, 100])
@pytest.mark.parametrize("max_bytes", [1, 3_000, 2**28])
def test_batches_and_budgets_do_not_matter(model, images, batch_size, max_bytes):
    expected = mask_by_mask(model, images, 6, seeded())
    loader = DataLoader(TensorDataset(images, torch.arange(23)), batch_size=batch_size)
    assert_close(collect_log_probs(model, loader, 6, max_bytes=max_bytes), expected)
    assert_close(collect_log_probs(model, images, 6, max_bytes=max_bytes), expected)


@pytest.mark.parametrize("K", [1, 50, 100])
def test_the_default_is_the_plain_computation_to_the_last_bit(K):
    "Records were made with it."
    net, x = make_seeded(make_mlp, seeded()).eval(), torch.randn(300, 64, generator=seeded())
    mask = dropout_layers(net)["3"].draw_masks(K, (128,), seeded(5))
    with torch.no_grad():
        parts = [vmap(lambda m, x: functional_call(net, {"3.mask": m}, (x,)), (0, None))(mask, part) for part in x.split(8192 // K)]
        expected = torch.cat([(part - part.logsumexp(-1, keepdim=True)).transpose(0, 1) for part in parts])
    assert torch.equal(collect_log_probs(net, x, K, generator=seeded(5)), expected)


class Spy(nn.Module):
    "Notes how many inputs it is given at a time; memory is short for more than `most` of them."

    def __init__(self, most=10**9):
        super().__init__()
        self.most, self.seen = most, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory, or so it says")
        return x


def make_spied(most=10**9):
    model = make(nn.Flatten, Spy, lambda: nn.Linear(64, 160), nn.Dropout, lambda: nn.Linear(160, 5), Spy)
    model[1].most = most
    return model


def test_inputs_are_split_before_samples(images):
    "What comes before the first dropout is computed once for each input, until one input alone is too much."
    one = 2 * 160 * 4  # bytes in and out of the widest layer from the first dropout on
    for max_bytes, rows, calls in ((2**20, 23, 1), (one * 6 * 8, None, None), (one * 2, 1, 3)):
        model = make_spied()
        collect_log_probs(model, images, 6, max_bytes=max_bytes)
        trunk, head = model[1].seen[1:], model[5].seen[1:]  # the first run is the one on one input
        if rows is None:
            assert 1 < max(trunk) * 6 * one <= max_bytes and sum(trunk) == 23 and len(trunk) > 1
        else:
            assert max(trunk) == rows and sum(trunk) == 23 * calls and sum(head) == 23 * calls


def test_a_tensor_is_run_in_parts():
    model = make_spied()
    collect_log_probs(model, torch.zeros(200, 64), 100)
    assert model[1].seen[1:] == [81, 81, 38]  # 8,192 inputs times samples


@pytest.mark.parametrize("K", [1, 2, 7, 1000])
@pytest.mark.parametrize("before", [1, 10, 1000])
@pytest.mark.parametrize("after", [1, 10, 1000])
def test_pieces_keep_to_the_budget_and_are_as_large_as_it_allows(K, before, after):
    needs = _Bytes(before, after)
    for max_bytes in (1, 9, 10, 999, 1000, 1001, 7_000, 10**5, 10**7):
        samples, rows = _split(K, needs, max_bytes)
        one = max(before, samples * after)
        assert 1 <= samples <= K and rows >= 1
        assert rows == 1 or rows * one <= max_bytes
        assert samples == 1 or samples * after <= max_bytes
        assert samples == K or (samples + 1) * after > max_bytes  # not split without need
        assert (rows + 1) * one > max_bytes


def test_the_budget_counts_what_comes_before_the_first_dropout(images):
    model = make(nn.Flatten, lambda: nn.Linear(64, 1000), Spy, lambda: nn.Linear(1000, 2), nn.Dropout, lambda: nn.Linear(2, 5))
    collect_log_probs(model, images, 2, max_bytes=5 * 2 * 1000 * 4)
    assert max(model[2].seen[1:]) == 5 and sum(model[2].seen[1:]) == 23


def test_halves_when_memory_runs_out_and_remembers(images):
    expected = collect_log_probs(make_spied(), images, 6)
    model = make_spied(most=3)
    x = images.repeat(40, 1, 1, 1)
    log_probs_N_K_C = collect_log_probs(model, x.split(230), 6)
    assert_close(log_probs_N_K_C, expected.repeat(40, 1, 1))
    failed = [n for n in model[1].seen if n > 3]
    assert 1 < len(failed) < 12 and sum(n for n in model[1].seen if n <= 3) == 920 + 1  # all failures are in the first batch


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, AttributeError])
def test_memory_that_never_suffices_and_other_errors_come_through(error, images):
    class Broken(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 1:
                raise error("out of memory, or broken")
            return x

    model = make(nn.Flatten, Broken, nn.Dropout, lambda: nn.Linear(64, 5))
    with pytest.raises(error):
        collect_log_probs(model, images, 6)
    assert model[1].calls == 2 or error is torch.OutOfMemoryError


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_memory_that_runs_out_is_no_fault_of_shapes(said, images):
    "Inputs are halved, and the words of CUDA's libraries come through where that does not help."
    class Short(nn.Module):
        most = 6

        def forward(self, x):
            if len(x) > self.most: raise RuntimeError(said)
            return x

    model = make(nn.Flatten, Short, nn.Dropout, lambda: nn.Linear(64, 5))
    expected = collect_log_probs(make(nn.Flatten, nn.Identity, nn.Dropout, lambda: nn.Linear(64, 5)), images, 6)
    assert_close(collect_log_probs(model, images, 6), expected)
    model[1].most = 0
    with pytest.raises(RuntimeError, match=said): collect_log_probs(model, images, 6)


def test_loaders_of_all_kinds(model, images):
    expected = collect_log_probs(model, images, 4)

    class Stream(IterableDataset):
        def __init__(self, parts):
            self.parts = parts

        def __iter__(self):
            return iter(self.parts)

    def reusing():
        buffer = torch.empty(5, 1, 8, 8)
        for part in images.split(5):
            buffer[: len(part)] = part
            yield buffer[: len(part)], "label"
            buffer.fill_(torch.nan)

    for loader in (images.split(5), (part for part in images.split(5)), DataLoader(Stream(images), batch_size=5), Stream(images.split(5)), [[part] for part in images.split(5)],
                   [torch.empty(0), images, images[:0]], reusing(), DataLoader(images, batch_size=23)):
        assert_close(collect_log_probs(model, loader, 4), expected)
    assert torch.equal(images, torch.randn(23, 1, 8, 8, generator=seeded()))  # as it was


def test_loaders_that_are_refused(model, images):
    pool = TensorDataset(images)
    class Backwards(Sampler):
        def __iter__(self): return iter(range(22, -1, -1))
        def __len__(self): return 23

    class Shuffling(BatchSampler):
        def __iter__(self): return reversed(list(super().__iter__()))

    for loader in (
        DataLoader(pool, shuffle=True), DataLoader(pool, sampler=SubsetRandomSampler(range(5))), DataLoader(pool, sampler=Backwards()), DataLoader(pool, batch_sampler=[[1, 0]]),
        DataLoader(pool, batch_sampler=BatchSampler(RandomSampler(pool), 8, False)), DataLoader(pool, batch_sampler=Shuffling(SequentialSampler(pool), 8, False)),
        DataLoader(pool, sampler=DistributedSampler(pool, 1, 0)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="`loader` draws its inputs at random"):
            collect_log_probs(model, loader, 2)
    expected = collect_log_probs(model, images[[3, 1]], 2)
    for loader in (DataLoader(Subset(pool, [3, 1])), DataLoader(pool, batch_sampler=BatchSampler(SequentialSampler(range(2)), 2, False))):
        assert collect_log_probs(model, loader, 2).shape == expected.shape
    assert_close(collect_log_probs(model, DataLoader(Subset(pool, [3, 1])), 2), expected)
    with pytest.raises(ValueError, match="`loader` is a data set"):
        collect_log_probs(model, pool, 2)
    for loader in (images[:0], [], [images[:0]]):
        with pytest.raises(ValueError, match="`loader` has no inputs"):
            collect_log_probs(model, loader, 2)
    with pytest.raises(ValueError, match="`loader` gives a list"):
        collect_log_probs(model, [[]], 2)
    for loader in (None, 3):
        with pytest.raises(ValueError, match="`loader` is a (NoneType|int)"):
            collect_log_probs(model, loader, 2)
    flat, x = make(lambda: nn.Linear(64, 64), nn.Dropout, lambda: nn.Linear(64, 5)), images.flatten(1)
    for labels in (torch.arange(23), F.one_hot(torch.arange(23), 64), torch.zeros(23)):
        with pytest.raises(ValueError, match="`loader` gives .* labels"):
            collect_log_probs(flat, (x, labels), 2)
        with pytest.raises(ValueError, match="`loader` gives .* labels"):
            collect_ensemble_log_probs([flat], (x, labels))
        assert_close(collect_log_probs(flat, [(x, labels)], 2), collect_log_probs(flat, x, 2))


def test_progress_counts_batches(model, images, capsys):
    collect_log_probs(model, images.split(5), 2)
    assert "collect" not in capsys.readouterr().err
    collect_log_probs(model, images.split(5), 2, progress=True)
    assert "5/5" in capsys.readouterr().err
    collect_ensemble_log_probs([model], images.split(5), progress=True)
    assert "5/5" in capsys.readouterr().err


def test_arguments_that_are_refused(model, images):
    for name, value in (("num_samples", 0), ("num_samples", 2.5), ("max_bytes", 0), ("dtype", torch.int8), ("dtype", "half"), ("generator", 3)):
        with pytest.raises(ValueError, match=f"`{name}`"):
            collect_log_probs(model, images, **{"num_samples": 2, name: value})
    with pytest.raises(ValueError, match="collect_ensemble_log_probs"):
        collect_log_probs(lambda x: x, images, 2)


def test_inputs_that_do_not_fit_are_told_from_models_that_are_broken(images):
    net, x = make(nn.Flatten, lambda: nn.Linear(64, 64), nn.Dropout, lambda: nn.Linear(64, 5)), images.flatten(1)
    for bad, word in ((x.mul(9).to(torch.uint8), "uint8"), (x.double(), "float64"), (x[:, :9], r"\(1, 9\)")):
        with pytest.raises(ValueError, match=f"`model` cannot be run on inputs of shape .*{word}.*float"):
            collect_log_probs(net, bad, 2)
        with pytest.raises(ValueError, match="`model` cannot be run on inputs of shape"):
            collect_ensemble_log_probs([net], bad)
    with pytest.raises(ValueError, match="`model` cannot be run on inputs of shape"):
        collect_log_probs(net, [x, x[:, :9]], 2)  # the first batch fits
    for value in (torch.nan, torch.inf):
        bad = x.clone()
        bad[20, 3] = value
        for collect in (partial(collect_log_probs, net, num_samples=2), partial(collect_ensemble_log_probs, [net])):
            with pytest.raises(ValueError, match="`loader` gives inputs that are NaN or infinite"):
                collect(loader=bad)


def test_models_that_draw_or_look_at_the_batch_are_refused(images):
    class Draws(nn.Module):
        def forward(self, x): return x + torch.randn_like(x)

    with pytest.raises(ValueError, match="`model` .*draws random numbers"):
        collect_log_probs(make(nn.Flatten, nn.Dropout, Draws, lambda: nn.Linear(64, 5)), images, 2)
    of_batch = make(nn.Flatten, lambda: nn.BatchNorm1d(64, track_running_stats=False), nn.Dropout, lambda: nn.Linear(64, 5))
    for collect in (partial(collect_log_probs, of_batch, images, 2), partial(collect_ensemble_log_probs, [of_batch], images)):
        with pytest.raises(ValueError, match=r"BatchNorm1d \(1\) without running statistics"):
            collect()


def test_devices_that_are_not_there_are_named(model, images):
    for device in ("cuda:99", "abacus"):
        for collect in (partial(collect_log_probs, model, images, 2), partial(collect_ensemble_log_probs, [model], images)):
            with pytest.raises(ValueError, match=f"`device` is '{device}'"):
                collect(device=device)


def test_every_place_of_a_model_is_looked_at():
    "The model itself, layers in layers, in two places, and places that are empty."
    assert isinstance(make_consistent(nn.Dropout(0.2)), ConsistentDropout)
    shared, last = nn.Dropout1d(0.3).eval(), nn.Sequential(nn.Dropout3d(0.4))
    model = nn.Sequential(nn.Sequential(), shared, nn.ModuleDict({"again": shared, "last": last}))
    model.register_module("nothing", None)
    twin = make_consistent(model)
    assert twin.nothing is None and type(twin[0]) is nn.Sequential and len(twin[0]) == 0
    assert type(twin[1]) is ConsistentDropout2d and twin[1] is twin[2]["again"] and not twin[1].training
    assert twin[2]["last"][0].p == 0.4 and twin[2]["last"][0].training
    assert [type(o) for o in model.modules() if "Dropout" in type(o).__name__] == [nn.Dropout1d, nn.Dropout3d]


def test_models_that_cannot_be_made_consistent():
    with pytest.raises(ValueError, match="`model` is a function"):
        make_consistent(lambda x: x)
    with pytest.raises(ValueError, match=r"Dropout with p=1.0 \(0.last\)"):
        make_consistent(nn.Sequential(nn.ModuleDict({"first": nn.Dropout(0.5), "last": nn.Dropout(1.0)})))


# What models return


class Returns(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.drop, self.fn = ConsistentDropout(), fn

    def forward(self, x):
        return self.fn(self.drop(x.flatten(1)))


def test_outputs_that_are_refused(images):
    for fn, message in (
        (lambda x: (), "a tuple"), (lambda x: x[:, 0], "shape"), (lambda x: x[:1], "shape"), (lambda x: x[..., None], "shape"),
        (lambda x: x + torch.nan, "NaN"), (lambda x: x * 0 - torch.inf, "NaN"), (lambda x: F.pad(x, (1, 0), value=torch.inf), "NaN"),
        (lambda x: x.softmax(-1), "probabilities"), (lambda x: x[:, :1], "logsigmoid"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"`model` returns .*{message}"):
            collect_log_probs(Returns(fn), images, 3)
        with pytest.raises(ValueError, match=f"`model` returns .*{message}"):
            collect_ensemble_log_probs([Returns(fn)], images)
    hard = collect_log_probs(Returns(lambda x: F.pad(x, (1, 0), value=-torch.inf)), images, 3)
    assert (hard[..., 0] == -torch.inf).all() and check_log_probs(hard)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_in_half_precision_are_refused_too(dtype, images):
    logits = 3 * torch.randn(64, 10, generator=seeded())
    for classes in (2, 10):
        with pytest.raises(ValueError, match="`model` returns probabilities"):
            collect_ensemble_log_probs([nn.Softmax(-1)], logits[:, :classes].to(dtype))
        with pytest.raises(ValueError, match="`model` returns probabilities"):
            collect_log_probs(nn.Sequential(ConsistentDropout(), nn.Softmax(-1)), logits[:, :classes].to(dtype), 4)
        assert collect_ensemble_log_probs([nn.Identity()], logits[:, :classes].to(dtype)).shape == (64, 1, classes)


# State


def test_masks_are_no_part_of_the_model(model, images):
    expected = collect_log_probs(model, images, 4)
    assert list(model.state_dict()) == list(make_cnn().state_dict()) and all(layer.mask is None for layer in dropout_layers(model).values())
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    reloaded = make_cnn()
    reloaded.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(saved, weights_only=False), reloaded):
        assert torch.equal(collect_log_probs(twin, images, 4), expected)


def test_state_of_an_ordinary_model_fits_its_consistent_twin(images):
    ordinary = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.2), nn.Linear(8, 3))
    twin = make_consistent(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.2), nn.Linear(8, 3)))
    twin.load_state_dict(ordinary.state_dict())
    assert torch.equal(twin.eval()(images), ordinary.eval()(images)) and twin[2].p == 0.2


def test_switching_between_training_and_evaluation(model, images):
    expected, quiet = collect_log_probs(model, images, 4), model(images)
    assert not expected.requires_grad and quiet.requires_grad
    model.train()
    assert not torch.equal(model(images), model(images))
    model[1].load_state_dict(make_cnn()[1].state_dict())  # running statistics as they were
    assert torch.equal(collect_log_probs(model, images, 4), expected) and all(m.training for m in model.modules())
    assert torch.equal(collect_log_probs(model, images, 4), expected)
    assert torch.equal(model[1].running_mean, make_cnn()[1].running_mean)
    assert torch.equal(model.eval()(images), quiet)
    model.train()
    model[1].eval()
    modes = [m.training for m in model.modules()]
    with pytest.raises(InterruptedError):
        collect_log_probs(model, interrupted(images), 4)
    assert [m.training for m in model.modules()] == modes and torch.backends.mha.get_fastpath_enabled()


def interrupted(images):
    yield images[:10]
    raise InterruptedError


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models(backend, images):
    torch.compiler.reset()  # else what other tests compiled counts towards the limit of recompilations
    plain = make(nn.Flatten, lambda: nn.Linear(64, 32), nn.ReLU, nn.Dropout, lambda: nn.Linear(32, 5))
    expected = collect_log_probs(plain, images, 4)
    compiled = torch.compile(copy.deepcopy(plain), backend=backend, fullgraph=True)
    in_place = copy.deepcopy(plain)
    in_place.compile(backend=backend, fullgraph=True)
    inner = copy.deepcopy(plain)
    inner[1] = torch.compile(inner[1], backend=backend, fullgraph=True)
    assert torch.equal(collect_log_probs(inner, images, 4), expected)
    for model in (compiled, in_place):
        assert_close(model(images), plain(images))
        assert torch.equal(collect_log_probs(model, images, 4), expected)
        model.train()
        dropped = model(images) != plain(images)
        assert dropped.any() and not torch.equal(model(images), model(images))  # fresh masks in training
        assert torch.equal(collect_log_probs(model, images, 4), expected) and model.training
        model(images).sum().backward()
        assert_close(model.eval()(images), plain(images))
    assert_close(collect_ensemble_log_probs([compiled, in_place], images)[:, 1], plain(images).log_softmax(-1).detach())


class Block(nn.Module):
    "PyTorch leaves calls of its own layers' methods uncompiled, so here is another one."

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x): return self.layers(x)


@pytest.mark.parametrize("stances", [True, False])
def test_compiled_parts_of_a_model(monkeypatch, images, stances):
    "Before 2.6 PyTorch cannot be told to run them uncompiled. They are compiled as before afterwards, also when the run broke off."
    if not stances: monkeypatch.delattr(torch.compiler, "set_stance", raising=False)
    torch.compiler.reset()
    plain = make(nn.Flatten, lambda: nn.Linear(64, 32), lambda: Block(nn.ReLU(), nn.Dropout()), lambda: nn.Linear(32, 5))
    expected, calls = collect_log_probs(plain, images, 4), []

    def backend(graph, example): return lambda *inputs: calls.append(graph) or graph(*inputs)

    def wrapped(model): model[2] = torch.compile(model[2], backend=backend)
    def in_place(model): model[2].compile(backend=backend)
    def method(model): model[2].forward = torch.compile(model[2].forward, backend=backend)

    for change in (wrapped, in_place, method):
        model = copy.deepcopy(plain)
        change(model)
        attributes = [dict(vars(o)) for o in model.modules()]
        calls.clear()
        assert torch.equal(collect_log_probs(model, images, 4), expected)
        with pytest.raises(InterruptedError): collect_log_probs(model, interrupted(images), 4)
        assert [dict(vars(o)) for o in model.modules()] == attributes
        assert_close(model(images), plain(images))
        assert calls  # compiled


def test_a_compiled_model_becomes_consistent_uncompiled(images):
    ordinary = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(), nn.Linear(8, 3)).eval()
    in_place = copy.deepcopy(ordinary)
    in_place.compile(backend="eager")
    for model in (torch.compile(ordinary, backend="eager"), in_place):
        twin = make_consistent(model)
        assert type(twin) is nn.Sequential and isinstance(twin[2], ConsistentDropout)
        assert torch.equal(twin(images), ordinary(images))
        assert torch.equal(collect_log_probs(pickle.loads(pickle.dumps(twin)), images, 4), collect_log_probs(twin, images, 4))


@pytest.mark.gpu
def test_cuda_gives_what_the_cpu_gives():
    net, x = make_seeded(make_mlp, seeded()).eval(), torch.randn(3000, 64, generator=seeded())
    expected = collect_log_probs(net, x, 50)

    def reusing():
        buffer = torch.empty(256, 64, pin_memory=True)
        for part in x.split(256):
            buffer[: len(part)] = part
            yield buffer[: len(part)]
            buffer.fill_(torch.nan)

    pinned = DataLoader(TensorDataset(x), batch_size=256, pin_memory=True)
    for loader in (x, pinned, reusing()):
        log_probs_N_K_C = collect_log_probs(net, loader, 50, device="cuda")
        assert not log_probs_N_K_C.is_cuda and next(net.parameters()).device.type == "cpu"
        assert_close(log_probs_N_K_C, expected, atol=1e-4, rtol=1e-3)
    on_gpu = copy.deepcopy(net).cuda()
    assert_close(collect_log_probs(on_gpu, x, 50), expected, atol=1e-4, rtol=1e-3)
    assert_close(collect_log_probs(on_gpu, x, 50, generator=torch.Generator("cuda").manual_seed(0)).exp().mean(1), expected.exp().mean(1), atol=0.3, rtol=0)
    assert_close(collect_ensemble_log_probs([on_gpu, copy.deepcopy(on_gpu)], pinned), collect_ensemble_log_probs([net, copy.deepcopy(net)], x), atol=1e-4, rtol=1e-3)


def test_other_devices_and_dtypes(model, images):
    expected = collect_log_probs(model, images, 4)
    assert torch.equal(collect_log_probs(model, images, 4, device="cpu"), expected)
    assert_close(collect_log_probs(copy.deepcopy(model).double(), images.double(), 4, dtype=torch.double), expected.double(), atol=1e-5, rtol=1e-5)


# Dropout that is no layer


class Calls(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.drop, self.fn = ConsistentDropout(), fn

    def forward(self, x):
        return self.fn(self, self.drop(x.flatten(1)))


@pytest.mark.parametrize("fn", [
    lambda self, x: F.dropout(x, training=self.training), lambda self, x: F.dropout(x, 0.1), lambda self, x: F.dropout(x, p=0.1, training=self.training),
    lambda self, x: F.alpha_dropout(x, 0.1, self.training), lambda self, x: torch.dropout(x, 0.1, self.training),
    lambda self, x: F.dropout2d(x[..., None, None], 0.1, self.training)[..., 0, 0], lambda self, x: F.dropout1d(x[..., None], 0.1, self.training)[..., 0],
])  # fmt: skip
def test_functional_dropout_is_refused(fn, images):
    with pytest.raises(ValueError, match="calls the function .*dropout"):
        collect_log_probs(Calls(fn), images, 3)


@pytest.mark.parametrize("loader", [lambda x: x, lambda x: DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=4)])
def test_functional_dropout_is_named_where_there_is_no_other(images, loader):
    class Net(nn.Module):
        def forward(self, x): return F.dropout(x.flatten(1), 0.1, self.training)
    net = make_consistent(Net()).train()
    with pytest.raises(ValueError, match="calls the function dropout, .* use a layer, `nn.Dropout`"):
        collect_log_probs(net, loader(images), 3)
    assert net.training
    with pytest.raises(ValueError, match="has no ConsistentDropout.*make dropout that is a function a layer first"):
        collect_log_probs(nn.Flatten(), loader(images), 3)


def test_functional_dropout_that_drops_nothing_is_fine(images):
    calls = Calls(lambda self, x: F.dropout(x, 0.0, self.training))
    assert torch.equal(collect_log_probs(calls, images, 3), collect_log_probs(Calls(lambda self, x: x), images, 3))


def test_dropout_inside_layers_is_refused(images):
    def heads(**options): return nn.MultiheadAttention(8, 2, **options)
    for inner in (nn.LSTM(8, 8, 2, dropout=0.1), nn.GRU(8, 8, 2, dropout=0.1), nn.RNN(8, 8, 2, dropout=0.1), heads(dropout=0.1)):
        for fn in (make_consistent, dropout_layers, lambda m: collect_log_probs(m, images, 3)):
            with pytest.raises(ValueError, match=rf"dropout=0.1 inside {type(inner).__name__} \(0.body\)"):
                fn(nn.Sequential(nn.ModuleDict({"body": inner})))
        inner.dropout = 0
        make_consistent(inner)
    with pytest.warns(UserWarning, match="num_layers"):
        single = nn.LSTM(8, 8, 1, dropout=0.1)  # has no effect in a single layer
    make_consistent(single)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
        self.layer.self_attn.dropout = 0.0
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.layer(x)[:, 0])


def test_attention_in_its_fused_form_would_pass_by_dropout():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make_consistent(Transformer()).eval()
    x = torch.randn(9, 5, 8, generator=seeded())
    log_probs_N_K_C = collect_log_probs(model, x, 6)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        expected = mask_by_mask(model, x, 6, seeded())
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert_close(log_probs_N_K_C, expected)
    assert log_probs_N_K_C.std(1).min() > 1e-3


def test_dropout_that_no_input_comes_by(images):
    class Bypass(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = ConsistentDropout()

        def forward(self, x):
            return x.flatten(1)

    with pytest.raises(ValueError, match="comes by none"):
        collect_log_probs(Bypass(), images, 3)
    assert collect_log_probs(Bypass(), images, 1).shape == (23, 1, 64)


def test_one_layer_in_two_places(images):
    drop = ConsistentDropout()
    same = nn.Sequential(nn.Flatten(), drop, nn.Linear(64, 64), drop, nn.Linear(64, 3))
    assert_close(collect_log_probs(same, images, 4), mask_by_mask(same, images, 4, seeded()))
    with pytest.raises(ValueError, match="its own layer"):
        collect_log_probs(nn.Sequential(nn.Flatten(), drop, nn.Linear(64, 32), drop), images, 4)


def test_inputs_of_several_lengths_want_masks_for_channels():
    x = [torch.randn(4, 3, n, generator=seeded()) for n in (7, 1, 9)]
    pooled = nn.Sequential(nn.Conv1d(3, 6, 1), ConsistentDropout2d(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3))
    assert collect_log_probs(pooled, x, 5).shape == (12, 5, 3)
    pooled[1] = ConsistentDropout()
    for short in (x[1], x[2]):
        with pytest.raises((ValueError, RuntimeError), match="features|size"):
            collect_log_probs(pooled, [x[0], short], 5)


# Storage


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 10, 5000])
def test_stored_predictions_are_predictions(dtype, classes):
    logits = torch.randn(12, classes, generator=seeded()) * torch.logspace(-2, 6, 12)[:, None]
    exact = logits.double().log_softmax(-1)
    for x in (logits, logits * 0):
        stored = collect_ensemble_log_probs([nn.Identity()], x, dtype=dtype)
        assert stored.dtype == dtype and check_log_probs(stored) == (12, 1, classes) and as_log_probs(stored) is not None
        assert compute_bald(stored).abs().max() < 1e-6
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    assert_close(collect_ensemble_log_probs([nn.Identity()], logits, dtype=dtype)[:, 0].double().exp(), exact.exp(), atol=tolerance, rtol=0)


def test_half_precision_is_rounded_last():
    "A model in half precision still gives rows that are normalised in float32."
    logits = torch.tensor([[10.0, 9.99, -70000.0]]).half()
    assert_close(collect_ensemble_log_probs([nn.Identity()], logits)[0, 0].exp().sum().item(), 1.0, atol=1e-6, rtol=0)
    assert collect_ensemble_log_probs([nn.Identity()], logits.float(), dtype=torch.float16)[0, 0, 2] == -torch.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_files_hold_what_memory_holds(model, images, dtype, tmp_path):
    for name, loader in (("tensor", images), ("batches", images.split(5)), ("generator", (o for o in images.split(5)))):
        kept = collect_log_probs(model, images if name == "tensor" else images.split(5), 4, dtype=dtype)
        mapped = collect_log_probs(model, loader, 4, dtype=dtype, out=tmp_path / f"{name}.npy")
        assert isinstance(mapped, np.memmap) and not mapped.flags.writeable
        assert torch.equal(torch.tensor(mapped), kept) and (np.load(tmp_path / f"{name}.npy") == mapped).all()
        assert torch.equal(compute_bald(mapped), compute_bald(kept))
        assert get_batchbald_batch(mapped, 4) == get_batchbald_batch(kept, 4)
    members = [model, copy.deepcopy(model)]
    assert torch.equal(torch.tensor(collect_ensemble_log_probs(members, images, out=str(tmp_path / "e.npy"))), collect_ensemble_log_probs(members, images))
    assert sorted(o.name for o in tmp_path.iterdir()) == ["batches.npy", "e.npy", "generator.npy", "tensor.npy"]
    assert all(o.stat().st_mode & 0o777 == 0o644 for o in tmp_path.iterdir())


def test_numpy_writes_the_same_file(model, images, tmp_path):
    mapped = collect_log_probs(model, images, 4, out=tmp_path / "x.npy")
    assert (tmp_path / "x.npy").stat().st_size == 128 + mapped.nbytes
    np.save(tmp_path / "y.npy", mapped)
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "x.npy").read_bytes()


def test_paths_that_are_refused(model, images, tmp_path):
    (tmp_path / "there.npy").write_text("mine")
    (tmp_path / "folder.npy").mkdir()
    for name, message in (("there.npy", "there already"), ("folder.npy", "there already"), ("x.npz", "ends in .npy"), ("x", "ends in .npy"), ("no/x.npy", "folder that exists")):
        for collect in (partial(collect_log_probs, model, images, 2), partial(collect_ensemble_log_probs, [model], images)):
            with pytest.raises(ValueError, match=f"`out`.*{message}"):
                collect(out=tmp_path / name)
    with pytest.raises(ValueError, match="`out`.*bfloat16"):
        collect_log_probs(model, images, 2, dtype=torch.bfloat16, out=tmp_path / "x.npy")
    assert (tmp_path / "there.npy").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def test_no_file_after_an_error(model, images, tmp_path, monkeypatch):
    for loader, error in ((interrupted(images), InterruptedError), ([], ValueError), ([images, images * torch.nan], ValueError)):
        with pytest.raises(error):
            collect_log_probs(model, loader, 2, out=tmp_path / "x.npy")
        assert not list(tmp_path.iterdir())
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        collect_log_probs(model, images, 2, out=tmp_path / "x.npy")
    assert not list(tmp_path.iterdir())


def test_a_killed_run_leaves_nothing_that_reads_as_finished(tmp_path):
    script = """
import os, sys, torch
from batchbald_nbdev.all import *
def loader():
    yield torch.zeros(100_000, 3)
    os._exit(7)
collect_ensemble_log_probs([torch.nn.Identity()], loader(), out=sys.argv[1] + "/x.npy")
"""
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)]).returncode == 7
    left, = tmp_path.iterdir()
    assert left.name.startswith("x.npy.") and left.suffix == ".part" and left.stat().st_size > 128
    with pytest.raises(ValueError):
        np.load(left)
    collect_ensemble_log_probs([nn.Identity()], torch.zeros(4, 3), out=tmp_path / "x.npy")  # and it is in nobody's way


# Ensembles


def test_ensembles_are_one_sample_each(images):
    members = [make(nn.Flatten, lambda: nn.Linear(64, 5)) for _ in range(3)]
    for i, member in enumerate(members):
        nn.init.normal_(member[1].weight, generator=seeded(i))
    members.append(lambda x: x.flatten(1)[:, :5])
    expected = torch.stack([member(images).log_softmax(-1) for member in members], 1).detach()
    for loader in (images, images.split(4), iter(images.split(4))):
        assert_close(collect_ensemble_log_probs(members, loader), expected)
    assert_close(collect_ensemble_log_probs(nn.ModuleList(members[:3]), images), expected[:, :3])
    assert_close(collect_ensemble_log_probs(iter(members), images), expected)
    assert not collect_ensemble_log_probs(members, images).requires_grad


def test_ensembles_run_without_dropout_and_get_their_mode_back(images):
    member = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 5)).train()
    log_probs_N_K_C = collect_ensemble_log_probs([member, copy.deepcopy(member)], images)
    assert torch.equal(log_probs_N_K_C[:, 0], log_probs_N_K_C[:, 1])
    assert all(m.training for m in member.modules()) and not member[1].num_batches_tracked


def test_ensembles_that_are_refused(model, images):
    for models, message in ((model, "in a list"), ([], "empty"), ([model, 3], "cannot be called")):
        with pytest.raises(ValueError, match=f"`models`.*{message}"):
            collect_ensemble_log_probs(models, images)
    with pytest.raises(ValueError, match="returns a ndarray"):
        collect_ensemble_log_probs([lambda x: x.numpy()], images)
    with pytest.raises(ValueError, match="`models` holds one network more than once"):
        collect_ensemble_log_probs([model] * 5, images)
    with pytest.raises(ValueError, match=r"`models` give different numbers of classes: \[5, 7\]"):
        collect_ensemble_log_probs([model, lambda x: x.flatten(1)[:, :7]], images)


# The papers' networks


@pytest.mark.parametrize("make_network, shape, classes, count, masks", [
    (make_mnist_cnn, (1, 28, 28), 10, 184_586, [(32, 24, 24), (64, 8, 8), (128,)]),
    (make_emnist_cnn, (1, 28, 28), 47, 1_165_871, [(32, 26, 26), (64, 11, 11), (128, 9, 9), (512,)]),
    (make_cinic10_vgg, (3, 32, 32), 10, 14_991_946, [(512,)]),
    (make_cifar10_resnet, (3, 32, 32), 10, 11_437_642, [(512,)]),
])  # fmt: skip
def test_networks(make_network, shape, classes, count, masks):
    if len(shape) and shape[0] == 3:
        pytest.importorskip("torchvision")
    network = make_seeded(make_network, seeded())
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert list(dropout_features(network, {}, torch.zeros(1, *shape)).values()) == masks
    x = torch.randn(3, *shape, generator=seeded())
    log_probs_N_K_C = collect_log_probs(network, x, 4)
    assert log_probs_N_K_C.shape == (3, 4, classes) and log_probs_N_K_C.std(1).min() > 0
    assert_close(collect_log_probs(network, x.split(1), 4, max_bytes=1), log_probs_N_K_C, atol=1e-4, rtol=1e-4)
    assert make_network(classes=7, p=0.25).eval()(x).shape == (3, 7)
    assert {layer.p for layer in dropout_layers(make_network(p=0.25)).values()} == {0.25}
    network.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_weights_are_drawn_from_the_first_layer_to_the_last():
    "Else a seed would mean other weights than before."
    for make_network, layers in (
        (make_mlp, lambda: [nn.Linear(64, 128), nn.Linear(128, 10)]),
        (make_mnist_cnn, lambda: [nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5), nn.Linear(1024, 128), nn.Linear(128, 10)]),
        (make_emnist_cnn, lambda: [
            nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 128, 3), nn.Linear(2048, 512), nn.Linear(512, 47),
        ]),
    ):  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = make_network()
            torch.manual_seed(0)
            expected = nn.Sequential(*layers())
        assert all(torch.equal(*pair) for pair in zip(network.parameters(), expected.parameters(), strict=True))


def test_every_network_has_one_home_and_the_digits_name_theirs():
    assert active_learning.make_mlp is networks.make_mlp is image_sets["digits"].network


def test_resnet_keeps_its_resolution():
    pytest.importorskip("torchvision")
    network, seen = make_cifar10_resnet().eval(), []
    network.layer1.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[2:]))
    network(torch.zeros(1, 3, 32, 32))
    assert seen == [(32, 32)]


def test_pretrained_features(monkeypatch):
    models = pytest.importorskip("torchvision").models
    donor = models.vgg.make_layers(models.vgg.cfgs["D"], batch_norm=True)
    state = {f"features.{name}": torch.full_like(value, 3) for name, value in donor.state_dict().items()} | {"classifier.0.weight": torch.zeros(1)}
    asked = []
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda url, **options: asked.append(url) or state)
    assert make_cinic10_vgg()[0][0].weight.unique().numel() > 1 and not asked  # nothing is downloaded unasked
    network = make_cinic10_vgg(pretrained=True)
    assert all((value == 3).all() for value in network[0].state_dict().values()) and "vgg16_bn" in asked[0]
    assert network[3][1].weight.unique().numel() > 1

    def offline(url, **options):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(OSError, match="`pretrained` could not be downloaded.*no route to host.*vgg16_bn.*pth.*pretrained=False"):
        make_cinic10_vgg(pretrained=True)


@pytest.mark.parametrize("make_network", [make_cinic10_vgg, make_cifar10_resnet])
def test_without_torchvision(make_network, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        make_network()
