"""Everything public that computes, on a pretend CUDA device: the same picks and numbers as on the CPU, or an error that names the argument.

Inputs on the device, `device=` with inputs on the CPU, and second inputs on the other device. What trains runs in a process of its own,
since autograd wants a driver or something like it before PyTorch is imported: see `build_driver`.
"""
import json, math, os, re, subprocess, sys, traceback
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import test_contexts
from everything import *
from pretend_cuda import CUDA, PretendCuda, PretendGenerator, build_driver, count_work, to_device, why_not
from test_contexts import COMPUTED, make_inputs, takes_device

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.filterwarnings("ignore")]
TRAINS = {"train_models", "run_trials", "record_trials", "compare_methods", "Labelling", "plot_labelling"}
PLACED = {"dropout_features", "collect_ensemble_log_probs"}  # run networks where they are, see below
COMPUTES = [name for name in COMPUTED if name not in TRAINS | {"dropout_features"}]
SLOW = os.environ.get("SLOW") == "1"
# Seconds each, so once in a plain run: where inputs are on the device
HEAVY = {"get_batchepig_batch", "get_batchepigbald_batch", "get_plain_batchbald_batch", "get_dynamic_batchbald_batch", "get_budgetbald_batch"}


def mark(names, slow):
    "Names as parameters, some of them for SLOW=1."
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


def send_data(data):
    "All tensors of a data set on the device."
    return replace(data, **{f.name: to_device(getattr(data, f.name)) for f in fields(data)})


def send_inputs(i):
    return SimpleNamespace(**{name: to_device(value) for name, value in vars(i).items()} | {"data": send_data(i.data)})


def assert_alike(a, b, place):
    "Numbers within 1e-5, wherever they are; all else equal."
    if isinstance(b, np.ndarray): np.testing.assert_allclose(a, b, 1e-5, 1e-5, err_msg=place)
    elif isinstance(b, torch.Tensor):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-5, equal_nan=True, msg=place)
    elif isinstance(b, dict):
        assert list(a) == list(b), place
        for key in b:
            if "seconds" not in str(key): assert_alike(a[key], b[key], f"{place}, {key}")
    elif isinstance(b, (list, tuple)):
        assert len(a) == len(b), place
        for n, (x, y) in enumerate(zip(a, b)): assert_alike(x, y, f"{place}, {n}")
    elif is_dataclass(b): assert_alike(vars(a), vars(b), place)
    elif isinstance(b, float): assert a == pytest.approx(b, rel=1e-5, abs=1e-5, nan_ok=True), place
    elif not isinstance(b, torch.device): assert a == b, f"{place}: {a} and {b}"


def same_on_device(name, folder, there, **options):
    expected, i = COMPUTED[name](make_inputs(torch.float32), folder), make_inputs(torch.float32)
    with PretendCuda():
        if there: i = send_inputs(i)
        assert_alike(COMPUTED[name](i, folder, **options), expected, name)


@pytest.mark.parametrize("name", COMPUTES)
def test_inputs_on_the_device(name, tmp_path):
    same_on_device(name, tmp_path, there=True)


@pytest.mark.parametrize("name", mark([name for name in takes_device if name not in TRAINS | PLACED], HEAVY))
def test_device_with_inputs_on_the_cpu(name, tmp_path):
    same_on_device(name, tmp_path, there=False, device="cuda")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", CUDA, *([0] if torch.version.cuda else [])], ids=repr)
def test_names_of_the_device(device):
    x = make_inputs(torch.float32).x
    with PretendCuda() as gpu: assert_alike(compute_bald(x, device=device), compute_bald(x), "BALD")
    assert gpu.counts.kernels > 0


def test_a_device_that_is_not_there_is_named():
    with PretendCuda(), pytest.raises(ValueError, match="`device` is 'cuda:7', which PyTorch cannot use here"):
        compute_bald(make_inputs(torch.float32).x, device="cuda:7")


