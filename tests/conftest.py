"Items marked `slow` run only with SLOW=1, as cells flagged `#| slow` do."
import os

import pytest


def pytest_collection_modifyitems(items):
    if os.environ.get("SLOW") == "1": return
    for item in items:
        if "slow" in item.keywords: item.add_marker(pytest.mark.skip(reason="slow: set SLOW=1"))
