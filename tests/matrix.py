"""The notebooks as other machines run them: on other processors' code paths, with other threads, weights and releases of PyTorch.

    python tests/matrix.py                            every variant
    python tests/matrix.py sse,oldest                 these
    python tests/matrix.py --tests tests              not the notebooks alone but all tests; any arguments of pytest

Prints one line for each variant, with what failed; what pytest said is in results/matrix. Exit status 1 if anything failed. The oldest
PyTorch that settings.ini allows and the newest that there is live in environments of their own, made by uv: `.venv-oldest`, `.venv-newest`.
"""
import argparse, os, re, shlex, shutil, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
# Name -> what it sets in the environment. One thread where nothing else is said, as in `make test`
VARIANTS = {
    "sse": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"},  # no AVX
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},  # no AVX-512
    "cbwr": {"MKL_CBWR": "COMPATIBLE"},  # MKL as on a processor that is not Intel's
    "threads1": {},
    "threads2": {"OMP_NUM_THREADS": "2"},
    "noise": {"WEIGHT_NOISE": "1e-6"},  # see noise.py
    "oldest": {},
    "newest": {},
}


def make_environment(
    name,  # oldest or newest
    base,  # the Python to make it with
):  # its own Python, which has what development needs and the oldest PyTorch that settings.ini allows, or the newest
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    cfg, folder = parser["DEFAULT"], ROOT / f".venv-{name}"
    torch, = (o for o in map(Requirement, shlex.split(cfg["requirements"])) if o.name == "torch")
    oldest, = (o.version for o in torch.specifier if o.operator == ">=")
    wanted = f"torch=={oldest}.*" if name == "oldest" else "--upgrade"
    uv = os.environ.get("UV") or shutil.which("uv") or ROOT / ".uv/bin/uv"
    subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", base, folder], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", folder / "bin/python", "--editable", f"{ROOT}[dev]", wanted], check=True)
    return folder / "bin/python"


def run(name, python, tests):
    "What pytest said, and what failed."
    others = {o for settings in VARIANTS.values() for o in settings}
    env = {o: os.environ[o] for o in os.environ if o not in others} | {"OMP_NUM_THREADS": "1"} | VARIANTS[name]
    done = subprocess.run([python, "-m", "pytest", "-q", "-rfE", *tests], cwd=ROOT, env=env, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return done.stdout, failed or ([f"pytest ended with status {done.returncode}"] if done.returncode else [])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="?", default=",".join(VARIANTS), help="default: %(default)s")
    parser.add_argument("--tests", default="tests/test_notebooks.py", help="arguments of pytest; default: %(default)s")
    parser.add_argument("--python", default=sys.executable, help="for new environments; the oldest PyTorch may need an older one: python3.12")
    parser.add_argument("--logs", type=Path, default=ROOT / "results/matrix", help="folder for what pytest says")
    args = parser.parse_args()
    names = args.variants.split(",")
    if unknown := set(names) - set(VARIANTS): parser.error(f"no such variant: {', '.join(sorted(unknown))}; want some of {', '.join(VARIANTS)}")
    args.logs.mkdir(parents=True, exist_ok=True)
    any_failed = False
    for name in names:
        try:
            python = make_environment(name, args.python) if name in ("oldest", "newest") else sys.executable
            said, failed = run(name, python, shlex.split(args.tests))
        except subprocess.CalledProcessError as error: said, failed = "", [f"no environment, since uv ended with status {error.returncode}"]
        (args.logs / f"{name}.log").write_text(said)
        counts = said.strip().rpartition("\n")[2].strip("= ")
        print(f"{name}: {counts or 'nothing ran'}", *([f"failed: {', '.join(failed)}"] if failed else []), sep="; ", flush=True)
        any_failed |= bool(failed)
    sys.exit(any_failed)
