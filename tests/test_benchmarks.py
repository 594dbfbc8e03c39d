"Every benchmark runs in its tiny form, without the libraries it compares with, and its record has what it promises."
import importlib, json, math, os, subprocess, sys, time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from test_project import read_settings

from batchbald_nbdev.all import (
    ExactJointEntropy,
    Round,
    compute_conditional_entropy,
    example_log_probs,
    get_bald_batch,
    get_powerbald_batch,
    get_random_batch,
    get_softmaxbald_batch,
    get_softrankbald_batch,
)

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import common, gpu, moving_over, peers, quality, redux, temperature

PROMISED = {
    "peers": {"method", "labels", "N", "K", "C", "B", "M", "dtype", "seconds", "peak_bytes", "scaled", "indices", "repeated", "information", "information_error", "times_ours"},
    "limit": {"method", "labels", "N", "M", "threads", "seconds", "peak_bytes", "times_bald", "times_read", "times_one_thread"},
    "growth": {"axis", "N", "K", "C", "M", "B", "seconds", "bald_seconds", "times_bald", "finite", "smallest_gain", "ceiling_warning"},
    "quality": {"question", "labels", "N", "K", "M"},
    "sure": {"network", "K", "part", "sets", "picks", "share", "score", "worth", "error", "bias", "bias_debiased", "held", "held_debiased", "below"},
    "late": {"question", "N", "K", "C", "B", "M", "told_apart"},
    "temperature": {"method", "temperature", "B", "trials", "mean_accuracies", "mean_accuracy", "gain", "gain_error", "labels_to_90", "distinct_share", "labels", "accuracy_quartiles"},
    "memory": {"method", "N", "M", "input", "seconds", "peak_bytes", "input_bytes"},
    "kbald": {"question", "method", "labels", "N", "K", "C", "B", "M", "seconds", "peak_bytes", "times_bald", "indices", "score", "information", "information_error"},
    "predictions": {"method", "network", "p", "N", "K", "seconds", "peak_bytes", "times_faster", "smaller", "largest_difference"},
    "masks": {"network", "labels", "K", "design", "features", "array", "bald_spread", "chosen_spread", "random_spread", "batches", "draw_seconds", "collect_seconds"},
    "labels": {"method", "N", "L", "K", "C", "M", "seconds", "min_seconds", "peak_bytes", "times_sum"},
    "gpu": {"part", "method"},
    "moving_over": {"library", "row", "asked", "there", "here"},
    "many_machines": {"run", "N", "K", "C", "B", "M", "max_bytes", "chunks", "seconds", "peak_bytes", "computed_again", "same_batch", "indices"},
}


@pytest.mark.parametrize("name", PROMISED)
def test_tiny_form_writes_its_record(name, tmp_path, capsys):
    if name == "many_machines": pytest.importorskip("dask.distributed", reason="needs dask: pip install 'batchbald_nbdev[dask]'")
    path = tmp_path / "record.json"
    importlib.import_module(name).main(["--tiny", "--seed", "3", "--out", str(path)])
    record = json.loads(path.read_text())
    assert {"benchmark", "form", "command", "revision", "date", "seed", "threads", "machine", "versions", "rows"} <= record.keys()
    assert [record["benchmark"], record["form"], record["seed"]] == [name, "tiny", 3]
    assert record["command"] == f"python benchmarks/{name}.py --tiny --seed 3"  # where the record went is of no interest to others
    assert str(tmp_path) not in path.read_text() and str(BENCHMARKS) not in path.read_text()
    assert record["rows"] and all(PROMISED[name] <= row.keys() for row in record["rows"])
    assert "| --- |" in capsys.readouterr().out  # the table for the chapter
    check = globals().get(f"check_{name}")
    if check: check(record)


def check_peers(record):
    assert {"ours", "ours, default M", "BALD"} <= {row["method"] for row in record["rows"]}
    assert next(row for row in record["rows"] if row["method"] == "ours")["times_ours"] == 1


