"The console scripts as a user meets them: what they write, and one line and status 2 for what they cannot do."
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fastcore.script import anno_parser

from batchbald_nbdev import experiments
from batchbald_nbdev.datasets import example_log_probs
from batchbald_nbdev.epig import get_epig_batch

TOY = "--methods random,2bald --trials 2 --samples 5 --configs 50 --budget 40 --repeats 2".split()


def run(script, *args, status=0):
    "The installed script, as a process of its own."
    command = [Path(sys.executable).parent / script, *map(str, args)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
    assert result.returncode == status, result.stderr
    return result


@pytest.fixture
def call(capsys):
    "The same within this process, which saves importing PyTorch each time."
    def inner(script, *args, status=0):
        function = getattr(experiments, script)
        options = vars(anno_parser(function.__wrapped__, script).parse_args([str(a) for a in args]))
        options = {k: v for k, v in options.items() if k not in ("pdb", "xtra")}  # fastcore's own
        try:
            function(**options)
            got = 0
        except SystemExit as e:
            got = e.code
        out, err = capsys.readouterr()
        assert got == status, err
        return out, err

    return inner


@pytest.fixture
def refused(call):
    "One clear line on stderr, nothing on stdout, status 2."
    def inner(script, *args, message):
        out, err = call(script, *args, status=2)
        assert out == "" and err.count("\n") == 1 and err.startswith(f"{script}: ") and message in err, err

    return inner


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
    call("batchbald_compare", *TOY, "--resume", "--out", b)
    assert (b / "records.jsonl").read_bytes().startswith(b"".join(lines[:4]))
    assert timeless(a / "records.jsonl") == timeless(b / "records.jsonl")

    before = {p.name: p.read_bytes() for p in a.iterdir()}
    refused("batchbald_compare", *TOY, "--out", a, message="--resume")
    refused("batchbald_compare", *TOY, "--seed", 1, "--resume", "--out", a, message="seed is 1 and was 0")
    refused("batchbald_compare", *TOY, "--resume", "--overwrite", "--out", a, message="exclude each other")
    assert {p.name: p.read_bytes() for p in a.iterdir()} == before
    call("batchbald_compare", *TOY, "--seed", 1, "--overwrite", "--out", a)
    assert timeless(a / "records.jsonl") != timeless(b / "records.jsonl")


def test_compare_refuses_what_it_cannot_do(tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for args, message in (
        (["--methods", "random,magic"], "`methods`"), (["--dataset", "imagenet"], "`dataset`"), (["--trials", 0], "`trials`"), (["--budget", 5], "`budget`"),
        (["--noise", "nan"], "`noise`"), (["--preset", "none"], "`preset`"), ([*TOY, "--out", tmp_path / "file"], "cannot be written"),
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
    (tmp_path / "given.txt").write_text("img/3.png\nimg/4.png\n")
    run("batchbald_select", predictions, "--size", 60, "--ids", tmp_path / "ids.txt", "--given", tmp_path / "given.txt", "--out", tmp_path / "picks.csv")
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
        (["missing.npy"], "does not exist"), (["missing.pt"], "does not exist"), (["missing.npz"], "does not exist"), ([tmp_path], "want .npy, .npz or .pt"),
        (["nan.npy"], "NaN"), (["flat.npy"], "axes"), (["empty.npy"], "axes"), (["logits.npy"], "logits"), (["whole.npy"], "dtype"),
        (["two.npz"], "2 arrays"), (["none.npz"], "0 arrays"), (["dict.pt"], "single tensor"), (["code.pt"], "cannot be read"), (["code.npy"], "cannot be read"),
        (["torn.npy"], "cannot be read"), (["torn.npz"], "cannot be read"), (["torn.pt"], "cannot be read"), (["lines.txt"], "want .npy"),
        (["p.npy", "--kind", "probs"], "probabilities"), (["p.npy", "--kind", "percent"], "kind"), (["p.npy", "--method", "magic"], "`method`"),
        (["p.npy", "--size", -1], "`size`"), (["p.npy", "--configs", 0], "`configs`"), (["p.npy", "--given", "lines.txt"], "`given`"),
        (["p.npy", "--given", "gone.txt"], "`given`"), (["p.npy", "--ids", "lines.txt"], "`ids`"),
        (["p.npy", "--out", "there.json"], "--overwrite"), (["p.npy", "--out", "no/picks.json"], "`out`"), (["p.npy", "--out", "picks.xls"], "`out`"),
    ):
        refused("batchbald_select", *args, message=message)
    assert {p.name for p in tmp_path.iterdir()} == before and (tmp_path / "there.json").read_text() == "mine"


def test_select_asks_about_the_evaluation_inputs(predictions, tmp_path, call, refused):
    x = np.load(predictions)
    np.save(tmp_path / "evaluation.npy", x[5:9])
    def positions(*args): return [line.split()[2] for line in call("batchbald_select", predictions, "--method", "epig", "--size", 4, *args)[0].splitlines()[1:]]
    for args, evaluation in ((["--evaluation", tmp_path / "evaluation.npy"], x[5:9]), ([], x)):
        assert positions(*args) == [str(i) for i in get_epig_batch(x, evaluation, 4).indices]
    assert positions() != positions("--evaluation", tmp_path / "evaluation.npy")
    np.save(tmp_path / "other_k.npy", x[5:9, :3])
    np.save(tmp_path / "nan.npy", np.full_like(x[:2], np.nan))
    for name, message in (("missing.npy", "does not exist"), ("other_k.npy", "parameter samples"), ("nan.npy", "NaN")):
        refused("batchbald_select", predictions, "--method", "epig", "--evaluation", tmp_path / name, message="`evaluation`")
        refused("batchbald_select", predictions, "--method", "epig", "--evaluation", tmp_path / name, message=message)


def test_the_help_names_every_method(call):
    words = anno_parser(experiments.batchbald_select.__wrapped__, "batchbald_select").format_help().split()
    assert not [name for name in experiments.get_methods() if name not in words]


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
