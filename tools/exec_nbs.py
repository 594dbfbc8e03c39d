"""Run notebooks in place, so that the outputs that readers see are fresh. The site shows outputs; it does not make them.

    python tools/exec_nbs.py                          all notebooks
    python tools/exec_nbs.py nbs/01_bald.ipynb        these notebooks
    python tools/exec_nbs.py --flag slow              also run cells flagged `#| slow`

Cells with `#| eval: false` or a flag in settings.ini's `tst_flags` are not run and keep the outputs they have. A second run
gives the same bytes, as far as the notebook's own code does. A notebook that raises is left as it was.
"""
import argparse, json, os, re, sys, time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import nbdev_clean
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import extract_directives

WIDGET_STATE, WIDGET_VIEW = (f"application/vnd.jupyter.widget-{o}+json" for o in ("state", "view"))

# One thread sums in one order, and a fixed hash seed iterates over sets in one order: same bytes every time
STEADY = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def is_skipped(
    cell: nbformat.NotebookNode,  # any cell
    skip_flags: set,  # leave out cells with one of these flags
) -> bool:  # is it left out?
    "The same choice as nbdev's test runner makes."
    if cell.cell_type != "code": return False
    directives = extract_directives(cell, remove=False)
    never = directives.get("eval:", [""])[0].lower() == "false" or "nbdev_export(" in cell.source
    return never or bool(skip_flags & directives.keys())


def number_widgets(
    nb: nbformat.NotebookNode,  # an executed notebook
    old_state: dict,  # widgets it had before, for cells that were not run
) -> nbformat.NotebookNode:  # the same, its widgets numbered in order of appearance; those that no cell shows are gone
    "Replace the random ids of widgets, which would make every run a change."
    if "widgets" not in nb.metadata: return nb
    holder = nb.metadata.widgets[WIDGET_STATE]
    state = {**old_state, **holder["state"]}
    numbers = {}

    def visit(model_id):
        if model_id in numbers or model_id not in state: return
        numbers[model_id] = f"{len(numbers):032x}"
        for child in re.findall(r"IPY_MODEL_([0-9a-f]{32})", json.dumps(state[model_id], sort_keys=True)): visit(child)

    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if view := output.get("data", {}).get(WIDGET_VIEW): visit(view["model_id"])
    if not numbers:
        del nb.metadata["widgets"]
        return nb
    holder["state"] = {o: state[o] for o in numbers}
    # All in one pass, because numbers of an earlier run are still about
    text = re.sub(r"[0-9a-f]{32}", lambda match: numbers.get(match[0], match[0]), json.dumps(nb))
    return nbformat.from_dict(json.loads(text))


def execute(
    path: Path,  # the notebook, rewritten in place
    skip_flags: set,  # leave out cells with one of these flags
):
    "Run one notebook from its own folder, as Jupyter would, and clean it."
    nb = nbformat.read(path, as_version=4)
    old_state = dict(nb.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {}))
    for cell in nb.cells:
        if is_skipped(cell, skip_flags): cell.metadata["tags"] = ["skip-execution"]  # cleaning removes the tag
    NotebookClient(
        nb, kernel_name="python3", timeout=3600, startup_timeout=600, record_timing=False, coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=40"],  # only errors; the kernel's start-up warnings are no news
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    nbformat.write(number_widgets(nb, old_state), path)
    nbdev_clean.__wrapped__(str(path))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    parser.add_argument("--flag", action="append", default=[], help="also run cells with this flag; may be repeated")
    args = parser.parse_args()
    cfg = get_config()
    os.environ.update(STEADY, PYTHONPATH=str(cfg.config_path))
    failed = False
    for path in args.notebooks or sorted(nbglob(as_path=True)):
        start = time.monotonic()
        try: execute(path.resolve(), set(cfg.tst_flags.split()) - set(args.flag))
        except CellExecutionError as error:
            failed = True
            print(f"{path.name}: not changed, because a cell raised\n{error}", file=sys.stderr)
        else: print(f"{path.name}: {time.monotonic() - start:.0f} s", flush=True)
    sys.exit(failed)
