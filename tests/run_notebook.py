"""Run one notebook the way nbdev does; exit 1 if a cell raises.

    python tests/run_notebook.py NOTEBOOK [FLAG ...]      cells with one of these flags run too
"""
import sys
from pathlib import Path

from nbdev.config import get_config
from nbdev.test import test_nb

import noise  # noqa: F401, acts where WEIGHT_NOISE is set

notebook, *flags = sys.argv[1:]
cfg = get_config()
passed, _ = test_nb(Path(notebook), skip_flags=cfg.tst_flags.split(), force_flags=flags, basepath=cfg.config_path)
sys.exit(not passed)
