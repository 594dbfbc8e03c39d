"The registry: one default M, one rule for one name, and a method from outside the package that everybody finds."
import csv
import inspect
import json
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from batchbald_nbdev import command_line, experiments
from batchbald_nbdev.active_learning import acquire, derive_generator, make_mlp, make_seeded, run_trials
from batchbald_nbdev.bald import CandidateBatch, compute_bald, get_top_k_batch
from batchbald_nbdev.batchbald import get_batchbald_batch
from batchbald_nbdev.datasets import example_log_probs, get_balanced_indices, get_repeated_digits
from batchbald_nbdev.epig import get_batchepig_batch, get_epig_batch
from batchbald_nbdev.command_line import format_picks, select_batch
from batchbald_nbdev.experiments import presets
from batchbald_nbdev.label_panel import plot_labelling
from batchbald_nbdev.labelling import Labelling
from batchbald_nbdev.methods import Method, Round, get_method, label_of_method, methods, register
from batchbald_nbdev.plots import _styles_of, plot_learning_curves
from batchbald_nbdev.plain_batchbald import CeilingWarning

COLOUR, WORDS = "#332288", "probability of the second likeliest class less that of the likeliest"


def pick_by_margin(round):
    first_N, second_N = round.log_probs_N_K_C.double().exp().mean(1).topk(2).values.T
    return get_top_k_batch(second_N - first_N, round.batch_size)


def margins(log_probs_N_K_C):
    top = np.sort(np.exp(np.asarray(log_probs_N_K_C, dtype=np.float64)).mean(1), -1)
    return top[:, -2] - top[:, -1]


@pytest.fixture
def margin():
    "Registered from outside, and gone after the test."
    before = dict(methods)
    yield register(Method("mymargin", "Margin, my own (top-k)", pick_by_margin, WORDS, (COLOUR, "-"), needs_samples=False))
    del methods["mymargin"]
    assert methods == before


@pytest.fixture
def predictions(tmp_path):
    x = example_log_probs(20)[:50].float().log_softmax(-1)
    np.save(tmp_path / "p.npy", x.numpy())
    return tmp_path / "p.npy"


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# A method from outside


def test_the_loop_finds_it(margin):
    data = [get_repeated_digits(1, generator=derive_generator(0, "data"))]
    rounds = list(run_trials(data, {"mymargin": margin}, budget=40, samples=5, test_samples=5, steps=5))
    assert [row["method"] for row in rounds[0]] == ["mymargin"] and len(rounds) == 3
    assert all(-1 <= score <= 0 for score in rounds[0][0]["scores"]) and rounds[0][0]["scores"] == sorted(rounds[0][0]["scores"], reverse=True)


