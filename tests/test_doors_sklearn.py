"Ensembles of scikit-learn: members as parameter samples, and what is no sample refused. Any release from 1.3 on."
import warnings

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, Perceptron
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelBinarizer, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from torch.testing import assert_close

from batchbald_nbdev.bald import compute_bald, get_bald_batch
from batchbald_nbdev.batchbald import get_batchbald_batch
from batchbald_nbdev.datasets import get_repeated_digits
from batchbald_nbdev.doors import as_two_classes, collect_sklearn_log_probs
from batchbald_nbdev.information import as_log_probs, check_log_probs

DATA = get_repeated_digits(1, noise=0.0, originals=400, generator=torch.Generator().manual_seed(0))
X, Y = DATA.pool_inputs[:120].numpy(), DATA.pool_labels[:120].numpy()
POOL, LABELS = DATA.pool_inputs[120:].numpy(), DATA.pool_labels[120:].numpy()
NAMES = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
FORESTS = {"forest": RandomForestClassifier, "extra trees": ExtraTreesClassifier}
BASES = {
    "trees": lambda: DecisionTreeClassifier(min_samples_leaf=3),
    "nearest neighbours": lambda: KNeighborsClassifier(3),
    "naive Bayes": lambda: GaussianNB(var_smoothing=0.1),
    "logistic regression": lambda: LogisticRegression(max_iter=50),
    "networks": lambda: MLPClassifier((8,), max_iter=20),
}
pytestmark = [pytest.mark.filterwarnings("ignore:.*onverge"), pytest.mark.filterwarnings("ignore:divide by zero"), pytest.mark.filterwarnings("ignore:.*log K")]


def refusal(ensemble, x=POOL, **options):
    with pytest.raises(ValueError) as error:
        collect_sklearn_log_probs(ensemble, x, **options)
    message = str(error.value)
    assert message.startswith("`ensemble` ") and "\n" not in message and len(message) < 300
    return message


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# What is taken


@pytest.mark.parametrize("names", [np.arange(10), NAMES, np.arange(10) * 30 - 7], ids=["numbers", "names", "others"])
@pytest.mark.parametrize("kind", FORESTS.values(), ids=FORESTS.keys())
def test_forests_are_trees_whose_classes_are_positions(kind, names, silent):
    forest = kind(20, min_samples_leaf=3, random_state=0).fit(X, names[Y])
    got = collect_sklearn_log_probs(forest, POOL, dtype=torch.double)
    assert check_log_probs(got) == (280, 20, 10)
    np.testing.assert_allclose(got.exp().mean(1), forest.predict_proba(POOL), atol=1e-12)
    by_hand = np.stack([tree.predict_proba(POOL) for tree in forest.estimators_], 1)
    np.testing.assert_allclose(got.exp(), by_hand, atol=1e-12)


@pytest.mark.parametrize("features", [{}, {"bootstrap_features": True}, {"max_features": 0.5}, {"max_features": 9, "bootstrap_features": True}])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
def test_bagging_members_see_their_own_features_and_classes(base, features):
    bagging = BaggingClassifier(base(), 6, max_samples=40, random_state=0, **features).fit(X, NAMES[Y])
    got = collect_sklearn_log_probs(bagging, POOL, dtype=torch.double)
    assert got.shape == (280, 6, 10)
    np.testing.assert_allclose(got.exp().mean(1), bagging.predict_proba(POOL), atol=1e-4)  # naive Bayes computes in float32


def test_bagging_with_bootstrap_features_falls_to_chance_without_their_indices():
    bagging = BaggingClassifier(GaussianNB(var_smoothing=0.1), 20, bootstrap_features=True, random_state=0).fit(X, Y)
    naive = np.mean([model.predict_proba(POOL) for model in bagging.estimators_], 0)
    right = collect_sklearn_log_probs(bagging, POOL).exp().mean(1).numpy()
    assert (naive.argmax(1) == LABELS).mean() < 0.3 and (right.argmax(1) == LABELS).mean() > 0.7


