"The loop and its training: early stopping, warm starts, oracles, devices, and the global random state left alone."
import json
import math
import random
import subprocess
import sys
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from batchbald_nbdev import active_learning, collect
from batchbald_nbdev.active_learning import acquire, derive_generator, evaluate, make_mlp, make_seeded, run_trials, train_models
from batchbald_nbdev.bald import CandidateBatch, compute_bald
from batchbald_nbdev.bayesian_models import ConsistentDropout2d
from batchbald_nbdev.collect import collect_log_probs
from batchbald_nbdev.datasets import example_log_probs, get_balanced_indices, get_repeated_digits
from batchbald_nbdev.experiments import compare_methods
from batchbald_nbdev.methods import Round, get_method, methods
from batchbald_nbdev.second_look import judge_batch
from batchbald_nbdev.stochastic import get_power_batch, get_softmax_batch, get_softrank_batch

needs_cuda = pytest.mark.gpu
DATA = [get_repeated_digits(2, generator=derive_generator(0, trial, "data")) for trial in range(2)]
METHODS = {name: methods[name] for name in ("random", "batchbald")}


def run(methods=METHODS, data=DATA, **options):
    return [row for rows in run_trials(data, methods, **{"budget": 50, "samples": 5, "configs": 50, "test_samples": 5, "steps": 20} | options) for row in rows]


def timeless(records):
    return json.dumps([{k: v for k, v in r.items() if k != "seconds"} for r in records])


def train(ts, labels=40, make=make_mlp, **options):
    "Networks of trials `ts` trained as one stack."
    models = [make_seeded(make, derive_generator(t, "weights")) for t in ts]
    data = [DATA[t % 2] for t in ts]
    kept = train_models(models, [d.pool_inputs[t : t + labels] for t, d in zip(ts, data)], [d.pool_labels[t : t + labels] for t, d in zip(ts, data)],
                        [(t,) for t in ts], validation=[(d.validation_inputs, d.validation_labels) for d in data], **options)
    return models, kept


def weights(model):
    return {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def same_weights(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def make_normed():
    return nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))


# Early stopping


@pytest.mark.parametrize("rule", ["accuracy", "loss"])
@pytest.mark.parametrize("make", [make_mlp, make_normed])
def test_what_is_kept_are_the_weights_of_the_best_check(rule, make):
    options = {"make": make, "learning_rate": 0.02}
    checks = [*range(7, 71, 7), 73]  # the last one at the last step
    stack, kept = train(range(5), steps=73, epoch_steps=7, patience=2, early_stopping=rule, **options)
    checkpoints = [train(range(5), steps=step, **options)[0] for step in checks]
    for t, model in enumerate(stack):
        x, y = DATA[t % 2].validation_inputs, DATA[t % 2].validation_labels
        with torch.no_grad():
            logits = [c[t].eval()(x).double() for c in checkpoints]
        scores = [(l.argmax(1) == y).double().mean() if rule == "accuracy" else -nn.functional.cross_entropy(l, y) for l in logits]
        best = waited = 0
        for at, score in enumerate(scores[1:], 1):
            best, waited = (at, 0) if score > scores[best] else (best, waited + 1)
            if waited == 2:
                break
        assert kept[t] == checks[best] and same_weights(model, checkpoints[best][t])
    assert len(set(kept)) > 1 and min(kept) < 60  # they stop at different times, and some early


def test_one_that_has_stopped_is_as_if_alone():
    stack, kept = train(range(4), steps=200, epoch_steps=5, early_stopping="loss", learning_rate=0.02)
    assert len(set(kept)) > 1
    for t, model in enumerate(stack):
        (alone,), (steps,) = train([t], steps=200, epoch_steps=5, early_stopping="loss", learning_rate=0.02)
        assert steps == kept[t]
        assert_close(weights(model), weights(alone), atol=1e-3, rtol=1e-3)


def test_patience_is_counted_in_checks_and_equal_is_no_better(monkeypatch):
    looks = []
    validate = active_learning._validate
    monkeypatch.setattr(active_learning, "_validate", lambda *args: looks.append(1) or validate(*args))
    steps, loss = [], nn.functional.cross_entropy
    with monkeypatch.context() as m:
        m.setattr(nn.functional, "cross_entropy", lambda *args, **options: steps.append(1) or loss(*args, **options))
        (model,), kept = train([0], steps=1000, epoch_steps=4, patience=5, early_stopping="accuracy", learning_rate=0.0)
    assert (kept, len(looks), len(steps)) == ([4], 6, 24)  # the first check is the best, and after five more that are not better it is over
    assert same_weights(model, make_seeded(make_mlp, derive_generator(0, "weights")))
    looks.clear()
    train([0, 1], steps=30, epoch_steps=1, patience=50, early_stopping="loss")
    assert len(looks) == 2 * 30
    assert train([0], steps=7, epoch_steps=5, early_stopping="loss")[1] == [7]  # still getting better at the last step


def test_without_early_stopping_nobody_looks_at_the_validation_set(monkeypatch):
    monkeypatch.setattr(active_learning, "_validate", None)
    assert train([0, 1], steps=3, epoch_steps=1)[1] == [3, 3]


def test_dropout_is_off_and_weights_are_those_given_when_validating():
    x, y = DATA[0].validation_inputs, DATA[0].validation_labels
    models, _ = train([0], steps=50)
    judge = make_seeded(make_mlp, derive_generator("other")).eval()
    logits = models[0].eval()(x)
    assert active_learning._validate(judge, weights(models[0]), x, y, "accuracy") == (logits.argmax(1) == y).double().mean()
    assert_close(active_learning._validate(judge, weights(models[0]), x, y, "loss"), -nn.functional.cross_entropy(logits.double(), y).item())
    x, y = x.repeat(50, 1), y.repeat(50)  # more than one piece
    assert active_learning._validate(judge, weights(models[0]), x, y, "accuracy") == (logits.argmax(1) == y[:100]).double().mean()


def test_the_loop_hands_on_how_to_train():
    plain = run(data=DATA[:1])
    for options in ({"early_stopping": "accuracy", "epoch_steps": 1, "patience": 1}, {"minibatch_size": 8}, {"learning_rate": 0.01}):
        assert timeless(run(data=DATA[:1], **options)) != timeless(plain)
    assert timeless(run(early_stopping="accuracy", patience=99, epoch_steps=20)) == timeless(run())  # one check, after the last step
    with pytest.raises(TypeError, match="magic"):
        run(magic=1)


