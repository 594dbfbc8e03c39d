"""What `batchbald_redux` 2.0.5 does where it differs from this package: its names, and small cases in which the difference shows.

    .venv-bench/bin/python benchmarks/redux.py      (after `make bench`, which installs it)

Nothing here is timed. The chapter "From batchbald_redux" reads the record, and a test compares the record with what the library says.
"""

import os
import sys

if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"  # its progress bars cannot be turned off otherwise

import gc
import inspect
import math
from importlib import import_module
from importlib.util import find_spec

import common
import torch
from torch import nn

from batchbald_nbdev.all import example_log_probs

COIN = torch.tensor([[[0.0, -math.inf], [-math.inf, 0.0]]])  # heads for one parameter sample, tails for the other
LATE = dict(points=300, samples=20, batch_size=10, num_samples=200)  # of the probe `late_picks`


def outcome(f) -> object:
    "What a call returns, or the error that it raises, in words."
    try:
        return f()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def names() -> dict:
    "Every public name by module, with the arguments of what can be called."
    from batchbald_redux import _nbdev

    found = {}
    for module in _nbdev.modules:
        module = import_module(f"batchbald_redux.{module.removesuffix('.py')}")
        for name in module.__all__:
            found[f"{module.__name__.split('.')[1]}.{name}"] = list(inspect.signature(getattr(module, name)).parameters)
    return found


def log_zero() -> dict:
    "A coin of which the parameters say all: the information is log 2."
    from batchbald_redux import batchbald, joint_entropy

    exact = joint_entropy.ExactJointEntropy.empty(2).add_variables(COIN)
    return {
        "conditional entropy": str(batchbald.compute_conditional_entropy(COIN).item()),
        "bald": [str(o) for o in batchbald.get_bald_batch(COIN, 1).scores],
        "batchbald": [str(o) for o in batchbald.get_batchbald_batch(COIN.expand(2, 2, 2), 2, 100).scores],
        "joint with a copy": str(exact.compute_batch(COIN).item()),
    }


def no_checks() -> dict:
    "Probabilities, and logits, where log-probabilities are wanted; and an array."
    from batchbald_redux.batchbald import get_bald_batch

    x = example_log_probs()[:3].double().log_softmax(-1)
    return {"right": get_bald_batch(x, 3).scores, "probabilities": get_bald_batch(x.exp(), 3).scores, "logits": get_bald_batch(x + 1, 3).scores, "array": outcome(lambda: get_bald_batch(x.numpy(), 3))}


def number_of_samples() -> dict:
    "Configurations that are drawn where `num_samples` is no multiple of K = 100, and where it is below."
    from batchbald_redux.joint_entropy import SampledJointEntropy

    probs = example_log_probs()[:4].float().softmax(-1)
    return {str(M): outcome(lambda M=M: len(SampledJointEntropy.sample(probs, M).sampled_joint_probs_M_K)) for M in (1_000, 1_099, 99)}


def randomness() -> dict:
    "One call twice, and the global random state."
    from batchbald_redux.batchbald import get_batchbald_batch

    x = example_log_probs()[:60].double().log_softmax(-1)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, second = (get_batchbald_batch(x, 5, 100).scores for _ in range(2))
    return {"equal where exact": first[:2] == second[:2], "equal": first == second, "global state unchanged": torch.equal(before, torch.random.get_rng_state())}


def precision() -> dict:
    "BALD scores from the recorded predictions, which are float16, against float64; and what types come back."
    from batchbald_redux import batchbald, joint_entropy

    x = example_log_probs()
    true = batchbald.compute_entropy(x.double().log_softmax(-1)) - batchbald.compute_conditional_entropy(x.double().log_softmax(-1))
    half = batchbald.compute_entropy(x) - batchbald.compute_conditional_entropy(x)
    order = half.argsort(descending=True)
    asked = batchbald.get_bald_batch(x, 1_000, dtype=torch.double)  # the argument
    exact = joint_entropy.ExactJointEntropy.empty(100, dtype=torch.double).add_variables(x[:1])
    return {
        "largest error of float16": (half - true).abs().max().item(),
        "dtype argument of get_bald_batch changes the scores": asked.scores != half[order].tolist() and sorted(asked.scores) != sorted(half.tolist()),
        "compute_entropy": str(half.dtype),
        "compute_batch": str(exact.compute_batch(x[:2]).dtype),
        "joint of get_batchbald_batch by default": str(joint_entropy.DynamicJointEntropy(10, 1, 2, 2).inner.joint_probs_M_K.dtype),
    }