def test_networks_run_where_they_are():
    images, networks = make_inputs(torch.float32).images, [test_contexts.network("cnn", seed) for seed in range(2)]
    expected, features = collect_ensemble_log_probs(networks, images), dropout_features(networks[0], {}, images[:1])
    with PretendCuda():
        there = [test_contexts.network("cnn", seed).to(CUDA) for seed in range(2)]
        for x in (images, images.cuda()): assert_alike(collect_ensemble_log_probs(there, x), expected, "ensemble")
        assert dropout_features(there[0], {}, images[:1].cuda()) == features
        with pytest.raises(ValueError, match=r"`models\[1\]` is on cuda:0; want all on cpu, as inputs are"):
            collect_ensemble_log_probs([networks[0], there[1]], images)
        with pytest.raises(ValueError, match=r"`models\[0\]` is on cpu; want all on cuda:0, as inputs are"):
            collect_ensemble_log_probs(networks, images, device="cuda")
        with pytest.raises(ValueError, match="they are on cuda:0; want `model`, and all that it makes, on the same device"):
            dropout_features(networks[0], {}, images[:1].cuda())


def test_what_a_network_makes_elsewhere_is_named():
    class Shifted(torch.nn.Sequential):
        def forward(self, x): return super().forward(x) + torch.zeros(4)

    with PretendCuda(), pytest.raises(ValueError, match="they are on cuda:0; want `model`, and all that it makes"):
        collect_log_probs(Shifted(*test_contexts.network()), make_inputs(torch.float32).images, 3, device="cuda")


# Settings around a call

QUICK = {
    "as_log_probs", "compute_entropy", "compute_bald", "compute_mean_std", "get_bald_batch", "compute_kbald_gains", "compute_epig",
    "get_kbald_batch", "WeightedJointEntropy", "get_softrank_batch", "collect_log_probs", "collect_ensemble_log_probs", "evaluate",
    "make_active_learning_data", "get_balanced_indices", "make_imbalanced", "flip_labels",
}  # fmt: skip
SETTINGS = {
    "autocast": lambda: torch.autocast("cuda", torch.bfloat16),
    "default device cuda": lambda: torch.device("cuda"),
    "default device meta": lambda: torch.device("meta"),
}
some = mark(COMPUTES, set(COMPUTES) - QUICK)


@pytest.mark.parametrize("name", some)
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_change_nothing_on_the_device(setting, name, tmp_path):
    expected, i = COMPUTED[name](make_inputs(torch.float32), tmp_path), make_inputs(torch.float32)
    with PretendCuda():
        i = send_inputs(i)
        with SETTINGS[setting](): assert_alike(COMPUTED[name](i, tmp_path), expected, name)


@pytest.mark.parametrize("name", some)
def test_the_default_device_gets_no_work(name, tmp_path):
    i = make_inputs(torch.float32)
    with PretendCuda() as gpu, torch.device("cuda"): COMPUTED[name](i, tmp_path)
    assert gpu.counts == (0, 0, 0)


def test_tf32_costs_what_is_stated():
    "A gain is off by 2^-10 (1 + log C) nats at most, so a score by that for each pick."
    x, before = make_inputs(torch.float32).x, torch.get_float32_matmul_precision()
    expected = get_batchbald_batch(x, 5, 4000)
    try:
        torch.set_float32_matmul_precision("high")
        with PretendCuda(): found = get_batchbald_batch(x.cuda(), 5, 4000)
    finally: torch.set_float32_matmul_precision(before)
    for n, (a, b) in enumerate(zip(found.scores, expected.scores)): assert abs(a - b) <= (n + 1) * 2**-10 * (1 + math.log(4))


# Second inputs on the other device


ENTROPIES = {
    "exact": (lambda **o: ExactJointEntropy.empty(10, **o), ()),
    "sampled": (lambda **o: SampledJointEntropy.empty(10, **o), (7,)),
    "dynamic": (lambda **o: DynamicJointEntropy(100, 9, 10, 4, **o), ()),
    "weighted": (lambda **o: WeightedJointEntropy(60, 10, **o), ()),
}


def grow(name, first, second, third, output, **options):
    "What a joint entropy says that grows by two inputs and is asked about a third."
    make, more = ENTROPIES[name]
    state = make(**options).add_variables(first, *more).add_variables(second, *more)
    return state.compute(), state.compute_batch(third), state.compute_batch(third, output)


def join(a, b, validation, first):
    "A data set of parts that lie on two devices."
    return arrays(make_active_learning_data(a, b, validation=validation, first=first, noise=0.1))


def arrays(data):
    return {f.name: getattr(data, f.name) for f in fields(data)}


