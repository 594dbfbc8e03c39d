"Environments that see a few packages of this one and nothing else, and what a release would be packed from."
import os, re, shutil, subprocess, sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


def normal(name): return re.sub(r"[-_.]+", "-", name).lower()


def run(*command, **options):
    "What the command printed, or an error with it."
    done = subprocess.run([str(o) for o in command], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}"
    return done.stdout


def copy_tracked(
    folder,  # becomes what git would hand out: no ignored file, nothing deleted, changes that are not committed included
):
    names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    for name in names.decode().split("\0"):
        path = ROOT / name
        if not name or not (path.is_file() or path.is_symlink()): continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder / name, follow_symlinks=False)


def build(what, source, folder):
    "An `sdist` or a `wheel`, as pip and `python -m build` make it, with this environment's setuptools."
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_{what}({str(folder)!r})", cwd=source)


def closure(
    requirements,  # such as `torch` or `dask[array]>=2024.1`
    without=(),  # names that are neither listed nor followed
):  # name -> distribution of this environment, for these packages and all that they require
    found, seen, todo = {}, set(), [Requirement(o) for o in requirements]
    while todo:
        wanted = todo.pop()
        name = normal(wanted.name)
        if name in without or (name, key := frozenset(wanted.extras)) in seen: continue
        seen.add((name, key))
        found[name] = metadata.distribution(name)
        for text in found[name].requires or []:
            needed = Requirement(text)
            if not needed.marker or any(needed.marker.evaluate({"extra": o}) for o in (wanted.extras or {""})): todo.append(needed)
    return found


def site_packages(python):
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'), end='')"))


@lru_cache
def pip_home():
    "An environment with a pip for all others, whose making takes longer than theirs."
    pytest.importorskip("ensurepip", reason="this Python makes no environments with pip: install its venv module (`apt-get install python3-venv`)")
    home = TemporaryDirectory()
    run(sys.executable, "-m", "venv", home.name)
    return home


def make_environment(
    folder,
):  # its Python, of this one's version, with pip and nothing else
    "Its pip can change nothing but this folder, since what `show_packages` adds lies outside of it."
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python, target = folder / "bin/python", site_packages(folder / "bin/python")
    for path in site_packages(Path(pip_home().name) / "bin/python").glob("pip*"): (target / path.name).symlink_to(path)
    script = folder / "bin/pip"
    script.write_text(f"#!/bin/sh\nexec {python} -m pip \"$@\"\n")
    script.chmod(0o755)
    return python


def show_packages(python, distributions):
    """Let an environment see packages of this one; what it has itself comes first.

    Links to them lie in a folder beside the environment. pip takes what it finds there for installed, but uninstalls only what lies in
    its own environment, by the folder's path, and installs only there. So where another release is wanted, that one is added.
    (pip compares how paths begin, hence the name in front.)"""
    environment = python.parent.parent
    shown = environment.with_name(f"shown-to-{environment.name}")
    shown.mkdir()
    for distribution in distributions.values():
        base = Path(distribution.locate_file(""))
        for name in {o.parts[0] for o in distribution.files}:
            if name in ("..", "__pycache__") or not (base / name).exists() or (shown / name).exists(): continue
            (shown / name).symlink_to(base / name)
    (site_packages(python) / "shown.pth").write_text(f"{shown}\n")


def alone(**more):
    "This process's environment without what tells Python or pip of other packages, indexes and wishes; and pip's files of settings unread."
    kept = {o: os.environ[o] for o in os.environ if not o.startswith(("PYTHON", "PIP_", "VIRTUAL_ENV"))}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"} | more