def test_each_trial_is_validated_on_its_own_points(monkeypatch):
    seen = []
    monkeypatch.setattr(active_learning, "train_models", lambda *args, validation, **options: seen.append(validation))
    run(budget=20)
    assert len(seen[0]) == 4
    for (x, y), data in zip(seen[0], DATA * 2):
        assert x is data.validation_inputs and y is data.validation_labels


@pytest.mark.parametrize("options, message", [
    ({"early_stopping": "f1"}, "`early_stopping`"), ({"early_stopping": "loss", "patience": 0}, "`patience`"), ({"epoch_steps": 0}, "`epoch_steps`"),
    ({"mixed_precision": True}, "`mixed_precision`"), ({"device": "abacus"}, "`device`"),
    *([] if torch.cuda.is_available() else [({"device": "cuda"}, "`device`")]),
])
def test_training_refuses_what_it_cannot_do(options, message):
    with pytest.raises(ValueError, match=message):
        train([0], steps=1, **options)
    with pytest.raises(ValueError, match=message):
        run(data=DATA[:1], **options)


def test_training_wants_points_to_learn_from_and_to_validate_on():
    x, y = DATA[0].pool_inputs[:5], DATA[0].pool_labels[:5]
    models = [make_mlp(), make_mlp()]
    with pytest.raises(ValueError, match="`inputs`"):
        train_models(models, [x, x[:0]], [y, y[:0]], [(0,), (1,)], steps=1)
    for validation in ((), [(x, y)], [(x, y), (x[:0], y[:0])]):
        with pytest.raises(ValueError, match="`validation`"):
            train_models(models, [x, x], [y, y], [(0,), (1,)], steps=1, early_stopping="loss", validation=validation)
    bare = get_repeated_digits(1, validation=0)
    assert run(data=[bare])
    with pytest.raises(ValueError, match="`validation`"):
        run(data=[bare], early_stopping="accuracy")


# Warm start


def hesitant(round):
    "Takes from one to three points, as the generator says."
    n = min(round.batch_size, 1 + int(torch.randint(3, (), generator=round.generator)))
    batch = METHODS["random"](round)
    return CandidateBatch(batch.scores[:n], batch.indices[:n])


@pytest.mark.parametrize("options", [{}, {"warm_start": True}, {"warm_start": True, "early_stopping": "loss", "epoch_steps": 5}])
def test_resumed_at_any_round_the_records_are_the_same(options):
    options = {"methods": {"random": METHODS["random"], "hesitant": hesitant}, "budget": 32, "size": 5} | options
    whole = run(**options)
    rounds = [r["round"] for r in whole]
    assert rounds.count(0) == 4 and rounds.count(rounds[-1]) < 4
    for round in range(rounds[-1] + 1):
        at = rounds.index(round)
        assert timeless(run(done=whole[:at], **options)) == timeless(whole[at:])
    assert run(done=whole, **options) == []


def test_a_warm_start_goes_on_from_the_last_weights_and_its_absence_does_not(monkeypatch):
    before, after = [], []
    def spy(models, *args, **options):
        before.append([weights(m) for m in models])
        train_models(models, *args, **options)
        after.append([weights(m) for m in models])

    monkeypatch.setattr(active_learning, "train_models", spy)
    run(warm_start=True)
    assert len(before) == 4 and all(torch.equal(a[name], b[name]) for x, y in zip(after, before[1:]) for a, b in zip(x, y) for name in a)
    before.clear()
    run()
    fresh = weights(make_seeded(make_mlp, derive_generator(0, 1, 2, "weights")))  # trial 1, round 2
    assert all(torch.equal(before[2][at][name], fresh[name]) for at in (1, 3) for name in fresh)


# Oracles


def test_an_oracle_is_asked_about_new_points_only_and_believed():
    asked = []
    def oracle(data, positions):
        trial, = [t for t, d in enumerate(DATA) if d is data]
        asked.append((trial, positions))
        return (9 - data.pool_labels[positions]).numpy()  # an array will do, and so will a list

    options = {"methods": {"random": METHODS["random"]}, "oracle": oracle}
    whole = run(**options)
    told = [(r["trial"], r["indices"]) for r in whole if r["indices"]]
    assert asked == told and all(r["classes"] == (9 - DATA[r["trial"]].pool_labels[r["indices"]]).tolist() for r in whole if r["indices"])
    for warm in (False, True):
        whole = run(**options, warm_start=warm)
        asked.clear()
        assert timeless(run(**options, warm_start=warm, done=whole[:4])) == timeless(whole[4:])
        assert asked == told[4:]


def test_the_answers_are_what_is_learned(monkeypatch):
    seen = []
    monkeypatch.setattr(active_learning, "train_models", lambda models, inputs, labels, *args, **options: seen.append((inputs, labels)))
    rows = run(data=DATA[:1], methods={"random": METHODS["random"]}, budget=30, oracle=lambda data, positions: [3] * len(positions))
    (x,), (y,) = seen[1]
    assert y[:20].tolist() == [c for c in range(10) for _ in range(2)] and y[20:].tolist() == [3] * 10 and y.dtype == torch.int64
    assert torch.equal(x[20:], DATA[0].pool_inputs[rows[0]["indices"]])


@pytest.mark.parametrize("answer", [[0] * 9, [0] * 11, [[0]] * 10, [10] * 10, [-1] * 10, [0.5] * 10, ["7"] * 10, None, 3])
def test_answers_that_are_no_labels_are_refused(answer):
    with pytest.raises(ValueError, match="`oracle` answers .* 10 points.* from 0 to 9"):
        run(oracle=lambda data, positions: answer)


def test_without_initial_labels_the_first_network_is_untrained():
    rows = run(per_class=0, budget=20)
    assert [r["labels"] for r in rows[::4]] == [0, 10, 20]
    for r in rows[:4]:
        model = make_seeded(make_mlp, derive_generator(0, r["trial"], 0, "weights"))
        data = DATA[r["trial"]]
        log_probs_N_K_C = collect_log_probs(model, data.test_inputs, 5, generator=derive_generator(0, r["trial"], 0, "test"))
        assert (r["accuracy"], r["nll"]) == evaluate(log_probs_N_K_C, data.test_labels)
    assert timeless(run(per_class=0, budget=20, done=rows[:4])) == timeless(rows[4:])


