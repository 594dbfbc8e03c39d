"`make gpu`: what it says without a GPU, what it installs, and how parts are kept to their time. Needs no GPU."
import argparse, json, os, subprocess, sys, time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]
import common, gpu, run_on_gpu

WORKER = """
import json, os, sys, time
print("a library says hello")
def tell(**facts): print(json.dumps(facts), flush=True)
for name in sys.argv[1:]:
    if name == "start": tell(part=name, row={"name": "NVIDIA H100 80GB HBM3"})
    if name == "hangs": tell(part=name, row={"found": 1}); time.sleep(600)
    if name == "dies": os._exit(3)
    if name == "works": tell(part=name, row={"found": 2})
    ended = {"fails": "failed: RuntimeError: no", "lacks": "missing: a library"}.get(name, "done")
    tell(part=name, ended=ended)
    if name == "fails": break
"""


@pytest.fixture
def journal(tmp_path):
    args = common.parse("gpu", "", ["--out", str(tmp_path / "record.json")], gpu.ALL_PARTS)
    return gpu.Journal(args)


def run(journal, names, seconds=60, limits=()):
    "What became of each part, and how often a process was started."
    started = []

    def start_worker(parts):
        started.append([part.name for part in parts])
        return gpu.Worker([sys.executable, "-c", WORKER, *started[-1]])

    parts = [gpu.Part(name, dict(limits).get(name, 30), None) for name in names]
    gpu.run_parts(parts, time.monotonic() + seconds, journal, start_worker)
    return {part["part"]: part["ended"] for part in journal.parts}, started


def test_a_part_that_runs_out_or_fails_is_recorded_and_the_rest_goes_on(journal):
    ended, started = run(journal, ["works", "hangs", "lacks", "dies", "fails", "last"], limits={"hangs": 1.0})
    assert ended == {
        "start": "done", "works": "done", "hangs": "ran out of time", "lacks": "missing: a library",
        "dies": "failed: its process ended with status 3", "fails": "failed: RuntimeError: no", "last": "done",
    }  # fmt: skip
    assert [names[1] for names in started] == ["works", "lacks", "fails", "last"]
    assert journal.failed() == ["dies", "fails"]
    record = json.loads(journal.args.out.read_text())  # with what a part had found before it ran out
    assert record["rows"] == [{"part": "works", "found": 2}, {"part": "hangs", "found": 1}]
    assert record["parts"] == journal.parts and record["device"]["name"] == "NVIDIA H100 80GB HBM3"


def test_all_parts_together_keep_to_the_limit(journal):
    began = time.monotonic()
    ended, _ = run(journal, ["works", "hangs", "last"], seconds=3)
    assert time.monotonic() - began < 8
    assert ended == {"start": "done", "works": "done", "hangs": "ran out of time", "last": "not reached"}


def test_where_the_device_does_not_start_nothing_else_is_tried(journal, monkeypatch):
    monkeypatch.setattr(gpu, "START", gpu.Part("dies", 30, None))
    ended, started = run(journal, ["works"])
    assert ended == {"dies": "failed: its process ended with status 3", "works": "not reached"} and len(started) == 1
    assert not journal.args.out.exists()


@pytest.mark.parametrize("form, ending", [("quick", ".json"), ("full", "_full.json")])
def test_a_record_is_named_after_the_card(form, ending):
    args = argparse.Namespace(out=None, form=form)
    gpu.Journal(args).add_row("start", {"name": "NVIDIA H100 80GB HBM3"})
    assert args.out == common.RECORDS / f"gpu_nvidia_h100_80gb_hbm3{ending}"


def test_everything_together_fits_six_minutes():
    assert gpu.ALL_PARTS["quick"] + gpu.CHECKS <= 355
    names = [part.name for part in gpu.list_parts("quick")]
    assert len(set(names)) == len(names) and sum("BatchBALD, " in name for name in names) == 8


def test_fewer_points_where_all_would_take_too_long(tmp_path):
    bench = gpu.Bench(torch.device("cpu"), "tiny", 0, tmp_path, time.time() + 60)
    bench.begin(1.5)
    row = bench.repeat_scaled(lambda n: time.sleep(0.01 + 0.001 * n), 800)
    assert row["scaled"] and row["points"] < 500 and "of 800" in row["scaled_how"]
    assert row["seconds"] == pytest.approx(0.81, rel=0.3)
    bench.begin(30)
    row = bench.repeat_scaled(lambda n: time.sleep(0.001 * n), 40)
    assert not row["scaled"] and row["points"] == 40 and row["warm"] and len(row["all_seconds"]) == 2


def test_what_needs_a_gpu_is_found():
    assert {"tests/test_active_learning.py", "tests/test_bayesian_models.py"} <= set(gpu.find_tests())
    found = gpu.find_notebooks()
    assert "nbs/10_active_learning.ipynb" in found and "nbs/00_information.ipynb" not in found


