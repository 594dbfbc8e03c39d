"Whatever is around a call changes no number: autocast, PyTorch's defaults, gradient modes, another thread."

import ast
import importlib
import inspect
import math
import pkgutil
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import nn

import batchbald_nbdev
from batchbald_nbdev import active_learning, bayesian_models, checks, collect
from everything import *

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*log K"),
    pytest.mark.filterwarnings("ignore:.*np.nan"),
    pytest.mark.filterwarnings("ignore:In CPU autocast"),
]
MODULES = [m.name for m in pkgutil.iter_modules(batchbald_nbdev.__path__) if m.name not in ("all", "_modidx")]
SOURCES = sorted(Path(batchbald_nbdev.__path__[0]).glob("*.py"))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Contexts


@contextmanager
def defaults(device=None, dtype=None):
    "PyTorch's default device and dtype, as `torch.set_default_device` and `torch.set_default_dtype` set them."
    before = torch.get_default_dtype()
    try:
        if dtype is not None:
            torch.set_default_dtype(dtype)
        if device is not None:
            torch.set_default_device(device)
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(before)


@contextmanager
def deterministic():
    try:
        torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.use_deterministic_algorithms(False)


CONTEXTS = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "default device meta": lambda: defaults("meta"),
    "with torch.device": lambda: torch.device("meta"),
    "default dtype float64": lambda: defaults(dtype=torch.float64),
    "default dtype bfloat16": lambda: defaults(dtype=torch.bfloat16),
    "both defaults, within autocast": lambda: both(
        defaults("meta", torch.float64), torch.autocast("cpu", torch.bfloat16)
    ),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,  # and inputs that require them
    "deterministic algorithms": deterministic,
    "another thread": nullcontext,
}


@contextmanager
def both(*contexts):
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def within(name, function, *args):
    "What `function` returns there."

    def call():
        with CONTEXTS[name]():
            return function(*args)

    if name != "another thread":
        return call()
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(call).result()


# What is computed: every public name, on inputs that were made outside


def make_inputs(dtype, requires_grad=False):
    "The same numbers each time, as new tensors."

    def log_probs(N, K, C, seed):
        return (
            (2 * torch.randn(N, K, C, generator=seeded(seed)))
            .double()
            .log_softmax(-1)
            .to(dtype)
            .requires_grad_(requires_grad)
        )

    tied = torch.randn(300, generator=seeded(4)).mul(3).round().div(3)
    joint = torch.rand(2, 3, 2, 2, generator=seeded(5), dtype=torch.double)
    return SimpleNamespace(
        x=log_probs(120, 10, 4, 0),
        y=log_probs(9, 10, 3, 1),
        z=log_probs(120, 8, 4, 2),
        few=log_probs(4, 10, 4, 3),
        labels=torch.randint(4, (120,), generator=seeded(6)),
        scores=tied.to(dtype).requires_grad_(requires_grad),
        joint=(joint / joint.sum()).to(dtype).requires_grad_(requires_grad),
        generator=seeded(7),
        images=torch.rand(80, 1, 6, 6, generator=seeded(8)).requires_grad_(requires_grad),
        classes=torch.arange(80) % 4,
        data=DATA,
        log_probs=log_probs,
    )


DATA = get_repeated_digits(2, originals=60, test=20, validation=10)
IMAGES = torch.rand(80, 36, generator=seeded(8)).numpy()
FOREST = RandomForestClassifier(5, min_samples_leaf=3, random_state=0).fit(IMAGES, np.arange(80) % 4)
TRAINING = [DATA.pool_inputs[:30], DATA.pool_labels[:30]]


def make_cnn():
    single = {"dtype": torch.float32}
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, **single),
        nn.BatchNorm2d(4, **single),
        nn.Dropout2d(0.5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 4, **single),
    )


NETWORKS = {"mlp": partial(make_mlp, 36, 16, 4), "cnn": make_cnn}


def network(name="mlp", seed=0):
    return make_seeded(NETWORKS[name], seeded(seed)).eval()


def states(i, make, *more):
    "All that a joint entropy says, before and after it grows."
    state, said = make(), []
    for rows in (i.few[:2], i.few[2:], i.x[:1]):
        state.add_variables(rows, *more)
        said += [
            state.compute(),
            state.compute_batch(i.x[:9]),
            state.compute_batch(i.x[:9], torch.zeros(9, dtype=torch.double, device="cpu")),
        ]
        if hasattr(state, "compute_gains"):
            said += [state.compute_gains(i.x[:9]), state.information, state.noise]
    return said, state.weights_M, state.posteriors_M_K


