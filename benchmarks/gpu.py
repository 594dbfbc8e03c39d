"""The package on a GPU: seconds, memory, picks, launches, what the host waits for; each part has its own time limit.

    make gpu                                           installs what is missing, then runs this with --checks
    python benchmarks/gpu.py [--full] [--checks]       wants PyTorch with CUDA
    python benchmarks/gpu.py --tiny --device cpu       seconds, anywhere; only to see that the script works

Into benchmarks/records/gpu_NAME.json, NAME being the card's. BatchBALD at 20,000 and 60,000 points, batches of 10 and
of 100, with the default M and with 10,000; 2-BALD and BALD; `batchbald_redux` on the same device; `collect_log_probs`
with 60,000 images beside a plain loop of MC dropout; a stack of networks in `train_models` beside one in a plain
loop. K = 100, C = 10. Predictions are those of the other benchmarks; images are random, since what they show costs no
time. What would take too long runs on fewer points and its time is scaled, which the record says.

The parts run one after the other in a process that prints what it finds. A part that runs out of its time, or fails,
ends that process; the record says so, and a new process goes on with the next part. The record is written after each
part, so a machine that is taken away leaves what was found so far. --limit is for all parts together. --checks also
runs the tests marked `gpu` and the notebooks with cells for a GPU, at most 115 s beyond it. Times are medians with
the device waited for at both ends, the first call apart; memory is what PyTorch allocates there beyond what it held.
The exit status is 1 where a part or a check failed.
"""

import os
import sys

if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"  # batchbald_redux's progress bars take time, if little

import argparse
import gc
import json
import queue
import re
import signal
import subprocess
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import common
import numpy as np
import torch
from predictions import make_ordinary
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from batchbald_nbdev.active_learning import derive_generator, make_seeded
from batchbald_nbdev.all import (
    collect_log_probs,
    example_log_probs,
    get_bald_batch,
    get_batchbald_batch,
    get_kbald_batch,
    make_mnist_cnn,
    train_models,
)

ROOT = Path(__file__).resolve().parent.parent
ALL_PARTS = {"tiny": 600, "quick": 235, "full": 3_600}  # seconds for all parts together
CHECKS = 115  # seconds for tests and notebooks, which run side by side
FEW = 1_000  # points from which the time of all is foretold
SIZES = {
    "tiny": dict(pools=[60], K=10, batches=[3], configs=[100], images=20, masks=3, networks=2, steps=2, repeats=2),
    "quick": dict(
        pools=[20_000, 60_000], K=100, batches=[10, 100], configs=[None, 10_000],
        images=60_000, masks=100, networks=10, steps=200, repeats=5,
    ),
}  # fmt: skip
SIZES["full"] = SIZES["quick"] | dict(repeats=15)
LABELS, MINIBATCH, IMAGES_AT_ONCE = (
    100,
    64,
    4_096,
)  # training images of a network; of an optimiser step; of the plain loop


class Missing(Exception):
    "What a part needs and this machine lacks."


# What runs on the device. `Bench` is what parts share in their process


