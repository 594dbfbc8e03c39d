"""What the benchmarks share: options, predictions, measuring, an estimate to judge batches by, records.

Shapes are named as in the package: N pool points, K parameter samples, C classes, B positions in the batch, M label configurations.
"""

import argparse
import ctypes
import gc
import inspect
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from batchbald_nbdev.active_learning import derive_generator, make_seeded
from batchbald_nbdev.all import (
    WeightedJointEntropy,
    collect_log_probs,
    get_balanced_indices,
    get_batchbald_batch,
    get_repeated_digits,
    make_mlp,
    train_models,
)

RECORDS = Path(__file__).resolve().parent / "records"
PACKAGES = "batchbald_nbdev torch numpy scipy scikit-learn batchbald_redux toma scikit-activeml baal modAL-python small-text skorch dask".split()


# Other libraries


def activeml_committee(probs_K_N_C: np.ndarray) -> tuple:
    "A classifier of scikit-activeml whose members predict this for N points, which are asked for as `X`; and that `X`."
    from skactiveml.base import SkactivemlClassifier

    class Committee(SkactivemlClassifier):
        def fit(self, X, y, sample_weight=None):
            self.fitted_ = True
            return self

        def predict_proba(self, X):
            return self.members(X).mean(0)

        def members(self, X):
            return probs_K_N_C

    X = np.arange(probs_K_N_C.shape[1], dtype=float)[:, None]
    return Committee(classes=range(probs_K_N_C.shape[2])).fit(X, None), X


# Options


