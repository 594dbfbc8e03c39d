"""The same call in Baal, scikit-activeml, modAL and small-text, and here: the rows of the chapter "Moving over".

    make bench BENCHMARKS=moving_over           installs the libraries into .venv-bench, and runs this
    .venv-bench/bin/python benchmarks/moving_over.py

Nothing is timed. Each row is a function that computes with the library, or with this package, on the same plain input.
Libraries that are not installed are skipped by name, and then the record is only written where --out says.
"""

import contextlib
import io
import math
import os
import sys

if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"

import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import NamedTuple

import common
import numpy as np
import torch
from redux import outcome
from torch import Tensor, nn

from batchbald_nbdev.all import (
    as_log_probs,
    collect_log_probs,
    compute_bald,
    compute_entropy,
    compute_mean_std,
    compute_variation_ratios,
    example_log_probs,
    get_bald_batch,
    get_batchbald_batch,
    get_power_batch,
    get_softmax_batch,
    get_top_k_batch,
    make_consistent,
)

# Library: its package, the version that was run, the module that says whether it is here, and how its arrays lie
LIBRARIES = {
    "Baal": ("baal", "2.1.0", "baal", "NCK"),
    "scikit-activeml": ("scikit-activeml", "1.0.1", "skactiveml", "KNC"),
    "modAL": ("modAL-python", "0.4.2.1", "modAL", "NKC"),
    "small-text": ("small-text", "1.4.1", "small_text", "NKC"),
}
COIN, FAIR, SURE, LEAN = [[1, 0], [0, 1]], [[0.5, 0.5]] * 2, [[1, 0]] * 2, [[0.9, 0.1], [0.1, 0.9]]
POINTS_N_K_C = torch.tensor([COIN, FAIR, SURE, LEAN], dtype=torch.double)
DIGITS_N_K_C = example_log_probs()[:300, :5].double().log_softmax(-1)  # five parameter samples, ten classes
MARGINS_N = [0.0, 0.4, 0.98, 0.998]  # of four points with two classes, the surest last
BATCH = dict(batch_size=4, num_samples=10_000)  # 10^4 configurations: exact up to the last pick


class Row(NamedTuple):
    library: str
    asked: str
    compute: Callable  # of one truth value: with the library?


ROWS = {}


def row(library: str, asked: str) -> Callable:
    "Register a function as a row under its name."

    def add(f: Callable) -> Callable:
        ROWS[f.__name__] = Row(library, asked, f)
        return f

    return add


def lay(probs_N_K_C: Tensor, axes: str) -> np.ndarray:
    "A copy with its axes in another order."
    return np.ascontiguousarray(probs_N_K_C.permute(*("NKC".index(o) for o in axes)).numpy()).copy()


def plain(x: object) -> object:
    "What JSON can hold; numbers to six digits."
    if isinstance(x, dict):
        return {str(key): plain(value) for key, value in x.items()}
    if isinstance(x, (Tensor, np.ndarray, np.generic)):
        return plain(x.tolist())
    if isinstance(x, (list, tuple)):
        return [plain(o) for o in x]
    if isinstance(x, float):
        return float(f"{x:.6g}") if math.isfinite(x) else str(x)
    return x


def picked(batch) -> dict:
    return {"indices": batch.indices, "scores": batch.scores}


# Baal


@row("Baal", "BALD of a coin that two samples know, a fair coin, a sure point, and a coin known at 0.9")
def baal_bald(there: bool):
    if not there:
        return compute_bald(POINTS_N_K_C.log())
    from baal.active.heuristics import BALD

    return BALD().get_uncertainties(lay(POINTS_N_K_C, "NCK"))


@row("Baal", "a batch of 4 from 300 digits, 5 samples: first 4 ranks of `BatchBALD(num_samples=4, num_draw=2000)`")
def baal_batch(there: bool):
    if not there:
        return picked(get_batchbald_batch(DIGITS_N_K_C, **BATCH))
    from baal.active.heuristics import BatchBALD

    torch.manual_seed(0)
    ranks, scores = BatchBALD(num_samples=4, num_draw=2_000).get_ranks(lay(DIGITS_N_K_C.exp(), "NCK"))
    return {"indices": ranks[:4], "scores": scores[ranks[:4]], "points with a score": (scores != 0).sum()}