def test_members_of_bagging_with_missing_classes_have_probability_zero_there():
    bagging = BaggingClassifier(KNeighborsClassifier(1), 8, max_samples=8, random_state=0).fit(X, NAMES[Y])
    got = collect_sklearn_log_probs(bagging, POOL)
    for k, model in enumerate(bagging.estimators_):
        missing = np.setdiff1d(np.arange(10), model.classes_.astype(int))
        assert len(missing) and got[:, k, missing].isneginf().all()
    assert compute_bald(got).isfinite().all() and len(get_batchbald_batch(got, 3).indices) == 3


def test_members_of_equal_column_counts_whose_columns_mean_different_classes():
    "Stacked as they come they would be taken, and be wrong."
    bagging = BaggingClassifier(KNeighborsClassifier(1), 30, max_samples=12, random_state=0).fit(X, Y)
    by_count = {}
    for k, model in enumerate(bagging.estimators_):
        by_count.setdefault(len(model.classes_), []).append(k)
    alike = max(by_count.values(), key=len)
    assert len({tuple(bagging.estimators_[k].classes_) for k in alike}) > 1
    naive = as_log_probs(np.stack([bagging.estimators_[k].predict_proba(POOL) for k in alike], 1), "probs")
    assert naive.shape[2] < 10
    got = collect_sklearn_log_probs(bagging, POOL, dtype=torch.double)
    np.testing.assert_allclose(got.exp().mean(1), bagging.predict_proba(POOL), atol=1e-12)


@pytest.mark.parametrize("voting", ["soft", "hard"])
def test_voting_takes_members_by_position(voting, silent):
    models = [("nb", GaussianNB(var_smoothing=0.1)), ("tree", DecisionTreeClassifier(min_samples_leaf=4)), ("out", "drop")]
    ensemble = VotingClassifier(models, voting=voting).fit(X, NAMES[Y])
    got = collect_sklearn_log_probs(ensemble, POOL, dtype=torch.double)
    assert got.shape == (280, 2, 10)
    at = ensemble.classes_.tolist()
    own = GaussianNB(var_smoothing=0.1).fit(X, NAMES[Y])
    np.testing.assert_allclose(got[:, 0].exp(), own.predict_proba(POOL)[:, [list(own.classes_).index(o) for o in at]], atol=1e-4)


@pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
def test_a_list_of_fitted_classifiers(base):
    models = [base().fit(X[i::3], NAMES[Y[i::3]]) for i in range(3)]
    got = collect_sklearn_log_probs(models, POOL, dtype=torch.double)
    np.testing.assert_allclose(got.exp(), np.stack([model.predict_proba(POOL) for model in models], 1), atol=1e-4)
    assert check_log_probs(got) == (280, 3, 10)
    assert torch.equal(collect_sklearn_log_probs(tuple(models), POOL, dtype=torch.double), got)


