"""The notebooks as other machines run them: on other processors' code paths, with other threads, weights and releases of PyTorch.

    python tests/matrix.py                            every variant
    python tests/matrix.py sse oldest                 these
    python tests/matrix.py --tests tests              not the notebooks alone but all tests; any arguments of pytest

Prints one line for each variant, with what failed; what pytest said is in results/matrix. Exit status 1 if anything failed. The oldest
and the newest PyTorch live in environments of their own, made by uv: `.venv-oldest`, with the oldest Python too, and `.venv-newest`.
"""
import argparse, os, re, shlex, shutil, subprocess, sys, time
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "results/matrix"
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
):  # its Python, which has what development needs and the oldest PyTorch that settings.ini allows, or the newest
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    cfg, folder = parser["DEFAULT"], ROOT / f".venv-{name}"
    torch, = (o for o in map(Requirement, shlex.split(cfg["requirements"])) if o.name == "torch")
    oldest, = (o.version for o in torch.specifier if o.operator == ">=")
    base, wanted = (cfg["min_python"], [f"torch=={oldest}.*"]) if name == "oldest" else (sys.executable, ["--upgrade"])
    uv = os.environ.get("UV") or shutil.which("uv") or ROOT / ".uv/bin/uv"
    subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", base, folder], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", folder / "bin/python", "--editable", f"{ROOT}[dev]", *wanted], check=True)
    return folder / "bin/python"


def run(name, tests):
    "What failed, as pytest names it, and how many passed."
    python = make_environment(name) if name in ("oldest", "newest") else sys.executable
    others = {o for settings in VARIANTS.values() for o in settings}
    env = {o: os.environ[o] for o in os.environ if o not in others} | {"OMP_NUM_THREADS": "1"} | VARIANTS[name]
    done = subprocess.run([python, "-m", "pytest", "-q", "-rfE", *tests], cwd=ROOT, env=env, text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    (LOGS / f"{name}.log").write_text(done.stdout)
    failed = re.findall(r"^(?:FAILED|ERROR) (?:\S+\[(?=nbs/))?(\S+?)\]?(?: - .*)?$", done.stdout, re.MULTILINE)
    return failed or ([done.stdout.strip()[-300:] or "pytest said nothing"] if done.returncode else []), done.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", choices=[[], *VARIANTS], metavar="variant", help=f"default: all of {', '.join(VARIANTS)}")
    parser.add_argument("--tests", default="tests/test_notebooks.py", help="arguments of pytest")
    args = parser.parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    any_failed = False
    for name in args.variants or VARIANTS:
        start = time.monotonic()
        try: failed, summary = run(name, shlex.split(args.tests))
        except subprocess.CalledProcessError as error: failed, summary = [f"uv ended with status {error.returncode}, see above"], "not run"
        print(f"{name:9} {'FAILED: ' + ' '.join(failed) if failed else summary.strip('= ')} ({time.monotonic() - start:.0f} s)", flush=True)
        any_failed |= bool(failed)
    sys.exit(any_failed)