@row("Baal", "scores of known coin, fair coin and sure point, picked in this order by `BatchBALD(num_samples=2)`")
def baal_scores(there: bool):
    if not there:
        return get_batchbald_batch(POINTS_N_K_C[:3].log(), 3).scores
    from baal.active.heuristics import BatchBALD

    torch.manual_seed(0)
    return BatchBALD(num_samples=2).get_uncertainties(lay(POINTS_N_K_C, "NCK"))[:3]


@row("Baal", "BALD of the same four points beside a fifth with a row that sums to 1.01")
def baal_sums(there: bool):
    fifth = torch.tensor([[[0.51, 0.5], [0.5, 0.5]]], dtype=torch.double)
    points_N_K_C = torch.cat([POINTS_N_K_C, fifth])
    if not there:
        return compute_bald(as_log_probs(points_N_K_C, "probs"))
    from baal.active.heuristics import BALD

    return BALD().get_uncertainties(lay(points_N_K_C, "NCK"))[:4]


@row("Baal", "order of five equal points")
def baal_ties(there: bool):
    points_N_K_C = POINTS_N_K_C[:1].expand(5, 2, 2)
    if not there:
        return get_bald_batch(points_N_K_C.log(), 5).indices
    from baal.active.heuristics import BALD

    return BALD()(lay(points_N_K_C, "NCK"))


@row("Baal", "entropy from logits: (0, 0) under one sample, (10, 0) under the other")
def baal_logits(there: bool):
    logits_N_K_C = torch.tensor([[[0.0, 0.0], [10.0, 0.0]]], dtype=torch.double)
    if not there:
        return compute_entropy(as_log_probs(logits_N_K_C, "logits"))
    from baal.active.heuristics import Entropy

    return Entropy().get_uncertainties(lay(logits_N_K_C, "NCK"))


@row("Baal", "`Certainty` of the four points, which ranks the lowest first; here one minus `compute_variation_ratios`")
def baal_certainty(there: bool):
    if not there:
        return 1 - compute_variation_ratios(POINTS_N_K_C.log())
    from baal.active.heuristics import Certainty

    return Certainty().get_uncertainties(lay(POINTS_N_K_C, "NCK"))


@row("Baal", "of 1,000 power samples of 3 from scores .5 .5 0 0 0, temperature 1: those with both points that score")
def baal_power(there: bool):
    scores_N, generator = torch.tensor([0.5, 0.5, 0, 0, 0], dtype=torch.double), torch.Generator().manual_seed(0)
    if not there:
        draw = lambda: get_power_batch(scores_N, 3, temperature=1.0, generator=generator).indices
    else:
        from baal.active.heuristics import Precomputed
        from baal.active.heuristics.stochastics import PowerSampling

        np.random.seed(0)
        draw = lambda: PowerSampling(Precomputed(reverse=True), 3).get_ranks(scores_N.numpy())[0].tolist()
    return sum({0, 1} <= set(draw()) for _ in range(1_000))


@row("Baal", "1,000 power samples of 1 from margins 0 .4 .98 .998: how often each point; here from 1 - margin")
def baal_margin(there: bool):
    margins_N, generator = torch.tensor(MARGINS_N, dtype=torch.double), torch.Generator().manual_seed(0)
    if not there:
        draw = lambda: get_power_batch(1 - margins_N, 1, temperature=1.0, generator=generator).indices
    else:
        from baal.active.heuristics import Margin
        from baal.active.heuristics.stochastics import PowerSampling

        np.random.seed(0)
        probs_N_1_C = torch.stack([(1 + margins_N) / 2, (1 - margins_N) / 2], -1)[:, None]
        draw = lambda: PowerSampling(Margin(), 1).get_ranks(lay(probs_N_1_C, "NCK"))[0].tolist()
    return np.bincount([draw()[0] for _ in range(1_000)], minlength=4)


