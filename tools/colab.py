"The two cells below the title that open a notebook on Colab and install the package there. `make export` puts them in."
import json, re, sys
from pathlib import Path

from execnb.nbio import write_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob

ROOT = Path(__file__).resolve().parent.parent
BADGE, INSTALL = "colab-badge", "colab-install"  # the ids of the two cells
EXTRAS = {"dask": "dask", "vision": "torchvision"}  # each with the package whose import asks for it

# No import in it, because nbdev runs cells with imports when it builds the site
INSTALLATION = """\
#| hide
#@title On Colab, run this first: it fetches the book and installs its package
if "google.colab" in str(get_ipython()):
    for command in (
        "test -d {folder}/{nbs} || git -c advice.detachedHead=false clone --quiet --depth 1 --branch {ref}"
        " {git_url} {folder}",
        "pip install -qq '{folder}{extras}'",
    ):
        get_ipython().system(command)
        if _exit_code:
            raise RuntimeError(
                "The package could not be installed, see above. "
                "Runtime > Disconnect and delete runtime, then run this cell again."
            )
    get_ipython().run_line_magic("cd", "-q {folder}/{nbs}")"""


class ColabError(ValueError): "The cells cannot be made; the message is one line that says why."


def get_ref():
    "What badges open and what they install: the tag of the release, or the branch while CHANGELOG.md calls this version unreleased."
    cfg = get_config()
    heading = re.search(rf"^## {re.escape(cfg.version)}(?: (.*))?$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if not heading: raise ColabError(f"CHANGELOG.md: has no section for version {cfg.version} of settings.ini")
    return cfg.branch if heading[1] == "(Unreleased)" else f"v{cfg.version}"


def get_url(notebook):
    cfg = get_config()
    return f"https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{get_ref()}/{cfg.nbs_path.name}/{notebook}"


def get_extras(nb):
    code = "\n".join("".join(cell["source"]) for cell in nb["cells"] if cell["cell_type"] == "code")
    return [extra for extra, package in EXTRAS.items() if re.search(rf"^\s*(import|from)\s+{package}\b", code, re.MULTILINE)]


def with_cells(name, nb):
    "The notebook with the two cells as they should be, right below its title."
    cfg, extras = get_config(), ",".join(get_extras(nb))
    values = dict(folder=f"/content/{cfg.repo}", nbs=cfg.nbs_path.name, ref=get_ref(), git_url=cfg.git_url, extras=f"[{extras}]" * bool(extras))
    badge = {"cell_type": "markdown", "id": BADGE, "metadata": {}, "source": [f"[![Open in Colab](images/colab.svg)]({get_url(name)})"]}
    install = {"cell_type": "code", "execution_count": None, "id": INSTALL, "metadata": {"cellView": "form"}, "outputs": [],  # folded there
               "source": INSTALLATION.format(**values).splitlines(keepends=True)}
    title, *others = [cell for cell in nb["cells"] if cell.get("id") not in (BADGE, INSTALL)]
    return nb | {"cells": [title, badge, install, *others]}


def problems(path):
    nb = json.loads(path.read_bytes())
    wrong = nb["cells"] != with_cells(path.name, nb)["cells"]
    return [f"{path.relative_to(ROOT)}: the cells for Colab are missing or out of step with settings.ini and CHANGELOG.md; run `make export`"] * wrong


def write(path):
    if problems(path): write_nb(with_cells(path.name, json.loads(path.read_bytes())), path)


if __name__ == "__main__":
    try:
        for path in sorted(nbglob(as_path=True)): write(path)
    except ColabError as error: sys.exit(str(error))