def check_moving_over(record):
    assert [(row["row"], row["library"]) for row in record["rows"]] == [(name, row.library) for name, row in moving_over.ROWS.items()]
    assert {row["library"] for row in record["rows"]} == set(record["axes"]) == set(moving_over.LIBRARIES)
    assert all((row["there"] is None) == (row["library"] in record["missing"]) for row in record["rows"])


def check_limit(record):
    assert {row["threads"] for row in record["rows"]} == set(record["threads_tried"])


def check_growth(record):
    assert record["sound"] and set(record["exponents"]) == set("NKCMB")
    assert record["rows"][-1]["B"] == 30 and record["rows"][-1]["ceiling_warning"]  # more picks than 20 samples can bear


def check_quality(record):
    assert {row["question"] for row in record["rows"]} == {"batches", "noise"}
    assert {"smallest_M", "smallest_M_for_all", "default_M", "ours_20", "default_100"} <= record["summary"].keys()


def check_memory(record):
    assert {row["input"] for row in record["rows"]} == {"float32 tensor", "float16 memory map"}


def check_predictions(record):
    assert {row["method"] for row in record["rows"]} == {"plain loop", "multiplied masks", "nothing shared", "collect_log_probs"}
    assert max(row["largest_difference"] for row in record["rows"]) < 1e-5


def check_kbald(record):
    table = [row for row in record["rows"] if row["question"] == "table 1"]
    assert {row["method"] for row in table} == {"BALD", "2-BALD", "3-BALD", "BatchBALD", "BatchBALD, plain loop"}
    assert all(len(row["indices"]) == row["B"] for row in record["rows"]) and {row["B"] for row in table} == {3, 5}
    bald, = {row["bald_seconds"] for row in table}  # one for all sizes of batch
    assert all(row["times_bald"] == row["seconds"] / bald for row in table)
def check_temperature(record):
    rows = {(row["method"], row["temperature"]): row for row in record["rows"]}
    assert {("random", None), ("bald", 0.0), ("batchbald", None)} < rows.keys() and {name for name, _ in rows} >= set(temperature.DRAWS)
    random = rows["random", None]
    assert random["gain"] == 0 and random["labels"] == [20, 25, 30]
    for row in rows.values():  # all start alike, and a gain is that over random in the same trial
        assert [q[0] for q in row["accuracy_quartiles"]] == [q[0] for q in random["accuracy_quartiles"]]
        assert len(row["mean_accuracies"]) == row["trials"] == 2
        gains = [a - b for a, b in zip(row["mean_accuracies"], random["mean_accuracies"])]
        assert row["gain"] == pytest.approx(sum(gains) / 2, abs=1e-5) and row["gain_error"] == pytest.approx(abs(gains[0] - gains[1]) / 2, abs=1e-5)
        assert row["labels_to_90"] == [None] * 3 and 0 < row["distinct_share"] <= 1  # 30 labels and 20 steps are too few


def test_temperatures_reach_the_draws():
    x = example_log_probs(20)[:50]

    def choose(method):
        return method(Round(5, 50, lambda _: x, generator=torch.Generator().manual_seed(2)))

    methods = temperature.make_methods({"softmaxbald": [1e-9, 0.125], "powerbald": [2.0], "softrankbald": [0.5]})
    assert choose(methods["bald", 0.0]) == choose(methods["softmaxbald", 1e-9]) == get_bald_batch(x, 5)
    assert choose(methods["random", None]) == get_random_batch(50, 5, generator=torch.Generator().manual_seed(2))
    for name, short, T in (("softmaxbald", get_softmaxbald_batch, 0.125), ("powerbald", get_powerbald_batch, 2.0), ("softrankbald", get_softrankbald_batch, 0.5)):
        assert choose(methods[name, T]) == short(x, 5, temperature=T, generator=torch.Generator().manual_seed(2))