def test_the_comparison_finds_it_with_its_legend_and_its_colour(margin, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(experiments, "plot_learning_curves", lambda *args: figures.append(plot_learning_curves(*args)) or figures[0])
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        command_line.batchbald_compare(methods="random,mymargin", trials=2, samples=5, configs=50, budget=40, repeats=1, steps=5, out=str(tmp_path / "run"))
    lines = out.getvalue().splitlines()
    assert [line for line in lines if line.startswith("Margin, my own (top-k) ")]
    assert [row["method"] for row in csv.DictReader(open(tmp_path / "run/summary.csv"))] == ["random", "mymargin"]
    assert {json.loads(line)["method"] for line in open(tmp_path / "run/records.jsonl")} == {"random", "mymargin"}
    curves = {line.get_label(): to_hex(line.get_color()) for line in figures[0].axes[0].lines}
    assert curves == {"Random": "#777777", "Margin, my own (top-k)": COLOUR}
    assert [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()] == ["Random", "Margin, my own (top-k)"]


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_a_file_of_picks_finds_it(margin, predictions, tmp_path, ending):
    rows = select_batch(predictions, method="mymargin", size=4, out=tmp_path / f"picks.{ending}")
    expected = margins(np.load(predictions))
    assert [row["position"] for row in rows] == np.argsort(-expected, kind="stable")[:4].tolist()
    assert np.allclose([row["score"] for row in rows], np.sort(-expected)[:4] * -1, atol=1e-6)
    assert format_picks(rows, "mymargin").splitlines()[-1] == f"score: {WORDS}"
    if ending == "json":
        written = json.loads((tmp_path / "picks.json").read_text())
        assert written["columns"] == {"score": WORDS} and written["method"] == "mymargin"
    else:
        assert [int(row["position"]) for row in csv.DictReader(open(tmp_path / "picks.csv"))] == [row["position"] for row in rows]


def test_the_command_finds_it_and_keeps_pending_points_away_from_it(margin, predictions, tmp_path):
    best = np.argsort(-margins(np.load(predictions)), kind="stable").tolist()
    (tmp_path / "pending.txt").write_text("\n".join(map(str, best[:3])))
    out = StringIO()
    with redirect_stdout(out):
        command_line.batchbald_select(str(predictions), method="mymargin", size=4, pending=str(tmp_path / "pending.txt"))
    lines = out.getvalue().splitlines()
    assert [int(line.split()[2]) for line in lines[2:-1]] == best[3:7] and lines[-1] == f"score: {WORDS}"
    np.save(tmp_path / "evaluation.npy", np.load(predictions)[:5])
    with pytest.raises(ValueError, match="'mymargin' asks nothing"): select_batch(predictions, method="mymargin", evaluation=tmp_path / "evaluation.npy")
    with pytest.raises(ValueError, match="want one of: random, .*margin"): select_batch(predictions, method="magic")


def test_one_parameter_sample_is_enough_for_it(margin, predictions, tmp_path, capsys):
    np.save(tmp_path / "one.npy", np.load(predictions)[:, :1])
    for name, warned in (("mymargin", False), ("bald", True)):
        command_line.batchbald_select(str(tmp_path / "one.npy"), method=name, size=2)
        assert ("(K = 1)" in capsys.readouterr().err) == warned


def test_the_panel_finds_it(margin):
    data = get_repeated_digits(1, originals=60)
    labelling = Labelling(data.pool_inputs, image_shape=(8, 8), start=dict(enumerate(data.pool_labels[:10].tolist())), methods=["mymargin", "softmaxbald@0.5"], steps=5, samples=5)
    assert len(labelling.batches["mymargin"]["indices"]) == 10
    figure = plot_labelling(labelling)
    texts = {text.get_text() for sub in figure.subfigs for ax in sub.axes for text in [ax.title, ax.yaxis.label]}
    assert {"Margin, my own (top-k)", "SoftmaxBALD, T = 0.5"} <= texts
    with pytest.raises(ValueError, match="`methods` has 'magic'"): Labelling(data.pool_inputs, image_shape=(8, 8), methods=["magic"])


def test_a_registered_draw_may_carry_a_temperature(monkeypatch):
    seen = []
    def select(round, temperature=1.0):
        seen.append(temperature)
        return CandidateBatch([0.0], [0])
    monkeypatch.setitem(methods, "mine", Method("mine", "Mine", select, "0", ("#123456", ":"), has_temperature=True))
    for name in ("mine", "mine@0.5", "mine@inf"): get_method(name)(Round(1, 5, None))
    assert seen == [1.0, 0.5, float("inf")] and label_of_method("mine@0.5") == "Mine, T = 0.5"
    assert _styles_of(["mine", "mine@0.5"]) == {"mine": ("#123456", ":"), "mine@0.5": ("#000000", "-")}
    with pytest.raises(ValueError, match="mine may end in a temperature"): get_method("mine@cold")


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="`name` is 'bald', which `methods` has"): register(replace(methods["bald"], label="Another"))
    assert methods["bald"].label == "BALD (top-k)"


# One rule, one default


def test_names_labels_and_styles_are_each_used_once():
    assert list(methods) == [method.name for method in methods.values()] == [*dict.fromkeys(methods)]
    assert len({method.label for method in methods.values()}) == len(methods) == len({method.style for method in methods.values()})


def test_there_is_one_default_for_the_configurations_that_are_carried():
    found = {function: inspect.signature(function).parameters[name].default for function, name in (
        (get_batchbald_batch, "num_samples"), (Round, "num_samples"), (acquire, "configs"), (run_trials, "configs"), (select_batch, "configs"),
        (command_line.batchbald_select.__wrapped__, "configs"))}
    assert set(found.values()) == {4_000}
    assert 4 * inspect.signature(get_batchepig_batch).parameters["num_samples"].default == 4_000  # the quarter that the method takes
    assert {preset["configs"] for name, preset in presets.items() if preset["dataset"] == "digits"} == {1_000}


@pytest.mark.parametrize("seed", range(40))
def test_copies_are_ranked_by_one_rule(seed):
    "In a pool of copies in another order scores are equal but for rounding, and the lowest position wins."
    distinct = example_log_probs(20)[seed * 7 : seed * 7 + 15].float().log_softmax(-1)
    order = torch.randint(15, (40,), generator=seeded(seed))
    x, y = distinct[order] + 1e-8 * torch.randn(40, 1, 1, generator=seeded(seed)), distinct[:5]
    batch = methods["epig"](Round(6, 40, lambda inputs: x if inputs is None else y, evaluation_inputs=y))
    assert batch == get_epig_batch(x, y, 6)


@pytest.mark.parametrize("name", [name for name, method in methods.items() if not method.takes_pending])
@pytest.mark.parametrize("pending", [[3, 7], [0, 49], list(range(45))])
def test_pending_points_are_as_if_they_were_not_in_the_pool(name, pending):
    x, y = example_log_probs(20)[:50].float().log_softmax(-1), example_log_probs(20)[60:70].float().log_softmax(-1)
    rest = [n for n in range(50) if n not in pending]
    def answer(pool): return lambda inputs: pool if inputs is None else y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CeilingWarning)
        batch = methods[name](Round(4, 50, answer(x), pending=pending, generator=seeded(1), evaluation_inputs=y, num_samples=100))
        alone = methods[name](Round(4, len(rest), answer(x[rest]), generator=seeded(1), evaluation_inputs=y, num_samples=100))
    assert batch.indices == [rest[n] for n in alone.indices] and batch.scores == alone.scores