@row("Baal", "the caller's scores .4 .3 .2 after `GibbsSampling` (here `get_softmax_batch`) at temperature 1/2")
def baal_gibbs(there: bool):
    scores_N = np.array([0.4, 0.3, 0.2])
    if not there:
        get_softmax_batch(scores_N, 2, temperature=0.5)
    else:
        from baal.active.heuristics import Precomputed
        from baal.active.heuristics.stochastics import GibbsSampling

        GibbsSampling(Precomputed(reverse=True), 2, temperature=0.5).get_ranks(scores_N)
    return scores_N


@row("Baal", "consistent dropout: do six equal inputs of a pool get equal predictions under each sample?")
def baal_dropout(there: bool):
    inputs = torch.ones(6, 4)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 3))
    if not there:
        log_probs_N_K_C = collect_log_probs(make_consistent(net), inputs, 5)
        return bool((log_probs_N_K_C - log_probs_N_K_C[:1]).abs().max() < 1e-6)
    from baal import ModelWrapper
    from baal.bayesian.consistent_dropout import patch_module
    from baal.modelwrapper import TrainingArgs
    from torch.utils.data import TensorDataset

    wrapper = ModelWrapper(patch_module(net, inplace=False).eval(), TrainingArgs(use_cuda=False, batch_size=3))
    logits_N_C_K = wrapper.predict_on_dataset(TensorDataset(inputs, torch.zeros(6)), iterations=5)
    return bool(np.ptp(logits_N_C_K, 0).max() < 1e-6)


# scikit-activeml


def query_activeml(probs_N_K_C: Tensor, B: int, M: int | None = None, seed: int = 0) -> tuple[list[int], np.ndarray]:
    "What its `BatchBALD` returns for a committee with these predictions: indices, and utilities (B, N)."
    from skactiveml.pool import BatchBALD

    committee, X = common.activeml_committee(lay(probs_N_K_C, "KNC"))
    strategy = BatchBALD(n_MC_samples=M, sample_predictions_method_name="members", random_state=seed)
    options = dict(fit_ensemble=False, batch_size=B, return_utilities=True)
    indices, utilities_B_N = strategy.query(X, np.full(len(X), np.nan), committee, **options)
    return indices.tolist(), utilities_B_N


@row("scikit-activeml", "BALD of the four points, `batch_bald(probas, 1)[0]`")
def activeml_bald(there: bool):
    if not there:
        return compute_bald(POINTS_N_K_C.log())
    from skactiveml.pool import batch_bald

    return batch_bald(lay(POINTS_N_K_C, "KNC"), 1)[0]


@row("scikit-activeml", "`average_kl_divergence` of the four points; here BALD")
def activeml_kl(there: bool):
    if not there:
        return compute_bald(POINTS_N_K_C.log())
    from skactiveml.pool import average_kl_divergence

    return average_kl_divergence(lay(POINTS_N_K_C, "KNC"))


@row("scikit-activeml", "the first row of the caller's array, (1, 0), after `batch_bald`")
def activeml_written(there: bool):
    probas = lay(POINTS_N_K_C, "KNC")
    if not there:
        get_batchbald_batch(as_log_probs(probas, "probs", "KNC"), 1)
    else:
        from skactiveml.pool import batch_bald

        batch_bald(probas, 1)
    return probas[0, 0]


@row("scikit-activeml", "BALD from an array that is read-only")
def activeml_read_only(there: bool):
    probas = lay(POINTS_N_K_C, "KNC")
    probas.flags.writeable = False
    if not there:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return compute_bald(as_log_probs(probas, "probs", "KNC"))
    from skactiveml.pool import batch_bald

    return batch_bald(probas, 1)[0]


def activeml_batch(M: int | None) -> dict:
    indices, utilities_B_N = query_activeml(DIGITS_N_K_C.exp(), 4, M)
    return {"indices": indices, "scores": np.nanmax(utilities_B_N, 1)}


@row("scikit-activeml", "a batch of 4 from 300 digits under 5 samples, with the number of draws left out on both sides")
def activeml_default(there: bool):
    return activeml_batch(None) if there else picked(get_batchbald_batch(DIGITS_N_K_C, 4))


