"""How long do predictions under dropout masks take, and what do smaller networks save?

    python benchmarks/predictions.py [--full]

For every network of the package, with random weights and inputs, in turn: a plain loop of MC dropout (the ordinary network, one pass with
fresh dropout for each sample), `collect_log_probs` with masks that are multiplied, with smaller networks of which masks share no sums, and as it
is, which takes smaller networks where they are certain and worth it, and shares where that is less. Times and the most memory beyond what was held before.
Quick: p = 0.5. Full: also p = 0.1 and 0.9, more inputs and more masks. --limit is for one network and size.
"""

import copy
from importlib.util import find_spec
from unittest import mock

import common
import torch
from torch import nn

from batchbald_nbdev import collect, networks, smaller_networks
from batchbald_nbdev.active_learning import derive_generator, make_seeded
from batchbald_nbdev.all import collect_log_probs
from batchbald_nbdev.bayesian_models import ConsistentDropout, ConsistentDropout2d

SHAPES = {"make_mlp": (64,), "make_mnist_cnn": (1, 28, 28), "make_emnist_cnn": (1, 28, 28), "make_cinic10_vgg": (3, 32, 32), "make_cifar10_resnet": (3, 32, 32)}
IMAGES = ("make_mnist_cnn", "make_emnist_cnn")
HEADS = ("make_cinic10_vgg", "make_cifar10_resnet")
LOOP, MULTIPLIED, APART, SMALLER = "plain loop", "multiplied masks", "nothing shared", "collect_log_probs"


def list_cases(form: str) -> list[tuple[str, float, int, int]]:  # network, p, N, K
    if form == "tiny":
        return [("make_mlp", 0.5, 20, 3), ("make_mnist_cnn", 0.5, 16, 2), ("make_cifar10_resnet", 0.5, 2, 2)]
    cases = [("make_mlp", 0.5, 5_000, 100), *((o, 0.5, 512, 20) for o in IMAGES), ("make_mnist_cnn", 0.5, 512, 100), *((o, 0.5, 64, 20) for o in HEADS)]
    if form == "full":
        cases += [(o, p, 512, 20) for o in IMAGES for p in (0.1, 0.9)] + [("make_emnist_cnn", 0.5, 512, 100), *((o, 0.5, 2_048, 100) for o in IMAGES)]
    return cases


def make_ordinary(model: nn.Module) -> nn.Module:
    "The network as one would have it without the package, dropout in training mode and all else in `eval()`."
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, ConsistentDropout):
                kind = nn.Dropout2d if isinstance(child, ConsistentDropout2d) else nn.Dropout
                setattr(module, name, kind(child.p).train())
    return model


@torch.no_grad()
def run_loop(model: nn.Module, x: torch.Tensor, K: int) -> torch.Tensor:  # log_probs_N_K_C
    return torch.cat([torch.stack([model(part).log_softmax(-1) for _ in range(K)], 1) for part in x.split(512)])


def run_multiplied(model: nn.Module, x: torch.Tensor, K: int) -> torch.Tensor:
    with mock.patch.object(collect, "find_smaller", lambda *args: None):
        return collect_log_probs(model, x, K)


def run_apart(model: nn.Module, x: torch.Tensor, K: int) -> torch.Tensor:
    with mock.patch.object(smaller_networks, "find_shared", lambda *args: []):
        return collect_log_probs(model, x, K)


def takes_smaller(model: nn.Module, x: torch.Tensor, K: int) -> bool:
    found, find = [], collect.find_smaller
    with mock.patch.object(collect, "find_smaller", lambda *args: found.append(find(*args)) or found[-1]):
        collect_log_probs(model, x, K)
    return found[0] is not None


def compare(network: str, p: float, N: int, K: int, repeats: int, limit: float, seed: int) -> list[dict]:
    model = make_seeded(lambda: getattr(networks, network)(p=p), derive_generator(seed, network, "weights")).eval()
    x = torch.randn(N, *SHAPES[network], generator=derive_generator(seed, network, "inputs"))
    ordinary = make_ordinary(model)
    calls = {LOOP: lambda: run_loop(ordinary, x, K), MULTIPLIED: lambda: run_multiplied(model, x, K), APART: lambda: run_apart(model, x, K), SMALLER: lambda: collect_log_probs(model, x, K)}
    for call in (lambda: run_loop(ordinary, x[:2], 1), lambda: run_multiplied(model, x[:2], 1)):
        call()  # what a first call loads belongs to the libraries
    runs = common.interleave(calls, repeats, limit)
    same = max((runs[MULTIPLIED][0].result - runs[name][0].result).abs().max().item() for name in (APART, SMALLER))
    loop = common.summarise(runs[LOOP])["seconds"]
    shared = {"network": network, "p": p, "N": N, "K": K, "largest_difference": same, "smaller": takes_smaller(model, x, K)}
    found = {name: common.summarise(o) for name, o in runs.items()}
    return [{"method": name, **shared, **o, "times_faster": loop / o["seconds"]} for name, o in found.items()]


def main(argv: list[str] | None = None) -> None:
    args = common.parse("predictions", __doc__, argv, {"tiny": 10, "quick": 60, "full": 600})
    repeats, rows = {"tiny": 1, "quick": 3, "full": 5}[args.form], []
    for network, p, N, K in list_cases(args.form):
        if network in HEADS and find_spec("torchvision") is None:
            common.say(f"{network} is left out: it takes its layers from torchvision, which is not installed")
            continue
        common.say(f"{network}, p = {p}, {N:,} inputs, {K} masks")
        rows += compare(network, p, N, K, repeats, args.limit, args.seed)
    common.print_table(
        ["network", "p", "N", "K", "method", "time", "times as fast as the loop", "memory", "smaller networks"],
        [
            [o["network"], o["p"], f"{o['N']:,}", o["K"], o["method"], common.show_seconds(o["seconds"]), f"{o['times_faster']:.2f}", common.show_bytes(o["peak_bytes"]), "yes" if o["smaller"] and o["method"] in (APART, SMALLER) else ""]
            for o in rows
        ],
    )
    print(f"\nlargest difference from multiplied masks: {max(o['largest_difference'] for o in rows):.1e} nats")
    common.write_record(args, rows)


if __name__ == "__main__":
    main()
