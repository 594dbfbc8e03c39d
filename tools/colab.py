"""The two cells below the title that open a notebook on Colab and install the package there.

    python tools/colab.py            put them into every notebook, or bring them up to date (`make export` does)

Addresses, version and extras come from settings.ini. `tools/check.py` says which notebooks are out of step.
"""
import argparse, json, re, shlex, sys
from pathlib import Path

from execnb.nbio import write_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob

ROOT = Path(__file__).resolve().parent.parent
BADGE, INSTALL = "colab-badge", "colab-install"  # the ids of the two cells

# `cellView` folds a cell on Colab, settings.ini makes cleaning keep it. No import in it, because nbdev runs cells with imports
# when it builds the site; and what it installs is what its notebook was written with, whatever is newest by then.
INSTALLATION = """\
#| hide
#@title On Colab, run this first: it fetches the book and installs its package
if "google.colab" in str(get_ipython()):
    for command in (
        "test -d {folder}/{nbs} || git -c advice.detachedHead=false clone --quiet --depth 1 --branch {ref} {git_url} {folder}",
        "pip install -qq '{folder}{extras}'",
    ):
        get_ipython().system(command)
        if _exit_code: raise RuntimeError("The package could not be installed, see above. Runtime > Disconnect and delete runtime, then run this cell again.")
    get_ipython().run_line_magic("cd", "-q {folder}/{nbs}")"""


class ColabError(ValueError): "The cells cannot be made; the message is one line that says why."


def get_ref() -> str:
    "What badges open and what they install: the tag of the release, or the branch while CHANGELOG.md calls this version unreleased."
    cfg = get_config()
    heading = re.search(rf"^## {re.escape(cfg.version)}(?: (.*))?$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if not heading: raise ColabError(f"CHANGELOG.md: has no section for version {cfg.version} of settings.ini")
    return cfg.branch if heading[1] == "(Unreleased)" else f"v{cfg.version}"


def get_url(
    notebook: str,  # its file name
) -> str:  # the address that opens it on Colab
    cfg = get_config()
    return f"https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{get_ref()}/{cfg.nbs_path.name}/{notebook}"


def get_extras(
    nb: dict,  # a notebook
) -> list:  # extras of settings.ini that users choose from, of those that hold a package that a cell imports
    cfg = get_config()
    code = "\n".join("".join(cell["source"]) for cell in nb["cells"] if cell["cell_type"] == "code")
    imported = set(re.findall(r"^\s*(?:import|from)\s+(\w+)", code, re.MULTILINE))
    packages = {extra: {re.match(r"[\w-]+", o)[0] for o in shlex.split(cfg.get(f"{extra}_requirements"))} for extra in ("dask", "vision")}
    return [extra for extra, names in packages.items() if names & imported]


def make_cells(
    name: str,  # a notebook's file name
    nb: dict,  # the notebook
) -> list:  # the badge and the installation
    "The picture lies in this repository, so that no page of the site asks another host for it; Colab shows its text."
    cfg, extras = get_config(), get_extras(nb)
    code = INSTALLATION.format(folder=f"/content/{cfg.repo}", nbs=cfg.nbs_path.name, ref=get_ref(), git_url=cfg.git_url,
                               extras=f"[{','.join(extras)}]" if extras else "")
    return [{"cell_type": "markdown", "id": BADGE, "metadata": {}, "source": [f"[![Open in Colab](images/colab.svg)]({get_url(name)})"]},
            {"cell_type": "code", "execution_count": None, "id": INSTALL, "metadata": {"cellView": "form"}, "outputs": [],
             "source": code.splitlines(keepends=True)}]


def with_cells(name: str, nb: dict) -> dict:
    "The notebook with the two cells as they should be, right below its title."
    title, *others = [cell for cell in nb["cells"] if cell.get("id") not in (BADGE, INSTALL)]
    return {**nb, "cells": [title, *make_cells(name, nb), *others]}


def problems(path: Path) -> list:
    "One line if the notebook lacks the cells, or has them as another version had them."
    nb = json.loads(path.read_bytes())
    if nb["cells"] == with_cells(path.name, nb)["cells"]: return []
    return [f"{path.relative_to(ROOT)}: the cells for Colab are missing or out of step with settings.ini and CHANGELOG.md; run `make export`"]


def write(path: Path):
    "Put the cells into a notebook; one that is in step is not touched."
    nb = json.loads(path.read_bytes())
    new = with_cells(path.name, nb)
    if new != nb: write_nb(new, path)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        for path in sorted(nbglob(as_path=True)): write(path)
    except ColabError as error: sys.exit(str(error))
