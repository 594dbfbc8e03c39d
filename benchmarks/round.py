"""What a round costs that somebody pays: train the network, predict the pool, choose ten points. Here, in a plain loop with `batchbald_redux`, and with Baal.

    make bench                              installs the other libraries into .venv-bench, and runs this among others
    .venv-bench/bin/python benchmarks/round.py [--full]

The network of the MNIST experiments, 10,000 images of its size (scikit-learn's digits, enlarged, with noise), K = 100, M = 10,000, a batch of
10, one thread. All parts take turns in one process. A part that would pass --limit gets fewer points and its time is scaled, which the record
says: predictions grow with their number, and so does choosing but for what it takes with none.
"""

import os
import sys

if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"  # the others' progress bars take time, if little; read when tqdm is imported

import copy
from collections.abc import Callable
from importlib.util import find_spec

import common
import peers
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from batchbald_nbdev.active_learning import derive_generator
from batchbald_nbdev.all import collect_log_probs, get_balanced_indices, get_batchbald_batch, get_repeated_digits, make_mnist_cnn, train_models
from batchbald_nbdev.bayesian_models import ConsistentDropout, ConsistentDropout2d

SIZES = {
    "tiny": dict(N=60, K=3, M=100, B=3, steps=2, few=20),
    "quick": dict(N=10_000, K=100, M=10_000, B=10, steps=500, few=256),
    "full": dict(N=10_000, K=100, M=10_000, B=10, steps=500, few=1_000),
}
LABELS, MINIBATCH = 100, 64
LIBRARIES = {"plain loop with batchbald_redux": "batchbald_redux", "Baal": "baal"}  # by what has to be installed


def make_images(N: int, seed: int) -> tuple[Tensor, Tensor]:
    "Digits of 28 x 28 pixels and their labels; further copies differ by noise."
    data = get_repeated_digits(repeats=1, noise=0.0, originals=1_500, test=100, validation=0, generator=derive_generator(seed, "data"))
    at = torch.arange(N) % len(data.pool_labels)
    small = data.pool_inputs[at].view(-1, 1, 8, 8)
    images = F.interpolate(small, size=(28, 28), mode="bilinear") + 0.1 * torch.randn(N, 1, 28, 28, generator=derive_generator(seed, "noise"))
    return images, data.pool_labels[at]


def make_ordinary(model: nn.Module) -> nn.Module:
    "The same network with PyTorch's own dropout."
    model = copy.deepcopy(model)
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if isinstance(child, ConsistentDropout):
                setattr(parent, name, (nn.Dropout2d if isinstance(child, ConsistentDropout2d) else nn.Dropout)(child.p))
    return model


# Training: so many steps of Adam on as many labels, without a look at a validation set


def train_ours(images: Tensor, labels: Tensor, steps: int, seed: int) -> nn.Module:
    model = make_mnist_cnn()
    train_models([model], [images], [labels], [(seed, "train")], steps=steps, minibatch_size=MINIBATCH, learning_rate=1e-3)
    return model


