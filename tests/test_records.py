"Records that cannot be, in a run's folder and in a file of labels: refused, and nothing there is touched."

import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kill_runs
from everything import *
from batchbald_nbdev.records import read_rounds, record_keys

ROOT = Path(__file__).resolve().parent.parent
TOY = (
    "--methods random,entropy --trials 1 --samples 4 --configs 50 --budget 40 --repeats 1 --steps 5 --test_samples 4"
).split()
COUNTS = ("trial", "seed", "round", "labels", "distinct")
LISTS = ("indices", "classes", "scores")
NOTHING = [None, "x", [], {}, True, math.nan, -1, 1e999]

WRONG = [
    *[(key, value) for key in COUNTS for value in [*NOTHING, 1.0, 70]],
    *[(key, value) for key in ("dataset", "method") for value in [None, 3, [], {}, True]],
    *[("accuracy", value) for value in [*NOTHING, 1.5, "0.5", 10**400]],
    *[("nll", value) for value in [None, "x", [], {}, True, math.nan, -1, -math.inf]],
    *[
        (key, value)
        for key in LISTS
        for value in [
            None,
            "x",
            {},
            True,
            3,
            [0] * 9,
            [None] * 10,
            ["1"] * 10,
            [True] * 10,
            [[]] * 10,
            [math.nan] * 10,
            [math.inf] * 10,
        ]
    ],
    *[
        ("indices", value)
        for value in ([float(i) for i in range(10)], [3] * 10, list(range(-1, 9)), [10**6, *range(9)])
    ],
    *[("classes", value) for value in ([1.0] * 10, [10] * 10, [-1] * 10)],
    ("scores", [10**400] * 10),
    ("distinct", 0),  # of ten picks
    *[("seconds", value) for value in [None, "x", [], {}, True, 1.0, {"train": 1.0, "collect": 1.0}]],
    *[("judged", value) for value in [None, "x", [], {}, True, 1.0, {"worth": 1.0, "error": 0.1}]],
    *[("judged", {"worth": 1.0, "error": 0.1, "at_least": False} | wrong) for wrong in ({"worth": None}, {"error": -1}, {"at_least": 1})],
    *[
        ("seconds", {"train": 1.0, "collect": 1.0, "select": value})
        for value in [None, "x", [], -1.0, math.nan, math.inf, True]
    ],
]
OTHER_RUN = [
    ("seed", "70"),
    ("labels", "70"),
    ("indices", str([10**6, *range(9)])),
    ("classes", str([10] * 10)),
]  # what a run could record, but not this one


def state(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in [*folder.iterdir()]} | {
        "": folder.stat().st_mtime_ns
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    "The bytes of each file of a small run."
    out = tmp_path_factory.mktemp("run") / "out"
    options = dict(zip((o[2:] for o in TOY[::2]), TOY[1::2]))
    compare_methods(out, **{k: v if k == "methods" else int(v) for k, v in options.items()})
    return {p.name: p.read_bytes() for p in out.iterdir()}


@pytest.fixture
def out(tmp_path, finished):
    (tmp_path / "out").mkdir()
    for name, data in finished.items():
        (tmp_path / "out" / name).write_bytes(data)
    return tmp_path / "out"


@pytest.fixture
def not_resumed(out, refused):
    "Refused with this message, and the folder untouched."

    def inner(message):
        before = state(out)
        refused("batchbald_compare", *TOY, "--resume", "--out", out, message=message)
        assert state(out) == before

    return inner


@pytest.fixture
def spoiled(out, finished, not_resumed):
    "Refused, and untouched, when line `n` of the records is this."

    def inner(n, line, message=None):
        path = out / "records.jsonl"
        lines = finished["records.jsonl"].splitlines()
        lines[n - 1] = line
        path.write_bytes(b"\n".join(lines) + b'\n{"torn')
        not_resumed(message or f"line {n} of {path} is not the record that belongs there")

    return inner


@pytest.mark.parametrize("n", [1, 4])
def test_fields_that_cannot_be(out, finished, spoiled, n):
    row = json.loads(finished["records.jsonl"].splitlines()[n - 1])
    for key in record_keys:
        spoiled(n, json.dumps({k: v for k, v in row.items() if k != key}).encode())
    for key, value in WRONG:
        other = (key, str(value)) in OTHER_RUN
        spoiled(
            n,
            json.dumps(row | {key: value}).encode(),
            message="records.jsonl has records of another run" if other else None,
        )


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b"{",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"9" * 10_000,
        b'{"seed": ' + b"9" * 10_000 + b"}",
        b"\xff\xfe",
        b"\0\0",
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda line: repr(line[:12]),
)
def test_lines_that_are_no_records(spoiled, line):
    for n in (1, 3):
        spoiled(n, line)