@row("scikit-activeml", "the same with `n_MC_samples=10_000` (here `num_samples`)")
def activeml_ample(there: bool):
    return activeml_batch(10_000) if there else picked(get_batchbald_batch(DIGITS_N_K_C, **BATCH))


@row("scikit-activeml", "batches of 3 from the four points and a copy of each, 50 seeds: how many name an index twice")
def activeml_ties(there: bool):
    points_N_K_C = POINTS_N_K_C.repeat(2, 1, 1)
    if there:
        batches = [query_activeml(points_N_K_C, 3, 100, seed)[0] for seed in range(50)]
    else:
        draw = lambda seed: get_batchbald_batch(points_N_K_C.log(), 3, generator=torch.Generator().manual_seed(seed))
        batches = [draw(seed).indices for seed in range(50)]
    return sum(len(set(batch)) < len(batch) for batch in batches)


@row("scikit-activeml", "BALD of the four points with all probabilities doubled")
def activeml_sums(there: bool):
    probas = 2 * lay(POINTS_N_K_C, "KNC")
    if not there:
        return compute_bald(as_log_probs(probas, "probs", "KNC"))
    from skactiveml.pool import batch_bald

    return batch_bald(probas, 1)[0]


# modAL


class Table:
    "A fitted classifier whose inputs are rows of a table of probabilities."

    def __init__(self, probs_N_C):
        self.probs_N_C, self.classes_ = np.asarray(probs_N_C), np.arange(len(probs_N_C[0]))

    def predict_proba(self, X):
        return self.probs_N_C[np.asarray(X)[:, 0].astype(int)]

    def fit(self, X, y):
        return self


def rows_of(N: int) -> np.ndarray:
    return np.arange(N)[:, None]


def make_committee(probs_N_K_C: Tensor):
    from modAL.models import ActiveLearner, Committee

    start = dict(X_training=rows_of(1), y_training=[0])
    return Committee([ActiveLearner(Table(probs_N_C), **start) for probs_N_C in lay(probs_N_K_C, "KNC")])


@row("modAL", "`consensus_entropy` of the four points")
def modal_entropy(there: bool):
    if not there:
        return compute_entropy(POINTS_N_K_C.log())
    from modAL.disagreement import consensus_entropy

    return consensus_entropy(make_committee(POINTS_N_K_C), rows_of(4))


@row("modAL", "four members, of whom one says 0.1 and three say 0.9: `KL_max_disagreement`, here `compute_bald`")
def modal_disagreement(there: bool):
    point_1_K_C = torch.tensor([[[0.9, 0.1]] * 3 + [[0.1, 0.9]]], dtype=torch.double)
    if not there:
        return compute_bald(point_1_K_C.log())
    from modAL.disagreement import KL_max_disagreement

    return KL_max_disagreement(make_committee(point_1_K_C), rows_of(1))


@row("modAL", "three of five by `uncertainty_sampling(..., random_tie_break=True)`, uncertainties .1 .3 .5 .2 .4")
def modal_tie_break(there: bool):
    probs_N_C = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.5, 0.5], [0.8, 0.2], [0.6, 0.4]], dtype=torch.double)
    if not there:
        return get_top_k_batch(compute_variation_ratios(probs_N_C[:, None].log()), 3).indices
    from modAL.uncertainty import uncertainty_sampling

    np.random.seed(0)
    return uncertainty_sampling(Table(probs_N_C), rows_of(5), n_instances=3, random_tie_break=True)[0]


