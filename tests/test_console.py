"The console scripts as a user meets them: what they write, and one line and status 2 for what they cannot do."
import bisect
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastcore.script import anno_parser

from batchbald_nbdev import command_line, experiments, records
from batchbald_nbdev.active_learning import derive_generator, make_mlp, run_trials
from batchbald_nbdev.bald import CandidateBatch
from batchbald_nbdev.datasets import example_log_probs, get_repeated_digits
from batchbald_nbdev.epig import get_epig_batch
from batchbald_nbdev.command_line import select_batch
from batchbald_nbdev.experiments import compare_methods, record_trials
from batchbald_nbdev.methods import Round, methods

TOY = "--methods random,2bald --trials 2 --samples 5 --configs 50 --budget 40 --repeats 2".split()


def run(script, *args, status=0):
    "The installed script, as a process of its own."
    command = [Path(sys.executable).parent / script, *map(str, args)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    assert result.returncode == status, result.stderr
    return result


@pytest.fixture
def predictions(tmp_path):
    np.save(tmp_path / "p.npy", example_log_probs(20)[:50].numpy())
    return tmp_path / "p.npy"


def timeless(path):
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]


def test_compare_writes_records_summary_and_picture_and_is_reproducible(tmp_path, call, refused):
    a, b = tmp_path / "a", tmp_path / "deep" / "b"
    result = run("batchbald_compare", *TOY, "--out", a)
    assert "2-BALD" in result.stdout and "labels to 90%" in result.stdout and "round" in result.stderr
    assert sorted(p.name for p in a.iterdir()) == ["learning_curves.png", "records.jsonl", "run.json", "summary.csv"]
    records = [json.loads(line) for line in (a / "records.jsonl").read_text().splitlines()]
    keys = ["dataset", "method", "trial", "seed", "round", "labels", "accuracy", "nll", "indices", "classes", "scores", "distinct", "seconds"]
    assert all(list(r) == keys and list(r["seconds"]) == ["train", "collect", "select"] for r in records)
    assert len(records) == 2 * 2 * 3 and [r["labels"] for r in records[::4]] == [20, 30, 40]
    call("batchbald_compare", *TOY, "--out", b)
    assert timeless(a / "records.jsonl") == timeless(b / "records.jsonl")
    assert json.loads((a / "run.json").read_text())["options"]["methods"] == ["random", "2bald"]

    lines = (a / "records.jsonl").read_bytes().splitlines(keepends=True)
    (b / "records.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:40])  # torn in the second of three rounds
    _, err = call("batchbald_compare", *TOY, "--resume", "--out", b)
    assert err.count("warning") == 1 and err.startswith(f"batchbald_compare: warning: `out`: the last round in {b / 'records.jsonl'} was not complete (1 of 4 records); it is run again\n")
    assert (b / "records.jsonl").read_bytes().startswith(b"".join(lines[:4]))
    assert timeless(a / "records.jsonl") == timeless(b / "records.jsonl")

    before = {p.name: p.read_bytes() for p in a.iterdir()}
    refused("batchbald_compare", *TOY, "--out", a, message="--resume")
    refused("batchbald_compare", *TOY, "--seed", 1, "--resume", "--out", a, message="seed is 1 and was 0")
    refused("batchbald_compare", *TOY, "--resume", "--overwrite", "--out", a, message="exclude each other")
    assert {p.name: p.read_bytes() for p in a.iterdir()} == before
    run_json = (b / "run.json").read_text()
    assert "--device" not in run_json and json.loads(run_json)["machine"]["device"] == "cpu"
    (b / "run.json").write_text(run_json.replace('"device": "cpu"', '"device": "cuda"'))
    refused("batchbald_compare", *TOY, "--resume", "--out", b, message="device is 'cpu' and was 'cuda'")
    call("batchbald_compare", *TOY, "--seed", 1, "--overwrite", "--device", "cpu", "--out", a)
    assert timeless(a / "records.jsonl") != timeless(b / "records.jsonl")


def test_compare_refuses_what_it_cannot_do(tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for args, message in (
        (["--methods", "random,magic"], "`methods`"), (["--dataset", "imagenet"], "`dataset`"), (["--trials", 0], "`trials`"), (["--budget", 5], "`budget`"),
        (["--noise", "nan"], "`noise`"), (["--preset", "none"], "`preset`"), (["--device", "abacus"], "`device`"), ([*TOY, "--out", tmp_path / "file"], "cannot be written"),
        ([*TOY, "--out", tmp_path / "file" / "deeper"], "cannot be written"), ([*TOY, "--out", "/proc/none"], "cannot be written"),
    ):
        refused("batchbald_compare", *args, message=message)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "summary.csv").write_text("mine")
    refused("batchbald_compare", *TOY, "--out", tmp_path / "mine", message="summary.csv")
    assert (tmp_path / "mine" / "summary.csv").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine"] and (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("method", "random bald batchbald 2bald softmaxbald powerbald softrankbald entropy varratios meanstd".split())
def test_select_with_every_method(predictions, method, call):
    out = predictions.with_name("picks.json")
    printed, _ = call("batchbald_select", predictions, "--method", method, "--size", 4, "--out", out)
    picks = json.loads(out.read_text())["picks"]
    assert [p["pick"] for p in picks] == [1, 2, 3, 4] and len({p["position"] for p in picks}) == 4
    assert all(str(p["position"]) in printed for p in picks)


def test_a_warning_is_one_line(predictions):
    np.save(predictions, np.load(predictions)[:, :5])
    result = run("batchbald_select", predictions, "--size", 20)  # more than five parameter samples can tell
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("batchbald_select: warning: the first ") and "log K" in lines[0]


def test_select_with_names_and_given_points_into_csv(predictions, tmp_path):
    (tmp_path / "ids.txt").write_text("".join(f"img/{i}.png\n" for i in range(50)))
    (tmp_path / "pending.txt").write_text("img/3.png\nimg/4.png\n")
    run("batchbald_select", predictions, "--size", 60, "--ids", tmp_path / "ids.txt", "--pending", tmp_path / "pending.txt", "--out", tmp_path / "picks.csv")
    rows = [line.split(",") for line in (tmp_path / "picks.csv").read_text().splitlines()]
    assert rows[0][:4] == ["pick", "id", "position", "score"] and len(rows) == 1 + 48
    assert {row[1] for row in rows[1:]} == {f"img/{i}.png" for i in range(50)} - {"img/3.png", "img/4.png"}


class Payload:
    "Would leave a file behind if anything unpickled it."
    def __init__(self, path): self.path = path
    def __reduce__(self): return (os.mkdir, (str(self.path),))


def test_select_refuses_what_it_cannot_do(predictions, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log_probs = np.load(predictions)
    np.save(tmp_path / "nan.npy", log_probs * np.nan)
    np.save(tmp_path / "flat.npy", log_probs[0])
    np.save(tmp_path / "empty.npy", log_probs[:0])
    np.save(tmp_path / "logits.npy", log_probs + 1)
    np.save(tmp_path / "whole.npy", np.zeros((3, 2, 1), int))
    np.savez(tmp_path / "two.npz", a=log_probs, b=log_probs)
    np.savez(tmp_path / "none.npz")
    torch.save({"x": 1}, tmp_path / "dict.pt")
    torch.save(Payload(tmp_path / "pwned"), tmp_path / "code.pt")
    np.save(tmp_path / "code.npy", np.array([Payload(tmp_path / "pwned")], dtype=object), allow_pickle=True)
    for name in ("torn.npy", "torn.npz", "torn.pt"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 torn")
    (tmp_path / "lines.txt").write_text("7\nx\n")
    (tmp_path / "there.json").write_text("mine")
    before = {p.name for p in tmp_path.iterdir()}
    result = run("batchbald_select", tmp_path / "nan.npy", status=2)
    assert (result.stdout, result.stderr.count("\n")) == ("", 1) and "NaN" in result.stderr
    for args, message in (
        (["missing.npy"], "does not exist"), (["missing.pt"], "does not exist"), (["missing.npz"], "does not exist"), ([tmp_path], "want .npy, .npz, .pt, .pth"),
        (["nan.npy"], "NaN"), (["flat.npy"], "axes"), (["empty.npy"], "axes"), (["logits.npy"], "logits"), (["whole.npy"], "dtype"),
        (["two.npz"], "2 arrays"), (["none.npz"], "0 arrays"), (["dict.pt"], "single tensor"), (["code.pt"], "cannot be read"), (["code.npy"], "cannot be read"),
        (["torn.npy"], "cannot be read"), (["torn.npz"], "cannot be read"), (["torn.pt"], "cannot be read"), (["lines.txt"], "want .npy"),
        (["p.npy", "--kind", "probs"], "probabilities"), (["p.npy", "--kind", "percent"], "kind"), (["p.npy", "--method", "magic"], "`method`"),
        (["p.npy", "--size", -1], "`size`"), (["p.npy", "--configs", 0], "`configs`"), (["p.npy", "--pending", "lines.txt"], "`pending`"),
        (["p.npy", "--pending", "gone.txt"], "`pending`"), (["p.npy", "--ids", "lines.txt"], "`ids`"),
        (["p.npy", "--out", "there.json"], "--overwrite"), (["p.npy", "--out", "no/picks.json"], "`out`"), (["p.npy", "--out", "picks.xls"], "`out`"),
    ):
        refused("batchbald_select", *args, message=message)
    assert {p.name for p in tmp_path.iterdir()} == before and (tmp_path / "there.json").read_text() == "mine"


def test_select_asks_about_the_evaluation_inputs(predictions, tmp_path, call, refused):
    x = np.load(predictions)
    np.save(tmp_path / "evaluation.npy", x[5:9])
    def positions(*args): return [line.split()[2] for line in call("batchbald_select", predictions, "--method", "epig", "--size", 4, *args)[0].splitlines()[2:-1]]
    for args, evaluation in ((["--evaluation", tmp_path / "evaluation.npy"], x[5:9]), ([], x)):
        assert positions(*args) == [str(i) for i in get_epig_batch(x, evaluation, 4).indices]
    assert positions() != positions("--evaluation", tmp_path / "evaluation.npy")
    np.save(tmp_path / "other_k.npy", x[5:9, :3])
    np.save(tmp_path / "nan.npy", np.full_like(x[:2], np.nan))
    for name, message in (("missing.npy", "does not exist"), ("other_k.npy", "parameter samples"), ("nan.npy", "NaN")):
        refused("batchbald_select", predictions, "--method", "epig", "--evaluation", tmp_path / name, message="`evaluation`")
        refused("batchbald_select", predictions, "--method", "epig", "--evaluation", tmp_path / name, message=message)


def test_select_refuses_evaluation_inputs_that_nobody_asks_about(predictions, tmp_path, monkeypatch):
    x = np.load(predictions)
    np.save(tmp_path / "evaluation.npy", x[5:9])
    asking = []
    class Spy(Round):
        def __getattribute__(self, name):
            asking.append(name == "log_probs_E_K_C")
            return super().__getattribute__(name)
    monkeypatch.setattr(command_line, "Round", Spy)
    for name in methods:
        asking.clear()
        select_batch(predictions, method=name, size=2, configs=50)
        assert any(asking) == methods[name].uses_evaluation
        if any(asking):
            assert len(select_batch(predictions, method=name, size=2, configs=50, evaluation=tmp_path / "evaluation.npy")) == 2
        else:
            with pytest.raises(ValueError, match=f"`evaluation` .*'{name}' asks nothing.*epig"): select_batch(predictions, method=name, evaluation=tmp_path / "evaluation.npy")


def test_select_says_what_it_read_and_what_the_columns_are(predictions, tmp_path, call):
    x = np.load(predictions)
    np.save(tmp_path / "one.npy", x[:1])
    (tmp_path / "pending.txt").write_text("3\n4\n")
    out = tmp_path / "picks.json"
    printed, err = call("batchbald_select", predictions, "--size", 3, "--pending", tmp_path / "pending.txt", "--out", out)
    lines = printed.splitlines()
    assert lines[0] == f"p.npy: 50 points (2 pending), {x.shape[1]} parameter samples, 10 classes" and lines[1].split() == ["pick", "id", "position", "score", "gain", "standard_error", "sampling_error", "debiased_score", "at_least"]
    assert lines[-1].startswith("score: ") and "; gain: " in lines[-1] and "; standard_error: " in lines[-1] and lines[-1].count("in nats") == 4 and "; sampling_error: " in lines[-1] and "; at_least: " in lines[-1] and len(lines) == 6 and err == ""
    written = json.loads(out.read_text())
    assert (written["points"], written["samples"], written["classes"], written["pending"], written["ids"], written["evaluation"]) == (50, x.shape[1], 10, str(tmp_path / "pending.txt"), None, None)
    assert "; ".join(f"{column}: {text}" for column, text in written["columns"].items()) == lines[-1]
    printed, _ = call("batchbald_select", predictions, "--method", "epig", "--size", 1, "--evaluation", tmp_path / "one.npy")
    assert printed.splitlines()[0].endswith(" 10 classes; 1 evaluation point") and printed.splitlines()[-1].startswith("score: the point's own EPIG, in nats; sampling_error: ")
    printed, err = call("batchbald_select", tmp_path / "one.npy", "--size", 2)
    assert printed.startswith("one.npy: 1 point, ") and err == "batchbald_select: warning: `size` is 2, and only 1 point can be picked\n"


@pytest.mark.parametrize("method", "batchbald softmaxbald meanstd epig entropy varratios random".split())
def test_select_warns_of_a_single_parameter_sample(predictions, tmp_path, call, method):
    np.save(tmp_path / "one.npy", np.load(predictions)[:, :1])
    _, err = call("batchbald_select", tmp_path / "one.npy", "--method", method, "--size", 3)
    assert [line for line in err.splitlines() if "(K = 1)" in line] == err.splitlines()
    assert bool(err) == (method not in ("entropy", "varratios", "random"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that is for the script: the library's callers may know
        select_batch(tmp_path / "one.npy", method=method, size=3)


def test_select_says_which_kind_a_file_is_of(predictions, tmp_path, refused):
    x = np.load(predictions).astype(np.float32)
    x -= np.log(np.exp(x).sum(-1, keepdims=True))
    for name, array in (("probs", np.exp(x)), ("logits", x + 3), ("nearly", x + 0.01), ("percent", 100 * np.exp(x)), ("holes", np.where(x < -20, np.nan, np.exp(x)) * np.nan)):
        np.save(tmp_path / f"{name}.npy", array)
    for name, kind, message in (
        ("probs", "log_probs", "looks like probabilities; add --kind probs"), ("logits", "log_probs", "if these are logits, add --kind logits"), ("nearly", "log_probs", "add --kind logits, which renormalises"),
        ("probs", "logits", "is --kind right?"), ("logits", "probs", "the least entry is -"), ("percent", "probs", "a row misses the sum 1 by 99, allowed 0.0001"), ("holes", "probs", "an entry is NaN; is --kind right?"),
    ):
        refused("batchbald_select", tmp_path / f"{name}.npy", "--kind", kind, message=message)


def test_select_takes_a_temperature(predictions, call, refused):
    def positions(method): return [row["position"] for row in select_batch(predictions, method=method, size=5)]
    assert positions("softmaxbald@0.125") == positions("softmaxbald") and positions("powerbald@0") == positions("bald") != positions("softrankbald@inf")
    assert call("batchbald_select", predictions, "--method", "softmaxbald@0.25", "--size", 2)[0].splitlines()[-1] == "score: the point's own BALD score, in nats"
    for method in ("softmaxbald@cold", "bald@1", "softmaxbald@-1"):
        refused("batchbald_select", predictions, "--method", method, message=f"batchbald_select: `method` is '{method}'; want one of: random, ")
    refused("batchbald_compare", "--methods", "random,foo", message="batchbald_compare: `methods` has 'foo'; want one of: random, ")


def test_the_help_names_every_method(capsys):
    for script in ("batchbald_select", "batchbald_compare"):
        with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [script, "--help"])
            getattr(command_line, script)()
        words = re.findall(r"[\w@.]+", capsys.readouterr().out)
        assert not [name for name in methods if name not in words]


def test_compare_resumes_a_run_whose_batches_differ_in_size(tmp_path, call):
    options = "--methods random,dynamicbatchbald --trials 2 --samples 5 --configs 50 --budget 32 --size 6 --repeats 1".split()
    call("batchbald_compare", *options, "--out", tmp_path / "whole")
    path = tmp_path / "whole" / "records.jsonl"
    lines, expected = path.read_bytes().splitlines(keepends=True), timeless(path)
    rounds = [json.loads(line)["round"] for line in lines]
    assert max(rounds) > 3 and rounds.count(max(rounds)) < 4  # the dynamic ones go on alone
    for cut in (3, len(lines) - 1, len(lines) - 3):
        finished = b"".join(line for line, round in zip(lines, rounds) if round < rounds[cut])
        path.write_bytes(b"".join(lines[:cut]) + lines[cut][:30])
        call("batchbald_compare", *options, "--out", tmp_path / "whole", "--resume")
        assert timeless(path) == expected and path.read_bytes().startswith(finished)  # to the letter: not computed again


# Runs that are interrupted

LONGER = "--methods batchbald --trials 2 --samples 5 --configs 50 --budget 50 --repeats 1".split()
LEARNERS, ROUNDS = 2, 4


class Run:
    "`batchbald_compare` as a process of its own."

    def __init__(self, out, *args):
        self.records, self.said = out / "records.jsonl", out.with_suffix(".stderr")
        command = [Path(sys.executable).parent / "batchbald_compare", *LONGER, "--out", out, *args]
        with open(self.said, "w") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err)
        self.started = time.monotonic()

    def stage(self):
        "0 while Python starts, 1 in the first round, 2 in the second, ...; its progress bar says that it has begun."
        if not self.said.stat().st_size:
            return 0
        return 1 + self.records.read_bytes().count(b"\n") // LEARNERS

    def wait_for(self, stage):
        "Whether it came there, rather than ended before."
        while self.stage() < stage:
            if self.process.poll() is not None:
                return self.stage() >= stage
            time.sleep(0.005)
        return True

    def kill(self):
        "Whether there was something to kill."
        self.process.send_signal(signal.SIGKILL)
        return self.process.wait() == -signal.SIGKILL


def whole_rounds(path):
    "The bytes of whole rounds; all learners of these runs have equally many."
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    lines = [line for line in lines if line.endswith(b"\n")]
    return b"".join(lines[: len(lines) // LEARNERS * LEARNERS])


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_goes_on_to_the_same_records(tmp_path, call, kills):
    whole = Run(tmp_path / "whole")
    began = [0.0]  # seconds until each stage
    while whole.wait_for(len(began)):
        began.append(time.monotonic() - whole.started)
    took = time.monotonic() - whole.started
    assert len(began) == ROUNDS + 2 and whole.process.wait() == 0
    expected = timeless(tmp_path / "whole" / "records.jsonl")

    # Random moments, one in each of as many equal parts of that time (without Python's own start, unless there are many)
    draw, first, last = random.Random(kills), 0 if kills > 3 else began[1], took
    moments = [first + (i + draw.random()) / kills * (last - first) for i in range(kills)]
    out, stages = tmp_path / "killed", []
    for moment in moments:
        stage = bisect.bisect(began, moment) - 1
        wait = moment - began[stage]
        while True:
            before = whole_rounds(out / "records.jsonl")
            run = Run(out, "--resume")
            run.wait_for(stage)
            until = time.monotonic() + wait
            while time.monotonic() < until and run.stage() == stage:  # it may be faster today
                time.sleep(0.005)
            if run.kill():
                break
            assert stage > ROUNDS  # it was through with its rounds: again, and earlier
            wait /= 2
        after = whole_rounds(out / "records.jsonl")
        assert after.startswith(before) and len(after.splitlines()) <= len(expected)
        stages.append(run.stage())
    assert len(stages) == kills and max(stages) - min(stages) >= ROUNDS // 2
    before = whole_rounds(out / "records.jsonl")
    call("batchbald_compare", *LONGER, "--resume", "--out", out)
    assert (out / "records.jsonl").read_bytes().startswith(before)  # to the letter: not computed again
    assert timeless(out / "records.jsonl") == expected
    assert sorted(p.name for p in out.iterdir()) == ["learning_curves.png", "records.jsonl", "run.json", "summary.csv"]


def test_two_runs_into_one_folder_are_refused(tmp_path, call, refused):
    out = tmp_path / "out"
    first = Run(out)
    assert first.wait_for(2)
    before = (out / "run.json").read_bytes()
    for how in ([], ["--resume"], ["--overwrite"]):
        refused("batchbald_compare", *LONGER, *how, "--out", out, message=f"`out`: another run is writing into {out}")
    assert first.process.poll() is None
    records = whole_rounds(out / "records.jsonl")
    assert first.wait_for(3) and first.kill()  # it was not disturbed, and is killed
    assert (out / "run.json").read_bytes() == before and whole_rounds(out / "records.jsonl").startswith(records)
    call("batchbald_compare", *LONGER, "--resume", "--out", out)
    assert len(timeless(out / "records.jsonl")) == ROUNDS * LEARNERS


# The folder of a run

OPTIONS = experiments._check_options(experiments.presets["digits"] | {"methods": "random,bald", "trials": 2})
DEFAULTS = experiments.presets["repeated_digits"]
ORDER = [("random", 0), ("random", 1), ("bald", 0), ("bald", 1)]


def open_folder(out, resume=True, overwrite=False, **options):
    "What a run finds in the folder."
    run = experiments._describe_run(OPTIONS | options, "cpu")
    with records.open_folder(out, run, ORDER, resume=resume, overwrite=overwrite, defaults=DEFAULTS) as (_, done):
        return done


def made_up(rounds, dynamic=True):
    "Records of rounds of which the last two are those of `bald` alone."
    rows = []
    for round in range(rounds):
        for method, trial in ORDER if round < rounds - 2 or not dynamic else ORDER[2:]:
            last = round == rounds - 1 or (dynamic and method == "random" and round == rounds - 3)
            bought = {"indices": [] if last else [round], "classes": [] if last else [1], "scores": [] if last else [0.5], "distinct": 1 - last}
            known = {"dataset": "made up", "seed": 0, "labels": round, "accuracy": 0.5, "nll": 0.5, "seconds": {"train": 0.5, "collect": 0.5, "select": 0.5}}
            rows.append({key: (known | bought | {"method": method, "trial": trial, "round": round})[key] for key in records.record_keys})
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_cut_anywhere_the_whole_rounds_are_read(tmp_path):
    path = tmp_path / "records.jsonl"
    rows = made_up(4)
    write(path, rows)
    data = path.read_bytes()
    sizes = [4, 8, 10, 12]
    ends = [0] + [len(b"".join(data.splitlines(keepends=True)[:n])) for n in sizes]
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        with records.RecordFile(path) as file:
            found, size, unfinished = records.read_rounds(file, ORDER)
        round = bisect.bisect(ends, cut) - 1
        n = ([0] + sizes)[round]
        assert found == rows[:n] and size == ends[round]
        part, of = data[size:cut].count(b"\n"), (4, 4, 2, 2, 0)[round]
        assert unfinished == (f"{part} of {of} records" if cut > size else "")


@pytest.mark.parametrize("wrong", ["method", "trial", "round", "order", "missing", "twice", "too many", "no key", "no json", "no record", "round missing"])
def test_records_that_do_not_belong_are_refused_and_left_alone(tmp_path, wrong):
    assert open_folder(tmp_path) == []
    rows, path = made_up(4), tmp_path / "records.jsonl"
    rows += {"too many": [rows[-1]]}.get(wrong, [])
    rows = {"missing": rows[:5] + rows[6:], "twice": rows[:6] + rows[5:], "order": rows[:4] + rows[5:3:-1] + rows[6:], "round missing": rows[:4] + rows[8:]}.get(wrong, rows)
    if wrong in ("method", "trial", "round"):
        rows[5] = rows[5] | {wrong: "bald" if wrong == "method" else 7}
    if wrong == "no key":
        del rows[5]["nll"]
    write(path, rows)
    if wrong in ("no json", "no record"):
        lines = path.read_text().splitlines()
        path.write_text("\n".join(lines[:5] + ["{" if wrong == "no json" else "[]"] + lines[6:]) + "\n")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="`out`: line [0-9]+ of .* is not the record that belongs there"):
        open_folder(tmp_path)
    assert path.read_bytes() == before


def test_what_is_cut_off_is_said_before_it_is_cut(tmp_path, recwarn):
    open_folder(tmp_path)
    path, rows = tmp_path / "records.jsonl", made_up(4)
    write(path, rows[:7])
    before = path.read_bytes()
    with pytest.warns(UserWarning, match=r"not complete \(3 of 4 records\); it is run again"):
        assert open_folder(tmp_path) == rows[:4]
    assert path.read_bytes() == b"".join(before.splitlines(keepends=True)[:4])
    recwarn.clear()
    assert open_folder(tmp_path) == rows[:4] and not recwarn.list
    path.write_bytes(before)
    with warnings.catch_warnings(), pytest.raises(UserWarning):
        warnings.simplefilter("error")
        open_folder(tmp_path)
    assert path.read_bytes() == before


def test_a_run_that_was_killed_as_it_began_leaves_nothing_in_the_way(tmp_path):
    (tmp_path / "records.jsonl").write_bytes(b"")
    for resume in (True, False):
        (tmp_path / "run.json").unlink(missing_ok=True)
        assert open_folder(tmp_path, resume=resume) == []
    for name in (".run.json.abc.json", ".summary.csv.abc.csv", ".learning_curves.png.abc.png", ".mine", "picks.json"):
        (tmp_path / name).write_text("")
    assert open_folder(tmp_path) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mine", "picks.json", "records.jsonl", "run.json"]
    assert json.loads((tmp_path / "run.json").read_text())["options"] == OPTIONS


def test_killed_while_it_overwrites_old_records_do_not_pass_for_new_ones(tmp_path, monkeypatch):
    open_folder(tmp_path)
    write(tmp_path / "records.jsonl", made_up(4))
    def killed(*args): raise KeyboardInterrupt
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(records, "write_whole", killed)
        open_folder(tmp_path, resume=False, overwrite=True, seed=1)
    with pytest.raises(ValueError, match="seed is 1 and was 0"):
        open_folder(tmp_path, seed=1)
    assert open_folder(tmp_path) == []
    assert open_folder(tmp_path, resume=False, overwrite=True, seed=1) == open_folder(tmp_path, seed=1) == []


def test_a_folder_is_open_once_and_again_when_it_is_closed(tmp_path, monkeypatch):
    described = experiments._describe_run(OPTIONS, "cpu")
    def run(**options): return records.open_folder(tmp_path / "out", described, ORDER, **{"resume": True, "overwrite": False, "defaults": DEFAULTS} | options)
    with run() as (file, _):
        for options in ({"resume": False}, {}, {"resume": False, "overwrite": True}):
            with pytest.raises(ValueError, match="another run is writing"):
                run(**options).__enter__()
        file.append(made_up(3, dynamic=False)[:4])
    with pytest.raises(RuntimeError, match="mine"), run() as (_, done):
        assert len(done) == 4
        raise RuntimeError("mine")
    with pytest.raises(ValueError, match="add --resume"):
        run(resume=False).__enter__()
    with run() as (_, done):
        assert len(done) == 4

    mkdir = Path.mkdir
    def meanwhile(path, **options):  # another run begins, and is over, between the look into the folder and its locking
        mkdir(path, **options)
        (path / "records.jsonl").write_text("theirs")
    monkeypatch.setattr(Path, "mkdir", meanwhile)
    with pytest.raises(ValueError, match="cannot be written"):
        open_folder(tmp_path / "new")
    assert (tmp_path / "new" / "records.jsonl").read_text() == "theirs"


def test_where_there_are_no_locks_it_says_so(tmp_path, monkeypatch):
    def no_locks(file, wait): raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(records, "lock", no_locks)
    with pytest.warns(UserWarning, match="cannot be locked .No locks available.; see to it"):
        assert open_folder(tmp_path) == []


def test_windows_locks_a_byte_that_nobody_reads(tmp_path, monkeypatch):
    calls = []
    def locking(handle, mode, n):
        calls.append((os.lseek(handle, 0, os.SEEK_CUR), mode, n))
        if len(calls) > 1:
            raise PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))
    monkeypatch.setattr(records, "sys", SimpleNamespace(platform="win32"))
    with records.open_folder(tmp_path, OPTIONS, ORDER, resume=False, overwrite=False, defaults=DEFAULTS) as (file, _):
        with pytest.raises(ValueError, match="another run is writing"):
            open_folder(tmp_path)
        file.append(made_up(4)[:1])
    assert calls == [(2**30, 2, 1)] * 2
    assert (tmp_path / "records.jsonl").read_bytes().startswith(b'{"dataset"')


def test_every_round_and_file_is_forced_to_disk(tmp_path, call, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size) or fsync(handle))
    call("batchbald_compare", *TOY, "--out", tmp_path / "out")
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "out").iterdir()}
    assert len(synced) == 1 + 3 + 2  # run.json, three rounds, summary and picture
    assert (synced[0], *synced[3:]) == (sizes["run.json"], sizes["records.jsonl"], sizes["summary.csv"], sizes["learning_curves.png"])
    assert synced[1] < synced[2] < synced[3]


