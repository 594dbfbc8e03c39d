"The sdist and the wheel: what they hold and say, and that they work in an environment that has nothing else and far from this checkout."
import json, os, re, shlex, subprocess, zipfile
from email.parser import HeaderParser

import numpy as np
from packaging.requirements import Requirement
import pytest

import bare
from batchbald_nbdev.bald import get_bald_batch
from batchbald_nbdev.datasets import example_log_probs
from test_project import PACKAGE, read_settings
from unchanged import of_this_environment

EXTRAS = ["dask", "vision", "mnist5k", "doors", "others", "dev", "docs", "bench"]


def contents(wheel):
    "Name -> bytes. The record of sizes and sums follows from the others."
    with zipfile.ZipFile(wheel) as archive: return {o: archive.read(o) for o in archive.namelist() if not o.endswith("/RECORD")}


def files_in(folder): return {o.relative_to(folder.parent).as_posix() for o in folder.rglob("*") if o.is_file() and o.suffix != ".pyc"}


@pytest.fixture(scope="session")
def wheel(packed):
    wheel, = packed.glob("*.whl")
    return wheel


def test_wheel_holds_the_package_and_nothing_else(packed, wheel):
    cfg = read_settings()
    assert wheel.name == f"{PACKAGE}-{cfg['version']}-py3-none-any.whl"
    tracked = files_in(packed / "source" / PACKAGE)
    names = contents(wheel).keys()
    assert {o for o in names if ".dist-info/" not in o} == tracked
    assert {f"{PACKAGE}/all.py", f"{PACKAGE}/data/digits_20.npz"} <= tracked
    assert {o.split(".dist-info/")[1] for o in names if ".dist-info/" in o} == {"METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}


def test_metadata_is_what_settings_say(packed, wheel):
    cfg, files = read_settings(), {o.split("/", 1)[1]: text.decode() for o, text in contents(wheel).items() if ".dist-info/" in o}
    said = HeaderParser().parsestr(files["METADATA"])
    assert [said[o] for o in ("Name", "Version", "Summary", "Author", "Author-email")] == [cfg[o] for o in ("lib_name", "version", "description", "author", "author_email")]
    assert said["Requires-Python"] == f">={cfg['min_python']}" and said["License"] == "Apache-2.0" and said["Home-page"] == cfg["git_url"]
    parts = [(extra, *o.partition(";")[::2]) for extra in EXTRAS for o in shlex.split(cfg[f"{extra}_requirements"])]
    wanted = shlex.split(cfg["requirements"]) + [f"{o}; {marker and marker + ' and '}extra == '{extra}'" for extra, o, marker in parts]
    assert set(map(Requirement, said.get_all("Requires-Dist"))) == set(map(Requirement, wanted))
    assert sorted(said.get_all("Provides-Extra")) == sorted(EXTRAS)
    scripts = [o.replace(" ", "") for o in files["entry_points.txt"].split("[console_scripts]")[1].split("[")[0].split("\n") if o]
    assert sorted(scripts) == sorted(cfg["console_scripts"].split())


def test_long_description_is_the_readme_with_full_addresses(packed, wheel):
    "PyPI has the README without what lies beside it: it would show broken pictures."
    cfg, root = read_settings(), packed / "source"
    metadata, = [text for name, text in contents(wheel).items() if name.endswith("/METADATA")]
    text = HeaderParser().parsestr(metadata.decode()).get_payload().strip()
    targets = re.findall(r"""\]\(([^)\s]+)|\b(?:src|href)=["']([^"']+)""", text)
    assert targets and not [o for pair in targets for o in pair if o and not o.startswith(("https://", "#"))]
    own = re.compile(rf"{re.escape(cfg['git_url'])}/(raw|blob)/{cfg['branch']}/([^)\s\"']+)")
    found = own.findall(text)
    assert {("raw", "nbs/images/colab.svg"), ("raw", "nbs/images/learning_curves.png")} <= set(found)
    assert all((root / o.split("#")[0]).is_file() for _, o in found)
    # Nothing else differs
    assert own.sub(r"\2", text) == own.sub(r"\2", (root / "README.md").read_text(encoding="utf-8").strip())


def test_wheel_of_the_sdist_is_the_wheel_of_the_checkout(packed, wheel, tmp_path):
    bare.copy_tracked(tmp_path / "source")
    bare.build("wheel", tmp_path / "source", tmp_path)
    direct, = tmp_path.glob("*.whl")
    assert contents(direct) == contents(wheel)


def test_sdist_installs_and_its_scripts_work_where_the_checkout_is_not(packed, tmp_path):
    "pip finds every requirement among the packages that it may see: those that settings.ini names, and what these need."
    cfg = read_settings()
    python = bare.make_environment(tmp_path / "environment")
    bare.show_packages(python, bare.closure([*shlex.split(cfg["requirements"]), "setuptools"]))
    env = bare.alone()
    away = tmp_path / "away"
    away.mkdir()
    sdist, = packed.glob("*.tar.gz")
    bare.run(python, "-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation", sdist, cwd=away, env=env)
    installed = bare.site_packages(python) / PACKAGE
    assert files_in(installed) == files_in(packed / "source" / PACKAGE)

    log_probs_N_K_C = example_log_probs(20)[:100]
    np.save(away / "predictions.npy", log_probs_N_K_C.numpy())
    bin = python.parent
    bare.run(bin / "batchbald_select", "predictions.npy", "--method", "bald", "--size", "3", "--out", "picks.json", cwd=away, env=env)
    assert json.loads((away / "picks.json").read_text())["picks"][0]["position"] == get_bald_batch(log_probs_N_K_C, 1).indices[0]
    toy = "--methods random,bald --trials 1 --samples 5 --budget 30 --repeats 1 --out toy"
    bare.run(bin / "batchbald_compare", *toy.split(), cwd=away, env=env)
    assert {o.name for o in (away / "toy").iterdir()} >= {"records.jsonl", "run.json", "summary.csv", "learning_curves.png"}


def write_wheel(folder, name, version):
    "A package with one module, which says its release."
    files = {f"{name}/__init__.py": f"__version__ = {version!r}\n", f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
             f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    files[f"{name}-{version}.dist-info/RECORD"] = "".join(f"{o},,\n" for o in [*files, f"{name}-{version}.dist-info/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items(): archive.writestr(path, text)


def test_pip_of_an_environment_changes_no_package_that_it_is_shown(tmp_path):
    "Told to have another release, to repair what it sees or to remove it, it can only add to its own."
    python, wheels, before = bare.make_environment(tmp_path / "environment"), tmp_path / "wheels", of_this_environment()
    wheels.mkdir()
    shown = bare.closure(["tqdm"])
    bare.show_packages(python, shown)
    here, code = shown["tqdm"].version, "import tqdm; print(tqdm.__version__)"
    for version in (here, "0.0.1"): write_wheel(wheels, "tqdm", version)
    (tmp_path / "wish.txt").write_text("tqdm==0.0.1\n")

    def pip(*command, **more): bare.run(python, "-m", "pip", *command, cwd=tmp_path, env=bare.alone(PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels), **more))

    assert bare.run(python, "-c", code, cwd=tmp_path).strip() == here
    pip("install", "tqdm")  # is there
    pip("uninstall", "--yes", "tqdm")
    assert not list(bare.site_packages(python).glob("tqdm*")) and bare.run(python, "-c", code, cwd=tmp_path).strip() == here
    pip("install", "--force-reinstall", "tqdm")
    pip("install", "--upgrade", "tqdm", PIP_CONSTRAINT=str(tmp_path / "wish.txt"))  # from the one that it now has itself
    assert bare.run(python, "-c", code, cwd=tmp_path).strip() == "0.0.1"
    pip("uninstall", "--yes", "tqdm")
    pip("install", "tqdm", PIP_CONSTRAINT=str(tmp_path / "wish.txt"))  # from the one that it is shown
    assert bare.run(python, "-c", code, cwd=tmp_path).strip() == "0.0.1"
    assert of_this_environment() == before


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["one process", "xdist"])
@pytest.mark.parametrize("change", ["pass", "here.write_text('x')", "here.unlink()", "os.utime(here, (0, 0))"])
def test_a_run_that_changes_its_own_environment_fails(tmp_path, workers, change):
    "In an environment of its own, of course."
    python = bare.make_environment(tmp_path / "environment")
    bare.show_packages(python, bare.closure(["pytest", "pytest-xdist"]))
    here = bare.site_packages(python) / "it/__init__.py"
    here.parent.mkdir()
    here.write_text("y")
    (tmp_path / "test_it.py").write_text(f"import os\nfrom pathlib import Path\nhere = Path({str(here)!r})\ndef test_it(): {change}\ndef test_more(): pass\n")
    done = subprocess.run([python, "-m", "pytest", "-p", "unchanged", *workers, "test_it.py"], cwd=tmp_path, text=True, stdin=subprocess.DEVNULL, capture_output=True,
                          env=bare.alone(PYTHONPATH=str(bare.ROOT / "tests")))
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == (change != "pass") and ("was changed while they ran" in done.stdout) == (change != "pass")
    assert (str(here) in done.stdout) == (change != "pass")