@pytest.mark.parametrize("n", [0, 3])
def test_a_number_of_ten_thousand_digits_in_a_record(finished, spoiled, n):
    row = finished["records.jsonl"].splitlines()[n]
    for key in ("seed", "accuracy", "distinct"):
        spoiled(n + 1, row.replace(f'"{key}": '.encode(), f'"{key}": {"9" * 10_000}'.encode()))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"3",
        b"{",
        b"{}",
        b"[" * 200_000,
        b'{"options": ' * 200_000,
        b"\xff",
        b'{"options": null, "machine": {"device": "cpu"}}',
        b'{"options": [1], "machine": {"device": "cpu"}}',
        b'{"options": {}, "machine": "cpu"}',
        b'{"options": {}, "machine": null}',
        b'{"options": "x", "machine": {}}',
        b'{"options": {"seed": ' + b"9" * 10_000 + b'}, "machine": {"device": "cpu"}}',
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_run_json_that_is_none(out, refused, not_resumed, text):
    (out / "run.json").write_bytes(text)
    not_resumed("run.json cannot be read, so it is not known what the records were made with")
    (out / "run.json").write_bytes(
        b'{"options": {"seed": [[]], "trials": null, "methods": {}}, "machine": {"device": 3}}'
    )
    refused("batchbald_compare", *TOY, "--resume", "--out", out, message="seed is 0 and was [[]]")


def test_a_run_json_that_is_torn(out, finished, refused):
    text = finished["run.json"]
    for size in (1, 20, len(text) // 2, len(text) - 3):
        (out / "run.json").write_bytes(text[:size])
        before = state(out)
        refused("batchbald_compare", *TOY, "--resume", "--out", out, message="run.json cannot be read")
        assert state(out) == before


def test_all_records_of_the_repository_are_read(tmp_path):
    files = sorted((ROOT / "records").rglob("records.jsonl*"))
    assert len(files) > 10
    for path in files:
        data = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
        rows = [json.loads(line) for line in data.splitlines()]
        (tmp_path / "records.jsonl").write_bytes(data)
        with RecordFile(tmp_path / "records.jsonl") as file:
            assert read_rounds(file, [(row["method"], row["trial"]) for row in rows if row["round"] == 0]) == (
                rows,
                len(data),
                "",
            ), path


def test_an_infinite_likelihood_is_a_record(tmp_path):
    "A network that gives a label no probability at all: written, read, and gone on from."
    accuracy, nll = evaluate(torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]]).log(), torch.tensor([1, 0]))
    assert (accuracy, nll) == (0.5, math.inf)
    path = tmp_path / "records.jsonl"
    row = {
        "dataset": "d",
        "method": "m",
        "trial": 0,
        "seed": 0,
        "round": 0,
        "labels": 2,
        "accuracy": accuracy,
        "nll": nll,
        "indices": [],
        "classes": [],
        "scores": [],
        "distinct": 0,
        "seconds": {"train": 0, "collect": 0, "select": 0},
    }
    with RecordFile(path) as file:
        file.append([row])
        assert read_rounds(file, [("m", 0)]) == ([row], path.stat().st_size, "")