def test_the_device_is_where_the_run_is_and_is_recorded(tmp_path, call, monkeypatch):
    devices = []
    def run_trials(*args, device, **options):
        devices.append(device)
        return iter(())
    monkeypatch.setattr(experiments, "run_trials", run_trials)
    monkeypatch.setattr(experiments, "choose_device", lambda device: torch.device(device, 0))
    with pytest.raises(ValueError):  # nothing ran, so there is nothing to summarise
        experiments.compare_methods(tmp_path, device="cuda")
    run = json.loads((tmp_path / "run.json").read_text())
    assert devices == ["cuda:0"] and run["machine"]["device"] == "cuda:0" and run["command"].endswith(" --device cuda:0")


# Runs of one's own, recorded


SMALL = {"budget": 26, "size": 3, "samples": 4, "test_samples": 4, "steps": 5}
OWN_DATA = [get_repeated_digits(1, originals=100, generator=derive_generator(trial)) for trial in range(2)]


def own(round):
    "Every point at even distances, fewer in some rounds."
    n = min(round.batch_size, 1 + int(torch.randint(3, (), generator=round.generator)))
    return CandidateBatch([0.0] * n, list(range(0, 2 * n, 2)))


def record(out, **options):
    asked = []
    def oracle(data, positions):
        asked.append(positions)
        return (9 - data.pool_labels[positions]).tolist()

    how = {"oracle": oracle, "make_model": partial(make_mlp, hidden=16), **SMALL} | options
    return record_trials(out, OWN_DATA, {"random": methods["random"], "own": own}, **how), asked


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.parametrize("options", [{}, {"warm_start": True, "early_stopping": "loss", "epoch_steps": 2}, {"initial": torch.arange(40).view(2, 20), "together": 1}])
def test_a_run_of_one_s_own_is_recorded_and_goes_on_after_it_was_torn(tmp_path, options):
    rows, asked = record(tmp_path, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["learning_curves.png", "records.jsonl", "run.json", "summary.csv"]
    path = tmp_path / "records.jsonl"
    how = {"oracle": lambda data, positions: 9 - data.pool_labels[positions], "make_model": partial(make_mlp, hidden=16), **SMALL} | options
    expected = [row for rows in run_trials(OWN_DATA, {"random": methods["random"], "own": own}, **how) for row in rows]
    assert without_seconds(rows) == timeless(path) == without_seconds(expected) and len(asked) == sum(bool(row["indices"]) for row in rows)
    whole, lines = path.read_bytes(), path.read_bytes().splitlines(keepends=True)
    for torn, first in ((b"".join(lines[:6]) + lines[6][:40], 4), (b"", 0), (whole, len(rows))):
        path.write_bytes(torn)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again, asked = record(tmp_path, resume=True, **options)
        assert without_seconds(again) == timeless(path) == without_seconds(rows) and asked == [row["indices"] for row in rows[first:] if row["indices"]]


def test_a_run_of_one_s_own_is_refused_where_it_does_not_belong(tmp_path):
    out = tmp_path / "out"
    record(out, settings={"labelled by": "me"})
    files = {p.name: p.read_bytes() for p in out.iterdir()}
    run = json.loads(files["run.json"])
    assert run["options"]["settings"] == {"labelled by": "me"} and run["options"]["steps"] == 5 and run["options"]["learning_rate"] == 2e-3 and run["options"]["methods"] == ["random", "own"]
    assert run["machine"]["device"] == "cpu" and "torch" in run["versions"]
    for options, message in (
        ({}, "add --resume"), ({"resume": True, "overwrite": True}, "exclude each other"), ({"resume": True, "settings": {"labelled by": "you"}}, "settings is .*you.* and was .*me"), ({"resume": True}, "settings is"),
        *(({"resume": True, "settings": {"labelled by": "me"}} | other, f"{min(other)} is") for other in ({"steps": 6}, {"seed": 1}, {"learning_rate": 0.1}, {"warm_start": True}, {"initial": [[1], [2]]}, {"per_class": 1})),
    ):
        with pytest.raises(ValueError, match=message): record(out, **options)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == files
    with records.RecordFile(out / "records.jsonl"), pytest.raises(ValueError, match="another run is writing"):
        record(out, resume=True, settings={"labelled by": "me"})
    assert record(out, overwrite=True, settings={})[0] and json.loads((out / "run.json").read_text())["options"]["settings"] == {}
    with pytest.raises(ValueError, match="datasets is"):
        record_trials(out, [replace(data, name="other") for data in OWN_DATA], {"random": methods["random"], "own": own}, resume=True, **SMALL)
    with pytest.raises(ValueError, match="other options"): compare_methods(out, resume=True, methods="random", trials=2)


@pytest.mark.parametrize("options, error, message", [
    ({"steps": -1}, ValueError, "`steps`"), ({"budget": 5}, ValueError, "`budget`"), ({"make_model": make_mlp()}, ValueError, "`make_model`"), ({"oracle": 3}, ValueError, "`oracle`"), ({"device": "abacus"}, ValueError, "`device`"),
    ({"settings": {"method": own}}, ValueError, "`settings`"), ({"settings": 3}, ValueError, "`settings`"), ({"magic": 1}, TypeError, "magic"), ({"mixed_precision": True}, ValueError, "`mixed_precision`"), ({"done": []}, TypeError, "done"), ({"validation": []}, TypeError, "validation"), ({"initial": [[1]]}, ValueError, "`initial`"),
])
def test_nothing_is_written_where_a_run_of_one_s_own_cannot_be(tmp_path, options, error, message):
    with pytest.raises(error, match=message): record(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