def picked(i, pool, evaluation, name, pending=()):
    "What a method picks whose predictions on the pool and on the evaluation inputs lie on two devices."
    predict = lambda inputs: pool if inputs is None else evaluation
    how = dict(generator=torch.Generator().manual_seed(0), evaluation_inputs=i.images, num_samples=60)
    return methods[name](Round(4, 120, predict, pending=pending, **how))


def distributed(x, pending):
    "The pool in chunks that come out where `x` lies."
    dask, array = pytest.importorskip("dask"), pytest.importorskip("dask.array")
    chunks = [array.from_delayed(dask.delayed(lambda part: part, traverse=False)(part), tuple(part.shape), "float32") for part in x.split(40)]
    with dask.config.set(scheduler="synchronous"):  # in this thread
        return get_distributed_batchbald_batch(array.concatenate(chunks), 6, 1000, pending=pending, max_bytes=2**12)


MIXED = {  # name -> a call, and which of `i` its arguments are, of which any may lie on the device
    "compute_epig": (compute_epig, "x y"),
    "get_epig_batch": (lambda x, y: get_epig_batch(x, y, 6), "x y"),
    "compute_epig_bald": (lambda x, y: compute_epig_bald(x, y, 300), "x y"),
    "compute_epig_bald after": (lambda x, z: compute_epig_bald(x, log_probs_after_N_K_C=z), "x z"),
    "get_batchepig_batch": (lambda x, y, p: get_batchepig_batch(x, y, 3, 60, pending=p), "x y pending"),
    "get_batchepigbald_batch": (lambda x, y, p: get_batchepigbald_batch(x, y, 3, 20, pending=p), "x y pending"),
    "get_batchepigbald_batch after": (lambda x, z: get_batchepigbald_batch(x, None, 3, 60, log_probs_after_N_K_C=z), "x z"),
    "get_softmaxepig_batch": (lambda x, y: get_softmaxepig_batch(x, y, 9), "x y"),
    "compute_pair_information": (compute_pair_information, "x few"),
    "compute_kbald_gains": (lambda x, few: compute_kbald_gains(x, few, 3), "x few"),
    "evaluate": (evaluate, "x labels"),
    **{f"{name} joint entropy": (lambda *a, name=name: grow(name, *a), "two few nine zeros") for name in ENTROPIES},
    **{f"{name} joint entropy, there": (lambda *a, name=name: grow(name, *a, device="cuda" if PretendCuda.entered else None), "two few nine zeros")
       for name in ENTROPIES},
    **{f"{select.__name__}, pending": (lambda x, p, select=select: select(x, 5, pending=p), "x pending") for select in (
        get_bald_batch, get_batchbald_batch, get_plain_batchbald_batch, get_kbald_batch, get_dynamic_kbald_batch,
        get_dynamic_batchbald_batch, get_conservativebald_batch, get_budgetbald_batch, get_largebatchbald_batch,
        get_softmaxbald_batch, get_powerbald_batch, get_softrankbald_batch)},
    **{f"{select.__name__}, pending": (lambda s, p, select=select: select(s, 5, pending=p), "scores pending") for select in (
        get_top_k_batch, get_softmax_batch, get_power_batch, get_softrank_batch)},
    "get_random_batch, pending": (lambda p: get_random_batch(120, 5, pending=p), "pending"),
    **{f"Round, {name}": (lambda x, y, p, name=name: picked(make_inputs(torch.float32), x, y, name, p), "x y pending") for name in
       ("epig", "softmaxepig", "batchbald", "2bald", "bald")},
    "make_active_learning_data": (lambda a, b, c, d, v, f: join((a, b), (c, d), v, f),
                                  "train_x train_y test_x test_y validation first"),
    "get_distributed_batchbald_batch": (distributed, "x pending"),
    "get_balanced_indices": (lambda labels: get_balanced_indices(labels, 2), "labels"),
    "plot_batch": (lambda x, images, p: plot_batch(CandidateBatch([0.0, 0.0], [0, 2]), x, pending=p, images=images)._repr_png_(),
                   "x pictures pending"),
}  # fmt: skip