def trained(make=partial(make_mlp, hidden=16), **options):
    models = [make_seeded(make, seeded(seed)) for seed in range(2)]
    kept = train_models(models, *([part] * 2 for part in TRAINING), [(0,), (1,)], steps=6, **options)
    collected = collect_log_probs(models[0], DATA.test_inputs, 5)
    return kept, [dict(model.state_dict()) for model in models], collected, evaluate(collected, DATA.test_labels)


def run(names=("bald", "batchbald"), **options):
    chosen = {name: methods[name] for name in names}
    return list(
        run_trials(
            [DATA],
            chosen,
            partial(make_mlp, hidden=8),
            configs=60,
            size=3,
            samples=6,
            budget=26,
            test_samples=4,
            steps=4,
            **options,
        )
    )


def labelled(i, **options):
    how = dict(
        classes=4,
        test_inputs=i.images[60:],
        test_labels=i.classes[60:],
        pool_labels=i.classes[:60],
        batch_size=3,
        steps=4,
        samples=6,
        start={0: 0, 1: 1, 2: 2},
    )
    labelling = Labelling(i.images[:60], **how | options)
    while labelling.round < 2:
        labelling.label(int(i.classes[labelling.current]))
        labelling.learn()
    return labelling


def arrays(data):
    return {f.name: getattr(data, f.name) for f in fields(data)}


def distributed(i, **options):
    dask = pytest.importorskip("dask")
    array = pytest.importorskip("dask.array")
    with dask.config.set(scheduler="synchronous"):  # in this thread
        return get_distributed_batchbald_batch(
            array.from_array(i.x.numpy(force=True), chunks=(40, -1, -1)), 6, 1000, **options
        )


def selected(i, folder, **options):
    np.save(folder / "x.npy", i.x.numpy(force=True))
    return [
        select_batch(folder / "x.npy", method=method, size=4, configs=50, overwrite=True)
        for method in ("batchbald", "2bald", "softmaxbald@0.25", "batchepig")
    ]


def compared(folder, **options):
    how = dict(
        methods="random,bald",
        trials=1,
        size=5,
        samples=4,
        configs=20,
        budget=25,
        repeats=1,
        steps=3,
        test_samples=4,
        validation=10,
    )
    return (
        compare_methods(folder / "run", overwrite=True, **how, **options),
        (folder / "run" / "records.jsonl").read_text().split('"seconds"')[0],
    )


def chosen(i):
    "What every method that has a name picks."

    def predict(inputs):
        return i.x if inputs is None else i.y

    def round(given):
        return Round(
            4, 120, predict, generator=seeded(), pending=given, evaluation_inputs=i.images, num_samples=60
        )

    return {(name, given): method(round(given)) for name, method in methods.items() for given in ((), (3, 8))}


