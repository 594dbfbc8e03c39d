"Importing everything is quiet and does not drag in what only some users need."
import subprocess
import sys


def test_import_is_quiet_and_light():
    code = (
        "import sys; from batchbald_nbdev.all import *\n"
        "print(sorted(m for m in ('matplotlib', 'sklearn', 'torchvision', 'ipywidgets', 'IPython', 'scipy', 'dask', 'distributed') if m in sys.modules))\n"
        "print(get_batchbald_batch.__module__, make_consistent.__name__, batchbald_compare.__name__)"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert result.stdout.splitlines() == ["[]", "batchbald_nbdev.batchbald make_consistent batchbald_compare"]