@dataclass
class Bench:
    device: torch.device
    form: str
    seed: int
    folder: Path  # of the predictions, which a process after this one reads again
    deadline: float  # of all parts, by `time.time`
    part_deadline: float = 0.0

    def __post_init__(self):
        self.size = SIZES[self.form]

    def begin(self, seconds: float) -> None:
        self.part_deadline = min(time.time() + seconds, self.deadline)

    def seconds_left(self) -> float:
        return self.part_deadline - time.time()

    def generator(self, *key) -> torch.Generator:
        return derive_generator(self.seed, "gpu", *key)

    @property
    def predictions_file(self) -> Path:
        return self.folder / "predictions.npy"

    @cached_property
    def predictions(self) -> Tensor:  # log_probs_N_K_C on the CPU
        if not self.predictions_file.exists():
            raise Missing("predictions, which ran out of time or failed")
        return torch.from_numpy(np.load(self.predictions_file))

    @cached_property
    def predictions_there(self) -> Tensor:  # log_probs_N_K_C on the device
        return self.predictions.to(self.device)

    @cached_property
    def images(self) -> Tensor:  # on the CPU, as one has them
        return torch.randn(self.size["images"], 1, 28, 28, generator=self.generator("images"))

    # Measuring

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def measure(self, f: Callable) -> common.Run:
        "Call `f` once, with nothing else under way on the device before and after."
        if self.device.type != "cuda":
            return common.measure(f)
        self.synchronise()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        gc.freeze()  # as in `common.measure`, for a library that collects garbage at every call
        try:
            start = time.perf_counter()
            result = f()
            self.synchronise()
            seconds = time.perf_counter() - start
        finally:
            gc.unfreeze()
        return common.Run(result, seconds, torch.cuda.max_memory_allocated(self.device) - before)

    def repeat(self, f: Callable) -> dict:
        "Seconds and memory of `f`: the first call apart, then as many as there is time for."
        first = self.measure(f)
        first.result = None
        runs, wanted, stop = [], self.size["repeats"], time.time() + self.seconds_left() / 2
        last = first.seconds
        while len(runs) < wanted and time.time() < stop and last < self.seconds_left() / 2:
            runs.append(self.measure(f))
            runs[-1].result = None
            last = runs[-1].seconds
        return {
            **common.summarise(runs or [first]),
            "first_seconds": first.seconds,
            "warm": bool(runs),
            "scaled": False,
        }

    def repeat_scaled(self, run: Callable[[int], object], N: int) -> dict:
        "The same for a call that gets the number of points: fewer where N would take too long, and the time scaled."
        fewest = max(1, min(FEW, N // 8) // 16)
        run(fewest)
        slowest = self.measure(lambda: run(fewest)).seconds / fewest
        few = max(fewest, min(FEW, N // 8, int(self.seconds_left() / 16 / slowest)))  # and four times as many, below
        small, larger = (self.measure(lambda n=n: run(n)).seconds for n in (few, 4 * few))
        each = max((larger - small) / (3 * few), 1e-9)
        fixed = max(small - each * few, 0.0)
        budget = self.seconds_left() / 3  # a first call, and at least one more
        if fixed + each * N <= budget:
            return {**self.repeat(lambda: run(N)), "points": N}
        points = min(N, max(few, int((budget - fixed) / each)))
        row = {**self.repeat(lambda: run(points)), "points": points, "scaled": points < N}
        for key in ("seconds", "min_seconds"):
            row[key] = fixed + max(row[key] - fixed, 0.0) * N / points
        grows = f"the time that grows with them ({fixed:.2g} s do not) is in proportion"
        row["scaled_how"] = f"ran on {points:,} of {N:,}; {grows}; memory is of the smaller run"
        return row


def start(bench: Bench) -> Iterator[dict]:
    "What the machine is, and a first product on it."
    found = {"device": str(bench.device), "torch": torch.__version__}
    if bench.device.type == "cuda":
        about = torch.cuda.get_device_properties(bench.device)
        found |= {
            "name": about.name,
            "memory_bytes": about.total_memory,
            "multiprocessors": about.multi_processor_count,
        }
        found |= {"capability": f"{about.major}.{about.minor}", "cuda": torch.version.cuda, "driver": read_driver()}
    x = torch.rand(64, 64, device=bench.device)
    (x @ x).sum().item()
    yield {"name": "CPU", **found}


def read_driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        pass
    try:
        return re.search(r"\d+\.\d+(\.\d+)?", Path("/proc/driver/nvidia/version").read_text())[0]
    except (OSError, TypeError):
        return None


def make_predictions(bench: Bench) -> Iterator[dict]:
    N, K = max(bench.size["pools"]), bench.size["K"]
    if bench.form == "tiny":
        x = example_log_probs()[:N, :K].float().log_softmax(-1)
    else:
        x = common.make_predictions(N, K, seed=bench.seed)
    part = bench.predictions_file.with_suffix(".part.npy")
    np.save(part, x.numpy())
    part.rename(bench.predictions_file)
    return iter(())


def choose(bench: Bench, x: Tensor, B: int, M: int | None = None) -> object:
    options = {} if M is None else {"num_samples": M}
    return get_batchbald_batch(x, B, generator=bench.generator("choose"), progress=False, **options)


def describe(bench: Bench, method: str, N: int, B: int | None = None, M: int | None = None) -> dict:
    _, K, C = bench.predictions.shape
    return {"method": method, "N": N, "K": K, "C": C, "B": B, "M": M}


# BatchBALD and what it stands beside


def compare_picks(bench: Bench) -> Iterator[dict]:
    "The device's picks beside those of the CPU."
    N, B = bench.size["pools"][0], bench.size["batches"][0]
    here, there = bench.predictions[:N], bench.predictions_there[:N]
    ways = {"BatchBALD": partial(choose, bench), "2-BALD": get_kbald_batch, "BALD": get_bald_batch}
    for method, way in ways.items():
        cpu, gpu = way(here, B), way(there, B)
        agree = next((i for i, (a, b) in enumerate(zip(cpu.indices, gpu.indices)) if a != b), B)
        differences = [abs(a - b) for a, b in zip(cpu.scores[:agree], gpu.scores[:agree])]
        M = common.default_num_samples() if method == "BatchBALD" else None
        yield {
            **describe(bench, method, N, B, M),
            "indices": list(map(int, gpu.indices)),
            "cpu_indices": list(map(int, cpu.indices)),
            "in_common": len(set(cpu.indices) & set(gpu.indices)),
            "first_that_agree": agree,
            "largest_score_difference": max(differences, default=None),  # of these
        }


def count_reads(bench: Bench) -> Iterator[dict]:
    "Where the host waits for the device, by file and line, as PyTorch's own debug mode sees it."
    if bench.device.type != "cuda":
        return
    N, B = bench.size["pools"][0], bench.size["batches"][0]
    x = bench.predictions_there[:N]
    choose(bench, x, B)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            choose(bench, x, B)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    reads = [o for o in caught if "called a synchronizing" in str(o.message)]
    sites = Counter(f"{Path(o.filename).name}:{o.lineno}" for o in reads)
    yield {
        **describe(bench, "BatchBALD", N, B, common.default_num_samples()),
        "reads": len(reads),
        "sites": dict(sites.most_common(15)),
    }


def count_launches(bench: Bench) -> Iterator[dict]:
    "Kernels, launches, copies and waits of one batch, as the profiler sees them."
    N, B = bench.size["pools"][0], bench.size["batches"][0]
    x = bench.predictions_there[:N]
    choose(bench, x, B)
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * (bench.device.type == "cuda")]
    with profile(activities=activities) as found:
        choose(bench, x, B)
        bench.synchronise()  # one of the waits below, and leaving this block may add others
    on_device = [o for o in found.events() if o.device_type == DeviceType.CUDA]
    copies = [o for o in on_device if o.name.startswith(("Memcpy", "Memset"))]
    kernels = [o for o in on_device if not o.name.startswith(("Memcpy", "Memset"))]
    calls = Counter(
        o.name for o in found.events() if o.device_type == DeviceType.CPU and re.match("cu[A-Z]|cuda[A-Z]", o.name)
    )
    yield {
        **describe(bench, "BatchBALD", N, B, common.default_num_samples()),
        "kernels": len(kernels),
        "launches": sum(n for name, n in calls.items() if "Launch" in name),
        "waits": sum(n for name, n in calls.items() if "Synchronize" in name),
        "copies": Counter(o.name.split(" (")[0] for o in copies),
        "kernel_seconds": sum(o.time_range.elapsed_us() for o in kernels) / 1e6,
        "calls": calls,
        "most_frequent": dict(Counter(o.name[:100] for o in kernels).most_common(15)),
    }


def time_bald(bench: Bench) -> Iterator[dict]:
    for N in bench.size["pools"]:
        x, B = bench.predictions_there[:N], bench.size["batches"][0]
        yield {**describe(bench, "BALD", N, B), **bench.repeat(lambda: get_bald_batch(x, B))}


def time_batchbald(N: int, B: int, M: int | None, bench: Bench) -> Iterator[dict]:
    common.ignore_ceiling()
    x = bench.predictions_there[:N]
    row = describe(bench, "BatchBALD", N, B, M or common.default_num_samples())
    yield {**row, **bench.repeat(lambda: choose(bench, x, B, M))}


def time_kbald(N: int, bench: Bench) -> Iterator[dict]:
    x, B = bench.predictions_there[:N], bench.size["batches"][0]
    yield {**describe(bench, "2-BALD", N, B), **bench.repeat(lambda: get_kbald_batch(x, B, k=2))}


def time_redux(N: int, bench: Bench) -> Iterator[dict]:
    """In float32, configurations and products on the device; it keeps scores on the CPU, and may read them before they
    have arrived, so its picks are not recorded."""
    try:
        from batchbald_redux.batchbald import get_batchbald_batch as theirs
    except ImportError as error:
        raise Missing(f"batchbald_redux cannot be imported ({error})") from error

    x, B, M = bench.predictions_there[:N], bench.size["batches"][0], bench.size["configs"][-1]

    def run(n: int):
        torch.manual_seed(bench.seed)  # it draws from the global generator
        return theirs(x[:n], B, M, dtype=torch.float32, device=bench.device)

    yield {**describe(bench, "batchbald_redux", N, B, M), **bench.repeat_scaled(run, N)}


# From a network to predictions


def make_network(bench: Bench, *key) -> nn.Module:
    return make_seeded(make_mnist_cnn, bench.generator("weights", *key))


def describe_images(bench: Bench, method: str) -> dict:
    return {"method": method, "network": "make_mnist_cnn", "N": bench.size["images"], "K": bench.size["masks"], "C": 10}


def time_collecting(max_bytes: int | None, bench: Bench) -> Iterator[dict]:
    model, images, K = make_network(bench).eval().to(bench.device), bench.images, bench.size["masks"]
    options = {} if max_bytes is None else {"max_bytes": max_bytes}
    method = "collect_log_probs" + ("" if max_bytes is None else f", max_bytes = {max_bytes:,}")

    def run(n: int) -> Tensor:
        return collect_log_probs(model, images[:n], K, generator=bench.generator("masks"), **options)

    row = {**describe_images(bench, method), **bench.repeat_scaled(run, len(images))}
    few = images[:16]
    there = collect_log_probs(model, few, 2, generator=bench.generator("masks"), **options)
    here = collect_log_probs(make_network(bench).eval(), few, 2, generator=bench.generator("masks"))
    yield {**row, "largest_difference": (there - here).abs().max().item()}  # of a few, from the CPU's


def time_plain_loop(bench: Bench) -> Iterator[dict]:
    "MC dropout as it is usually written: fresh dropout in each of K passes."
    model, images, K = make_ordinary(make_network(bench)).to(bench.device), bench.images, bench.size["masks"]

    @torch.no_grad()
    def run(n: int) -> Tensor:
        blocks = []
        for part in images[:n].split(IMAGES_AT_ONCE):
            x = part.to(bench.device)
            blocks.append(torch.stack([model(x).log_softmax(-1) for _ in range(K)], 1).cpu())
        return torch.cat(blocks)

    yield {**describe_images(bench, "plain loop of MC dropout"), **bench.repeat_scaled(run, len(images))}


# From labels to a network


def make_training(bench: Bench, T: int) -> tuple[list[Tensor], list[Tensor]]:
    "For each of T networks images and labels, on the CPU."
    draw = bench.generator("training")
    x = torch.randn(T, LABELS, 1, 28, 28, generator=draw)
    y = torch.randint(10, (T, LABELS), generator=draw)
    return list(x), list(y)


def describe_training(bench: Bench, method: str, T: int) -> dict:
    return {
        "method": method,
        "network": "make_mnist_cnn",
        "networks": T,
        "labels": LABELS,
        "steps": bench.size["steps"],
    }


def time_training(bench: Bench) -> Iterator[dict]:
    options = {"minibatch_size": MINIBATCH, "learning_rate": 1e-3, "device": bench.device}
    for T in (bench.size["networks"], 1):
        images, labels = make_training(bench, T)

        def run(steps: int = bench.size["steps"]) -> list[nn.Module]:
            models = [make_network(bench, t) for t in range(T)]
            train_models(models, images, labels, [(bench.seed, t) for t in range(T)], steps=steps, **options)
            return models

        run(2)
        yield {**describe_training(bench, "train_models", T), **bench.repeat(run)}


def time_plain_training(bench: Bench) -> Iterator[dict]:
    (images,), (labels,) = make_training(bench, 1)

    def run(steps: int = bench.size["steps"]) -> nn.Module:
        model = make_ordinary(make_network(bench)).train().to(bench.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        x, y, draw = images.to(bench.device), labels.to(bench.device), bench.generator("minibatches")
        for at in torch.randint(LABELS, (steps, MINIBATCH), generator=draw).to(bench.device):
            optimizer.zero_grad()
            F.cross_entropy(model(x[at]), y[at]).backward()
            optimizer.step()
        return model

    run(2)
    yield {**describe_training(bench, "plain training loop", 1), **bench.repeat(run)}


# The parts, what matters most first


@dataclass
class Part:
    name: str
    seconds: float  # at most
    run: Callable[[Bench], Iterator[dict]]


START = Part("start", 90, start)  # each process begins with it


def list_parts(form: str) -> list[Part]:
    size = SIZES[form]
    few, *many = size["batches"]
    large = 2**32 if form != "tiny" else 2**20

    def batchbald(B: int, seconds: float) -> list[Part]:
        cases = [(N, M) for N in size["pools"] for M in size["configs"]]
        names = [f"BatchBALD, {N:,} points, batch of {B}, M = {M or 'default'}" for N, M in cases]
        return [Part(name, seconds, partial(time_batchbald, N, B, M)) for name, (N, M) in zip(names, cases)]

    parts = [
        Part("predictions", 60, make_predictions),
        Part("picks beside the CPU's", 30, compare_picks),
        Part("reads by the host", 20, count_reads),
        Part("launches", 60, count_launches),
        Part("BALD", 10, time_bald),
        *batchbald(few, 15),
        *[Part(f"2-BALD, {N:,} points", 15, partial(time_kbald, N)) for N in size["pools"]],
        Part("collect_log_probs", 30, partial(time_collecting, None)),
        Part("collect_log_probs, more memory", 20, partial(time_collecting, large)),
        Part("plain loop of MC dropout", 20, time_plain_loop),
        Part("train_models", 20, time_training),
        Part("plain training loop", 15, time_plain_training),
        *[Part(f"batchbald_redux, {N:,} points", 20, partial(time_redux, N)) for N in size["pools"]],
        *[part for B in many for part in batchbald(B, 30)],
    ]
    times = {"tiny": 20, "quick": 1, "full": 10}[form]  # tiny ones run on machines that are busy with other tests
    return [Part(o.name, times * o.seconds, o.run) for o in parts]


def run_child(args, task: dict) -> None:
    "Run parts and print what they find, a line each."
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print goes elsewhere
    bench = Bench(torch.device(task["device"]), args.form, args.seed, Path(task["folder"]), task["deadline"])
    if bench.device.type == "cuda" and bench.device.index is None:
        bench.device = torch.device("cuda", 0)
    parts = {o.name: o for o in [START, *list_parts(args.form)]}

    def tell(**facts) -> None:
        print(json.dumps(facts), file=out, flush=True)

    for name in task["parts"]:
        bench.begin(parts[name].seconds)
        ended = "done"
        try:
            for row in parts[name].run(bench):
                tell(part=name, row=row)
        except Missing as missing:
            ended = f"missing: {missing}"
        except Exception as error:
            traceback.print_exc()
            ended = f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if ended.startswith("failed"):
            tell(part=name, ended=ended)
            return  # after an error of CUDA a process may be good for nothing
        gc.collect()  # what a part leaves, the profiler's events say, costs no other part time
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
        tell(part=name, ended=ended)


# The process that keeps the time


class Worker:
    "A process and what it prints, line by line."

    def __init__(self, command: list[str], env: dict | None = None):
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True
        )
        self.lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.startswith('{"part"'):  # and nothing that a library below Python has printed
                self.lines.put(json.loads(line))
        self.lines.put({"ended": f"failed: its process ended with status {self.process.wait()}"})

    def next(self, seconds: float) -> dict | None:
        "What it says next, None where it says nothing for so long."
        try:
            return self.lines.get(timeout=max(seconds, 0))
        except queue.Empty:
            return None

    def end(self) -> None:
        stop_group(self.process)


def stop_group(process: subprocess.Popen) -> None:
    "End a process and all that it started."
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


@dataclass
class Journal:
    "What was found so far, written after each part."

    args: argparse.Namespace
    rows: list[dict] = field(default_factory=list)
    parts: list[dict] = field(default_factory=list)
    device: dict = field(default_factory=dict)
    record: dict = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def add_row(self, part: str, row: dict) -> None:
        if part == START.name:
            self.device = row
            if self.args.out is None:
                form = "" if self.args.form == "quick" else f"_{self.args.form}"
                self.args.out = common.RECORDS / f"gpu_{slug(row['name'])}{form}.json"
        else:
            self.rows.append({"part": part, **row})

    def note(self, part: str, limit: float | None, seconds: float | None, ended: str, **facts) -> None:
        self.parts.append({"part": part, "limit_seconds": limit, "seconds": seconds, "ended": ended, **facts})
        common.say(f"{part}: {ended}" + ("" if seconds is None else f" ({seconds:.1f} s)"))
        if self.device:
            self.save()

    def save(self) -> None:
        if not self.record:
            self.record = common.make_record(self.args, self.rows, device=self.device, parts=self.parts)
        self.record["total_seconds"] = time.monotonic() - self.began
        common.save_record(self.args, self.record)

    def failed(self) -> list[str]:
        return [o["part"] for o in self.parts if o["ended"].startswith("failed")]


def follow(worker: Worker, parts: list[Part], deadline: float, journal: Journal) -> list[Part]:
    "Keep the time of parts that a process runs in this order; those that are left when it was ended, or had ended."
    for i, part in enumerate(parts):
        began = time.monotonic()
        allowed = min(part.seconds, deadline - began)
        while True:
            said = worker.next(began + allowed - time.monotonic())
            if said is None or "ended" in said:
                break
            journal.add_row(part.name, said["row"])
        ended = "ran out of time" if said is None else said["ended"]
        journal.note(part.name, allowed, time.monotonic() - began, ended)
        if said is None or ended.startswith("failed"):
            return parts[i + 1 :] if part is not START else []
    return []


def run_parts(
    parts: list[Part], deadline: float, journal: Journal, start_worker: Callable[[list[Part]], Worker]
) -> None:
    "All parts; each process that is started begins with START, and without it nothing else is tried."
    wanted, left = parts, parts
    while left and time.monotonic() < deadline - 1:
        worker = start_worker([START, *left])
        noted = len(journal.parts)
        try:
            left = follow(worker, [START, *left], deadline, journal)
        finally:
            worker.end()
        if journal.parts[noted]["ended"] != "done":
            break
    reached = {o["part"] for o in journal.parts}
    for part in wanted:
        if part.name not in reached:
            journal.note(part.name, part.seconds, None, "not reached")


# Tests and notebooks


def find_tests() -> list[str]:
    "Files with tests for a GPU, so that no others need be imported."
    return sorted(
        str(o.relative_to(ROOT))
        for o in (ROOT / "tests").glob("test_*.py")
        if "mark.gpu" in o.read_text(encoding="utf-8")
    )


def find_notebooks() -> list[str]:
    "Notebooks with a cell that is flagged `gpu`, or asks whether there is one."
    wanted = re.compile(r"^#\s*\|\s*gpu\b|torch\.cuda\.is_available\(\)", re.MULTILINE)
    found = []
    for path in sorted((ROOT / "nbs").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        if any(o["cell_type"] == "code" and wanted.search("".join(o["source"])) for o in cells):
            found.append(str(path.relative_to(ROOT)))
    return found


def list_checks(folder: Path) -> dict[str, tuple[list[str], str]]:
    "Name -> the command, and the module without which it cannot run."
    pytest = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
    ]
    checks = {"tests": ([*pytest, f"--junitxml={folder / 'tests.xml'}", *find_tests()], "pytest")}
    for notebook in find_notebooks():
        checks[notebook] = ([sys.executable, "tests/run_notebook.py", notebook, "gpu"], "nbdev")
    return checks


def read_tests(path: Path) -> dict:
    "How many tests passed, were skipped and failed, and which failed."
    if not path.exists():
        return {}
    cases = list(ElementTree.parse(path).iter("testcase"))
    kinds = [next((o.tag for o in case if o.tag in ("failure", "error", "skipped")), "passed") for case in cases]
    failed = [f"{o.get('classname')}::{o.get('name')}" for o, kind in zip(cases, kinds) if kind in ("failure", "error")]
    return {"counts": Counter(kinds), "failed": failed}


def run_check(command: list[str], log: Path, deadline: float) -> tuple[str, float]:
    "How a process ended, and after how many seconds; what it said is in `log`."
    began = time.monotonic()
    if began > deadline - 1:
        return "not reached", 0.0
    env = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", **os.environ}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    options = {"cwd": ROOT, "env": env, "stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    with open(log, "w", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdout=said, start_new_session=True, **options)
        try:
            status = process.wait(deadline - began)
            ended = "done" if status == 0 else f"failed: exit status {status}"
        except subprocess.TimeoutExpired:
            ended = "ran out of time"
        finally:
            stop_group(process)
    return ended, time.monotonic() - began


def run_checks(journal: Journal, folder: Path, seconds: float) -> None:
    "Tests and notebooks side by side, a process each and no more than there are cores."
    deadline, running = time.monotonic() + seconds, {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for i, (name, (command, needs)) in enumerate(list_checks(folder).items()):
            if find_spec(needs) is None:
                journal.note(name, seconds, None, f"missing: {needs} is not installed")
                continue
            log = folder / f"{i}.log"
            running[pool.submit(run_check, command, log, deadline)] = name, log
        for check in as_completed(running):
            name, log = running[check]
            ended, took = check.result()
            if ended != "done" and log.exists():
                common.say(log.read_text(encoding="utf-8", errors="replace")[-4_000:])
            facts = read_tests(folder / "tests.xml") if name == "tests" else {}
            journal.note(name, seconds, took, ended, **facts)


def show(journal: Journal) -> None:
    timed = [o for o in journal.rows if "seconds" in o]
    common.print_table(
        ["method", "N", "B", "M", "networks", "time", "first call", "memory"],
        [
            [
                o["method"], f"{o['N']:,}" if "N" in o else "", o.get("B") or "", f"{o['M']:,}" if o.get("M") else "",
                o.get("networks", ""), common.show_seconds(o["seconds"]) + " (scaled)" * o["scaled"],
                common.show_seconds(o["first_seconds"]), common.show_bytes(o["peak_bytes"]),
            ]
            for o in timed
        ],
        title=f"{journal.device.get('name')}",
    )  # fmt: skip
    for row in journal.rows:
        if "in_common" in row:
            print(f"\n{row['method']}, {row['N']:,} points: {row['in_common']} of {row['B']} picks are the CPU's")
        if "reads" in row:
            print(f"\nreads by the host in one batch of {row['B']}: {row['reads']:,}")
        if "kernels" in row:
            kernels = f"{row['kernels']:,} kernels in {row['kernel_seconds']:.3g} s"
            print(f"\none batch of {row['B']}: {kernels}, {row['waits']:,} waits")
    left = [f"{o['part']} ({o['ended']})" for o in journal.parts if o["ended"] != "done"]
    print(f"\nall parts done: {'no: ' + '; '.join(left) if left else 'yes'}")


def list_command(args: argparse.Namespace, task: dict) -> tuple[list[str], dict]:
    "The command that runs parts in a process of their own, and its environment."
    forms = [] if args.form == "quick" else [f"--{args.form}"]
    shared = ["--threads", str(args.threads), "--seed", str(args.seed)]
    env = os.environ | {f"{o}_NUM_THREADS": str(args.threads) for o in ("OMP", "OPENBLAS", "MKL")}
    return [sys.executable, __file__, *forms, *shared, "--child", json.dumps(task)], env


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def main(argv: list[str] | None = None) -> None:
    device = dict(help="such as cuda, cuda:1 or cpu (default cuda; with --tiny and no GPU, cpu)")
    checks = dict(action="store_true", help=f"also tests and notebook cells for a GPU, {CHECKS} s at most")
    args = common.parse("gpu", __doc__, argv, ALL_PARTS, device=device, checks=checks)
    if args.child:
        run_child(args, json.loads(args.child))
        return
    cuda = torch.cuda.is_available()
    device = args.device or ("cpu" if args.form == "tiny" and not cuda else "cuda")
    if torch.device(device).type == "cuda" and not cuda:
        sys.exit("gpu.py: PyTorch finds no GPU here; `--tiny --device cpu` only shows that the script works")
    if not any(o == "--out" or o.startswith("--out=") for o in args.words):
        args.out = None  # until the card has told its name
    journal, deadline = Journal(args), time.monotonic() + args.limit
    with TemporaryDirectory() as folder:

        def start_worker(parts: list[Part]) -> Worker:
            ends = time.time() + deadline - time.monotonic()
            task = {"parts": [o.name for o in parts], "device": device, "folder": folder, "deadline": ends}
            return Worker(*list_command(args, task))

        run_parts(list_parts(args.form), deadline, journal, start_worker)
        if args.checks:
            run_checks(journal, Path(folder), CHECKS)
    if not journal.device:
        sys.exit("gpu.py: the device did not start, see above; nothing was recorded")
    show(journal)
    journal.save()
    print(f"\nrecord: {args.out.name}", flush=True)
    if journal.failed():
        sys.exit(1)


if __name__ == "__main__":
    main()