def test_the_pool_stands_in_for_evaluation_inputs_pending_points_included():
    x = example_log_probs(20)[:30].float().log_softmax(-1)
    rest = list(range(2, 30))
    batch = methods["epig"](Round(4, 30, lambda inputs: x, pending=[0, 1]))
    expected = get_epig_batch(x[rest], x, 4)
    assert batch.indices == [rest[n] for n in expected.indices] and batch.scores == expected.scores


# A batch is no batch


@pytest.mark.parametrize("batch", [CandidateBatch([0.0], [30]), CandidateBatch([0.0] * 2, [1, 1]), CandidateBatch([], []), CandidateBatch([0.0] * 4, [1, 2, 3, 4]), None])
def test_what_a_method_must_not_return_is_refused_in_the_command_too(monkeypatch, predictions, batch):
    monkeypatch.setitem(methods, "mine", Method("mine", "Mine", lambda round: batch, "0"))
    if batch == CandidateBatch([0.0], [30]): batch.indices = [50]
    with pytest.raises(ValueError, match="the method 'mine' returned"): select_batch(predictions, method="mine", size=3)


def test_a_method_that_returns_pending_points_is_refused():
    careless = Method("careless", "Careless", lambda round: CandidateBatch([0.0], [3]), "0", takes_pending=True)
    assert careless(Round(1, 5, None)).indices == [3]
    with pytest.raises(ValueError, match="'careless' returned positions .*none of them pending"): careless(Round(1, 5, None, pending=[3]))


# One choice


def test_acquire_is_what_the_loop_does():
    data = get_repeated_digits(1, generator=derive_generator(3, 0, "data"))
    rows = next(run_trials([data], {name: methods[name] for name in ("bald", "epig", "random")}, budget=40, samples=5, configs=50, steps=0, seed=3))
    model = make_seeded(make_mlp, derive_generator(3, 0, 0, "weights"))
    taken = get_balanced_indices(data.pool_labels, 2, generator=derive_generator(3, 0, "initial"))
    for row in rows:
        batch, seen = acquire(methods[row["method"]], model, data.pool_inputs, taken, 10, key=(3, 0, 0), samples=5, configs=50, evaluation_inputs=data.validation_inputs)
        assert batch.indices == row["indices"] and batch.scores == row["scores"] and not set(batch.indices) & set(taken)
        assert seen.pool_size == len(data.pool_labels) - 20 and seen.num_samples == 50
    own, seen = acquire(lambda round: get_top_k_batch(compute_bald(round.log_probs_N_K_C), round.batch_size), model, data.pool_inputs, taken, 10, key=(3, 0, 0), samples=5)
    assert own.indices == rows[0]["indices"] and torch.equal(seen.predict(data.pool_inputs[own.indices]).argmax(-1), seen.log_probs_N_K_C[_positions(own.indices, taken)].argmax(-1))


def _positions(indices, taken):
    return [i - sum(t < i for t in taken) for i in indices]


@pytest.mark.parametrize("argument, value", [
    *(("taken", value) for value in ([-1], [3, 10**6], [0.5], [True, False], "12", None, torch.tensor([True, False]))),
    *(("samples", value) for value in (0, -1, "5", 2.5, None)),
    *(("configs", value) for value in (0, "5", None)),
    *(("batch_size", value) for value in (-1, "5", None)),
])  # fmt: skip
def test_acquire_names_what_cannot_be(argument, value):
    data = get_repeated_digits(1, originals=40)
    options = {"taken": [3], "batch_size": 2, "samples": 2, "configs": 20} | {argument: value}
    with pytest.raises(ValueError, match=f"`{argument}`"):
        acquire(methods["random"], make_mlp(), data.pool_inputs, options.pop("taken"), options.pop("batch_size"), **options)


def test_a_method_may_find_nothing_beside_what_is_pending():
    "Copies of a point that is out for labelling share all with it."
    copies = torch.tensor([[0.99, 0.01], [0.01, 0.99]], dtype=torch.double).log().expand(4, 2, 2)
    choose = methods["conservativebald"]
    assert choose(Round(3, 4, lambda _: copies)).indices == [0]
    assert choose(Round(3, 4, lambda _: copies, pending=[2])).indices == []
    nothing = Method("nothing", "Nothing", lambda round: CandidateBatch([], []), "0", takes_pending=True)
    with pytest.raises(ValueError, match="at least 1"): nothing(Round(3, 4, lambda _: copies))
