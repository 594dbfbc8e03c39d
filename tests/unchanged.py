"""Hooks of pytest: a run of the tests leaves the environment that runs it as it was, or fails.

Packages are compared before the first test and after the last one: releases, and each file's size and time of change, and what is in
those files that say what is installed. What Python compiles on import does not count.
"""
import hashlib, os, sysconfig
from importlib import metadata
from pathlib import Path

import pytest

before, changed = pytest.StashKey(), pytest.StashKey()


def fingerprint(
    folder,  # a site-packages
):  # what is in it, by package or path
    found = {f"release of {o.name}": o.version for o in metadata.distributions(path=[str(folder)])}
    for path, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [o for o in folders if o != "__pycache__"]
        for name in names:
            file = Path(path, name)
            stat = file.lstat()
            said = hashlib.sha256(file.read_bytes()).hexdigest() if name in ("RECORD", "METADATA", "__init__.py") else None
            found[str(file)] = stat.st_size, stat.st_mtime_ns, said
    return found


def of_this_environment():
    return {k: v for o in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}) for k, v in fingerprint(o).items()}


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"): session.config.stash[before] = of_this_environment()  # once, not in each of xdist's processes


def pytest_sessionfinish(session):
    if before not in session.config.stash: return
    old, new = session.config.stash[before], of_this_environment()
    session.config.stash[changed] = found = sorted(o for o in old.keys() | new.keys() if old.get(o) != new.get(o))
    if found: session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    found = config.stash.get(changed, [])
    if not found: return
    line = f"The environment of these tests was changed while they ran, which no test may do: {', '.join(found[:5])}"
    terminalreporter.write_line(f"{line}, and {len(found) - 5} more" if len(found) > 5 else line, red=True)