def check_gpu(record):
    assert record["device"]["torch"] == torch.__version__ and record["total_seconds"] > 0
    ended = {part["part"]: part["ended"].split(":")[0] for part in record["parts"]}
    assert set(ended) == {"start", *(part.name for part in gpu.list_parts("tiny"))} and set(ended.values()) <= {"done", "missing"}
    assert all(part["seconds"] < part["limit_seconds"] for part in record["parts"])
    picks = [row for row in record["rows"] if "in_common" in row]
    assert [row["method"] for row in picks] == ["BatchBALD", "2-BALD", "BALD"] and all(len(row["indices"]) == row["B"] for row in picks)
    timed = [row for row in record["rows"] if "seconds" in row]
    assert {"BALD", "BatchBALD", "2-BALD", "collect_log_probs", "plain loop of MC dropout", "train_models", "plain training loop"} <= {row["method"] for row in timed}
    assert all({"first_seconds", "all_seconds", "peak_bytes", "warm", "scaled"} <= row.keys() for row in timed)
    launches, = [row for row in record["rows"] if "launches" in row]
    assert (launches["kernels"] > 0) == (record["device"]["device"] != "cpu")


def check_many_machines(record):
    assert ["killed" in row["run"] for row in record["rows"]] == [False, False, True]
    assert all(row["same_batch"] for row in record["rows"]) and record["rows"][0]["computed_again"] > 0


def answers(record): return {row["question"]: row["answer"] for row in record["rows"]}