# Temperatures in names


@pytest.mark.parametrize("name, draw, default", [("softmaxbald", get_softmax_batch, 1 / 8), ("powerbald", get_power_batch, 1 / 4), ("softrankbald", get_softrank_batch, 1.0)])
def test_a_temperature_in_the_name_is_that_of_the_draw(name, draw, default):
    log_probs_N_K_C = example_log_probs()[:60]
    def choose(name): return get_method(name)(Round(6, 60, lambda x: log_probs_N_K_C, generator=derive_generator(1))).indices
    for T in (0.03, default, 2.5):
        assert choose(f"{name}@{T}") == draw(compute_bald(log_probs_N_K_C), 6, temperature=T, generator=derive_generator(1)).indices
    assert choose(name) == choose(f"{name}@{default}") != choose(f"{name}@0.03")
    assert choose(f"{name}@0") == choose("bald")
    for wrong in ("@", "@-1", "@nan", "@hot", "@1@1"):
        with pytest.raises(ValueError, match="`name` is"): get_method(name + wrong)
    with pytest.raises(ValueError, match="`name` is 'bald@1'"): get_method("bald@1")


# Initial labels that are named, smaller stacks, shared pools


def test_named_initial_labels_take_the_place_of_drawn_ones(monkeypatch):
    seen = []
    monkeypatch.setattr(active_learning, "train_models", lambda models, inputs, labels, *args, **options: seen.append((inputs, labels)))
    initial = [[5, 900, 7], torch.tensor([3, 2, 1])]
    rows = run(methods={"random": methods["random"], "bald": methods["bald"]}, budget=13, initial=initial, per_class=9)
    assert [r["labels"] for r in rows[:4]] == [3] * 4 and [r["labels"] for r in rows[4:]] == [13] * 4
    for learner, (x, y) in enumerate(zip(*seen[0])):
        data, at = DATA[learner % 2], torch.as_tensor(initial[learner % 2])
        assert torch.equal(x, data.pool_inputs[at]) and torch.equal(y, data.pool_labels[at])
        assert not set(at.tolist()) & set(rows[learner]["indices"])
    drawn = [get_balanced_indices(data.pool_labels, 2, generator=derive_generator(0, trial, "initial")) for trial, data in enumerate(DATA)]
    monkeypatch.undo()
    assert timeless(run(initial=drawn)) == timeless(run()) != timeless(run(initial=[[*range(20)]] * 2))
    assert timeless(run(initial=[[], []], budget=20)) == timeless(run(per_class=0, budget=20))
    for wrong in ([[1]], [[1], [2], [3]], [[1], [2, 3]], [[1, 1], [1, 2]], [[0], [1200]], [[-1], [0]], [[0.5], [1]]):
        with pytest.raises(ValueError, match="`initial`"): run(initial=wrong)


@pytest.mark.parametrize("options", [{}, {"warm_start": True}])
def test_in_smaller_stacks_everything_is_the_same_but_rounding(monkeypatch, options):
    options = {"methods": {"random": methods["random"], "bald": methods["bald"]}, "budget": 40, "early_stopping": "loss", "epoch_steps": 10} | options
    whole, said, stacks = run(**options), [], []
    monkeypatch.setattr(active_learning, "train_models", lambda models, *args, **options: stacks.append(len(models)) or train_models(models, *args, **options))
    for n, expected in ((3, [3, 1]), (1, [1] * 4), (4, [4]), (99, [4])):
        stacks.clear(), said.clear()
        parts = run(together=n, progress=said.append, **options)
        assert stacks == expected * 3
        for a, b in zip(parts, whole, strict=True):
            assert (a["method"], a["trial"], a["round"], a["labels"]) == (b["method"], b["trial"], b["round"], b["labels"]) and abs(a["nll"] - b["nll"]) < 1e-3
            assert a["indices"] == b["indices"] or a["method"] != "random"
        of = " of 4" if n < 4 else ""
        assert said[0] == f"training {min(n, 4)} networks{of}" and said[1 + min(n, 4)] in ("choosing: random", "choosing: bald", f"training {expected[-1]} networks{of}")
        assert timeless(run(together=n, done=parts[:4], **options)) == timeless(parts[4:])
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="`together`"): run(together=wrong)


def test_models_share_validation_points():
    moves = []
    class Spy(torch.Tensor):
        def to(self, *args, **options):
            moves.append(self.shape)
            return self.as_subclass(torch.Tensor).to(*args, **options)

    x, y = (t.as_subclass(Spy) for t in (DATA[0].validation_inputs, DATA[0].validation_labels))
    models = [make_seeded(make_mlp, derive_generator(t)) for t in range(3)]
    train_models(models, [DATA[0].pool_inputs[:9]] * 3, [DATA[0].pool_labels[:9]] * 3, [(t,) for t in range(3)], steps=1, early_stopping="loss", validation=[(x, y)] * 3)
    assert sorted(map(tuple, moves)) == [(100,), (100, 64)]


def test_a_method_may_look_at_the_inputs_of_the_pool():
    looks = []
    def look(round):
        x = round.pool_inputs
        looks.append((len(x), x[:], x[3], x[[0, -1]]))
        assert torch.equal(round.predict(x), round.predict(x[:])) and torch.equal(round.log_probs_N_K_C, round.predict(x[:]))
        return CandidateBatch([0.0], [round.pool_size - 1])

    rows = run({"look": look}, DATA[:1], budget=21, initial=[list(range(20))])
    n, every, one, ends = looks[0]
    expected = DATA[0].pool_inputs[20:]
    assert n == len(expected) and torch.equal(every, expected) and torch.equal(one, expected[3]) and torch.equal(ends, expected[[0, -1]])
    assert rows[0]["indices"] == [len(DATA[0].pool_labels) - 1]


