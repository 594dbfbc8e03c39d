"""Notebooks as Colab runs them: with the packages that it has, the wheel of this checkout, and nothing else, away from the checkout.

Two chapters in a plain run, all with SLOW=1. No test asks the internet for anything but the packages in `NEWER`; where those cannot
be had, the versions of this environment take their place, and `test_environment_has_what_is_newest_on_colab` is skipped.
"""
import ast, configparser, importlib, json, os, re, shlex, shutil, subprocess, sys
from pathlib import Path
from unittest.mock import patch

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement

import bare

ROOT = bare.ROOT
PACKAGE = "batchbald_nbdev"
NOTEBOOKS = sorted(o.name for o in (ROOT / "nbs").glob("*.ipynb"))
PLAIN = ["12_results.ipynb", "90_plots.ipynb"]  # the first reads records, the second has a panel
SLOW = os.environ.get("SLOW") == "1"

# What Colab has, as of August 2026 (https://github.com/googlecolab/backend-info), of what a notebook may import
COLAB = {"torch": "2.11.0", "torchvision": "0.26.0", "numpy": "2.1.3", "matplotlib": "3.10.0", "scikit-learn": "1.6.1", "tqdm": "4.67.3",
         "ipywidgets": "7.7.1", "fastcore": "2.2.12", "dask": "2026.7.1", "distributed": "2026.7.1", "ipykernel": "6.17.1", "ipython": "7.34.0"}
# Of these the ones far from this environment's, with what they need beyond it: small, and installed as they are on Colab
NEWER = {o: COLAB[o] for o in ("fastcore", "ipywidgets", "ipykernel", "ipython")} | {"ipython-genutils": "0.2.0", "backcall": "0.2.0", "pickleshare": "0.7.5",
         "decorator": "4.4.2", "nest-asyncio": "1.6.0"}
SEEN = ["torch", "torchvision", "numpy", "matplotlib", "scikit-learn", "tqdm", "ipywidgets", "fastcore", "ipykernel", "setuptools"]
ABSENT = ["nbdev", "execnb", "hypothesis", "pytest", "nbclient", "jupyterlab", "dask", "distributed"]

# The parts of Colab by which a notebook can tell that it is there: `colab_kernel_launcher` starts this kernel with this shell
FAKE = {
    "google/__init__.py": "",
    "google/colab/__init__.py": "",
    "google/colab/_shell.py": "from ipykernel.zmqshell import ZMQInteractiveShell\n\nclass Shell(ZMQInteractiveShell): pass\n",
    "google/colab/_kernel.py": "from ipykernel.ipkernel import IPythonKernel\nfrom traitlets import Type\nfrom google.colab import _shell\n\n"
                               "class Kernel(IPythonKernel): shell_class = Type(_shell.Shell)\n",
    "colab_kernel_launcher.py": "from ipykernel.kernelapp import IPKernelApp\nfrom google.colab import _kernel\n\n"
                                "IPKernelApp.launch_instance(kernel_class=_kernel.Kernel)\n",
}


@pytest.fixture(scope="session")
def tool():
    "tools/colab.py as a module."
    sys.path.insert(0, str(ROOT / "tools"))
    try: return importlib.import_module("colab")
    finally: sys.path.remove(str(ROOT / "tools"))


# ---- The tool ----

def settings(**changes):
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    parser["DEFAULT"].update(changes)
    return parser