RECORDS = [row for rows in run(("random",)) for row in rows]
COMPUTED = {  # name -> what it computes from inputs, in a folder of its own; `o` are options
    "check_log_probs": lambda i, f, **o: check_log_probs(i.x),
    "as_log_probs": lambda i, f, **o: [
        as_log_probs(i.x.exp(), "probs"),
        as_log_probs(i.x + 1, "logits"),
        as_log_probs(i.x.tolist()),
        as_log_probs(i.x.numpy(force=True)),
    ],
    "compute_entropy": lambda i, f, **o: [
        compute_entropy(i.x),
        compute_entropy(i.x.detach().half()),
        compute_entropy(i.x.tolist()),
    ],
    "compute_conditional_entropy": lambda i, f, **o: compute_conditional_entropy(i.x),
    "compute_joint_probs": lambda i, f, **o: [
        compute_joint_probs(i.few),
        compute_joint_probs(i.few, with_parameters=True),
    ],
    "as_two_classes": lambda i, f, **o: [
        as_two_classes(i.x[..., :1]),
        as_two_classes(i.x[..., 0].exp(), "probs"),
        as_two_classes(i.x[..., :1].tolist()),
    ],
    "collect_sklearn_log_probs": lambda i, f, **o: [
        collect_sklearn_log_probs(FOREST, i.images.flatten(1)),
        collect_sklearn_log_probs(FOREST, i.images.flatten(1).numpy(force=True)),
    ],
    "compute_axes_entropy": lambda i, f, **o: compute_axes_entropy(i.joint, (0, 1), 2),
    "compute_mutual_information": lambda i, f, **o: [
        compute_mutual_information(i.joint, 0, (1, 2), 3),
        compute_mutual_information(i.joint.tolist(), 0, 1),
    ],
    "compute_atoms": lambda i, f, **o: compute_atoms(i.joint),
    "compute_interaction_information": lambda i, f, **o: compute_interaction_information(i.joint),
    "compute_total_correlation": lambda i, f, **o: compute_total_correlation(i.joint),
    "make_binary_pair": lambda i, f, **o: make_binary_pair(0.3, 0.8, 20),
    "compute_bald": lambda i, f, **o: [
        compute_bald(i.x, **o),
        compute_bald(i.x.tolist(), **o),
        compute_bald(i.x.numpy(force=True), **o),
    ],
    "compute_variation_ratios": lambda i, f, **o: compute_variation_ratios(i.x),
    "compute_mean_std": lambda i, f, **o: compute_mean_std(i.x),
    "get_top_k_batch": lambda i, f, **o: [get_top_k_batch(i.scores, 9), get_top_k_batch(i.scores.tolist(), 9)],
    "get_bald_batch": lambda i, f, **o: get_bald_batch(i.x, 9, **o),
    "ExactJointEntropy": lambda i, f, **o: [
        states(i, partial(ExactJointEntropy.empty, 10, **o)),
        ExactJointEntropy(torch.full((3, 2), 1 / 3, dtype=i.x.dtype, device="cpu")).compute(),
    ],
    "SampledJointEntropy": lambda i, f, **o: [
        states(i, partial(SampledJointEntropy.empty, 10, **o), 7),
        states(i, lambda: SampledJointEntropy.sample(i.few.exp(), 200), 2),
    ],
    "DynamicJointEntropy": lambda i, f, **o: states(i, partial(DynamicJointEntropy, 100, 6, 10, 4, **o)),
    "WeightedJointEntropy": lambda i, f, **o: [
        states(i, partial(WeightedJointEntropy, M, 10, **o)) for M in (60, 4000)
    ],
    "get_plain_batchbald_batch": lambda i, f, **o: [
        get_plain_batchbald_batch(i.x, 6, 500, **o),
        get_plain_batchbald_batch(i.x, 6, 500, pending=[2, 5], **o),
    ],
    "get_batchbald_batch": lambda i, f, **o: [
        get_batchbald_batch(i.x, 7, 1600, **o),
        get_batchbald_batch(i.x, 5, 1600, pending=[2, 5], generator=i.generator, race_error=0, **o),
    ],
    "get_distributed_batchbald_batch": lambda i, f, **o: [distributed(i), distributed(i, pending=[2, 90])],
    "leave_each_out": lambda i, f, **o: leave_each_out(i.joint.flatten(1).double().sum(1), i.joint.flatten(1)),
    "error_over_samples": lambda i, f, **o: error_over_samples(i.scores),
    "judge_batch": lambda i, f, **o: judge_batch(i.x, [3, 1, 4], num_configurations=200, **o),
    "compute_pair_information": lambda i, f, **o: compute_pair_information(i.x, i.few, **o),
    "compute_kbald_gains": lambda i, f, **o: [compute_kbald_gains(i.x, i.few, k, **o) for k in (1, 2, 3, 5)],
    "compute_kbald": lambda i, f, **o: compute_kbald(i.few, 3, **o),
    "get_kbald_batch": lambda i, f, **o: [
        get_kbald_batch(i.x, 6, k, pending=given, **o) for k in (2, 3) for given in ((), (2, 5))
    ],
    "get_dynamic_kbald_batch": lambda i, f, **o: get_dynamic_kbald_batch(i.x, 6, tolerance=0.3, **o),
    "get_dynamic_batchbald_batch": lambda i, f, **o: [
        get_dynamic_batchbald_batch(i.x, 12, 500, gain_share=0.01, pending=given, **o) for given in ((), (2, 5))
    ],
    "get_conservativebald_batch": lambda i, f, **o: get_conservativebald_batch(i.x, 6, pending=[2], **o),
    "get_budgetbald_batch": lambda i, f, **o: [
        get_budgetbald_batch(i.x, 6, 500, budget=1.0, **o),
        get_budgetbald_batch(i.x, 6, 500, pending=[2], **o),
    ],
    "get_largebatchbald_batch": lambda i, f, **o: get_largebatchbald_batch(i.x, 6, **o),
    "get_softmax_batch": lambda i, f, **o: [
        get_softmax_batch(i.scores, 9, generator=i.generator),
        get_softmax_batch(i.scores.tolist(), 9, temperature=math.inf),
    ],
    "get_power_batch": lambda i, f, **o: get_power_batch(i.scores, 9),
    "get_softrank_batch": lambda i, f, **o: [get_softrank_batch(i.scores, 300, temperature=T) for T in (0.3, 1.0, 5.0)],
    "get_random_batch": lambda i, f, **o: get_random_batch(50, 9),
    "get_softmaxbald_batch": lambda i, f, **o: get_softmaxbald_batch(i.x, 9),
    "compute_summed_bald": lambda i, f, **o: compute_summed_bald(i.x.unflatten(0, (40, 3)), **o),
    "compute_multilabel_bald": lambda i, f, **o: [
        compute_multilabel_bald(i.x.unflatten(0, (120 // L, L)), 300, **o) for L in (1, 3, 6)
    ],
    "get_multilabel_bald_batch": lambda i, f, **o: get_multilabel_bald_batch(i.x.unflatten(0, (40, 3)), 6, **o),
    "get_multilabel_batchbald_batch": lambda i, f, **o: [
        get_multilabel_batchbald_batch(i.x.unflatten(0, (120 // L, L)), 4, 300, pending=[2], **o) for L in (1, 3, 6)
    ],
    "get_powerbald_batch": lambda i, f, **o: get_powerbald_batch(i.x, 9),
    "get_softrankbald_batch": lambda i, f, **o: get_softrankbald_batch(i.x, 9),
    "compute_epig": lambda i, f, **o: compute_epig(i.x, i.y, **o),
    "get_epig_batch": lambda i, f, **o: get_epig_batch(i.x, i.y, 6, **o),
    "compute_epig_bald": lambda i, f, **o: [
        compute_epig_bald(i.x, i.y, 300, **o),
        compute_epig_bald(i.x, log_probs_after_N_K_C=i.z, **o),
    ],
    "get_batchepig_batch": lambda i, f, **o: [get_batchepig_batch(i.x, i.y, 5, M, pending=[3], **o) for M in (20, 300)],
    "get_batchepigbald_batch": lambda i, f, **o: [
        get_batchepigbald_batch(i.x, i.y, 5, 300, pending=[3], **o),
        get_batchepigbald_batch(i.x, None, 4, 300, log_probs_after_N_K_C=i.z, **o),
    ],
    "get_softmaxepig_batch": lambda i, f, **o: get_softmaxepig_batch(i.x, i.y, 9),
    "ConsistentDropout": lambda i, f, **o: [
        ConsistentDropout(0.3).draw_masks(5, (3, 2), seeded()),
        ConsistentDropout(0.3).eval()(i.images),
    ],
    "ConsistentDropout2d": lambda i, f, **o: ConsistentDropout2d(0.3).draw_masks(5, (3, 2, 2), seeded()),
    "draw_orthogonal": lambda i, f, **o: [draw_orthogonal(K, 9, seeded()) for K in (6, 8, 16, 20)],
    "draw_masks": lambda i, f, **o: [
        draw_masks({"a": ConsistentDropout(0.3), "b": ConsistentDropout2d()}, {"a": (4,), "b": (3, 2)}, 8, seeded(), name)
        for name in ("independent", "balanced", "orthogonal")
    ],
    "dropout_features": lambda i, f, **o: dropout_features(network("cnn"), {}, i.images[:1]),
    "collect_log_probs": lambda i, f, **o: [
        collect_log_probs(network(name), i.images, 6, dtype=i.x.dtype, **o) for name in NETWORKS
    ]
    + [collect_log_probs(network(), i.images, 6, masks=masks, **o) for masks in ("balanced", "orthogonal")]
    + [
        collect_log_probs(network(), [(i.images[:30], 0), (i.images[30:], 0)], 6, generator=i.generator, max_bytes=1000)
    ],
    "collect_ensemble_log_probs": lambda i, f, **o: collect_ensemble_log_probs(
        [network(seed=seed) for seed in range(3)], i.images, dtype=i.x.dtype, **o
    ),
    "make_active_learning_data": lambda i, f, **o: [
        arrays(
            make_active_learning_data(
                (i.images[:60], i.classes[:60]),
                (i.images[60:], i.classes[60:]),
                repeats=2,
                noise=noise,
                validation=9,
                first=[4],
                generator=seeded(),
            )
        )
        for noise in (0.0, 0.1)
    ]
    + [
        arrays(
            make_active_learning_data(
                (i.images[:60].tolist(), i.classes[:60].tolist()),
                (i.images[60:].numpy(force=True), i.classes[60:].numpy(force=True)),
                validation=[3, 4],
            )
        )
    ],
    "get_repeated_digits": lambda i, f, **o: arrays(get_repeated_digits(2, originals=50, test=20, validation=10)),
    "get_digit_pairs": lambda i, f, **o: arrays(get_digit_pairs(2, originals=20, test=10, validation=5)),
    "get_balanced_indices": lambda i, f, **o: [
        get_balanced_indices(labels, 2) for labels in (i.classes, i.classes.tolist(), i.classes.numpy(force=True))
    ],
    "make_imbalanced": lambda i, f, **o: arrays(make_imbalanced(i.data, {3: 0.5, 4: 0.0})),
    "flip_labels": lambda i, f, **o: arrays(flip_labels(i.data, 0.3)),
    "example_log_probs": lambda i, f, **o: example_log_probs(100)[:20],
    "derive_generator": lambda i, f, **o: [
        derive_generator(0, "x").device,
        torch.rand(3, generator=derive_generator(0, "x"), dtype=torch.double, device="cpu"),
    ],
    "make_seeded": lambda i, f, **o: dict(network().state_dict()),
    "evaluate": lambda i, f, **o: [evaluate(i.x, labels) for labels in (i.labels, i.labels.tolist(), i.labels.numpy(force=True))],
    "train_models": lambda i, f, **o: [
        trained(**o),
        trained(
            early_stopping="loss", epoch_steps=2, validation=[(DATA.validation_inputs, DATA.validation_labels)] * 2, **o
        ),
    ],
    "Round": lambda i, f, **o: Round(4, 120, lambda _: i.x).log_probs_N_K_C,
    "Method": lambda i, f, **o: chosen(i),
    "get_method": lambda i, f, **o: get_method("softmaxbald@0.25")(Round(4, 120, lambda _: i.x, generator=seeded())),
    "run_trials": lambda i, f, **o: [run(**o), run(warm_start=True, together=1, initial=[range(20)], **o)],
    "record_trials": lambda i, f, **o: record_trials(
        f / "own",
        [DATA],
        {"bald": methods["bald"]},
        partial(make_mlp, hidden=8),
        overwrite=True,
        size=3,
        samples=4,
        budget=24,
        test_samples=4,
        steps=3,
        **o,
    ),
    "compare_methods": lambda i, f, **o: compared(f, **o),
    "select_batch": lambda i, f, **o: selected(i, f),
    "summarize": lambda i, f, **o: summarize(RECORDS),
    "get_labels_to": lambda i, f, **o: get_labels_to(RECORDS, "random", 0.1),
    "get_curves": lambda i, f, **o: get_curves(RECORDS, "random"),
    "plot_i_diagram": lambda i, f, **o: plot_i_diagram(
        compute_atoms(i.joint.detach().sum((2, 3))), ["a", "b"], to_scale=True
    )._repr_png_(),
    "plot_batch": lambda i, f, **o: plot_batch(
        CandidateBatch([0.0, 0.0], [0, 2]), i.x, pending=[1], images=i.images.repeat(2, 1, 1, 1)[: len(i.x)]
    )._repr_png_(),
    "encode_image": lambda i, f, **o: encode_image(i.images[0]),
    "Labelling": lambda i, f, **o: [
        labelled(i, **o).rounds,
        labelled(i, methods=["batchepig", "2bald", "random"], pool_labels=None).rounds,
    ],
    "plot_labelling": lambda i, f, **o: plot_labelling(labelled(i), images=False)._repr_png_(),
}
NO_NUMBERS = {
    "CandidateBatch": "holds what a selector found",
    "ActiveLearningData": "holds what `make_active_learning_data` made",
    "JointEntropy": "its subclasses are there",
    "CeilingWarning": "a warning",
    "BiasWarning": "a warning",
    "IdenticalSamplesWarning": "a warning",
    "LabelsChanged": "an error",
    "mnist_initial_indices": "a constant",
    "methods": "a table of `Method`",
    "acquire": "what `run_trials` does in a round",
    "register": "a name more",
    "label_of_method": "a name",
    "presets": "options",
    "Design": "sizes of an array",
    "choose_design": "sizes of an array",
    "make_consistent": "replaces layers of a network",
    "dropout_layers": "names layers of a network",
    "make_mlp": "as any network on the default device, with weights from the global random state; see `make_seeded`",
    "make_mnist_cnn": "as `make_mlp`",
    "make_emnist_cnn": "as `make_mlp`",
    "make_cinic10_vgg": "torchvision's layers, which have the default dtype",
    "make_cifar10_resnet": "torchvision's layers, which have the default dtype",
    "load_images": "reads files",
    "ImageSet": "says what an image set is",
    "image_sets": "names",
    "register_image_set": "a name more",
    "RecordFile": "reads and writes files",
    "format_summary": "words",
    "format_picks": "words",
    "batchbald_compare": "`compare_methods` as a command",
    "batchbald_select": "`select_batch` as a command",
    "plot_learning_curves": "draws what `get_curves` computes",
    "explore_i_diagram": "a panel of sliders",
    "show_pair_diagram": "the same as a page's dials, of `make_binary_pair` and `compute_atoms`",
    "show_steps": "shows numbers that it is given",
    "MovingPicture": "holds what is shown",
    "label_by_hand": "a panel around `Labelling`",
}


def public_names():
    return [
        name
        for module in MODULES
        for name in getattr(importlib.import_module(f"batchbald_nbdev.{module}"), "__all__", ())
    ]


def test_every_public_name_is_looked_at():
    names = public_names()
    assert len(names) > 80 and set(names) == set(COMPUTED) | set(NO_NUMBERS) and not set(COMPUTED) & set(NO_NUMBERS)


def assert_same(a, b, place):
    "Equal to the last digit, and of the same type on the same device. Times aside."
    assert type(a) is type(b), place
    if isinstance(a, torch.Tensor):
        assert (
            a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
        ), f"{place}: {a.dtype} on {a.device} and {b.dtype} on {b.device}"
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b), place
    elif isinstance(a, dict):
        assert list(a) == list(b), place
        for key in a:
            if "seconds" not in str(key):
                assert_same(a[key], b[key], f"{place}, {key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), place
        for n, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{place}, {n}")
    elif is_dataclass(a):
        assert_same(arrays(a), arrays(b), place)
    else:
        assert a == b, f"{place}: {a} and {b}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", COMPUTED)
def test_contexts_change_nothing(name, dtype, tmp_path):
    state = torch.get_rng_state()
    expected = COMPUTED[name](make_inputs(dtype), tmp_path)
    for context in CONTEXTS:
        inputs = make_inputs(dtype, requires_grad=context == "gradients")
        assert_same(within(context, COMPUTED[name], inputs, tmp_path), expected, context)
    assert torch.equal(torch.get_rng_state(), state)
    assert (
        torch.get_default_dtype() == torch.float32
        and torch.get_default_device().type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(
    "make, more",
    [
        (partial(ExactJointEntropy.empty, 10), ()),
        (partial(SampledJointEntropy.empty, 10), (7,)),
        (partial(DynamicJointEntropy, 100, 9, 10, 4), ()),
        (partial(WeightedJointEntropy, 60, 10), ()),
    ],
    ids=["exact", "sampled", "dynamic", "weighted"],
)
def test_what_was_made_inside_goes_on_outside(make, more, context):
    i = make_inputs(torch.float32)

    def begin():
        return make().add_variables(i.few[:2], *more)

    def go_on(state):
        return state.add_variables(i.few[2:], *more).compute_batch(i.x)

    assert_same(go_on(within(context, begin)), go_on(begin()), context)
    assert_same(within(context, go_on, begin()), go_on(begin()), context)


# A network of one's own sees what was set around the call


class Nosy(nn.Module):
    "Looks around in its `forward`."

    seen = []

    def __init__(self):
        super().__init__()
        self.inner = make_mlp(36, 8, 4)

    def forward(self, x):
        self.seen.append((torch.get_default_device().type, torch.get_default_dtype(), torch.is_autocast_enabled("cpu")))
        return self.inner(x)


@pytest.mark.parametrize(
    "use",
    [
        lambda model, x: collect_log_probs(model, x, 3),
        lambda model, x: collect_ensemble_log_probs([model], x),
        lambda model, x: train_models(
            [model],
            [x],
            [torch.arange(20, device="cpu") % 4],
            [(0,)],
            steps=2,
            early_stopping="loss",
            validation=[(x, torch.arange(20, device="cpu") % 4)],
        ),
    ],
    ids=["collect", "ensemble", "train"],
)
def test_a_network_sees_its_user_s_defaults(use):
    i, model = make_inputs(torch.float32), make_seeded(Nosy, seeded())
    Nosy.seen.clear()
    with defaults("meta", torch.float64), torch.autocast("cpu", torch.bfloat16):
        use(model, i.images[:20])
    assert len(Nosy.seen) > 0 and set(Nosy.seen) == {("meta", torch.float64, False)}


def test_a_network_may_ask_for_half_precision_itself():
    class Rounded(nn.Sequential):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    i = make_inputs(torch.float32)
    plain, rounded = (collect_log_probs(model, i.images, 6) for model in (network(), Rounded(*network())))
    assert rounded.dtype == torch.float32 and 0 < (plain - rounded).abs().max() < 0.05


def test_mixed_precision_is_asked_for_by_name(monkeypatch):
    "On the CPU in the place of CUDA."
    i, plain = make_inputs(torch.float32), collect_log_probs(network(), make_inputs(torch.float32).images, 6)
    with pytest.raises(ValueError, match="`mixed_precision` is for CUDA"):
        collect_log_probs(network(), i.images, 6, mixed_precision=True)
    monkeypatch.setattr(
        collect, "autocast", lambda device, on: torch.autocast("cpu", torch.bfloat16, enabled=on)
    )
    mixed = collect_log_probs(network(), i.images, 6, mixed_precision=True)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(collect_log_probs(network(), i.images, 6, mixed_precision=True), mixed)
    assert mixed.dtype == torch.float32 and 0 < (plain - mixed).abs().max() < 0.05
    assert torch.equal(collect_log_probs(network(), i.images, 6), plain)


def test_weights_are_drawn_on_the_cpu_whatever_the_default_device():
    with defaults("meta"):
        assert all(p.device.type == "cpu" for p in network().parameters()) and make_mlp()[1].weight.is_meta


# Devices


takes_device = [
    name
    for name in COMPUTED
    if "device" in inspect.signature(globals()[name]).parameters or hasattr(globals()[name], "empty")
]


@pytest.mark.parametrize(
    "device",
    [*([] if torch.cuda.is_available() else [0, "cuda"]), "", [], {}, (), False, True, 0.0, 99, "meta", "nowhere"],
    ids=repr,
)
def test_a_device_that_is_none_is_named(device, tmp_path):
    i = make_inputs(torch.float32)
    assert {
        "compute_bald",
        "get_batchepig_batch",
        "collect_log_probs",
        "run_trials",
        "Labelling",
        "WeightedJointEntropy",
    } < set(takes_device) and len(takes_device) > 28
    for name in takes_device:
        if name in ("compare_methods", "record_trials"):
            continue
        with pytest.raises(ValueError, match="`device` is "):
            COMPUTED[name](i, tmp_path, device=device)
    with pytest.raises(ValueError, match="`device` is "):
        compare_methods(tmp_path / "a", device=device)
    with pytest.raises(ValueError, match="`device` is "):
        COMPUTED["record_trials"](i, tmp_path, device=device)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", takes_device)
def test_a_device_that_is_one_changes_nothing(name, tmp_path):
    if name == "compare_methods":
        pytest.skip("its options are those of the command; `record_trials` goes the same way")
    plain = COMPUTED[name](make_inputs(torch.float32), tmp_path)
    for device in (None, "cpu", torch.device("cpu")):
        assert_same(COMPUTED[name](make_inputs(torch.float32), tmp_path, device=device), plain, device)


def test_inputs_without_numbers_are_refused():
    with pytest.raises(ValueError, match="`log_probs_N_K_C` is on the meta device"):
        compute_bald(torch.zeros(3, 2, 2, device="meta"))


# Memory


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_that_may_only_be_read_are_shared_in_silence(dtype, tmp_path):
    x = make_inputs(torch.float64).x.numpy().astype(dtype)
    np.save(tmp_path / "x.npy", x)
    frozen = x.copy()
    frozen.flags.writeable = False
    for array in (
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        frozen,
        frozen[::2],
        frozen.transpose(2, 0, 1)[0],
        np.broadcast_to(frozen[:1], frozen.shape),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tensor = checks.as_float_tensor(array)
        assert (
            tensor.data_ptr() == array.ctypes.data
            and tensor.stride() == tuple(s // array.itemsize for s in array.strides)
            and np.array_equal(tensor.numpy(), array)
        )
        assert not array.flags.writeable
    tensor = checks.as_float_tensor(np.load(tmp_path / "x.npy", mmap_mode="r"))  # the map lives as long as the tensor
    assert np.array_equal(tensor.numpy(), x)
    for bad in (frozen.astype(object), frozen.astype(">f8"), frozen[::-1]):
        bad.flags.writeable = False
        with pytest.raises(ValueError, match="`log_probs_N_K_C` cannot be read"):
            checks.as_float_tensor(bad)


# Threads


def test_threads_leave_warnings_alone():
    "Some threads are warned and some want no warning, at once and again and again."
    threads, rounds, x = 6, 12, make_inputs(torch.float32).log_probs(30, 3, 3, 0)
    frozen, barrier, batches = x.numpy().copy(), threading.Barrier(threads), {}
    frozen.flags.writeable = False

    def work(t):
        for n in range(rounds):
            barrier.wait()
            if t % 2:
                batches[t, n] = get_batchbald_batch(frozen, 8, 20)  # near the ceiling
            else:
                batches[t, n] = get_dynamic_batchbald_batch(frozen, 8, 20, gain_share=0, ceiling_share=1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters), warnings.showwarning
        with ThreadPoolExecutor(threads) as executor:
            list(executor.map(work, range(threads)))
        assert (list(warnings.filters), warnings.showwarning) == before
    assert [w.category for w in caught] == [CeilingWarning] * (threads // 2 * rounds)
    assert {w.filename for w in caught} == {__file__}
    for (t, _), batch in batches.items():
        assert batch == batches[t, 0] and batch.indices == batches[1, 0].indices


def test_labelling_in_threads_leaves_warnings_alone():
    i, barrier = make_inputs(torch.float32), threading.Barrier(3)

    def work(t):
        barrier.wait()
        return labelled(
            i, samples=2, methods=["batchbald", "bald"]
        ).rounds  # with two samples every batch is at the ceiling

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with ThreadPoolExecutor(3) as executor:
            rounds = list(executor.map(work, range(3)))
        assert list(warnings.filters) == before
    assert not caught
    for other in rounds[1:]:
        assert_same(other, rounds[0], "rounds")


def test_what_is_not_to_be_heard_is_silent_in_its_thread_alone():
    said = []

    def listen(message, category, stacklevel):
        said.append((message, category))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with checks.silencing(CeilingWarning):
            checks.warn("here", CeilingWarning)
            checks.warn("of another kind")
            with ThreadPoolExecutor(1) as executor:
                executor.submit(checks.warn, "there", CeilingWarning).result()
        with checks.listening(listen), checks.silencing(CeilingWarning):
            checks.warn("here", CeilingWarning)
            checks.warn("heard")
        with pytest.raises(KeyError), checks.listening(listen):
            raise KeyError
        checks.warn("after")
    assert [str(w.message) for w in caught] == ["of another kind", "there", "after"] and said == [
        ("heard", UserWarning)
    ]
    assert caught[0].filename == caught[2].filename == __file__


# What the modules must not contain, since no test of one machine would see all of it


FLOATS, WHOLE = {"empty", "zeros", "ones", "full", "rand", "randn", "eye", "linspace", "logspace"}, {
    "arange",
    "tensor",
    "as_tensor",
    "randint",
    "randperm",
}
PROCESS_WIDE = {
    "catch_warnings",
    "simplefilter",
    "filterwarnings",
    "showwarning",
    "set_default_dtype",
    "set_default_device",
    "set_float32_matmul_precision",
    "manual_seed_all",
    "set_num_threads",
}


def faults(source):
    "Tensors made without saying where or as what, and settings of the process."
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "torch"
        ):
            given, name = {k.arg for k in node.keywords}, node.func.attr
            if name in FLOATS | WHOLE and not (WANTED[name in FLOATS] <= given or None in given):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Attribute) and node.attr in PROCESS_WIDE:
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) and ast.unparse(node.values[0]) == "device":
            yield f"line {node.lineno}: {ast.unparse(node)}"


WANTED = {False: {"device"}, True: {"device", "dtype"}}


def test_tensors_are_made_somewhere_and_as_something():
    assert (
        [*faults("torch.zeros(3, dtype=x)")]
        and [*faults("torch.arange(3)")]
        and [*faults("a = device or x.device")]
        and [*faults("with warnings.catch_warnings(): pass")]
    )
    assert not [*faults("torch.zeros(3, dtype=x, device=y); torch.arange(3, device=y); x.new_zeros(3)")]
    found = {path.name: [*faults(path.read_text())] for path in SOURCES if path.name != "_modidx.py"}
    assert (
        found.pop("checks.py")
        == [f for f in faults((Path(checks.__file__)).read_text()) if f.endswith(": torch.as_tensor(x)")]
        and len(found) > 12
    )  # what is on a GPU already
    program, = found.pop("command_line.py")  # where the process is the command's own
    assert program.endswith("warnings.simplefilter")
    assert not any(found.values()), found


def test_threads_draw_the_weights_that_one_draws():
    def make():
        time.sleep(0.002)  # others get their turn between the seed and the draws
        return make_mlp(4, 3, 2)

    state, expected = torch.get_rng_state(), [make_seeded(make, seeded(t)).state_dict() for t in range(8)]
    with ThreadPoolExecutor(8) as executor:
        for _ in range(5):
            drawn = list(executor.map(lambda t: make_seeded(make, seeded(t)).state_dict(), range(8)))
            for t in range(8):
                assert_same(dict(drawn[t]), dict(expected[t]), f"thread {t}")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("fused", [True, False])
def test_attention_stays_unfused_until_the_last_prediction_ends(fused):
    enabled, set_enabled = torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled
    before = enabled()
    try:
        set_enabled(fused)
        first, second = bayesian_models.evaluating([]), bayesian_models.evaluating([])  # of two threads
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not enabled()
        second.__exit__(None, None, None)
        assert enabled() == fused
    finally:
        set_enabled(before)