def test_checks_keep_to_their_time_too(journal, tmp_path, monkeypatch):
    def check(code, needs="pytest"): return [sys.executable, "-c", code], needs

    checks = {"good": check("print(1)"), "bad": check("raise SystemExit(4)"), "none": check("", "no_such_module")}
    checks["slow"] = check("import time; time.sleep(600)")
    monkeypatch.setattr(gpu, "list_checks", lambda folder: {**checks, "late": check("print(2)")})
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    gpu.run_checks(journal, tmp_path, 5)
    ended = {part["part"]: part["ended"] for part in journal.parts}
    assert ended == {
        "good": "done", "bad": "failed: exit status 4", "none": "missing: no_such_module is not installed",
        "slow": "ran out of time", "late": "not reached",
    }  # fmt: skip
    assert journal.failed() == ["bad"]


def test_what_pytest_found_is_read(tmp_path):
    assert gpu.read_tests(tmp_path / "tests.xml") == {}
    tests = "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pytest.skip('no')\n"
    (tmp_path / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=tests.xml", "test_it.py"]
    subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True)
    found = gpu.read_tests(tmp_path / "tests.xml")
    assert found == {"counts": {"passed": 1, "failure": 1, "skipped": 1}, "failed": ["test_it::test_b"]}


def test_without_a_gpu_the_benchmark_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="finds no GPU"): gpu.main(["--out", str(tmp_path / "record.json")])
    assert not list(tmp_path.iterdir())


def test_make_gpu_without_a_gpu_says_so_in_one_line_and_installs_nothing(tmp_path):
    for name in ("Makefile", "settings.ini", "tools/run_on_gpu.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    before = sorted(tmp_path.rglob("*"))
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}  # the driver then tells of none
    command = ["make", "--no-print-directory", "gpu", f"PYTHON={sys.executable}"]
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run(command, cwd=tmp_path, env=env, **options)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[0] == run_on_gpu.NO_GPU
    assert len(done.stderr.splitlines()) == 2  # and what make says itself
    assert sorted(tmp_path.rglob("*")) == before


# What is installed, with a Python that is said to find a GPU


@pytest.fixture
def installing(monkeypatch, tmp_path):
    "Commands that would install, in order; and what the environment lacks, by name, which they may take away from."
    done, lacking = [], {}
    monkeypatch.setattr(run_on_gpu, "FOLDER", tmp_path)
    monkeypatch.setattr(run_on_gpu, "make_environment", lambda base: None)
    monkeypatch.setattr(run_on_gpu, "find_installer", lambda base: ["install"])
    monkeypatch.setattr(run_on_gpu, "finds_gpu", lambda python: python == sys.executable or python == run_on_gpu.PYTHON)
    monkeypatch.setattr(run_on_gpu, "says", lambda python, code: "torch==2.9.1")
    name_of = run_on_gpu.name_of
    monkeypatch.setattr(run_on_gpu, "find_missing", lambda python, wanted: [o for o in wanted if name_of(o) in lacking])

    def runs(*command, quiet=True):
        names = {name_of(o) for o in command[1:] if isinstance(o, str) and not o.startswith("-")}
        done.append(sorted(names & lacking.keys()))
        if all(lacking.get(name) != "not to be had" for name in names):
            for name in names: lacking.pop(name, None)
            return True
        return False

    monkeypatch.setattr(run_on_gpu, "runs", runs)
    return done, lacking


def test_a_python_that_has_all_is_used_as_it_is(installing):
    done, _ = installing
    assert run_on_gpu.choose_python() == sys.executable and done == []


def test_only_what_is_missing_is_installed_and_what_cannot_be_is_left_out(installing, capsys):
    done, lacking = installing
    lacking.update(fastcore="", nbdev="", torchvision="not to be had", toma="", batchbald_redux="")
    assert run_on_gpu.choose_python() == run_on_gpu.PYTHON
    one_by_one = [["nbdev"], ["fastcore"], ["torchvision"]]
    assert done == [["fastcore", "nbdev", "torchvision"], *one_by_one, ["batchbald_redux", "toma"]]
    assert capsys.readouterr().out.splitlines()[-1] == "make gpu: could not be installed: torchvision"
    assert (run_on_gpu.FOLDER / "constraints.txt").read_text() == "torch==2.9.1"  # nothing brings another one


def test_requirements_are_those_of_the_package():
    names = {run_on_gpu.name_of(o) for o in run_on_gpu.read_requirements()}
    assert {"torch", "numpy", "scikit-learn", "nbdev", "pytest", "batchbald_redux", "toma"} <= names
    assert "jupyterlab" not in names
    missing = run_on_gpu.find_missing(sys.executable, ["torch>=2.4", "scikit-learn", "no-such-package==1"])
    assert missing == ["no-such-package==1"]