@pytest.fixture
def project(tool, tmp_path, monkeypatch):
    "A copy of the project's settings, changelog and notebooks; called with other settings or another changelog, it takes these."
    from nbdev.config import get_config
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", symlinks=True, ignore=shutil.ignore_patterns("_quarto.yml", "*.jsonl", ".*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, "ROOT", tmp_path)

    def write(changelog=None, **changes):
        with open(tmp_path / "settings.ini", "w") as file: settings(**changes).write(file)
        (tmp_path / "CHANGELOG.md").write_text(changelog or (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
        get_config.cache_clear()
        return tmp_path

    yield write
    get_config.cache_clear()


def cells_of(path): return {o["id"]: o for o in json.loads(path.read_text(encoding="utf-8"))["cells"]}


def test_badge_and_installation_name_the_same_notebook_and_release(tool, project):
    folder = project("# Changelog\n\n## 7.8.9 (2031-01-02)\n", version="7.8.9", user="someone", repo="somewhere")
    path = folder / "nbs/04a_many_machines.ipynb"
    assert len(tool.problems(path)) == 1
    tool.write(path)
    assert tool.problems(path) == []
    badge, install = (cells_of(path)[o] for o in (tool.BADGE, tool.INSTALL))
    assert badge["source"] == ["[![Open in Colab](images/colab.svg)](https://colab.research.google.com/github/someone/somewhere/blob/v7.8.9/nbs/04a_many_machines.ipynb)"]
    code = "".join(install["source"])
    texts = [o.value for o in ast.walk(ast.parse(code)) if isinstance(o, ast.Constant) and isinstance(o.value, str)]
    clone, pip = (o for o in texts if "/content/somewhere" in o and not o.startswith("-q"))
    assert clone.endswith("--branch v7.8.9 https://github.com/someone/somewhere /content/somewhere")
    assert pip.endswith("'/content/somewhere[dask]'")


def test_badges_open_the_branch_until_the_release(tool, project):
    project("# Changelog\n\n## 0.1.0 (Unreleased)\n", version="0.1.0")
    assert tool.get_ref() == "main"
    project("# Changelog\n\n## 0.1.0\n", version="0.1.0")
    assert tool.get_ref() == "v0.1.0"
    project("# Changelog\n\n## 0.2.0 (Unreleased)\n\n## 0.1.0\n", version="0.1.0")
    assert tool.get_ref() == "v0.1.0"
    project("# Changelog\n\n## 0.1.01\n", version="0.1.0")
    with pytest.raises(tool.ColabError, match="no section for version 0.1.0"): tool.get_ref()


def test_cells_come_below_the_title_once_and_leave_the_rest_alone(tool, project):
    folder = project()
    for name in NOTEBOOKS:
        path = folder / "nbs" / name
        before = json.loads(path.read_bytes())
        tool.write(path)
        once = path.read_bytes()
        tool.write(path)
        assert path.read_bytes() == once
        after = json.loads(once)
        assert [o["id"] for o in after["cells"][1:3]] == [tool.BADGE, tool.INSTALL]
        own = {tool.BADGE, tool.INSTALL}
        assert [o for o in after["cells"] if o["id"] not in own] == [o for o in before["cells"] if o["id"] not in own]
        assert {k: v for k, v in after.items() if k != "cells"} == {k: v for k, v in before.items() if k != "cells"}
        nbformat.validate(after)


@pytest.mark.parametrize("spoil", [
    lambda cells: cells.pop(1),
    lambda cells: cells.pop(2),
    lambda cells: cells.insert(3, cells.pop(1)),
    lambda cells: cells[2]["source"].__setitem__(0, "#| export\n"),
    lambda cells: cells[2]["metadata"].clear(),
], ids=["no badge", "no installation", "badge elsewhere", "another source", "not folded"])
def test_a_notebook_out_of_step_is_named_and_mended(tool, project, spoil):
    path = project() / "nbs/90_plots.ipynb"
    tool.write(path)
    good = path.read_bytes()
    nb = json.loads(good)
    spoil(nb["cells"])
    path.write_text(json.dumps(nb))
    problem, = tool.problems(path)
    assert problem.startswith("nbs/90_plots.ipynb: ") and problem.endswith("run `make export`")
    tool.write(path)
    assert path.read_bytes() == good


def test_extras_are_those_whose_packages_a_notebook_imports(tool):
    extras = {o: tool.get_extras(json.loads((ROOT / "nbs" / o).read_bytes())) for o in NOTEBOOKS}
    assert {o for o, names in extras.items() if "dask" in names} == {"04a_many_machines.ipynb"}
    assert all(set(names) <= {"dask", "vision"} for names in extras.values())


def test_installation_changes_nothing_that_colab_has():
    "Else pip would fetch another version, and what a kernel has loaded would not fit any more. Its widgets are those of version 7."
    cfg = settings()["DEFAULT"]
    for text in shlex.split(f"{cfg['requirements']} {cfg['dask_requirements']} {cfg['vision_requirements']}"):
        required = Requirement(text)
        assert required.specifier.contains(COLAB[bare.normal(required.name)]), text


# ---- An environment like Colab's ----

@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    "Packages of the versions that Colab has, or why they cannot be had."
    folder = tmp_path_factory.mktemp("newer")
    wanted = [f"{name}=={version}" for name, version in NEWER.items()]
    uv, reasons = ["pip", "install", "--python", sys.executable], []
    for installer in (["uv", *uv], [ROOT / ".uv/bin/uv", *uv], [sys.executable, "-m", "pip", "install"]):
        command = [*installer, "--quiet", "--no-deps", "--target", folder, *wanted]
        try: done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        except (OSError, subprocess.TimeoutExpired) as error: reasons.append(str(error))
        else:
            if done.returncode == 0: return folder, None
            reasons.append(done.stderr.strip()[-300:])
    return None, "\n".join(reasons)


def make_colab(folder, packages, extras=()):
    "Its Python: pip, what Colab has of what a notebook may import, and the fake parts; nothing else of this environment."
    python = bare.make_environment(folder)
    target = bare.site_packages(python)
    newer, _ = packages
    if newer: shutil.copytree(newer, target, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("bin", "share", "etc"))
    own = set(NEWER) if newer else set()
    # What this environment's versions of these need, theirs need too, and some more that `NEWER` has
    found = bare.closure([*SEEN, *extras])
    bare.show_packages(python, {name: o for name, o in found.items() if name not in own})
    for name, text in FAKE.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(text)
    return python


@pytest.fixture(scope="session")
def colab(packages, packed, tmp_path_factory):
    "With the wheel, and with Dask where asked. pip decides nothing here: test_packaging.py does that."
    made = {}

    def get(*extras):
        if extras not in made:
            made[extras] = make_colab(tmp_path_factory.mktemp("colab") / "environment", packages, extras)
            wheel, = packed.glob("*.whl")
            bare.run(made[extras], "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=packed, env=bare.alone())
        return made[extras]

    return get


def clean_environment(python, home):
    "Nothing of this process that a notebook could profit from."
    kept = {o: os.environ[o] for o in ("LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE") if o in os.environ}
    return kept | {"HOME": str(home), "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
                   "PYTHONDONTWRITEBYTECODE": "1", "IPYTHONDIR": str(home / ".ipython")}


def execute(nb, python, folder, *, launcher="ipykernel_launcher", env=None):
    "Run a notebook with that Python, in that folder."
    home = folder.parent / "home"
    (home / "kernels/bare").mkdir(parents=True)
    spec = {"argv": [str(python), "-m", launcher, "-f", "{connection_file}"], "display_name": "bare", "language": "python"}
    (home / "kernels/bare/kernel.json").write_text(json.dumps(spec))
    with patch.dict(os.environ, JUPYTER_PATH=str(home)):
        client = NotebookClient(nb, kernel_name="bare", timeout=3600, startup_timeout=300, resources={"metadata": {"path": str(folder)}})
        client.execute(env={**clean_environment(python, home), **(env or {})})


def read_notebook(path, slow=False):
    "With the cells that Run All on Colab would run, less slow ones. Colab does not know `eval: false`."
    nb = nbformat.read(path, as_version=4)
    for cell in nb.cells:
        flags = set(re.findall(r"^#\s*\|\s*(\S+)", cell.source, re.MULTILINE))
        if cell.cell_type == "code": cell.outputs = []
        skipped = {"notest", "gpu", *(() if slow else ("slow",))}
        if flags & skipped: cell.metadata["tags"] = ["skip-execution"]
    return nb


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_run_all_downloads_nothing_unasked(name):
    cells = [o.source for o in nbformat.read(ROOT / "nbs" / name, as_version=4).cells if o.cell_type == "code"]
    assert not [o for o in cells if "download=True" in o and not re.search(r"^#\|\s*exporti?$", o, re.MULTILINE)]


def probe(source): return nbformat.v4.new_code_cell(source)


def text_of(cell): return "".join(o.get("text", "") + "".join(o.get("data", {}).get("text/plain", "")) for o in cell.outputs).strip()


def test_environment_has_what_is_newest_on_colab(packages, colab, tmp_path):
    folder, reason = packages
    if folder is None: pytest.skip(f"fastcore 2 and what else Colab has could not be installed, so chapters ran with this environment's: {reason}")
    versions = "import fastcore, ipywidgets, IPython; print(fastcore.__version__, ipywidgets.__version__, IPython.__version__)"
    assert bare.run(colab(), "-c", versions, cwd=tmp_path).split() == [COLAB[o] for o in ("fastcore", "ipywidgets", "ipython")]


def test_environment_has_nothing_else(colab, tmp_path):
    "Neither what only development needs, nor this checkout."
    code = f"from importlib.util import find_spec; print([o for o in {ABSENT} if find_spec(o)])\nimport {PACKAGE}; print({PACKAGE}.__file__)"
    absent, file = bare.run(colab(), "-c", code, cwd=tmp_path, env=clean_environment(colab(), tmp_path)).splitlines()
    assert absent == "[]" and Path(file).parent.parent == bare.site_packages(colab())


@pytest.mark.parametrize("name", [pytest.param(o, marks=() if o in PLAIN else pytest.mark.slow) for o in NOTEBOOKS])
def test_notebook_in_a_bare_environment(name, tool, colab, packed, tmp_path):
    "From what a clone holds, but for the package: that comes from the wheel."
    for part in ("nbs", "records", "benchmarks/records"): shutil.copytree(packed / "source" / part, tmp_path / "clone" / part, symlinks=True)
    folder = tmp_path / "clone/nbs"
    python = colab(*(["dask[array,distributed]"] if "dask" in tool.get_extras(json.loads((folder / name).read_bytes())) else []))
    nb = read_notebook(folder / name, SLOW)
    nb.cells.append(probe(f"import {PACKAGE}, os; print({PACKAGE}.__file__, os.getcwd(), sep='\\n')"))
    execute(nb, python, folder)
    file, where = text_of(nb.cells[-1]).splitlines()
    assert Path(file).parent.parent == bare.site_packages(python) and Path(where) == folder
    install, = [o for o in nb.cells if o.id == tool.INSTALL]
    assert install.execution_count and install.outputs == []  # it ran, and did nothing


# ---- The installation cell, on a Colab that is not there ----

@pytest.fixture(scope="session")
def hosted(packed, tool, tmp_path_factory):
    "The environment for git that makes a local repository of this checkout the published one; released as the cells want it."
    folder, bare_repo = tmp_path_factory.mktemp("hosted") / "work", tmp_path_factory.mktemp("hosted") / "published.git"
    bare.copy_tracked(folder)
    own = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    git = lambda *command: bare.run("git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=work", *command, cwd=folder, env=own)
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "All")
    git("tag" if tool.get_ref().startswith("v") else "branch", tool.get_ref())
    git("clone", "--quiet", "--bare", ".", bare_repo)
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{bare_repo.as_uri()}.insteadOf", "GIT_CONFIG_VALUE_0": settings()["DEFAULT"]["git_url"],
            "GIT_CONFIG_NOSYSTEM": "1"}


# pip finds what Colab has, fetches nothing, and builds with the setuptools that is there. It does not follow what Colab's own versions would need
PIP = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_DEPS": "1",
       "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}


def on_colab(nb, content):
    "The notebook with another folder in place of Colab's /content, which may exist on this machine."
    for cell in nb.cells: cell.source = cell.source.replace("/content/", f"{content}/")
    return nb


def test_notebook_installs_itself_on_colab(tool, packages, hosted, tmp_path):
    "From an empty folder, by its own cell; run twice it is as good as once; it prints nothing."
    python = make_colab(tmp_path / "environment", packages)
    content = tmp_path / "content"
    content.mkdir()
    nb = on_colab(read_notebook(ROOT / "nbs/index.ipynb"), content)
    at, = [i for i, o in enumerate(nb.cells) if o.id == tool.INSTALL]
    nb.cells[at + 1:at + 1] = [probe("str(get_ipython())"), nbformat.v4.new_code_cell(nb.cells[at].source)]
    nb.cells.append(probe(f"import os, {PACKAGE}; print({PACKAGE}.__file__, os.getcwd(), sep='\\n')"))
    execute(nb, python, content, launcher="colab_kernel_launcher", env={**hosted, **PIP})
    assert "google.colab._shell.Shell" in text_of(nb.cells[at + 1])
    assert nb.cells[at].outputs == nb.cells[at + 2].outputs == []
    file, where = text_of(nb.cells[-1]).splitlines()
    assert Path(file).parent.parent == bare.site_packages(python) and Path(where) == content / "batchbald_nbdev/nbs"


@pytest.mark.parametrize("broken", ["no repository", "no package"])
def test_installation_that_fails_says_what_to_do(tool, packages, hosted, tmp_path, broken):
    python = make_colab(tmp_path / "environment", packages)
    content = tmp_path / "content"
    content.mkdir()
    nb = on_colab(read_notebook(ROOT / "nbs/index.ipynb"), content)
    nb.cells = [o for o in nb.cells if o.id == tool.INSTALL]
    env = {**hosted, **PIP} | ({"GIT_CONFIG_KEY_0": f"url.{(tmp_path / 'nowhere').as_uri()}.insteadOf"} if broken == "no repository" else {"PIP_NO_BUILD_ISOLATION": "1"})
    with pytest.raises(CellExecutionError, match="could not be installed.*delete runtime, then run this cell again"):
        execute(nb, python, content, launcher="colab_kernel_launcher", env=env)
    assert nb.cells[0].outputs[0].output_type == "stream"  # what git or pip had to say
