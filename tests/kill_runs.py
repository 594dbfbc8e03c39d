"""`kill -9` at any moment, and on with `--resume`: are the records those of a run that nobody disturbed?

    python tests/kill_runs.py 100 [seed]

A run is a process that is forked from this one, which has imported PyTorch already. It is killed in one of three ways:
by the clock, at a random moment; in a line, after a random
part of the bytes of a round has reached the disk; or in a file, at a random one of the calls that force a file to disk
or put it in its place.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes with threads of their own cannot be forked
os.environ["CUDA_VISIBLE_DEVICES"] = ""

OPTIONS = (
    "--methods random,dynamicbatchbald --trials 2 --samples 5 --configs 50 "
    "--budget 40 --size 6 --repeats 1 --steps 20 --test_samples 5"
).split()
WHOLE = {name[2:]: value if name == "--methods" else int(value) for name, value in zip(OPTIONS[::2], OPTIONS[1::2])}
FILES = ["learning_curves.png", "records.jsonl", "run.json", "summary.csv"]


class DyingFile:
    "A file that kills its process in the middle of one of its writes."

    def __init__(self, file, draw):
        self.file, self.draw, self.left = file, draw, draw.randrange(4)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if not self.left:
            self.file.write(data[: self.draw.randrange(len(data) + 1)])
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return self.file.write(data)


def die_in_a_line(records, draw):
    opened = open
    records.open = lambda path, mode, **options: (
        DyingFile(opened(path, mode, **options), draw)
        if "+b" in mode and "buffering" in options
        else opened(path, mode, **options)
    )


def die_in_a_file(records, draw):
    left = draw.randrange(16)

    def dying(call):
        def inner(*args):
            nonlocal left
            if not left:
                if draw.random() < 0.5:
                    call(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return call(*args)

        return inner

    for name in ("fsync", "replace", "chmod"):
        setattr(os, name, dying(getattr(os, name)))


def start(out, kind, seed):
    "A run as a process of its own; its number."
    from batchbald_nbdev import command_line, records

    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for handle in (1, 2):
            os.dup2(log, handle)
        sys.stdout, sys.stderr = (os.fdopen(handle, "w") for handle in (1, 2))
        sys.argv = ["batchbald_compare", *OPTIONS, "--out", str(out), "--resume"]
        draw = random.Random(seed)
        if kind == "in a line":
            die_in_a_line(records, draw)
        if kind == "in a file":
            die_in_a_file(records, draw)
        command_line.batchbald_compare()
        status = 0
    except SystemExit as e:
        status = e.code or 0
    finally:
        os._exit(status)


def ended(child, until=None):
    "What the run ended with, or None if it is not over yet."
    while True:
        pid, status = os.waitpid(child, os.WNOHANG if until else 0)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.001)


def timeless(out):
    return [
        {k: v for k, v in json.loads(line).items() if k != "seconds"}
        for line in (out / "records.jsonl").read_text().splitlines()
    ]


def kill_runs(folder, kills, seed=0):
    """Kill so many times; what was killed how, and how many runs came to their end with the right records.

    Raises `AssertionError` at the first that did not."""
    from batchbald_nbdev.experiments import compare_methods

    draw, counts, folder = random.Random(seed), Counter(), Path(folder)
    whole = folder / "whole"
    compare_methods(whole, **WHOLE)  # in this process, so that those forked from it have all that it imports
    expected, run, done = timeless(whole), 0, 0
    began = time.monotonic()
    assert ended(start(folder / "again", None, 0)) == 0, (folder / "again.log").read_text()
    assert timeless(folder / "again") == expected
    took = time.monotonic() - began
    while True:
        run += 1
        out = folder / f"run{run}"
        while True:
            kind = draw.choice(["by the clock", "in a line", "in a file"]) if done < kills else None
            before = (out / "records.jsonl").read_bytes() if (out / "records.jsonl").exists() else b""
            child = start(out, kind, draw.random())
            status = ended(child, time.monotonic() + draw.random() * took if kind == "by the clock" else None)
            if status is None:
                os.kill(child, signal.SIGKILL)
                status = ended(child)
            after = (out / "records.jsonl").read_bytes() if (out / "records.jsonl").exists() else b""
            whole_lines = before[: before.rfind(b"\n") + 1].splitlines()
            rounds = [json.loads(line)["round"] for line in whole_lines]
            kept = [
                line for line, round in zip(whole_lines, rounds) if round < max(rounds)
            ]  # those of its last round may have been a part of it
            assert after.startswith(b"".join(line + b"\n" for line in kept)), f"records of {out} were lost"
            if status == 0:
                break
            assert status == -signal.SIGKILL, (folder / f"run{run}.log").read_text()
            done += 1
            counts[f"killed {kind}"] += 1
        assert timeless(out) == expected, f"records of {out} differ"
        assert sorted(path.name for path in out.iterdir()) == FILES, sorted(out.iterdir())
        counts["runs with the right records"] += 1
        counts["warnings of a round that was not complete"] = sum(
            (folder / f"run{n}.log").read_text().count("was not complete") for n in range(1, run + 1)
        )
        if done >= kills:
            return counts


if __name__ == "__main__":
    kills, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with TemporaryDirectory() as folder:
        counts = kill_runs(folder, kills, seed)
    killed = sum(n for name, n in counts.items() if name.startswith("killed"))
    for name, n in sorted(counts.items()):
        print(f"{n:6,} {name}")
    print(f"{killed:6,} of {kills:,} kills, none of which changed or lost a record")