def test_a_round_needs_no_copy_of_the_pool():
    if not Path("/proc/self/status").exists(): pytest.skip("memory is read as Linux tells it")
    code = """
import torch
from functools import partial
from batchbald_nbdev.active_learning import make_mlp, run_trials
from batchbald_nbdev.datasets import ActiveLearningData
from batchbald_nbdev.methods import methods
def kilobytes(key): return int(next(line for line in open('/proc/self/status') if line.startswith(key)).split()[1])
def bald(n):
    data = ActiveLearningData('made up', 10, pool[:n], torch.arange(n) % 10, torch.arange(n), pool[:9], torch.arange(9), pool[:9], torch.arange(9))
    return list(run_trials([data], {'bald': methods['bald']}, partial(make_mlp, 2000, 8), samples=2, test_samples=2, steps=1, budget=30))
pool = torch.randn(20_000, 2000)
bald(500)
before = kilobytes('VmRSS')
bald(20_000)
print((kilobytes('VmHWM') - before) * 1024 / pool.nbytes)
"""
    root = Path(__file__).resolve().parent.parent
    ratio = float(subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout)
    assert ratio < 0.5  # a copy would be 1 and more


# Devices


def test_training_and_every_prediction_are_on_the_device(monkeypatch):
    trained, predicted = [], []
    def train_there(*args, device, **options): trained.append(device)
    def collect_there(*args, device=None, **options):
        predicted.append(device)
        return collect_log_probs(*args, **options)

    monkeypatch.setattr(active_learning, "train_models", train_there)
    monkeypatch.setattr(active_learning, "collect_log_probs", collect_there)
    monkeypatch.setattr(active_learning, "choose_device", lambda device: f"the {device}")
    run({name: methods[name] for name in ("bald", "epig")}, DATA[:1], budget=30, device="abacus")
    assert trained == ["the abacus"] * 2 and predicted == ["the abacus"] * (2 * 2 + 1 + 2)  # tests; a pool; a pool and the evaluation inputs


def test_mixed_precision_keeps_weights_and_predictions_whole(monkeypatch):
    "On the CPU in the place of CUDA: the stack trains under autocast, with early stopping."
    (plain,), _ = train([0], steps=60)
    monkeypatch.setattr(active_learning, "autocast", lambda device, on: torch.autocast("cpu", torch.bfloat16, enabled=on))
    (model,), kept = train([0], steps=60, mixed_precision=True, early_stopping="loss", epoch_steps=60)
    assert kept == [60] and all(x.dtype == torch.float32 for x in weights(model).values())
    assert not same_weights(plain, model)
    start = make_seeded(make_mlp, derive_generator(0, "weights"))
    def apart(a, b): return sum((x - y).square().sum() for x, y in zip(a.parameters(), b.parameters())).sqrt()
    assert apart(plain, model) < 0.1 * apart(plain, start)
    assert same_weights(plain, train([0], steps=60)[0][0])


def test_mixed_precision_is_for_training_and_every_prediction(monkeypatch):
    on = []
    def look(function):
        def inner(*args, **options):
            on.append(torch.is_autocast_enabled("cpu"))
            return function(*args, **options)
        return inner

    for module in (active_learning, collect): monkeypatch.setattr(module, "autocast", lambda device, on: torch.autocast("cpu", torch.bfloat16, enabled=on))
    monkeypatch.setattr(collect, "_gather", look(collect._gather))
    monkeypatch.setattr(nn.functional, "cross_entropy", look(nn.functional.cross_entropy))
    for mixed in (True, False):
        on.clear()
        run({"bald": methods["bald"]}, DATA[:1], budget=30, steps=2, mixed_precision=mixed)
        assert on == [mixed] * (2 + 2 + 2 + 1)  # in each of two rounds two steps and a test, and once the pool


@needs_cuda
def test_cuda_learns_what_the_cpu_learns():
    (cpu,), _ = train([0], steps=100)
    (gpu,), _ = train([0], steps=100, device="cuda")
    assert not gpu[1].weight.is_cuda  # it stays where it was
    assert_close(weights(gpu), weights(cpu), atol=0.01, rtol=0.01)
    there = make_seeded(make_mlp, derive_generator(0, "weights")).cuda()
    train_models([there], *[[x[:40]] for x in (DATA[0].pool_inputs, DATA[0].pool_labels)], [(0,)], steps=100)
    assert there[1].weight.is_cuda and same_weights(there.cpu(), gpu)  # `device=None`: where the model is
    (mixed,), _ = train([0], steps=100, device="cuda", mixed_precision=True)
    assert not same_weights(mixed, gpu) and mixed[1].weight.dtype == torch.float32
    rows = run(device="cuda", steps=200, early_stopping="accuracy", mixed_precision=True)
    assert rows[-1]["labels"] == 50 and rows[-1]["accuracy"] > 0.6
    assert timeless(run(device="cuda", steps=200, early_stopping="accuracy", mixed_precision=True)) == timeless(rows)


# The global random state


