"""One item per notebook, each in a fresh interpreter with a time limit: a crash or a hang fails its own item only.

Environment: SLOW=1 also runs cells flagged `#| slow`, and `#| gpu` where there is a GPU; NB_TIMEOUT is the limit in seconds.
"""
import os, signal, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(o.relative_to(ROOT) for o in (ROOT / "nbs").rglob("*.ipynb")
                   if not any(part[0] in "._" for part in o.relative_to(ROOT).parts))
SLOW = os.environ.get("SLOW") == "1"
TIMEOUT = float(os.environ.get("NB_TIMEOUT", 7200 if SLOW else 600))


def extra_flags():
    "Flags of the cells that run beside the ordinary ones."
    if not SLOW: return []
    import torch
    return ["slow", "gpu"] if torch.cuda.is_available() else ["slow"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=str)
def test_notebook(notebook):
    command = [sys.executable, "tests/run_notebook.py", str(ROOT / notebook), *extra_flags()]
    # One thread each, because notebooks run side by side; no windows for figures
    env = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", **os.environ}
    # Its own process group, so that at the time limit everything it started ends with it
    process = subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)
    try: output, _ = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        ending = f"did not end within {TIMEOUT:.0f} s"
    else: ending = f"exit status {process.returncode}"
    if process.returncode: pytest.fail(f"{notebook}: {ending}\n{output[-8000:]}", pytrace=False)