def ask_dropout(name: str, logits_N_K_C: Tensor, **options) -> np.ndarray:
    "Scores of `modAL.dropout`, by position, for a network that gives these logits pass after pass."
    import modAL.dropout
    from modAL.models import ActiveLearner
    from skorch import NeuralNetClassifier

    class Passes(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.calls = nn.Parameter(torch.zeros(1)), [0] * len(logits_N_K_C)

        def forward(self, x):  # each point has its own count of passes, however they are cut into blocks
            out = torch.stack([logits_N_K_C[i, self.calls[i] % logits_N_K_C.shape[1]] for i in x[:, 0].tolist()])
            for i in x[:, 0].tolist():
                self.calls[i] += 1
            return out

    learner, N = ActiveLearner(NeuralNetClassifier(Passes).initialize()), len(logits_N_K_C)
    found, scores = getattr(modAL.dropout, name)(learner, torch.arange(N)[:, None], n_instances=N, **options)
    return scores[np.argsort(found)]


# Samples of the first point disagree more. Logits of the second are larger, which its probabilities do not show
LOGITS_N_K_C = torch.tensor([[[3.0, 0.0], [0.0, 3.0]], [[20.0, 19.0], [19.0, 20.0]]], dtype=torch.double)


@row("modAL", "`mc_dropout_bald` of logits (3, 0), (0, 3), and of (20, 19), (19, 20)")
def modal_bald(there: bool):
    if not there:
        return compute_bald(as_log_probs(LOGITS_N_K_C, "logits"))
    return ask_dropout("mc_dropout_bald", LOGITS_N_K_C, num_cycles=2)


@row("modAL", "the same with `sample_per_forward_pass=1`")
def modal_one_by_one(there: bool):
    options = dict(num_cycles=2, sample_per_forward_pass=1)
    return ask_dropout("mc_dropout_bald", LOGITS_N_K_C, **options) if there else modal_bald(False)


@row("modAL", "`mc_dropout_max_variationRatios` of the same, one point at a time")
def modal_variation_ratios(there: bool):
    options = dict(num_cycles=2, sample_per_forward_pass=1)
    if not there:
        return compute_variation_ratios(as_log_probs(LOGITS_N_K_C, "logits"))
    return ask_dropout("mc_dropout_max_variationRatios", LOGITS_N_K_C, **options)


@row("modAL", "`mc_dropout_mean_st` of the same, one point at a time")
def modal_mean_std(there: bool):
    options = dict(num_cycles=2, sample_per_forward_pass=1)
    if not there:
        return compute_mean_std(as_log_probs(LOGITS_N_K_C, "logits"))
    return ask_dropout("mc_dropout_mean_st", LOGITS_N_K_C, **options)


@row("modAL", "`mc_dropout_max_entropy` of a known coin and of a fair one, 10 passes, one point at a time")
def modal_max_entropy(there: bool):
    if not there:
        return compute_entropy(POINTS_N_K_C[:2].log())
    options = dict(num_cycles=10, sample_per_forward_pass=1)
    return ask_dropout("mc_dropout_max_entropy", POINTS_N_K_C[:2].log(), **options)


@row("modAL", "first pick of `uncertainty_batch_sampling`: 20 at .5 to .6, number 20 far off at 1; here the least sure")
def modal_ranked(there: bool):
    tops_N = torch.tensor([*torch.linspace(0.5, 0.6, 20).tolist(), 1.0], dtype=torch.double)
    probs_N_C = torch.stack([tops_N, 1 - tops_N], -1)
    if not there:
        return get_top_k_batch(compute_variation_ratios(probs_N_C[:, None].log()), 1).indices
    from modAL.batch import uncertainty_batch_sampling
    from modAL.models import ActiveLearner

    places_N = np.append(np.linspace(0, 1, 20), 50)
    X = np.stack([np.arange(21), places_N], 1)  # a row of the table, and where the point lies
    learner = ActiveLearner(Table(probs_N_C), X_training=X[[0, 19]], y_training=[0, 1])
    return uncertainty_batch_sampling(learner, X, n_instances=1)[0]


# small-text


class Samples:
    "A classifier with dropout samples, for data sets that are arrays of positions."

    def __init__(self, probs_N_K_C: Tensor):
        self.probs_N_K_C = probs_N_K_C.numpy()

    def predict_proba(self, dataset, dropout_sampling=1):
        probs_n_K_C = self.probs_N_K_C[dataset]
        return probs_n_K_C if dropout_sampling > 1 else probs_n_K_C.mean(1)


def ask_small_text(strategy, probs_N_K_C: Tensor, n: int, unlabelled=None) -> list[int]:
    N = len(probs_N_K_C)
    unlabelled = np.arange(N) if unlabelled is None else np.array(unlabelled)
    labelled = np.setdiff1d(np.arange(N), unlabelled)
    y = np.zeros(len(labelled), int)
    return strategy.query(Samples(probs_N_K_C), np.arange(N), unlabelled, labelled, y, n=n).tolist()


def score_small_text(strategy) -> np.ndarray:
    "Of the four points, none of which has a label."
    none = np.array([], int)
    return strategy.score(Samples(POINTS_N_K_C), np.arange(4), np.arange(4), none, none)


@row("small-text", "BALD of the four points")
def small_bald(there: bool):
    if not there:
        return compute_bald(POINTS_N_K_C.log())
    from small_text.query_strategies.bayesian import _bald

    return _bald(lay(POINTS_N_K_C, "NKC"))


@row("small-text", "entropy of the four points' averaged predictions: `PredictionEntropy().score`, its sign turned")
def small_entropy(there: bool):
    if not there:
        return compute_entropy(POINTS_N_K_C.log())
    from small_text import PredictionEntropy

    return -score_small_text(PredictionEntropy())


@row("small-text", "`LeastConfidence().score` of the four points; here one minus `compute_variation_ratios`")
def small_confidence(there: bool):
    if not there:
        return 1 - compute_variation_ratios(POINTS_N_K_C.log())
    from small_text import LeastConfidence

    return score_small_text(LeastConfidence())


@row("small-text", "as many as there are: order of four of the points by BALD, surest first in the pool")
def small_all(there: bool):
    points_N_K_C = POINTS_N_K_C[[2, 1, 3, 0]]
    if not there:
        return get_bald_batch(points_N_K_C.log(), 4).indices
    from small_text import BALD

    return ask_small_text(BALD(dropout_samples=2), points_N_K_C, 4)


@row("small-text", "best of positions 1, 2 and 3, which alone have no label; here their predictions are passed")
def small_positions(there: bool):
    unlabelled = [1, 2, 3]
    if not there:
        return get_bald_batch(POINTS_N_K_C[unlabelled].log(), 1).indices
    from small_text import BALD

    return ask_small_text(BALD(dropout_samples=2), POINTS_N_K_C, 1, unlabelled)


# All rows


def missing_libraries() -> list[str]:
    return [name for name, (_, _, module, _) in LIBRARIES.items() if find_spec(module) is None]


def other_versions(missing: list[str]) -> list[str]:
    "Libraries that are here in another version than the chapter's."
    here = {name: o for name, o in LIBRARIES.items() if name not in missing}
    return [name for name, (package, wanted, *_) in here.items() if version(package) != wanted]


def compute(compute_row: Callable, there: bool) -> object:
    "What a row gives, or the error that it raises; what a library prints or warns of is not kept."
    unseen = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(unseen), contextlib.redirect_stderr(unseen):
        warnings.simplefilter("ignore")
        return plain(outcome(lambda: compute_row(there)))


def main(argv: list[str] | None = None) -> dict:
    args = common.parse("moving_over", __doc__, argv, dict.fromkeys(("tiny", "quick", "full"), math.inf))
    missing = missing_libraries()
    for name in missing:
        common.say(f"{name} is not installed: skipped. `make bench BENCHMARKS=moving_over` installs it and runs this")
    for name in other_versions(missing):
        common.say(f"{name} {version(LIBRARIES[name][0])}: the chapter is about {LIBRARIES[name][1]}")
    rows = []
    for name, (library, asked, compute_row) in ROWS.items():
        there = None if library in missing else compute(compute_row, True)
        here = compute(compute_row, False)
        rows.append({"library": library, "row": name, "asked": asked, "there": there, "here": here})
    show = [[o["library"], o["row"], "skipped" if o["library"] in missing else o["there"], o["here"]] for o in rows]
    common.print_table(["library", "row", "there", "here"], show)
    if missing and args.out.parent == common.RECORDS:
        sys.exit(f"moving_over.py: record not written without {', '.join(missing)}; --out says where else to")
    return common.write_record(args, rows, missing=missing, axes={name: axes for name, (*_, axes) in LIBRARIES.items()})


if __name__ == "__main__":
    main()