def take(names):
    "Inputs by name, on the CPU."
    i = make_inputs(torch.float32)
    more = {
        "two": i.few[:2], "nine": i.x[:9], "zeros": torch.zeros(9, dtype=torch.double), "pending": torch.tensor([2, 5]),
        "train_x": i.images[:60], "train_y": i.classes[:60], "test_x": i.images[60:], "test_y": i.classes[60:],
        "validation": torch.tensor([3, 4]), "first": torch.tensor([7]), "pictures": i.images.repeat(2, 1, 1, 1)[:120],
    }  # fmt: skip
    return [(vars(i) | more)[name] for name in names.split()]


def ways(n):
    "Each alone on the device, and each alone on the CPU."
    alone = [[k == j for k in range(n)] for j in range(n)]
    return [list(way) for way in dict.fromkeys(tuple(x) for w in alone for x in (w, [not o for o in w]))]


@pytest.mark.parametrize("name", mark(MIXED, HEAVY | {f"{name}, pending" for name in HEAVY}))
def test_inputs_on_two_devices(name):
    call, names = MIXED[name]
    expected = call(*take(names))
    for way in ways(len(names.split())):
        with PretendCuda():
            given = [to_device(value) if there else value for value, there in zip(take(names), way)]
            place = ", ".join(f"{o}{' there' * there}" for o, there in zip(names.split(), way))
            assert_alike(call(*given), expected, place)


# Generators on the device: here they draw as those of the CPU do

DRAWN = {
    **{select.__name__: lambda x, g, select=select: select(x, 5, 60, generator=g) for select in (
        get_batchbald_batch, get_plain_batchbald_batch, get_dynamic_batchbald_batch, get_budgetbald_batch)},
    **{select.__name__: lambda x, g, select=select: select(x, 5, generator=g) for select in (
        get_softmaxbald_batch, get_powerbald_batch, get_softrankbald_batch)},
    **{select.__name__: lambda x, g, select=select: select(x[:, 0, 0], 5, generator=g) for select in (
        get_softmax_batch, get_power_batch, get_softrank_batch)},
    "get_random_batch": lambda x, g: get_random_batch(50, 5, generator=g),
    "compute_epig_bald": lambda x, g: compute_epig_bald(x, x[:9], 60, generator=g),
    "get_batchepig_batch": lambda x, g: get_batchepig_batch(x, x[:9], 3, 60, generator=g),
    "get_batchepigbald_batch": lambda x, g: get_batchepigbald_batch(x, x[:9], 3, 20, generator=g),
    "get_softmaxepig_batch": lambda x, g: get_softmaxepig_batch(x, x[:9], 5, generator=g),
    "WeightedJointEntropy": lambda x, g: WeightedJointEntropy(60, 10, generator=g, device=x.device).add_variables(x[:5]).compute(),
    "draw_masks": lambda x, g: ConsistentDropout(0.3).draw_masks(5, (3, 2), g),
    "draw_orthogonal": lambda x, g: [draw_orthogonal(K, 9, g) for K in (6, 16, 20)],
    "collect_log_probs": lambda x, g: collect_log_probs(test_contexts.network(), x[:, :9].flatten(1), 5, generator=g, device=x.device),
    "make_seeded": lambda x, g: dict(make_seeded(partial(make_mlp, 4, 3, 2), g).state_dict()),
    "make_active_learning_data": lambda x, g: arrays(make_active_learning_data(
        (x, torch.arange(120, device=x.device) % 4), (x, torch.arange(120, device=x.device) % 4), noise=0.1, validation=9, generator=g)),
    "get_balanced_indices": lambda x, g: get_balanced_indices(torch.arange(120, device=x.device) % 4, 2, generator=g),
    "make_imbalanced": lambda x, g: arrays(make_imbalanced(test_contexts.DATA, {3: 0.5}, generator=g)),
    "flip_labels": lambda x, g: arrays(flip_labels(test_contexts.DATA, 0.3, generator=g)),
    "Round": lambda x, g: [methods[name](Round(4, 120, lambda _: x, generator=g, num_samples=60)) for name in ("batchbald", "softmaxbald")],
}  # fmt: skip


@pytest.mark.parametrize("name", mark(DRAWN, HEAVY))
def test_generators_on_the_device(name):
    x = make_inputs(torch.float32).x
    expected = DRAWN[name](x, torch.Generator().manual_seed(3))
    with PretendCuda():
        for place in (x, x.cuda()): assert_alike(DRAWN[name](place, PretendGenerator().manual_seed(3)), expected, name)


