"`tools/measure.py` counts right on a package of two chapters that was made up for it."
import json, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import measure

PICTURE = {"output_type": "display_data", "data": {"image/png": "", "text/plain": ""}}

MOVING = {"output_type": "execute_result", "data": {"text/html": ["<figure class=\"moving\">", "</figure>"], "text/plain": ""}}


def function(name, lines):
    "A function of so many lines that count, with an empty one and a directive, which do not."
    return "\n".join([f"def {name}():", "    #| not counted", "", *["    pass"] * (lines - 1)])


def notebook(*cells):
    "A notebook of (kind, source[, output]) cells."
    cells = [
        {"cell_type": kind, "source": source.splitlines(keepends=True), "outputs": outputs}
        for kind, source, *outputs in cells
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def made_up(tmp_path):
    package, nbs = tmp_path / "batchbald_nbdev", tmp_path / "nbs"
    for folder in (package, nbs): folder.mkdir()
    (package / "all.py").write_text("from batchbald_nbdev.a import one, two\nfrom batchbald_nbdev.b import *\n")
    (package / "a.py").write_text("__all__ = ['one', 'two']\nimport os\nfrom os import _exit\n" + "x = 1\n" * 498)
    (package / "b.py").write_text(
        "__all__ = ['two', 'three']\nfrom .a import _private, public\n"
        "from batchbald_nbdev.a import (_private, _other)\nfrom . import __version__\n"
        + "#" * 121 + "\n" + "#" * 120 + "\n"
    )
    (package / "_modidx.py").write_text("#" * 500 + "\n" + "from .a import public\n" * 600)
    (nbs / "00_a.ipynb").write_text(notebook(
        ("markdown", "# Two words\n[![Open in Colab](images/colab.svg)](https://example.org)"),
        ("code", "1 + 1", {"data": {"text/plain": "2"}}),
        ("markdown", "and three more"), ("code", "plot()", PICTURE), ("markdown", "not these four words"),
        ("code", "#| export\n" + function("small", 3)), ("code", "#| exporti\n" + function("large", 40)),
        ("code", function("not_exported", 200)), ("code", "#| export\nCONSTANT = 1"),
    ))
    (nbs / "01_b.ipynb").write_text(notebook(
        ("markdown", "one ![a curve](images/curve.svg) two"),
        ("code", "#| export\n" + function("f", 4) + "\n\n" + function("g", 5)), ("code", "#" * 130),
        *[("code", "#| export\n" + function(f"f{i}", 2)) for i in range(7)],
    ))
    (nbs / "02_c.ipynb").write_text(notebook(("markdown", "no picture at all")))
    (nbs / "03_d.ipynb").write_text(notebook(("markdown", "word " * 401), ("code", "steps()", MOVING)))
    (nbs / "90_e.ipynb").write_text(notebook(("markdown", "word " * 401)))
    return tmp_path


def test_every_figure_of_a_made_up_package(made_up):
    rows, worst = measure.measure(made_up)
    figures = {what.strip(): figure for what, figure, _ in rows}
    assert figures == {
        "exported cells with a definition": 10, "with one definition, %": 90,
        "lines, median": 2, "lines, 90% have at most": 9, "lines, largest": 40,
        "private names imported from another module": 3, "public names in `batchbald_nbdev.all`": 3,
        "lines over 120 characters, modules": 1, "lines over 120 characters, code cells": 1,
        "modules over 500 lines": 1, "words before the first picture": None,
        "00_a.ipynb": 6, "01_b.ipynb": 1, "02_c.ipynb, which has none": 4,
        "03_d.ipynb": 401, "90_e.ipynb, which has none": 401,
    }
    assert worst["largest cells, lines"][:2] == [(40, "00_a.ipynb cell 6: large"), (9, "01_b.ipynb cell 1: f, g")]
    assert worst["several definitions in one cell"] == [(2, "01_b.ipynb cell 1: f, g")]
    assert worst["private names imported"] == [
        (2, "batchbald_nbdev/b.py:3 from batchbald_nbdev.a: _private, _other"),
        (1, "batchbald_nbdev/b.py:2 from a: _private"),
    ]
    assert worst["longest lines of modules"] == [(121, "batchbald_nbdev/b.py:5")]
    assert worst["longest lines of code cells"] == [(130, "01_b.ipynb cell 2:1")]
    assert worst["largest modules, lines"] == [(501, "batchbald_nbdev/a.py")]


def test_the_report_marks_what_is_over_its_aim(made_up):
    lines = measure.report(made_up, many=1).splitlines()
    over = {line.strip().split("  ")[0] for line in lines if line.endswith("over")}
    long = "lines over 120 characters"
    assert over == {f"{long}, modules", f"{long}, code cells", "modules over 500 lines", "03_d.ipynb"}
    at = lines.index("largest cells, lines:")
    assert lines[at + 1 : at + 3] == ["    40  00_a.ipynb cell 6: large", ""]  # one, since one was asked for
    assert "largest cells" not in measure.report(made_up)


def test_a_commit_is_measured_as_it_was():
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True)
    if git.returncode: pytest.skip("no git here")
    command = [sys.executable, "tools/measure.py", "--rev"]
    done = subprocess.run([*command, "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "exported cells with a definition" in done.stdout
    done = subprocess.run([*command, "no_such_commit"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and done.stderr.startswith("measure.py: ") and done.stderr.count("\n") == 1