# Runs that are killed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes that are forked")
@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_any_moment_a_run_goes_on_to_the_same_records(tmp_path, kills):
    done = subprocess.run([sys.executable, kill_runs.__file__, str(kills)], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0 and f"{kills:,} of {kills:,} kills" in done.stdout


# Where a run cannot be


@pytest.mark.parametrize("device", ["meta", "meta:0"])
def test_a_device_that_holds_no_numbers(tmp_path, refused, device):
    refused("batchbald_compare", *TOY, "--device", device, "--out", tmp_path / "new", message="`device`")
    data = [get_repeated_digits(1, originals=100)]
    with pytest.raises(ValueError, match="`device`"):
        record_trials(tmp_path / "new", data, {"random": methods["random"]}, device=device, budget=22)
    assert not [*tmp_path.iterdir()]


def test_every_device_that_pytorch_knows_works_or_is_refused(tmp_path, call):
    words = (
        str(pytest.raises(RuntimeError, torch.device, "abacus").value)
        .partition("Expected one of ")[2]
        .partition(" device")[0]
    )
    names = [name.strip() for name in words.split(",")]
    assert {"cpu", "cuda", "meta"} <= set(names)
    for name in set(names) - {"cpu", "cuda", "mps", "xpu"}:
        _, err = call("batchbald_compare", *TOY, "--device", name, "--out", tmp_path / "new", status=2)
        assert err.splitlines()[-1].startswith(
            "batchbald_compare: `device` is"
        )  # above it PyTorch may say that a name is out of use
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["", "records.jsonl", "run.json", "summary.csv", "learning_curves.png"])
@pytest.mark.parametrize("how", [(), ("--resume",), ("--overwrite",)], ids=str)
def test_a_link_that_leads_nowhere_is_not_replaced(tmp_path, refused, name, how):
    out = tmp_path / "out"
    if name:
        out.mkdir()
    link = out / name if name else out
    link.symlink_to(tmp_path / "elsewhere")
    refused(
        "batchbald_compare",
        *TOY,
        *how,
        "--out",
        out,
        message=f"{link} is a link to {tmp_path / 'elsewhere'}, which does not exist",
    )
    assert (
        link.is_symlink() and not (tmp_path / "elsewhere").exists() and [p.name for p in tmp_path.iterdir()] == ["out"]
    )


def test_a_link_to_a_folder_is_that_folder(tmp_path, call):
    (tmp_path / "there").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "there")
    call("batchbald_compare", *TOY, "--out", tmp_path / "out")
    assert (tmp_path / "out").is_symlink() and len([*(tmp_path / "there").iterdir()]) == 4


# A file of labels

INPUTS = torch.rand(24, 6, 6, generator=torch.Generator().manual_seed(0))


def make(path):
    return Labelling(
        INPUTS,
        path,
        classes=3,
        batch_size=4,
        steps=2,
        samples=4,
        test_inputs=INPUTS[:5],
        test_labels=torch.zeros(5).long(),
        pool_labels=torch.arange(24) % 3,
    )


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "labels.jsonl"
    labelling = make(path)
    for n in range(5):
        labelling.label(n % 3)
        labelling.learn()
    labelling.skip()
    labelling.undo()
    return [json.loads(line) for line in path.read_text().splitlines()]


def paths(value, at=()):
    "Where there is something in a record."
    if at:
        yield at
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(part, (*at, key))


def changed(value, at, new):
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = changed(value[at[0]], at[1:], new)
    return copy


def check_refused(path, rows, n, line):
    lines = [json.dumps(row).encode() for row in rows]
    lines[n] = line
    path.write_bytes(b"\n".join(lines) + b'\n{"torn')
    before = path.read_bytes(), path.stat().st_mtime_ns
    with pytest.raises(ValueError, match=f"`path`: line {n + 1} of .*labels.jsonl (does not fit|is not a record)"):
        make(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_file_of_labels_as_it_was_written_is_read(tmp_path, labelled):
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in labelled))
    assert len(make(path).clicks) == 5
    assert [row["kind"] for row in labelled] == ["start", "round", *["label"] * 4, "round", "label", "skip", "label"]


@pytest.mark.parametrize("n", [1, 2, 6, 8, 9])
def test_fields_of_labels_that_cannot_be(tmp_path, labelled, n):
    path = tmp_path / "labels.jsonl"
    for at in paths(labelled[n]):
        if at[0] == "settings":
            continue  # for people: nothing is made of it
        for new in (math.nan, "x", {}, [[]], True, -1, -math.inf, 10**400):
            if at == ("time",) and new == "x":
                continue
            number = "scores" in at or "joint" in at or "pairs" in at  # of which some may be below 0
            if number and new == -1 and isinstance(at[-1], int):
                continue
            check_refused(path, labelled, n, json.dumps(changed(labelled[n], at, new)).encode())


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000,
        b'{"kind": ' * 200_000,
        b"9" * 10_000,
        b'{"kind": "label", "label": ' + b"9" * 10_000 + b"}",
        b"\xff",
        b"null",
        b"[]",
    ],
    ids=lambda line: repr(line[:12]),
)
def test_lines_that_are_no_labels(tmp_path, labelled, line):
    for n in (1, 3):
        check_refused(tmp_path / "labels.jsonl", labelled, n, line)