def states():
    "Of Python, NumPy and PyTorch, GPUs included."
    gpus = [x.tolist() for x in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(), gpus


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def compare(folder, **options):
    with redirect_stderr(StringIO()):
        compare_methods(folder, methods="random,softmaxbald,batchbald", trials=1, samples=5, configs=50, budget=40, repeats=1, **options)
    return timeless([json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_the_global_random_state_is_neither_used_nor_changed(tmp_path, device):
    make = partial(make_mlp, hidden=16)
    results = []
    for seed in (1, 2):
        seed_everything(seed)
        before = states()
        plain = run(methods, DATA[:1], budget=30, configs=20, make_model=make, device=device)
        stopped = run(budget=40, warm_start=True, early_stopping="loss", epoch_steps=5, device=device)
        compared = compare(tmp_path / str(seed), device=device)
        assert states() == before
        results.append([timeless(plain), timeless(stopped), compared])
    assert results[0] == results[1]


def test_making_a_model_reaches_no_gpu(monkeypatch):
    "`torch.manual_seed` seeds GPUs as well, now or when they are first used."
    def touched(*args): raise AssertionError("a GPU was seeded")
    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched)
    monkeypatch.setattr(torch, "manual_seed", touched)
    assert same_weights(make_seeded(make_mlp, derive_generator(1)), make_seeded(make_mlp, derive_generator(1)))


# What is refused, and with which words


def x_and_y(n=40):
    return DATA[0].pool_inputs[:n], DATA[0].pool_labels[:n]


@pytest.mark.parametrize("change, message", [
    ({"labels": [0, slice(20)]}, r"`labels\[1\]` is .*\(20,\).* for 40 points"), ({"labels": [0, slice(0)]}, r"`labels\[1\]`"), ({"inputs": [1, slice(39)]}, r"`labels\[1\]` is .*\(40,\).* for 39"),
    ({"labels": "-100"}, r"`labels\[0\]`.* from 0 to 9"), ({"labels": "10"}, r"`labels\[0\]`.* from 0 to 9"), ({"labels": "float"}, r"`labels\[0\]`"),
    ({"inputs": "three"}, "`models`, `inputs`, `labels` and `keys` are 2, 3, 2 and 2"), ({"keys": "three"}, "`keys` are 2, 2, 2 and 3"), ({"models": "none"}, "`models`"),
    ({"steps": -5}, "`steps`"), ({"steps": 2.5}, "`steps`"), ({"minibatch_size": 0}, "`minibatch_size`"), ({"learning_rate": float("inf")}, "`learning_rate`"), ({"learning_rate": float("nan")}, "`learning_rate`"),
    ({"learning_rate": -0.1}, "`learning_rate`"), ({"learning_rate": "fast"}, "`learning_rate`"), ({"patience": 1.5}, "`patience`"), ({"epoch_steps": True}, "`epoch_steps`"),
    ({"validation": (slice(40), slice(1))}, r"`validation\[0\]` is .*\(1,\).* for 40 points"), ({"validation": "50"}, r"`validation\[0\]`.* from 0 to 9"), ({"validation": "three"}, "`validation`"),
    ({"inputs": "nan"}, r"NaN.*`learning_rate`.*`inputs\[1\]`"), ({"learning_rate": 1e30}, "NaN.*`learning_rate`"),
])
def test_train_models_says_which_argument_is_wrong(change, message):
    x, y = x_and_y()
    n = len(change.get("models", "two")) - 1 if isinstance(change.get("models"), list) else 2
    given = {"models": [make_mlp() for _ in range(n)], "inputs": [x, x], "labels": [y, y], "keys": [(0,), (1,)], "steps": 3}
    for name, how in change.items():
        if name == "models": given = {"models": [], "inputs": [], "labels": [], "keys": []}
        elif name in ("labels", "inputs") and isinstance(how, list): given[name] = [given[name][0], (y if name == "labels" else x)[how[1]]]
        elif how == "three": given[name] = [*given[name], given[name][0]] if name != "validation" else [(x, y)] * 3
        elif how == "float": given["labels"] = [y.float()] * 2
        elif how == "nan": given["inputs"] = [x, x * float("nan")]
        elif name == "labels": given["labels"] = [y.clone().index_fill(0, torch.tensor([3]), int(how)), y]
        elif name == "validation": given["validation"] = [(x, y + 50)] * 2 if how == "50" else [(x[how[0]], y[how[1]])] * 2
        else: given[name] = how
    if "validation" in change: given["early_stopping"] = "accuracy"
    with pytest.raises(ValueError, match=message):
        train_models(given.pop("models"), given.pop("inputs"), given.pop("labels"), given.pop("keys"), **given)


def test_a_network_that_never_has_a_finite_loss_is_not_said_to_have_taken_all_steps():
    with pytest.raises(ValueError, match="NaN"):
        train([0], steps=100, epoch_steps=5, early_stopping="loss", learning_rate=1e30)
    assert train([0], steps=0)[1] == [0]


def test_evaluate_says_what_is_wrong_and_takes_a_memory_map(tmp_path):
    log_probs_N_K_C = example_log_probs(20)[:30].float().log_softmax(-1)
    labels_N = DATA[0].test_labels[:30]
    for x, y, message in (
        (log_probs_N_K_C.exp(), labels_N, "looks like probabilities"), (log_probs_N_K_C + 1, labels_N, "logits"), (log_probs_N_K_C * float("nan"), labels_N, "NaN"),
        (log_probs_N_K_C[:0], labels_N[:0], "three non-empty axes"), (log_probs_N_K_C, labels_N[:1], r"`labels_N` is .*\(1,\).* for 30 points"), (log_probs_N_K_C, labels_N.float(), "`labels_N`"),
        (log_probs_N_K_C, labels_N + 1, "`labels_N`.* from 0 to 9"), (log_probs_N_K_C, None, "`labels_N`"),
    ):
        with pytest.raises(ValueError, match=message): evaluate(x, y)
    model = make_seeded(make_mlp, derive_generator(0))
    mapped = collect_log_probs(model, DATA[0].test_inputs, 5, out=tmp_path / "p.npy")
    assert evaluate(mapped, DATA[0].test_labels) == evaluate(torch.tensor(mapped), DATA[0].test_labels)
    assert evaluate(log_probs_N_K_C, labels_N.tolist()) == evaluate(log_probs_N_K_C, labels_N)


class Quit(Exception):
    "Raised by a method where a run is only to begin."


def refuses(message, methods=METHODS, data=DATA, **options):
    "Refused at once: before anything is trained."
    with pytest.MonkeyPatch.context() as m, pytest.raises(ValueError, match=message):
        m.setattr(active_learning, "train_models", lambda *args, **options: (_ for _ in ()).throw(Quit))
        run(methods, data, **options)


@pytest.mark.parametrize("options, message", [
    *(({name: wrong}, f"`{name}`") for name, values in {
        "samples": (0, -1, 2.5), "configs": (0, 2.5), "test_samples": (0, 1.5), "steps": (-3, 1.5), "seed": (None, "a", 0.5), "size": (0, 2.5), "budget": ("30", 30.5, -1), "per_class": (-1, 0.5), "together": (2.5, 0),
        "warm_start": ("no", 1, None), "mixed_precision": ("no", True), "progress": (True, "loud"), "oracle": (3,), "make_model": (make_mlp(), 3), "minibatch_size": (0,), "patience": (0,), "epoch_steps": (0,),
        "learning_rate": (float("inf"),), "early_stopping": ("f1",), "done": (None, [{}], [3], "no"),
    }.items() for wrong in values),
    ({"make_model": partial(make_mlp, classes=5)}, r"`make_model`.*\(1, 5\).* 10 classes"), ({"make_model": partial(make_mlp, 32)}, "`make_model`"), ({"make_model": lambda: None}, "`make_model`"),
    ({"data": [get_repeated_digits(1, validation=0)], "early_stopping": "loss"}, r"`early_stopping`.*`validation`.*`datasets\[0\]`"), ({"data": DATA[0]}, "`datasets`.*list"), ({"data": []}, "`datasets`"), ({"data": [3]}, "`datasets`"),
    ({"methods": []}, "`methods`"), ({"methods": ["random"]}, "`methods`"), ({"methods": {}}, "`methods`"), ({"methods": {"random": "random"}}, "`methods`"),
])
def test_run_trials_says_which_argument_is_wrong(options, message):
    refuses(message, **options)


@pytest.mark.parametrize("change, message", [
    ({"num_classes": 5}, r"`datasets\[1\].pool_labels`.* from 0 to 4"), ({"pool_labels": DATA[1].pool_labels - 1}, r"`datasets\[1\].pool_labels`"), ({"pool_labels": DATA[1].pool_labels[:9]}, r"`datasets\[1\].pool_labels`"),
    ({"test_labels": DATA[1].test_labels[:1]}, r"`datasets\[1\].test_labels` is .*\(1,\).* for 500"), ({"validation_labels": DATA[1].validation_labels[:1]}, r"`datasets\[1\].validation_labels`"),
    ({"test_inputs": DATA[1].test_inputs[:0], "test_labels": DATA[1].test_labels[:0]}, r"`datasets\[1\].test_inputs`"),
])
def test_data_that_do_not_fit_are_named(change, message):
    from dataclasses import replace

    refuses(message, data=[DATA[0], replace(DATA[1], **change)])


ONE = {"random": METHODS["random"]}


def changed(rows, at=0, **values):
    return [row | values if i == at else row for i, row in enumerate(rows)]


@pytest.mark.parametrize("done, options", [
    (lambda rows: rows[:2], {"seed": 9}), (lambda rows: rows[:2], {"size": 5}), (lambda rows: rows[:2], {"per_class": 1}), (lambda rows: rows, {"budget": 30}), (lambda rows: rows, {"budget": 60}),
    (lambda rows: rows[:2], {"data": [DATA[1], DATA[0]]}), (lambda rows: rows[:1], {"data": [get_repeated_digits(1, originals=200, generator=derive_generator(3))], "methods": ONE}),
    (lambda rows: changed(rows[:2], indices=[3] * 10), {}), (lambda rows: changed(rows[:2], indices=[-1] * 10), {}), (lambda rows: changed(rows[:2], indices=[5000] * 10), {}),
    (lambda rows: changed(rows[:2], indices=get_balanced_indices(DATA[0].pool_labels, 2, generator=derive_generator(0, 0, "initial"))[:10]), {}),
    (lambda rows: changed(rows[:4], 2, indices=rows[0]["indices"], classes=rows[0]["classes"]), {}), (lambda rows: changed(rows[:2], classes=rows[0]["classes"][:5]), {}),
    (lambda rows: changed(rows[:2], classes=[77] * 10), {}), (lambda rows: changed(rows[:2], classes=["7"] * 10), {}), (lambda rows: changed(rows[:2], labels=30), {}), (lambda rows: changed(rows[:2], dataset="mnist"), {}),
    (lambda rows: changed(rows[:2], scores=[0.0]), {}), (lambda rows: changed(rows[:2], indices=[], classes=[], scores=[]), {}), (lambda rows: changed(rows[:2], classes=[1 - (c > 0) for c in rows[0]["classes"]]), {}),
])
def test_records_of_another_run_are_refused(done, options):
    rows = run(ONE, steps=1)
    assert run(ONE, steps=1, done=rows[:2])
    refuses("`done`", **{"methods": ONE, "done": done(rows)} | options)


def test_records_with_an_oracle_may_have_other_classes():
    oracle = lambda data, positions: [0] * len(positions)
    rows = run(ONE, steps=1, oracle=oracle)
    assert timeless(run(ONE, steps=1, oracle=oracle, done=rows[:2])) == timeless(rows[2:])
    refuses("`done`", ONE, done=rows[:2])


@pytest.mark.parametrize("change", [lambda p: p.sort(), lambda p: p.clear(), lambda p: p.append(p[0]), lambda p: p.pop()])
def test_an_oracle_may_do_what_it_likes_with_the_list_that_it_is_handed(change):
    def oracle(data, positions):
        answer = data.pool_labels[positions]
        change(positions)
        return answer

    assert timeless(run(ONE, steps=1, oracle=oracle)) == timeless(run(ONE, steps=1))


@pytest.mark.parametrize("batch, message", [
    (CandidateBatch([0.0] * 10, list(torch.tensor([3] * 10))), "positions"), (CandidateBatch([0.0] * 10, [3] * 10), "positions"), (CandidateBatch([0.0] * 2, [0.0, 1.0]), "positions"),
    (CandidateBatch([0.0] * 2, [True, False]), "positions"), (CandidateBatch([0.0], [1180]), "positions"), (CandidateBatch([0.0], [-1]), "positions"), (CandidateBatch([0.0] * 11, list(range(11))), "positions"),
    (CandidateBatch([], []), "positions"), (CandidateBatch([0.0], [0, 1]), "scores"), (CandidateBatch([float("nan")] * 2, [0, 1]), "scores"), (CandidateBatch([float("inf")], [0]), "scores"),
    (CandidateBatch(["high"], [0]), "scores"), (CandidateBatch(None, [0]), "scores"), (CandidateBatch([0.0], None), "positions"), ([0, 1], "list"), (None, "NoneType"),
])
def test_a_batch_that_is_none_is_refused_with_the_name_of_its_method(batch, message):
    with pytest.raises(ValueError, match=f"the method 'mine' returned .*{message}"):
        run({"mine": lambda round: batch}, DATA[:1], steps=1)


def test_a_batch_may_come_as_tensors():
    given = lambda round: CandidateBatch(torch.tensor([0.5, 0.25]), torch.tensor([7, 3]))
    rows = run({"mine": given}, DATA[:1], budget=22, steps=1)
    assert rows[0]["scores"] == [0.5, 0.25] and len(rows[0]["indices"]) == 2 and json.dumps(rows)
    assert timeless(rows) == timeless(run({"mine": lambda round: CandidateBatch([0.5, 0.25], [7, 3])}, DATA[:1], budget=22, steps=1))


def test_oracles_do_not_answer_yes():
    with pytest.raises(ValueError, match="`oracle` answers"): run(oracle=lambda data, positions: [True] * len(positions))


def test_a_round_that_does_not_fit_itself_is_refused():
    log_probs_N_K_C = example_log_probs(20)[:50]
    for name, method in methods.items():
        if name == "random": continue
        with pytest.raises(ValueError, match="`predict` .* 50 .* 20"): method(Round(3, 20, lambda x: log_probs_N_K_C, generator=derive_generator(0)))
    for wrong in ([99], [-1], "3", [0.5], [True]):
        with pytest.raises(ValueError, match="`pending`"): Round(3, 50, lambda x: log_probs_N_K_C, pending=wrong)


def test_models_of_one_stack_have_the_same_dropout():
    "The layers of the first one are those that run."
    models = [make_seeded(partial(make_mlp, p=p), derive_generator(0)) for p in (0.5, 0.5, 0.9)]
    x, y = DATA[0].pool_inputs[:40], DATA[0].pool_labels[:40]
    with pytest.raises(ValueError, match=r"`models\[2\]` has dropout .*0\.9.* `models\[0\]`"): train_models(models, [x] * 3, [y] * 3, [(0,)] * 3, steps=1)
    assert train_models(models[:2], [x] * 2, [y] * 2, [(0,)] * 2, steps=1) == [1, 1]


# Convolutions on a CPU are trained one after the other


def few_images(t, n=12):
    g = derive_generator(t, "images")
    return torch.randn(n, 1, 8, 8, generator=g), torch.randint(3, (n,), generator=g)


def make_small_cnn():
    return nn.Sequential(nn.Conv2d(1, 4, 3), ConsistentDropout2d(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def test_networks_with_convolutions_come_out_as_each_by_itself():
    xs, ys = zip(*(few_images(t, 12 + t) for t in range(3)))
    def three(): return [make_seeded(make_small_cnn, derive_generator(t, "weights")) for t in range(3)]

    together, alone = three(), three()
    how = dict(steps=20, minibatch_size=8, early_stopping="loss", epoch_steps=2, patience=2)
    validation = [few_images(t + 7) for t in range(3)]
    taken = train_models(together, xs, ys, [(t,) for t in range(3)], validation=validation, **how)
    for t in range(3):
        assert train_models(alone[t : t + 1], xs[t : t + 1], ys[t : t + 1], [(t,)], validation=validation[t : t + 1], **how) == [taken[t]]
        for name, weights in alone[t].named_parameters(): assert torch.equal(weights, dict(together[t].named_parameters())[name])


@pytest.mark.parametrize("make_model, stacks", [(make_small_cnn, [1, 1, 1]), (lambda: make_mlp(64, 16, 3), [3])])
def test_what_has_stopped_is_not_computed_any_more_where_networks_go_one_by_one(monkeypatch, make_model, stacks):
    steps, sizes = [], []
    step = active_learning._step
    def counted(stack, *args):
        steps.append(len(stack.rows_T_1))
        return step(stack, *args)

    monkeypatch.setattr(active_learning, "_step", counted)
    scores = {0: [0.1, 0.2, 0.3, 0.4, 0.5], 1: [0.9, 0.1, 0.1], 2: [0.9, 0.95, 0.1, 0.1]}  # looks until two in a row were no better, five at most
    looks = {t: iter(o) for t, o in scores.items()}
    models = [make_seeded(make_model, derive_generator(t, "weights")) for t in range(3)]
    xs, ys = zip(*(few_images(t) for t in range(3)))
    validation = [few_images(t + 7) for t in range(3)]
    def judge(model, state, inputs, *_):
        t = next(t for t in range(3) if torch.equal(inputs, validation[t][0]))
        return next(looks[t], 0.0)

    monkeypatch.setattr(active_learning, "_validate", judge)
    taken = train_models(models, xs, ys, [(t,) for t in range(3)], steps=10, minibatch_size=4, validation=validation, early_stopping="accuracy", epoch_steps=2, patience=2)
    assert taken == [10, 2, 4]
    assert steps == ([1] * (10 + 6 + 8) if stacks == [1, 1, 1] else [3] * 10)


class Layout(nn.Module):
    "Notes how images lie in memory: in training, and in `eval()`."
    def __init__(self, seen): super().__init__(); self.seen = seen
    def __deepcopy__(self, memo): return Layout(self.seen)
    def forward(self, x):
        self.seen[self.training].append(x.stride(1) == 1 and x.is_contiguous(memory_format=torch.channels_last))
        return x


class InARow(nn.Module):
    "Asks for the order of memory."
    def forward(self, x): return x.view(len(x), -1)


class InARowInTraining(nn.Module):
    def forward(self, x): return x.view(len(x), -1) if self.training else x.flatten(1)


class Refuses(nn.Module):
    def forward(self, x):
        if not x.is_contiguous(): raise ValueError("want numbers in a row")
        return x.flatten(1)


class AsMemoryHasIt(nn.Module):
    "Raises nothing, and gives other numbers."
    def forward(self, x): return torch.as_strided(x, (len(x), x[0].numel()), (x[0].numel(), 1)) if self.training else x.flatten(1)


class AsMemoryHasItInEval(nn.Module):
    def forward(self, x): return x.flatten(1) if self.training else torch.as_strided(x, (len(x), x[0].numel()), (x[0].numel(), 1))


FLATS = [(nn.Flatten, True), (InARow, False), (InARowInTraining, False), (Refuses, False), (AsMemoryHasIt, False), (AsMemoryHasItInEval, False)]


@pytest.mark.parametrize("flat, innermost", FLATS, ids=[o.__name__ for o, _ in FLATS])
def test_convolutions_on_a_cpu_have_channels_innermost_where_the_network_allows_it(flat, innermost, monkeypatch):
    seen = {True: [], False: []}
    def make(): return nn.Sequential(nn.Conv2d(3, 4, 3), Layout(seen), ConsistentDropout2d(0.5), nn.BatchNorm2d(4), nn.ReLU(), flat(), nn.Linear(144, 3))
    g = derive_generator(0, "images")
    x, y, validation = torch.randn(12, 3, 8, 8, generator=g), torch.randint(3, (12,), generator=g), [(torch.randn(5, 3, 8, 8, generator=g), torch.tensor([0, 1, 2, 0, 1]))]
    models = [make_seeded(make, derive_generator(0, "weights")) for _ in range(2)]
    how = dict(steps=6, minibatch_size=8, early_stopping="loss", epoch_steps=2, validation=validation)
    assert train_models(models[:1], [x], [y], [(0,)], **how) == [6]
    assert seen[True][-5:] == [innermost] * 5 and seen[False][-3:] == [innermost] * 3
    monkeypatch.setattr(active_learning, "takes_channels_innermost", lambda *_: False)
    train_models(models[1:], [x], [y], [(0,)], **how)
    for (name, one), other in zip(models[0].state_dict().items(), models[1].state_dict().values()): torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
    assert seen[True][-5:] == [False] * 5 and seen[False][-3:] == [False] * 3


def test_blank_images_hide_no_order_of_memory():
    image = torch.zeros(1, 3, 8, 8)
    assert active_learning.takes_channels_innermost(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), image)
    assert not active_learning.takes_channels_innermost(nn.Sequential(AsMemoryHasIt(), nn.Unflatten(1, (3, 8, 8)), nn.Conv2d(3, 4, 3), nn.Flatten()), image)


def test_memory_that_runs_out_while_layouts_are_compared_is_no_answer():
    class Full(nn.Module):
        def forward(self, x): raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError): active_learning.takes_channels_innermost(nn.Sequential(nn.Conv2d(3, 4, 3), Full()), torch.zeros(1, 3, 8, 8))


def test_layouts_are_compared_once_for_all_networks(monkeypatch):
    looked = []
    monkeypatch.setattr(active_learning, "takes_channels_innermost", lambda *_: bool(looked.append(1)))
    xs, ys = zip(*(few_images(t) for t in range(3)))
    train_models([make_seeded(make_small_cnn, derive_generator(t, "weights")) for t in range(3)], xs, ys, [(t,) for t in range(3)], steps=1, minibatch_size=4)
    assert looked == [1]


def test_weights_that_are_no_numbers_name_their_network_also_one_by_one():
    xs, ys = zip(*(few_images(t) for t in range(2)))
    models = [make_seeded(make_small_cnn, derive_generator(t, "weights")) for t in range(2)]
    with pytest.raises(ValueError, match=r"`models\[1\]` has NaN or infinite weights.*`inputs\[1\]`"):
        train_models(models, [xs[0], xs[1] * math.nan], ys, [(0,), (1,)], steps=2, minibatch_size=4)


class Noisy(nn.Module):
    def forward(self, x): return x + torch.randn_like(x) if self.training else x


def test_random_draws_in_forward_are_refused_also_one_by_one():
    xs, ys = zip(*(few_images(t) for t in range(2)))
    models = [make_seeded(lambda: nn.Sequential(Noisy(), *make_small_cnn()), derive_generator(t, "weights")) for t in range(2)]
    state = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="random"): train_models(models, xs, ys, [(0,), (1,)], steps=3, minibatch_size=4)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_networks_of_other_widths_are_refused():
    xs, ys = zip(*(few_images(t) for t in range(2)))
    models = [make_small_cnn(), nn.Sequential(nn.Conv2d(1, 5, 3), ConsistentDropout2d(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(180, 3))]
    with pytest.raises(ValueError, match=r"`models\[1\]` has weights of other names or shapes than `models\[0\]`"): train_models(models, xs, ys, [(0,), (1,)], steps=1)


def test_sequences_of_any_kind_are_taken():
    from collections import deque

    xs, ys = zip(*(few_images(t) for t in range(2)))
    keys = {(0,): None, (1,): None}.keys()
    models = deque(make_seeded(make_small_cnn, derive_generator(t, "weights")) for t in range(2))
    assert train_models(models, deque(xs), ys, keys, steps=2, minibatch_size=4) == [2, 2]


# A second look


def test_a_second_look_changes_nothing_else_and_is_what_judge_batch_says():
    options = dict(data=DATA[:1], budget=40, together=1)
    plain, judged = run(**options), run(**options, judge=30)
    assert timeless([{k: v for k, v in row.items() if k != "judged"} for row in judged]) == timeless(plain)
    first = get_balanced_indices(DATA[0].pool_labels, 2, generator=derive_generator(0, 0, "initial"))
    model = make_seeded(make_mlp, derive_generator(0, 0, 0, "weights"))
    train_models([model], [DATA[0].pool_inputs[first]], [DATA[0].pool_labels[first]], [(0, 0, 0)], steps=20)
    for row in judged[:2]:
        batch = judge_batch(model, row["indices"], 30, inputs=DATA[0].pool_inputs, generator=derive_generator(0, 0, 0, "judge"))
        error = math.hypot(batch.standard_errors[-1], batch.sampling_errors[-1])
        assert row["judged"] == {"worth": batch.debiased_scores[-1], "error": error, "at_least": batch.at_least[-1]}
        assert batch.scores[-1] > 0 < error
    assert [row["judged"] for row in judged[4:]] == [{"worth": 0.0, "error": 0.0, "at_least": False}] * 2
    assert timeless(run(**options, judge=30, done=judged[:2])) == timeless(judged[2:])
    assert timeless(run(**options, judge=np.int64(30))) == timeless(judged)


def test_a_second_look_is_under_independent_masks_and_without_warnings_of_its_own(recwarn):
    options = dict(data=DATA[:1], budget=30, together=1, methods={"random": methods["random"]}, judge=25)
    both = [run(**options, masks=masks) for masks in ("independent", "orthogonal")]
    assert both[0][0]["judged"] == both[1][0]["judged"] and both[0][0]["nll"] != both[1][0]["nll"] and not recwarn.list


@pytest.mark.parametrize("judge", [1, 19, -1, 20.0, "30", True, None, 10**40])
def test_a_second_look_with_too_few_samples_is_refused_by_name(judge):
    with pytest.raises(ValueError, match="`judge` is"): run_trials(DATA, METHODS, judge=judge)