def late_picks(seeds: int = 40) -> dict:
    "Scores of a batch with few parameter samples and configurations, and what the same picks tell by another estimate."
    from batchbald_redux.batchbald import get_batchbald_batch

    x = example_log_probs()[: LATE["points"], : LATE["samples"]].double().log_softmax(-1)
    excess, falls, beyond = [], 0, 0
    for seed in range(seeds):
        torch.manual_seed(seed)
        batch = get_batchbald_batch(x, LATE["batch_size"], LATE["num_samples"], dtype=torch.double)
        excess.append([round(score - common.joint_information(x, batch.indices[: b + 1], 10_000, seed)[0], 5) for b, score in enumerate(batch.scores)])
        falls += any(b < a for a, b in zip(batch.scores, batch.scores[1:]))
        beyond += max(batch.scores) > math.log(LATE["samples"])
    return {**LATE, "seeds": seeds, "excess": excess, "batches with a score that falls": falls, "batches with a score beyond log K": beyond}


def adding_twice() -> object:
    "Variables added to a sampled joint entropy that has some."
    from batchbald_redux.joint_entropy import SampledJointEntropy

    x = example_log_probs()[:2].float().log_softmax(-1)
    return outcome(lambda: SampledJointEntropy.sample(x.exp(), 100).add_variables(x, 100).compute().item())


def dropout() -> dict:
    "Modes and masks."
    from batchbald_redux.consistent_mc_dropout import BayesianModule, ConsistentMCDropout

    class Net(BayesianModule):
        def __init__(self):
            super().__init__()
            self.first, self.drop, self.rows = nn.Linear(4, 50), ConsistentMCDropout(), 0
            self.first.register_forward_hook(lambda module, args, output: setattr(self, "rows", len(output)))

        def mc_forward_impl(self, x):
            return self.drop(self.first(x))

    net, x = Net(), torch.ones(6, 4)
    torch.manual_seed(0)
    trained = net.train()(x, 2)  # all inputs are equal, so outputs differ by their masks alone
    net.eval()
    first, again = net(x, 5), net(x, 5)
    other_k = outcome(lambda: net(x, 3) is not None)
    net.eval()
    return {
        "train: masks shared by inputs": bool((trained == trained[:1]).all()),
        "eval: masks shared by inputs": bool((first == first[:1]).all()),
        "eval: dropped": round((first == 0).double().mean().item(), 1),
        "eval: second call has the same masks": bool((first == again).all()),
        "eval() again: the same masks": bool((first == net(x, 5)).all()),
        "another k without eval()": other_k,
        "k is shared by all modules": "k" in vars(BayesianModule) and "k" not in vars(net),
        "rows through the layer before the first dropout, of 6 inputs and k = 5": net.rows,
        "p of 1": outcome(lambda: ConsistentMCDropout(1.0).p),
    }


def data_sets() -> dict:
    "Positions, balanced draws, and the helper for plain MNIST."
    from batchbald_redux import active_learning, repeated_mnist

    data = active_learning.ActiveLearningData(torch.arange(6))
    before = data.get_dataset_indices([2]).tolist()
    data.acquire([0, 1])
    return {
        "pool position 2 before and after buying 0 and 1": [before, data.get_dataset_indices([2]).tolist()],
        "balanced draw of 2 each from classes 0, 0, 1": len(active_learning.get_balanced_sample_indices([0, 0, 1], 2, 2)),
        "RandomFixedLengthSampler of length 9 over 3 points": outcome(lambda: sorted(active_learning.RandomFixedLengthSampler(range(3), 9))),
        "create_MNIST_dataset()": outcome(repeated_mnist.create_MNIST_dataset),
    }


PROBES = [names, log_zero, no_checks, number_of_samples, randomness, precision, late_picks, adding_twice, dropout, data_sets]


def main(argv: list[str] | None = None) -> dict:
    args = common.parse("redux", __doc__, argv, dict.fromkeys(("tiny", "quick", "full"), math.inf))
    if find_spec("batchbald_redux") is None:
        sys.exit("batchbald_redux is not here: run this with .venv-bench/bin/python, which `make bench` sets up")
    rows = []
    for probe in PROBES:
        gc.freeze()  # it collects garbage at every call, and what has been imported so far is none
        rows.append({"question": probe.__name__, "asked": " ".join(inspect.getdoc(probe).split()), "answer": probe()})
    return common.write_record(args, rows)


if __name__ == "__main__":
    main()
