"""What `make gpu` does: run on a GPU what needs one, the benchmark, tests and notebook cells, and record it.

    python tools/run_on_gpu.py [options of benchmarks/gpu.py]
    python tools/run_on_gpu.py --wheels FOLDER 3.12   fetch what a machine with Python 3.12 and PyTorch may lack

Needs Python 3.10 or newer with pip, and no package. Where there is no GPU it says so and installs nothing. PyTorch
that is there and finds the GPU is used as it is, be it in `.venv` or in this Python; only what is missing beside it
goes into `.venv-gpu`. Where there is none, PyTorch goes there too. Where packages cannot be had it goes on without
them, and the record says which parts were missing.
"""

import ctypes, os, re, shlex, subprocess, sys, time
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-gpu"
PYTHON = FOLDER / "bin/python"
NO_GPU = "make gpu: there is no GPU here that CUDA can use, so nothing was installed and nothing was run"
# Beside what the package requires: of `dev` and `bench` only what is used here
MORE = ["nbdev", "fastcore", "execnb", "fastgit", "ghapi", "hypothesis", "pytest", "torchvision"]
ALONE = ["toma", "batchbald_redux"]  # without what they require in turn: it is there, or what is timed does not use it
MODULES = {"scikit-learn": "sklearn"}  # where it is not the name
PATIENCE = 60  # seconds of attempts that fail, after which nothing more is asked of a registry
FEW_TRIES = {"PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "15", "UV_HTTP_TIMEOUT": "30"}


def has_gpu() -> bool:
    "Ask the driver, as PyTorch would, and PyTorch itself where there is no driver to ask."
    for name in ("libcuda.so.1", "libcuda.so", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
            break
        except OSError:
            pass
    else:
        return finds_gpu(sys.executable)
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def says(python, code: str) -> str | None:
    "What a Python prints, or None where it fails."
    try:
        done = subprocess.run(
            [python, "-c", code], cwd=ROOT, text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=120
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return None if done.returncode else done.stdout.strip()


def finds_gpu(python) -> bool:
    return says(python, "import torch; print(torch.cuda.is_available())") == "True"


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


def read_requirements() -> list[str]:
    "As settings.ini has them."
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    cfg = parser["DEFAULT"]
    named = {name_of(o): o for key in ("bench", "dev") for o in shlex.split(cfg[f"{key}_requirements"])}
    others = [o for o in shlex.split(cfg["requirements"]) if name_of(o) not in MORE]
    return [*others, *[named[o] for o in [*MORE, *ALONE]]]


def find_missing(python, requirements: list[str]) -> list[str]:
    "Those whose module is not there."
    modules = {o: MODULES.get(name_of(o), name_of(o).replace("-", "_")) for o in requirements}
    found = says(
        python, f"from importlib.util import find_spec; print(*[o for o in {[*modules.values()]} if find_spec(o)])"
    )
    return [o for o, module in modules.items() if module not in (found or "").split()]


# Installing


def runs(*command, quiet: bool = True) -> bool:
    output = {"capture_output": True} if quiet else {}
    env = {**FEW_TRIES, **os.environ}
    try:
        return (
            subprocess.run([str(o) for o in command], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, **output).returncode
            == 0
        )
    except OSError:
        return False


def make_environment(base) -> None:
    "`.venv-gpu`, which sees what `base` has where that has a PyTorch that finds the GPU."
    python, version = base or sys.executable, "import sys; print(sys.version_info[:2])"
    if says(PYTHON, version) != says(python, version):  # not there, or made with another
        made = runs(python, "-m", "venv", "--clear", FOLDER) or runs(
            python, "-m", "venv", "--clear", "--without-pip", FOLDER
        )
        if not made and not runs("uv", "venv", "--clear", "--python", python, FOLDER):
            sys.exit(f"make gpu: no environment could be made; install the package `venv` of {python}, or uv")
    folder = Path(says(PYTHON, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    beside = folder / "beside_gpu.pth"
    if base is None:
        beside.unlink(missing_ok=True)
        return
    # As PYTHONPATH would, but after what is in the environment itself, and with the .pth files of these folders
    folders = says(
        base, "import sys; print(*[o for o in sys.path if o.endswith(('site-packages', 'dist-packages'))], sep='\\n')"
    )
    beside.write_text("".join(f"import site; site.addsitedir({o!r})\n" for o in folders.splitlines()), encoding="utf-8")


def find_installer(base) -> list | None:
    "uv where all is to be installed; else pip, which counts what is there beside the environment."
    if base is None and runs("uv", "--version"):
        return ["uv", "pip", "install", "--python", PYTHON]
    if runs(PYTHON, "-m", "pip", "--version"):
        return [PYTHON, "-m", "pip", "install"]
    if runs(sys.executable, "-m", "pip", "--python", PYTHON, "--version"):
        return [sys.executable, "-m", "pip", "--python", PYTHON, "install"]
    return None


def install(base, requirements: list[str]) -> None:
    "All at once, and where that fails one by one, so that what can be had is."
    installer = find_installer(base)
    if installer is None:
        return
    constraints = FOLDER / "constraints.txt"
    fixed = (
        says(PYTHON, "from importlib.metadata import version; print('torch==' + version('torch'))") if base else None
    )
    constraints.write_text(fixed or "", encoding="utf-8")  # nothing shall bring another PyTorch
    command = [*installer, "--quiet", "--constraint", constraints]
    usual = [o for o in requirements if name_of(o) not in ALONE]
    alone = [o for o in requirements if name_of(o) in ALONE]
    spent = 0.0
    if usual and not runs(*command, *usual, quiet=False):
        for requirement in usual:
            began = time.monotonic()
            if spent < PATIENCE and not runs(*command, requirement):
                spent += time.monotonic() - began
    if alone and spent < PATIENCE:
        runs(*command, "--no-deps", *alone, quiet=False)


def choose_python() -> Path | str:
    "A Python with all that is needed, or as much of it as can be had."
    requirements = read_requirements()
    base = next((o for o in (ROOT / ".venv/bin/python", sys.executable) if finds_gpu(o)), None)
    if base and not find_missing(base, requirements):
        return base
    make_environment(base)
    missing = find_missing(PYTHON, requirements)
    if missing:
        print(f"make gpu: installing into {FOLDER.name}: {', '.join(map(name_of, missing))}", flush=True)
        install(base, missing)
        missing = find_missing(PYTHON, requirements)
    if missing:
        print(f"make gpu: could not be installed: {', '.join(map(name_of, missing))}", flush=True)
    if says(PYTHON, "import batchbald_nbdev.all") is None:
        sys.exit("make gpu: cannot go on, since the package cannot be imported without these")
    if not finds_gpu(PYTHON):
        found = "there is a GPU, but this PyTorch does not find it"
        sys.exit(f"make gpu: {found}; is it one with CUDA, and is the driver new enough for it?")
    return PYTHON


def fetch_wheels(folder: str, version: str) -> bool:
    "What is missing beside PyTorch and what comes with it, for Linux on x86-64; pip finds it by PIP_FIND_LINKS."
    usual = {"torch", "torchvision", "numpy", "matplotlib", "scikit-learn", "tqdm", *ALONE}
    requirements = read_requirements()
    target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", version, "--dest", folder]
    target += [word for tag in ("_2_28", "_2_17", "2014") for word in ("--platform", f"manylinux{tag}_x86_64")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *target]
    whole = [o for o in requirements if name_of(o) not in usual]
    single = [o for o in requirements if name_of(o) in ALONE]
    return runs(*command, *whole, quiet=False) and runs(*command, "--no-deps", *single, quiet=False)


if __name__ == "__main__":
    if sys.version_info < (3, 10):
        sys.exit(f"{sys.executable} is older than 3.10; name another: make gpu PYTHON=python3.12")
    if sys.argv[1:2] == ["--wheels"]:
        sys.exit(not fetch_wheels(*sys.argv[2:]) if len(sys.argv) == 4 else "want --wheels FOLDER 3.12")
    if not has_gpu():
        sys.exit(NO_GPU)
    python = choose_python()
    path = os.pathsep.join(
        filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    )  # for where the package is not installed
    command = [str(python), str(ROOT / "benchmarks/gpu.py"), "--checks", *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}).returncode)
