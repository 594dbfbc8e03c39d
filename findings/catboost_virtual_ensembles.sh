#!/bin/sh
# Of which models are the members of CatBoost's virtual ensembles made?
#
# A good guess: 6 members of a model of 60 rounds are the model after 10, 20, ..., 60 rounds, what `ntree_end=` gives.
# Seen with CatBoost 1.2.10: they are prefixes of the second half of the rounds alone, 35, 40, ..., 60. And none but the last is what
# `ntree_end=` gives: a member is divided by (1 - model_shrink_rate * learning_rate) once for each round that is left, since the model was
# shrunk by that factor in every round of its training (posterior_sampling=True sets a rate).
# So members differ less than prefixes from the start do, and recomputing them from the saved model gives other numbers.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet catboost==1.2.10 scikit-learn==1.9.1 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import catboost, numpy as np
from sklearn.datasets import load_breast_cancer

X, y = load_breast_cancer(return_X_y=True)
model = catboost.CatBoostClassifier(iterations=60, learning_rate=0.1, posterior_sampling=True, random_seed=0, verbose=False, thread_count=1)
model.fit(X[:400], y[:400])
raw = model.virtual_ensembles_predict(X[400:], prediction_type="VirtEnsembles", virtual_ensembles_count=6, thread_count=1).squeeze(-1)
prefix = {end: model.predict(X[400:], prediction_type="RawFormulaVal", ntree_end=end, thread_count=1) for end in range(5, 61, 5)}
factor = 1 - model.get_all_params()["model_shrink_rate"] * model.get_all_params()["learning_rate"]
print("catboost", catboost.__version__, "members", raw.shape, "factor a round", factor)
guessed = max(abs(raw[:, i] - prefix[10 * (i + 1)]).max() for i in range(6))
print("largest difference from rounds 10, 20, ..., 60:", guessed)
ends = [35, 40, 45, 50, 55, 60]
plain = [abs(raw[:, i] - prefix[end]).max() for i, end in enumerate(ends)]
print("from rounds 35, 40, ..., 60 as `ntree_end` gives them:", [f"{d:.1e}" for d in plain])
grown = [abs(raw[:, i] - prefix[end] / factor ** (60 - end)).max() for i, end in enumerate(ends)]
print("and with the factor for each round that is left:", [f"{d:.1e}" for d in grown])
assert raw.shape == (169, 6) and guessed > 0.1
assert all(d > 1e-6 for d in plain[:-1]) and plain[-1] < 1e-9 and max(grown) < 1e-6
print("as seen")
PYTHON