def test_pipelines_and_searches_are_opened(silent):
    forest = RandomForestClassifier(10, min_samples_leaf=3, random_state=0)
    scaled = make_pipeline(StandardScaler(), forest).fit(X, Y)
    got = collect_sklearn_log_probs(scaled, POOL, dtype=torch.double)
    np.testing.assert_allclose(got.exp().mean(1), scaled.predict_proba(POOL), atol=1e-12)
    search = GridSearchCV(make_pipeline(StandardScaler(), forest), {"randomforestclassifier__max_depth": [3]}, cv=2).fit(X, Y)
    np.testing.assert_allclose(collect_sklearn_log_probs(search, POOL).exp().mean(1), search.predict_proba(POOL), atol=1e-6)
    alone = make_pipeline(RandomForestClassifier(10, min_samples_leaf=3, random_state=0)).fit(X, Y)
    assert collect_sklearn_log_probs(alone, POOL).shape == (280, 10, 10)
    several = [make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, C=c)).fit(X, Y) for c in (0.1, 1)]
    assert collect_sklearn_log_probs(several, POOL).shape == (280, 2, 10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_storage_is_as_asked_for(dtype):
    forest = RandomForestClassifier(10, min_samples_leaf=3, random_state=0).fit(X, Y)
    got = collect_sklearn_log_probs(forest, torch.from_numpy(POOL), dtype=dtype)
    assert got.dtype == dtype and check_log_probs(got) == (280, 10, 10)
    assert collect_sklearn_log_probs(forest, POOL).dtype == torch.float32
    with pytest.raises(ValueError, match="`dtype` is torch.int64; want"):
        collect_sklearn_log_probs(forest, POOL, dtype=torch.long)


def test_tables_and_sparse_inputs(silent):
    pandas, sparse = pytest.importorskip("pandas"), pytest.importorskip("scipy.sparse")
    columns = [f"pixel {i}" for i in range(64)]
    table, pool = pandas.DataFrame(X, columns=columns), pandas.DataFrame(POOL, columns=columns)
    models = {
        "forest": RandomForestClassifier(5, min_samples_leaf=3, random_state=0), "bagging": BaggingClassifier(BASES["trees"](), 5, max_features=0.5, random_state=0),
        "voting": VotingClassifier([("nb", GaussianNB()), ("lr", LogisticRegression(max_iter=500))], voting="soft"),
    }  # fmt: skip
    for name, model in models.items():
        got = collect_sklearn_log_probs(model.fit(table, Y), pool)
        np.testing.assert_allclose(got.exp().mean(1), model.predict_proba(pool), atol=1e-4)
        with pytest.raises(ValueError, match="(?i)feature names"):  # scikit-learn's own word
            collect_sklearn_log_probs(model, pool[columns[::-1]])
        if name != "voting":
            fitted = model.fit(sparse.csr_matrix(X), Y)
            got = collect_sklearn_log_probs(fitted, sparse.csr_matrix(POOL))
            np.testing.assert_allclose(got.exp().mean(1), fitted.predict_proba(POOL), atol=1e-4)


def test_the_collector_leaves_ensemble_and_inputs_as_they_are():
    forest = RandomForestClassifier(10, min_samples_leaf=3, random_state=0).fit(X, Y)
    before, inputs = forest.predict_proba(POOL), POOL.copy()
    collect_sklearn_log_probs(forest, POOL)
    assert (forest.predict_proba(POOL) == before).all() and (inputs == POOL).all()


# What is refused


@pytest.mark.parametrize("kind", [GradientBoostingClassifier, HistGradientBoostingClassifier, AdaBoostClassifier])
def test_boosting_is_refused_because_rounds_are_additive(kind):
    name = {"n_estimators": 2} if kind is not HistGradientBoostingClassifier else {"max_iter": 2}
    message = refusal(kind(**name).fit(X[:60], Y[:60] % 3))
    assert f"is a {kind.__name__}: its rounds add up to one model" in message and "BaggingClassifier" in message
    assert "add up" in refusal(kind(**name))  # fitted or not


@pytest.mark.parametrize("name", ["XGBClassifier", "XGBRFClassifier", "LGBMClassifier", "CatBoostClassifier", "Booster"])
def test_boosting_of_other_libraries_is_refused_by_name(name):
    bases = {"XGBRFClassifier": (type("XGBClassifier", (), {}),)}
    message = refusal(type(name, bases.get(name, ()), {"estimators_": [1], "classes_": [0, 1]})())
    assert f"is a {name}: its rounds add up to one model" in message


def test_stacking_and_calibration_are_refused_because_members_are_no_samples():
    stacking = StackingClassifier([("nb", GaussianNB()), ("tree", DecisionTreeClassifier())], cv=2).fit(X, Y)
    assert "one last model" in refusal(stacking)
    calibrated = CalibratedClassifierCV(GaussianNB(), cv=2).fit(X, Y)
    assert "CalibratedClassifierCV" in refusal(calibrated) and "calibrates" in refusal(calibrated)


def test_what_is_refused_works_inside_of_bagging():
    boosted = GradientBoostingClassifier(n_estimators=3, random_state=0)
    bagging = BaggingClassifier(boosted, 3, random_state=0).fit(X, Y)
    got = collect_sklearn_log_probs(bagging, POOL)
    np.testing.assert_allclose(got.exp().mean(1), bagging.predict_proba(POOL), atol=1e-6)


@pytest.mark.parametrize("kind", [RandomForestRegressor, BaggingRegressor, GradientBoostingRegressor])
def test_regression_is_refused_and_said_not_to_be_supported(kind):
    message = refusal(kind(n_estimators=2).fit(X, Y.astype(float)))
    assert f"is a {kind.__name__}: regression is not supported" in message
    assert "regression is not supported" in refusal(kind())
    assert "regression is not supported" in refusal(make_pipeline(StandardScaler(), kind(n_estimators=2)).fit(X, Y))


def test_regressors_of_other_libraries_are_refused():
    kind = type("CatBoostRegressor", (), {"_estimator_type": "regressor"})
    assert "CatBoostRegressor: regression is not supported" in refusal(kind())


@pytest.mark.parametrize("ensemble", [GaussianNB(), IsolationForest(), OneVsRestClassifier(GaussianNB()), DummyClassifier(), None, 3, "forest"])
def test_what_is_no_ensemble_is_refused_with_what_is_wanted(ensemble):
    if hasattr(ensemble, "fit"): ensemble.fit(X, Y)
    message = refusal(ensemble)
    assert "RandomForestClassifier" in message and "a list of classifiers" in message


@pytest.mark.parametrize("ensemble", [
    RandomForestClassifier(), BaggingClassifier(), VotingClassifier([("nb", GaussianNB())]), [], (), [GaussianNB()], [make_pipeline(StandardScaler(), GaussianNB())],
])  # fmt: skip
def test_what_is_not_fitted_is_refused(ensemble):
    assert "`fit` to be called first" in refusal(ensemble)


def test_members_without_probabilities_are_refused():
    for ensemble in (BaggingClassifier(Perceptron(), 3).fit(X, Y), VotingClassifier([("p", Perceptron())]).fit(X, Y), [Perceptron().fit(X, Y)]):
        assert "Perceptron (member 0) without `predict_proba`" in refusal(ensemble)


def test_lists_whose_members_know_other_classes_are_refused():
    models = [GaussianNB().fit(X, Y), GaussianNB().fit(X[Y < 5], Y[Y < 5])]
    message = refusal(models)
    assert "[0, 1, 2, 3, 4]" in message and "one list of classes" in message


def test_several_labels_for_each_input_are_refused():
    several = LabelBinarizer().fit_transform(Y)
    message = refusal(RandomForestClassifier(3).fit(X, several))
    assert "several labels" in message
    assert "several labels" in refusal([MLPClassifier((8,), max_iter=5).fit(X, several)])


def test_weights_are_refused_because_samples_count_the_same():
    models = [("nb", GaussianNB(var_smoothing=0.1)), ("tree", DecisionTreeClassifier(min_samples_leaf=4))]
    ensemble = VotingClassifier(models, voting="soft", weights=[1, 9]).fit(X, Y)
    assert "without weights" in refusal(ensemble)
    assert collect_sklearn_log_probs(ensemble.estimators_, POOL).shape == (280, 2, 10)


# What is warned of


def test_fully_grown_trees_are_one_hot_and_leave_nothing_after_few_picks():
    forest = RandomForestClassifier(10, random_state=0).fit(X, Y)
    with pytest.warns(UserWarning, match=r"`ensemble` is a RandomForestClassifier whose members are sure.*`min_samples_leaf=3`") as caught:
        got = collect_sklearn_log_probs(forest, POOL)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert set(got.exp().unique().tolist()) == {0.0, 1.0}
    gains = get_batchbald_batch(got, 6).gains
    assert sum(gains[:3]) > 0.95 * np.log(10) and gains[5] < 0.01


def test_one_member_is_warned_of():
    for ensemble in (RandomForestClassifier(1, min_samples_leaf=3).fit(X, Y), [GaussianNB().fit(X, Y)]):
        with pytest.warns(UserWarning, match="with one member, so nothing disagrees") as caught:
            assert collect_sklearn_log_probs(ensemble, POOL).shape == (280, 1, 10)
        assert len(caught) == 1 and caught[0].filename == __file__


# One column


@pytest.mark.parametrize("shape", [(12, 6, 1), (12, 6), (12, 1)])
def test_one_column_becomes_two_by_logsigmoid(shape):
    z = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    got = as_two_classes(z)
    assert got.shape == (*shape[:2], 2)
    assert_close(got[..., 1].exp(), z.sigmoid().reshape(got.shape[:-1]))
    assert_close(got.exp().sum(-1), torch.ones(got.shape[:-1]).double())
    assert_close(as_two_classes(z.sigmoid(), "probs"), got)
    assert_close(as_two_classes(z.numpy()), got)


def test_one_column_of_large_logits_loses_nothing():
    z = torch.tensor([[[800.0]], [[-800.0]]])
    assert as_two_classes(z).tolist() == [[[-800.0, 0.0]], [[0.0, -800.0]]]
    sure = as_two_classes(torch.tensor([[[0.0]], [[1.0]]]), "probs")
    assert sure.exp().tolist() == [[[1.0, 0.0]], [[0.0, 1.0]]]


def test_one_column_of_the_wrong_kind_is_refused_or_warned_of():
    p = torch.rand(12, 6, 1, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="`x` has only values from 0 to 1.*`kind=\"probs\"`") as caught: as_two_classes(p)
    assert caught[0].filename == __file__
    for x, kind in ((p - 1, "probs"), (p + 1, "probs"), (p * float("nan"), "probs"), (p * float("nan"), "logits")):
        with pytest.raises(ValueError, match="`x` has values from .*; want"): as_two_classes(x, kind)
    with pytest.raises(ValueError, match="`kind` is 'odds'; want"): as_two_classes(p, "odds")
    assert get_bald_batch(as_two_classes(p, "probs"), 3).scores[0] > 0


# What somebody new ran into

take = collect_sklearn_log_probs


def test_weights_of_a_voting_classifier_are_refused_wherever_they_show():
    "The members agree on the first rows, which they were trained on, and voting by labels has no mean."
    members = [("a", KNeighborsClassifier(1)), ("b", DecisionTreeClassifier(random_state=0))]
    for voting in ("soft", "hard"):
        model = VotingClassifier(members, voting=voting, weights=[1, 9]).fit(X, Y)
        with pytest.raises(ValueError, match=r"VotingClassifier with weights \[1, 9\]; want members without weights"): take(model, X)
        take(VotingClassifier(members, voting=voting, weights=[2, 2]).fit(X, Y), X)


def test_a_mean_that_is_off_in_the_last_rows_is_refused(monkeypatch):
    model = RandomForestClassifier(5, max_depth=2, random_state=0).fit(X, Y)
    said = model.predict_proba
    monkeypatch.setattr(model, "predict_proba", lambda x: said(x) if x is X[:10] or np.array_equal(x, X[:10]) else 1 - said(x))
    with pytest.raises(ValueError, match="mean differs"): take(model, X)


@pytest.mark.parametrize("layout", ["coo_matrix", "csr_matrix", "csc_matrix", "lil_matrix"])
def test_sparse_inputs_of_every_layout(layout):
    import scipy.sparse

    model = RandomForestClassifier(5, max_depth=3, random_state=0).fit(X, Y)
    assert torch.equal(take(model, getattr(scipy.sparse, layout)(X)), take(model, X))


def test_one_class_is_named():
    with pytest.raises(ValueError, match="was fitted to one class; want two or more"): take(RandomForestClassifier(3).fit(X, Y * 0), X)


def test_members_with_different_classes_are_told_of_bagging():
    few = [GaussianNB().fit(X[Y < c], Y[Y < c]) for c in (2, 3)]
    with pytest.raises(ValueError, match="one list of classes.*`BaggingClassifier`"): take(few, X)


@pytest.mark.parametrize("shape", [(5,), (5, 4, 3), (5, 4, 2), (5, 4, 3, 1), ()])
def test_what_is_not_one_column_is_refused(shape):
    with pytest.raises(ValueError, match=r"`x` has shape .*; want one column, \(N, K, 1\) or \(N, K\)"): as_two_classes(torch.rand(shape), "probs")


def test_both_classes_are_not_two_samples():
    p = torch.rand(6, 1)
    with pytest.raises(ValueError, match="holds both classes"): as_two_classes(torch.cat([1 - p, p], 1), "probs")
    assert as_two_classes(torch.cat([p, p], 1) / 3, "probs").shape == (6, 2, 2)  # two samples


def test_half_precision_becomes_float32():
    assert as_two_classes(torch.randn(4, 3).half()).dtype == torch.float32 and as_two_classes(torch.randn(4, 3).double()).dtype == torch.float64