def parse(name: str, doc: str, argv: list[str] | None, limits: dict[str, float], **more: dict) -> argparse.Namespace:
    """The options that all benchmarks have, and `more` by name; `limits` says for each form what `--limit` is by default, in
    seconds."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--full", dest="form", action="store_const", const="full", help="every size; for a release, on a machine that does nothing else")
    forms.add_argument("--tiny", dest="form", action="store_const", const="tiny", help="seconds; only to see that the script works")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch and NumPy (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of data, networks and estimators (default 0)")
    parser.add_argument("--limit", type=float, help=f"seconds; what would take longer is left out or scaled, and marked (default {limits['quick']:g}, with --full {limits['full']:g})")
    parser.add_argument("--out", type=Path, help=f"record to write (default benchmarks/records/{name}_FORM.json)")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # what a process that the script starts itself has to do, as JSON
    for option, settings in more.items():
        parser.add_argument(f"--{option}", **settings)
    words = sys.argv[1:] if argv is None else argv
    parser.set_defaults(form="quick", name=name, words=words)
    args = parser.parse_args(words)
    if args.threads < 1:
        parser.error(f"--threads is {args.threads}; want 1 or more")
    args.limit = limits[args.form] if args.limit is None else args.limit
    args.out = args.out or RECORDS / f"{name}_{args.form}.json"
    use_threads(args.threads)
    return args


def use_threads(threads: int) -> None:
    "PyTorch's own threads, and those of the linear algebra below NumPy."
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def run_child(script: str, threads: int, **task) -> dict:
    "Run a script's `--child` part in a fresh process; what it printed last, as JSON."
    env = os.environ | {f"{o}_NUM_THREADS": str(threads) for o in ("OMP", "OPENBLAS", "MKL")}
    command = [sys.executable, script, "--threads", str(threads), "--child", json.dumps(task)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        # A process that the system stops for want of memory says nothing itself
        sys.exit(f"{Path(script).name}: the part {task} ended with status {done.returncode}" + ("; was memory short?" if done.returncode < 0 else ", see above"))
    return json.loads(done.stdout.splitlines()[-1])


# Predictions


@cache
def _trained(labels: int, seed: int) -> tuple[torch.nn.Module, Tensor]:
    "A network trained on some digits, and the inputs of others."
    data = get_repeated_digits(repeats=1, noise=0.0, originals=1150, test=500, validation=100, generator=derive_generator(seed, "data"))
    train = get_balanced_indices(data.pool_labels, labels // 10, generator=derive_generator(seed, "initial"))
    others = torch.ones(len(data.pool_labels), dtype=torch.bool)
    others[train] = False
    model = make_seeded(make_mlp, derive_generator(seed, labels, "weights"))
    train_models([model], [data.pool_inputs[train]], [data.pool_labels[train]], [(seed, labels)])
    return model, data.pool_inputs[others]


def iter_predictions(N: int, K: int = 100, *, labels: int = 20, seed: int = 0, noise: float = 0.1, step: int = 5_000) -> Iterator[tuple[slice, Tensor]]:
    """Positions and log-probabilities (n, K, 10), float32, block by block: a network trained on `labels` digits, K dropout masks,
    and a pool that repeats some 1,100 other digits with noise. The first points are the same for every N."""
    model, originals = _trained(labels, seed)
    for start in range(0, N, step):
        stop = min(start + step, N)
        inputs = originals[torch.arange(start, start + step) % len(originals)]
        inputs = inputs + noise * torch.randn(inputs.shape, generator=derive_generator(seed, start, "noise"))
        masks = derive_generator(seed, labels, "masks")  # anew for each block, so that all blocks have the same masks
        yield slice(start, stop), collect_log_probs(model, inputs[: stop - start], K, generator=masks)


def make_predictions(N: int, K: int = 100, **options) -> Tensor:  # log_probs_N_K_C, float32
    log_probs_N_K_C = torch.empty(N, K, 10)
    for block, log_probs_n_K_C in iter_predictions(N, K, **options):
        log_probs_N_K_C[block] = log_probs_n_K_C
    return log_probs_N_K_C


def change_classes(log_probs_N_K_10: Tensor, C: int) -> Tensor:  # log_probs_N_K_C
    """Predictions of another number of classes from those of the ten digits: for 2 and 5 neighbouring digits count as one class, and for
    20, 50 and 100 a point is two digits side by side, and its class says both (the second of them up to its neighbours)."""
    if C == 10:
        return log_probs_N_K_10
    if C < 10:
        return log_probs_N_K_10.unflatten(-1, (C, 10 // C)).logsumexp(-1)
    second = change_classes(log_probs_N_K_10.roll(1, 0), C // 10)
    return (log_probs_N_K_10[..., None] + second[..., None, :]).flatten(2)


# Measuring


@dataclass
class Run:
    result: object
    seconds: float
    peak_bytes: int | None  # most memory beyond what was held before; None where the system does not say


def _status_bytes(key: str) -> int:
    line, = [o for o in Path("/proc/self/status").read_text().splitlines() if o.startswith(key + ":")]
    return 1024 * int(line.split()[1])


def measure(f: Callable) -> Run:
    "Call `f` once."
    gc.collect()
    gc.freeze()  # a library that collects garbage at every call (toma) shall not pay for what all others have imported
    try:  # Linux: give back what was freed, so that it is not there for nothing, and forget the peak so far
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_bytes("VmRSS")
    except (OSError, AttributeError):
        before = None
    start = time.perf_counter()
    try:
        result = f()
        seconds = time.perf_counter() - start
    finally:
        gc.unfreeze()
    return Run(result, seconds, None if before is None else max(0, _status_bytes("VmHWM") - before))


def interleave(calls: dict[str, Callable], repeats: int, limit: float = math.inf) -> dict[str, list[Run]]:
    "Runs of all calls in turn: at least one round, and no new one once `limit` seconds have passed."
    runs, start = {name: [] for name in calls}, time.perf_counter()
    for _ in range(repeats):
        for name, call in calls.items():
            runs[name].append(measure(call))
        if time.perf_counter() - start > limit:
            break
    return runs


def summarise(runs: list[Run]) -> dict:
    seconds = [o.seconds for o in runs]
    peaks = [o.peak_bytes for o in runs if o.peak_bytes is not None]
    return {"seconds": statistics.median(seconds), "min_seconds": min(seconds), "all_seconds": seconds, "peak_bytes": max(peaks, default=None)}


def default_num_samples() -> int:
    "M where `num_samples` is not passed."
    return inspect.signature(get_batchbald_batch).parameters["num_samples"].default


# Judging batches


def joint_information(log_probs_N_K_C: Tensor, indices: list[int], draws: int, seed: int) -> tuple[float, float]:
    """Joint information of a batch and its standard error, in nats, by a way that no compared method uses: labels drawn independently
    given each parameter sample, as many for each, and the mean of log p(y | w_k) - log p(y) over them.

    What is drawn for a point depends on the point and not on the batch, so the noise of two batches that share points is shared too."""
    indices = sorted(int(i) for i in indices)  # the order of picks says nothing about the batch
    log_probs_B_K_C = log_probs_N_K_C[indices].double().log_softmax(-1)
    B, K, C = log_probs_B_K_C.shape
    S = max(2, draws // K)
    labels_B_K_S = torch.empty(B, K, S, dtype=torch.long)
    for b, i in enumerate(indices):
        cumulative_K_C = log_probs_B_K_C[b].exp().cumsum(-1)
        u_K_S = torch.rand(K, S, generator=derive_generator(seed, "judge", i), dtype=torch.double) * cumulative_K_C[:, -1:]
        labels_B_K_S[b] = torch.searchsorted(cumulative_K_C, u_K_S, right=True).clamp_max(C - 1)
    log_probs_B_C_K = log_probs_B_K_C.transpose(1, 2).contiguous()
    values_K_S = torch.empty(K, S, dtype=torch.double)
    for s in torch.arange(S).split(max(1, 10_000 // K)):
        log_joints_ks_K = sum(log_probs_B_C_K[b][labels_B_K_S[b][:, s].flatten()] for b in range(B))
        own_K_s = log_joints_ks_K.view(K, len(s), K).diagonal(dim1=0, dim2=2).T
        values_K_S[:, s] = own_K_s - (log_joints_ks_K.logsumexp(1) - math.log(K)).view(K, len(s))
    return values_K_S.mean().item(), math.sqrt(values_K_S.var(1).mean().item() / (K * S))


# Records


def _versions() -> dict:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    return found


def _revision() -> str | None:
    "Of this checkout, with a + where tracked files differ from it."
    git = ["git", "-C", str(RECORDS.parent)]
    try:
        commit, changes = (subprocess.run([*git, *o], capture_output=True, text=True, check=True).stdout for o in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "-uno"]))
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + "+" * bool(changes.strip())


def _machine() -> dict:
    try:
        info = Path("/proc/cpuinfo").read_text()
        cpu = next(o.split(":")[1].strip() for o in info.splitlines() if o.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_bytes": memory, "system": platform.system()}


def make_record(args: argparse.Namespace, rows: list[dict], **facts) -> dict:
    "All there is to know about a run."
    words = [o for o in args.words if not o.startswith("--out=")]
    if "--out" in words:  # a path of this machine says nothing to others
        at = words.index("--out")
        del words[at : at + 2]
    return {
        "benchmark": args.name,
        "form": args.form,
        "command": shlex.join(["python", f"benchmarks/{args.name}.py", *words]),
        "revision": _revision(),
        "date": date.today().isoformat(),
        "seed": args.seed,
        "threads": args.threads,
        "limit_seconds": args.limit,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # well above `threads`: others were busy too
        "machine": _machine(),
        "versions": _versions(),
        **facts,
        "rows": rows,
    }


def read_rows(args) -> list[dict]:
    "Rows that an earlier run with the same form and seed has finished."
    if args.fresh or not args.out.exists():
        return []
    record = json.loads(args.out.read_text())
    return record["rows"] if (record["form"], record["seed"]) == (args.form, args.seed) else []


def save_record(args: argparse.Namespace, record: dict) -> None:
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def write_record(args: argparse.Namespace, rows: list[dict], **facts) -> dict:
    "Write all there is to know about a run, and say where."
    record = make_record(args, rows, **facts)
    save_record(args, record)
    print(f"\nrecord: {args.out.name}", flush=True)
    return record


def print_table(header: list[str], rows: list[list], title: str = "") -> None:
    "A Markdown table, to be pasted into the chapter."
    lines = [header, ["---"] * len(header), *rows]
    print(f"\n{title}\n" if title else "")
    print("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines), flush=True)


def show_seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3g} s" if seconds < 100 else f"{seconds:,.0f} s"


def show_bytes(n: int | None) -> str:
    return "" if n is None else f"{n / 2**20:,.0f} MB"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def ignore_ceiling() -> None:
    "The warning near log K is what `growth.py` asks about; elsewhere it is noise."
    warnings.filterwarnings("ignore", message=".*log K")