def train_plainly(images: Tensor, labels: Tensor, steps: int, seed: int) -> nn.Module:
    model = make_ordinary(make_mnist_cnn()).train()
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=1e-3), derive_generator(seed, "minibatches")
    for _ in range(steps):
        at = torch.randint(len(images), (MINIBATCH,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(images[at]), labels[at]).backward()
        optimizer.step()
    return model


# Predicting: of a trained network, in whatever form it goes into choosing


def predict_ours(model: nn.Module, images: Tensor, K: int, seed: int) -> Tensor:
    return collect_log_probs(model, images.split(512), K, generator=derive_generator(seed, "masks"))


@torch.no_grad()
def predict_plainly(model: nn.Module, images: Tensor, K: int, seed: int) -> Tensor:
    "MC dropout as it is usually written: the network in training mode, K times."
    model = make_ordinary(model).train()
    return torch.cat([torch.stack([model(x).log_softmax(-1) for _ in range(K)], 1) for x in images.split(512)])


def predict_baal(model: nn.Module, images: Tensor, K: int, seed: int):
    from baal.bayesian.dropout import patch_module
    from baal.modelwrapper import ModelWrapper, TrainingArgs

    wrapper = ModelWrapper(patch_module(make_ordinary(model)), TrainingArgs(batch_size=64, use_cuda=False, workers=0))
    pool = TensorDataset(images, torch.zeros(len(images), dtype=torch.long))
    return wrapper.predict_on_dataset(pool, iterations=K)


# Each way: what trains, predicts, and chooses; choosing starts from log_probs_N_K_C


def choose_ours(x: Tensor, B: int, M: int, seed: int) -> Callable:
    return lambda: get_batchbald_batch(x, B, M, generator=derive_generator(seed, "ours")).indices


WAYS = {
    "ours": (train_ours, predict_ours, choose_ours),
    "plain loop with batchbald_redux": (train_plainly, predict_plainly, peers.batchbald_redux),
    "Baal": (train_plainly, predict_baal, peers.baal),
}


def time_predicting(predict: Callable, model: nn.Module, images: Tensor, K: int, few: int, limit: float, seed: int) -> dict:
    "Seconds for all images, scaled from `few` where they would take longer than `limit`."
    predict(model, images[:few], min(K, 2), seed)
    first = common.measure(lambda: predict(model, images[:few], K, seed)).seconds
    expected = first * len(images) / few
    if expected > limit and few < len(images):
        return {"seconds": expected, "points": few, "scaled": True}
    return {"seconds": common.measure(lambda: predict(model, images, K, seed)).seconds, "points": len(images), "scaled": False}


def time_choosing(name: str, x: Tensor, B: int, M: int, limit: float, seed: int) -> dict:
    if name == "ours":
        return {"seconds": common.measure(choose_ours(x, B, M, seed)).seconds, "points": len(x), "scaled": False}
    peer = {"Baal": "baal"}.get(name, "batchbald_redux, float32")
    points, fixed, why = peers.affordable(peer, x, B, M, seed, limit)
    run = common.measure(WAYS[name][2](x[:points], B, M, seed))
    seconds = fixed + max(run.seconds - fixed, 0) * len(x) / points if points < len(x) else run.seconds
    return {"seconds": seconds, "points": points, "scaled": points < len(x), "why": why}


def main(argv: list[str] | None = None) -> None:
    args = common.parse("round", __doc__, argv, {"tiny": 10, "quick": 60, "full": 1_800})
    common.ignore_ceiling()
    missing = [name for name, module in LIBRARIES.items() if find_spec(module) is None]
    if missing and args.form != "tiny":
        sys.exit(f"round.py: not installed here: {', '.join(LIBRARIES[name] for name in missing)}. `make bench` installs them into .venv-bench and runs this; --tiny runs without them.")
    size = SIZES[args.form]
    N, K, M, B = (size[key] for key in "NKMB")
    images, labels = make_images(N, args.seed)
    start = get_balanced_indices(labels, LABELS // 10, generator=derive_generator(args.seed, "initial")) if N > 10 * LABELS else list(range(20))
    ways = [name for name in WAYS if name not in missing]
    train = {name: (lambda name=name: WAYS[name][0](images[start], labels[start], size["steps"], args.seed)) for name in ways}
    trained = common.interleave(train, 3 if args.form != "tiny" else 1, args.limit)
    model = trained["ours"][-1].result
    x = collect_log_probs(model, images.split(512), K, generator=derive_generator(args.seed, "masks"))
    rows = []
    for name in ways:
        common.say(name)
        parts = {"train": {**common.summarise(trained[name]), "points": len(start), "scaled": False}}
        parts["predict"] = time_predicting(WAYS[name][1], model, images, K, size["few"], args.limit, args.seed)
        parts["choose"] = time_choosing(name, x, B, M, args.limit, args.seed)
        rows.append({"method": name, "N": N, "K": K, "C": 10, "B": B, "M": M, "parts": parts, "seconds": sum(o["seconds"] for o in parts.values())})
    for row in rows:
        row["times_ours"] = row["seconds"] / rows[0]["seconds"]
    mark = {True: " (scaled)", False: ""}
    common.print_table(
        ["", "train", "predict", "choose", "whole round", "times ours"],
        [[o["method"], *(common.show_seconds(p["seconds"]) + mark[p["scaled"]] for p in o["parts"].values()), common.show_seconds(o["seconds"]), f"{o['times_ours']:.3g}"] for o in rows],
    )
    common.write_record(args, rows, one_process=True, missing=missing)


if __name__ == "__main__":
    main()
