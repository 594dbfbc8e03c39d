#!/bin/sh
# Does the BALD score that modAL's MC dropout gives a point depend on the other points of the pool?
#
# A good guess: no. A softmax turns each point's logits into probabilities that sum to one, as its documentation's equations (Gal et al.
# 2017) want it, and adding a constant to all logits of a point changes nothing.
# Seen with modAL-python 0.4.2.1: `get_predictions` writes `prediction[mask] = prediction[mask].softmax(-1)` with a mask of what is not
# NaN. Indexing by the mask flattens the array, so one softmax runs over all points and classes of a forward pass (1,000 points, unless
# `sample_per_forward_pass` says otherwise). The larger a point's logits, the more of the one is its: a point whose two passes disagree
# (3 against 0, 0 against 3) scores .50 alone, and 2e-8 beside one with logits of 20, which comes first though its passes hardly differ.
# With `sample_per_forward_pass=1` scores are right.
# And `mc_dropout_max_entropy` is no entropy of the mean of the passes, as in Gal et al.: it sums the passes' own entropies and divides by
# the number of classes. Passes that are each sure and contradict each other score 0, the lowest there is.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet modAL-python==0.4.2.1 scikit-learn==1.9.1 torch==2.14.1 numpy "setuptools<81"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version
import numpy as np, torch
from modAL.dropout import mc_dropout_bald, mc_dropout_max_entropy
from modAL.models import ActiveLearner
from skorch import NeuralNetClassifier
from torch import nn

class Passes(nn.Module):
    "A network with a dropout layer that is given the logits of its passes, so that all can be computed by hand."
    def __init__(self, logits_N_K_C):
        super().__init__()
        self.logits_N_K_C, self.drop, self.weight = logits_N_K_C, nn.Dropout(), nn.Parameter(torch.zeros(1))
        self.passes = [0] * len(logits_N_K_C)
    def forward(self, x):
        rows = []
        for i in x[:, 0].tolist():
            rows.append(self.logits_N_K_C[i, self.passes[i] % self.logits_N_K_C.shape[1]])
            self.passes[i] += 1
        return torch.stack(rows)

def ask(score, logits_N_K_C, **options):
    learner, N = ActiveLearner(NeuralNetClassifier(Passes, module__logits_N_K_C=logits_N_K_C).initialize()), len(logits_N_K_C)
    found, scores = score(learner, torch.arange(N)[:, None], n_instances=N, num_cycles=logits_N_K_C.shape[1], **options)
    return scores[np.argsort(found)]

def by_hand(logits_N_K_C):
    p = logits_N_K_C.softmax(-1)
    H = lambda p: torch.special.entr(p).sum(-1)
    return (H(p.mean(1)) - H(p).mean(1)).numpy()

print("modAL-python", version("modAL-python"), "skorch", version("skorch"), "torch", torch.__version__)
logits = torch.tensor([[[3.0, 0.0], [0.0, 3.0]], [[20.0, 19.0], [19.0, 20.0]]], dtype=torch.double)
seen = {"by hand": by_hand(logits), "together": ask(mc_dropout_bald, logits), "alone": ask(mc_dropout_bald, logits[:1])}
seen["one by one"] = ask(mc_dropout_bald, logits, sample_per_forward_pass=1)
for name, scores in seen.items(): print(f"BALD, {name}: {scores}")
assert np.allclose(seen["alone"], seen["by hand"][:1]) and np.allclose(seen["one by one"], seen["by hand"])
assert seen["by hand"][0] > 0.5 > seen["by hand"][1] and seen["together"][0] < 1e-6 < 0.1 < seen["together"][1]
sure = torch.tensor([[[30.0, 0.0], [0.0, 30.0]], [[0.0, 0.0], [0.0, 0.0]]], dtype=torch.double)
entropies = ask(mc_dropout_max_entropy, sure, sample_per_forward_pass=1)
print("max entropy of passes that contradict each other, and of passes that know nothing:", entropies, "(log 2 each for the mean)")
assert entropies[0] < 1e-6 and np.isclose(entropies[1], np.log(2))
print("as seen")
PYTHON