# Training: each case in a process that was started for all of them


def train(models_there, x, y, validation_x, validation_y, **options):
    "Two networks after a few steps: their weights, and the steps behind them. They stay where they are."
    models = [test_contexts.network(seed=seed) for seed in range(2)]
    if models_there: models = [model.to(CUDA) for model in models]
    how = dict(steps=6, early_stopping="loss", epoch_steps=2, validation=[(validation_x, validation_y)] * 2)
    steps = train_models(models, [x] * 2, [y] * 2, [(0,), (1,)], **how, **options)
    assert {o.is_cuda for model in models for o in model.parameters()} == {models_there}
    return steps, [dict(model.state_dict()) for model in models]


def train_on_two_devices(folder, **options):
    names = "train_x train_y test_x test_y"
    expected = train(False, *take(names))
    for way in ways(5):
        with PretendCuda():
            given = [to_device(value) if there else value for value, there in zip(take(names), way[1:])]
            assert_alike(train(way[0], *given, **options), expected, str(way))


def run_on_device(name, folder, there, **options):
    "What trains in `test_contexts`, with its data set on the device or not."
    before, i = (test_contexts.DATA, test_contexts.TRAINING), make_inputs(torch.float32)
    expected = COMPUTED[name](i, folder)
    try:
        with PretendCuda():
            if there:
                test_contexts.DATA, test_contexts.TRAINING = send_data(before[0]), to_device(before[1])
                i = send_inputs(i)
            assert_alike(COMPUTED[name](i, folder, **options), expected, name)
    finally: test_contexts.DATA, test_contexts.TRAINING = before


TRAINING = {
    "train_models on two devices": train_on_two_devices,
    "train_models on two devices, device there": partial(train_on_two_devices, device="cuda"),
    **{f"{name}, inputs there": partial(run_on_device, name, there=True) for name in sorted(TRAINS - {"compare_methods"})},
    **{f"{name}, device there": partial(run_on_device, name, there=False, device="cuda") for name in sorted(TRAINS - {"plot_labelling"})},
}
SLOW_TRAINING = {f"{name}, {what} there" for name in ("compare_methods", "record_trials", "plot_labelling") for what in ("inputs", "device")}


def run_training(folder):
    "In a process of its own: for each case what went wrong, or nothing, as JSON."
    folder, said = Path(folder), {}
    for name, case in TRAINING.items():
        if name in SLOW_TRAINING and not SLOW: continue
        (folder / name).mkdir()
        try: case(folder=folder / name)
        except Exception: said[name] = traceback.format_exc()
    (folder / "said.json").write_text(json.dumps(said))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder, env = tmp_path_factory.mktemp("training"), dict(os.environ)
    if torch.version.cuda and not torch.cuda.is_available(): env["LD_PRELOAD"] = str(build_driver(folder))
    code = "import sys, pretend_cuda as p; p.start_autograd(); print('started', flush=True); import test_pretend_device as t; t.run_training(sys.argv[1])"
    how = dict(cwd=Path(__file__).parent, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, folder], **how)
    if not done.stdout: pytest.skip(f"this PyTorch ({torch.__version__}) cannot train on a pretend device: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "said.json").read_text())


@pytest.mark.parametrize("name", mark(TRAINING, SLOW_TRAINING))
def test_training(name, said):
    assert name not in said, said[name]


# What a batch of ten may cost at most, kernels and reads by the host: of 2,000 points and of 20,000
FEW = {
    "get_batchbald_batch": {2_000: (2_000, 90), 20_000: (2_400, 100)},
    "get_kbald_batch": {2_000: (640, 51), 20_000: (1_900, 110)},
    "get_bald_batch": {2_000: (40, 12), 20_000: (100, 12)},
}


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("N", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_batch_of_ten_is_a_few_large_steps(name, N):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(N, 1, 10, generator=generator) + 1.5 * torch.randn(N, 100, 10, generator=generator)
    x, select = logits.log_softmax(-1), globals()[name]
    batch, counts = count_work(select, x, 10)
    assert batch.indices == select(x, 10).indices
    most_kernels, most_reads = FEW[name][N]
    assert counts.kernels <= most_kernels and counts.reads <= most_reads