def test_batchbald_redux_does_what_the_record_says(tmp_path):
    "The chapter for people who come from it shows the record."
    python = Path(sys.executable) if find_spec("batchbald_redux") else BENCHMARKS.parent / ".venv-bench/bin/python"
    if not python.exists(): pytest.skip("batchbald_redux is missing: run `make bench`")
    path, env = tmp_path / "record.json", {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run([python, BENCHMARKS / "redux.py", "--out", path], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    then, now = (json.loads(o.read_text()) for o in (BENCHMARKS / "records/redux_quick.json", path))
    assert then["versions"]["batchbald_redux"] == now["versions"]["batchbald_redux"]
    then, now = answers(then), answers(now)
    late, late_then = now.pop("late_picks"), then.pop("late_picks")
    for record in (now, then):  # what is drawn or rounded differs between machines
        assert record["precision"].pop("largest error of float16") == pytest.approx(0.003, rel=0.2)
        assert record["no_checks"].pop("right") == pytest.approx([0.5208, 0.0534, 0.0315], abs=1e-3)
        for kind in ("probabilities", "logits"): assert all(math.isfinite(o) for o in record["no_checks"].pop(kind))
    assert now == then
    sizes = ("points", "samples", "batch_size", "num_samples", "seeds")
    assert [late[o] for o in sizes] == [late_then[o] for o in sizes]
    for record in (late, late_then):
        excess_R_B = torch.tensor(record["excess"])
        assert excess_R_B.shape == (record["seeds"], record["batch_size"]) and excess_R_B[:, 0].abs().max() < 0.05 and 0.1 < excess_R_B[:, -1].std() < 0.3
        assert record["batches with a score that falls"] > record["seeds"] / 2 and record["batches with a score beyond log K"] > 0


def test_without_batchbald_redux_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(redux, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="make bench"): redux.main(["--out", str(tmp_path / "record.json")])
    assert not list(tmp_path.iterdir())


def alike(a, b, rel=1e-4):
    "Equal, numbers up to rounding, and errors by their kind: their words may change."
    if isinstance(a, dict): return isinstance(b, dict) and a.keys() == b.keys() and all(alike(a[o], b[o], rel) for o in a)
    if isinstance(a, list): return isinstance(b, list) and len(a) == len(b) and all(alike(x, y, rel) for x, y in zip(a, b))
    if isinstance(a, str): return isinstance(b, str) and a.split(":")[0] == b.split(":")[0]
    return type(a) is type(b) and a == pytest.approx(b, rel=rel, abs=1e-6)


def test_what_is_alike():
    assert alike({"a": [1.0, True, "ValueError: x"]}, {"a": [1.00001, True, "ValueError: y"]})
    for other in ({"a": [1.1, True, "ValueError"]}, {"a": [1.0, False, "ValueError"]}, {"a": [1.0, True, "TypeError"]}, {"a": [1.0, True]}): assert not alike({"a": [1.0, True, "ValueError"]}, other)


def moving_over_record(): return json.loads((BENCHMARKS / "records/moving_over_quick.json").read_text(encoding="utf-8"))


def test_the_record_of_other_libraries_is_of_the_releases_that_are_named():
    record = moving_over_record()
    check_moving_over(record)
    wanted = {package: version for package, version, *_ in moving_over.LIBRARIES.values()}
    assert {package: record["versions"][package] for package in wanted} == wanted and record["missing"] == []
    installed = read_settings()["bench_requirements"].split()
    assert {f"{package}=={version}" for package, version in wanted.items()} <= set(installed)
    assert [row["asked"] for row in record["rows"]] == [row.asked for row in moving_over.ROWS.values()]


@pytest.mark.parametrize("name", moving_over.ROWS)
def test_our_side_of_a_row_is_what_the_record_says(name):
    row, = [row for row in moving_over_record()["rows"] if row["row"] == name]
    assert alike(row["here"], moving_over.compute(moving_over.ROWS[name].compute, there=False))


def test_other_libraries_do_what_the_record_says(tmp_path):
    python = BENCHMARKS.parent / ".venv-bench/bin/python" if moving_over.missing_libraries() else Path(sys.executable)
    if not python.exists(): pytest.skip("the libraries are missing: run `make bench`")
    path, env = tmp_path / "record.json", {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run([python, BENCHMARKS / "moving_over.py", "--out", path], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    now = json.loads(path.read_text())
    if now["missing"]: pytest.skip(f"missing: {', '.join(now['missing'])}: run `make bench`")
    for row, then in zip(now["rows"], moving_over_record()["rows"], strict=True): assert row["row"] == then["row"] and alike(row["there"], then["there"])


def test_missing_libraries_are_skipped_by_name_and_the_record_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(moving_over, "find_spec", lambda name: None)
    monkeypatch.setattr(moving_over, "ROWS", {name: moving_over.ROWS[name] for name in ("baal_ties", "small_bald")})
    monkeypatch.setattr(common, "RECORDS", tmp_path / "records")
    with pytest.raises(SystemExit, match="not written without Baal, scikit-activeml, modAL, small-text"): moving_over.main([])
    said = capsys.readouterr()
    assert said.err.count("not installed") == 4 and said.out.count("| skipped |") == 2 and not list(tmp_path.iterdir())
    assert moving_over.main(["--out", str(tmp_path / "record.json")])["rows"][0] == {"library": "Baal", "row": "baal_ties", "asked": "order of five equal points", "there": None, "here": [0, 1, 2, 3, 4]}


def test_picks_of_baal_come_in_the_order_in_which_they_were_made():
    scores = np.array([0.0, 4.2, 0.7, 0.0, 1.9, 3.2])  # of picks 2, 4, 5, 1
    ranks = scores.argsort()[::-1]
    assert peers.in_order_of_picks(ranks, scores, 4) == [2, 4, 5, 1]
    assert peers.in_order_of_picks(ranks, scores, 6) == [2, 4, 5, 1]  # it stopped before it had six
    scores[2] = -1000  # what it marks as picked and then takes again
    assert peers.in_order_of_picks(scores.argsort()[::-1], scores, 6) == [4, 5, 1]


def test_indices_that_a_peer_names_twice_are_named_and_judged_once(monkeypatch, capsys):
    assert peers.repeated([3, 1, 3, 2, 1, 3]) == [1, 3] and peers.repeated([2, 1]) == []
    call = lambda x, B, M, seed: lambda: [4, 7, 4]
    monkeypatch.setattr(peers, "PEERS", {"redux-like": (call, "time", "answers at once")})
    args = common.parse("peers", "", ["--tiny"], dict.fromkeys(("tiny", "quick", "full"), 10))
    x = common.make_predictions(60, 5)
    *ours, peer = peers.compare(x, ["redux-like"], args, B=3, M=50, labels=20, rounds=1)
    assert (peer["indices"], peer["repeated"]) == ([4, 7, 4], [4]) and not any(row["repeated"] for row in ours)
    assert (peer["information"], peer["information_error"]) == common.joint_information(x, [4, 7], peers.DRAWS["tiny"], args.seed)
    peers.show([peer])
    assert capsys.readouterr().out.splitlines()[-1].endswith("| 4 |")


@pytest.mark.skipif(not peers.missing_peers(), reason="the other libraries are here")
def test_without_the_other_libraries_it_says_what_to_do(tmp_path):
    with pytest.raises(SystemExit, match="make bench"):
        peers.main(["--out", str(tmp_path / "record.json")])
    assert not list(tmp_path.iterdir())


def test_a_slow_peer_gets_fewer_points_and_its_time_is_scaled(monkeypatch):
    def slow(x, B, M, seed):
        def call():
            time.sleep(0.05 + 0.002 * len(x))
            return list(range(B))

        return call

    monkeypatch.setattr(peers, "PEERS", {"redux-like": (slow, "time", "sleeps")})
    args = common.parse("peers", "", ["--tiny"], dict.fromkeys(("tiny", "quick", "full"), 0.5))
    rows = peers.compare(common.make_predictions(1_000, 5), ["redux-like"], args, B=2, M=50, labels=20, rounds=1)
    peer, = [row for row in rows if row["method"] == "redux-like"]
    assert peer["scaled"] and "of them" in peer["scaled_how"] and not any(row["scaled"] for row in rows if row is not peer)
    assert 0.2 < peer["all_seconds"][0] < 1 and 1.5 < peer["seconds"] < 3  # what ran, and 0.05 + 0.002 * 1000
    assert peer["times_ours"] == pytest.approx(peer["seconds"] / rows[0]["seconds"])


def exact_information(log_probs_B_K_C):
    joint = ExactJointEntropy.empty(log_probs_B_K_C.shape[1], dtype=torch.double).add_variables(log_probs_B_K_C)
    return (joint.compute() - compute_conditional_entropy(log_probs_B_K_C).sum()).item()


def test_the_judge_agrees_with_enumeration():
    x = example_log_probs(20).double().log_softmax(-1)
    batch = [757, 157, 183]
    value, error = common.joint_information(x, batch, 40_000, seed=0)
    assert 0 < error < 0.01 and abs(value - exact_information(x[batch])) < 4 * error
    assert common.joint_information(x, batch[::-1], 40_000, seed=0) == (value, error)  # a batch has no order
    # What two batches share is drawn alike, so their difference is known better than either
    others = [[757, 157, i] for i in (29, 180)]
    pairs = [[common.joint_information(x, o, 4_000, seed)[0] for o in others] for seed in range(12)]
    difference_12 = torch.tensor([a - b for a, b in pairs], dtype=torch.double)
    assert difference_12.std() < torch.tensor(pairs).std(0).norm()
    assert abs(difference_12.mean() - (exact_information(x[others[0]]) - exact_information(x[others[1]]))) < 4 * difference_12.std() / math.sqrt(12)


def test_eq_36_agrees_with_enumeration():
    x = example_log_probs(20).double().log_softmax(-1)
    batch, candidates = x[[757, 157, 183]], x[[726, 417]]
    scores = torch.stack([quality.sampled_scores(batch, candidates, 10_000, torch.Generator().manual_seed(seed)) for seed in range(8)])
    true_2 = torch.tensor([exact_information(x[[757, 157, 183, i]]) - exact_information(batch) for i in (726, 417)])
    assert ((scores.mean(0) - true_2).abs() < 5 * scores.std(0) / math.sqrt(8)).all()


def test_other_numbers_of_classes_are_predictions_too():
    x = example_log_probs(20)[:7].float().log_softmax(-1)
    for C in (2, 5, 10, 20, 50, 100):
        y = common.change_classes(x, C)
        assert y.shape == (7, 100, C)
        torch.testing.assert_close(y.logsumexp(-1), torch.zeros(7, 100), atol=1e-5, rtol=0)


def test_pools_of_any_size_begin_alike_and_are_reproducible():
    small, large = (common.make_predictions(N, 3, seed=1) for N in (10, 6_000))
    assert small.shape == (10, 3, 10)
    torch.testing.assert_close(small, large[:10])
    assert len(large.unique(dim=0)) == 6_000  # noise makes copies differ
