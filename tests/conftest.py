"Items marked `slow` run only with SLOW=1, as cells flagged `#| slow` do."
import os, tempfile

# One thread each, because tests run side by side; before anything imports PyTorch, and for what tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What hypothesis caches belongs to nobody: not into the checkout
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "hypothesis"))

import pytest


def pytest_collection_modifyitems(items):
    if os.environ.get("SLOW") == "1": return
    for item in items:
        if "slow" in item.keywords: item.add_marker(pytest.mark.skip(reason="slow: set SLOW=1"))
