"""How large are the cells, how open the modules? Prints a table of figures with what they aim at; changes nothing.

    python tools/measure.py                     this checkout, as it lies here
    python tools/measure.py --rev 98f7f5e       a commit, taken out of git into a scratch folder
    python tools/measure.py --worst 20          the worst offenders of every figure too, with their place

What is counted
- Cells: exported cells (`#| export`, `#| exporti`, ...) that define a function or a class at their top level. Their
  lines are those with something on them, without `#|` directives.
- Private names: names with one leading underscore that a module of the package imports from another, each import anew.
- Long lines: over 120 characters, in modules (without `_modidx.py` and `__all__`, which nbdev writes) and in all
  code cells of notebooks. A line that is exported counts in both.
- Public names: what `from batchbald_nbdev.all import *` brings.
- Words: in the text of a chapter before its first picture, in the text or in a shown output, moving ones included; all
  where there is none. Notebooks from 90 on are reference, and have no aim.
"""
import argparse, ast, io, json, os, re, subprocess, sys, tarfile
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "batchbald_nbdev"
WIDTH, MODULE_LINES, WORDS = 120, 500, 400

_exported = re.compile(r"^#\s*\|\s*export(i|s|e|)\b", re.MULTILINE)
_directive = re.compile(r"\s*#\s*\|")
_picture = re.compile(r"!\[[^\]]*\]\((?!images/colab)[^)]*\)|<img\b")
_definitions = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef


def read_cells(path):
    "(kind, text, outputs) of every cell of a notebook."
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        yield cell["cell_type"], "".join(cell["source"]), cell.get("outputs", [])


def notebooks(root): return sorted((root / "nbs").glob("*.ipynb"))


def modules(root): return sorted(o for o in (root / PACKAGE).rglob("*.py") if "__pycache__" not in o.parts)


def count_lines(source): return sum(bool(line.strip()) and not _directive.match(line) for line in source.splitlines())


def definition_cells(root):
    "(lines, definitions, place) of every exported cell that defines something."
    for path in notebooks(root):
        for i, (kind, source, _) in enumerate(read_cells(path)):
            if kind != "code" or not _exported.search(source): continue
            names = [node.name for node in ast.parse(source).body if isinstance(node, _definitions)]
            if names: yield count_lines(source), len(names), f"{path.name} cell {i}: {', '.join(names)}"


def private_imports(root):
    "(name, place) of every private name that a module imports from another one of the package."
    for path in modules(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom): continue
            if not node.level and (node.module or "").split(".")[0] != PACKAGE: continue
            place = f"{path.relative_to(root)}:{node.lineno} from {node.module}"
            yield from ((name.name, place) for name in node.names if re.match(r"_[^_]", name.name))


def long_lines(texts):
    "(length, place) of every line that is too long in (place, text) pairs."
    for place, text in texts:
        for i, line in enumerate(text.splitlines(), 1):
            if len(line) > WIDTH and not line.startswith("__all__ = "): yield len(line), f"{place}:{i}"


def module_texts(root):
    return ((o.relative_to(root), o.read_text(encoding="utf-8")) for o in modules(root) if o.name != "_modidx.py")


def code_cell_texts(root):
    for path in notebooks(root):
        for i, (kind, source, _) in enumerate(read_cells(path)):
            if kind == "code": yield f"{path.name} cell {i}", source


def public_names(root):
    "(name, module) of all that `from PACKAGE.all import *` brings."
    for node in ast.parse((root / PACKAGE / "all.py").read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom): continue
        name = node.module.split(".")[-1]
        yield from ((o.name, name) for o in node.names if o.name != "*")
        if node.names[0].name != "*": continue
        for statement in ast.parse((root / PACKAGE / f"{name}.py").read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "__all__":
                yield from ((public, name) for public in ast.literal_eval(statement.value))


def is_picture(output):
    data = output.get("data", {})
    return any(key.startswith("image/") for key in data) or '<figure class="moving"' in "".join(data.get("text/html", ""))


def words_before_picture(path):
    "(words before the first picture, is there one?)"
    words = 0
    for kind, source, outputs in read_cells(path):
        if kind == "markdown":
            before, *after = _picture.split(source, maxsplit=1)
            words += len(re.sub(r"\[!\[.*", "", before).split())  # a badge is no text
            if after: return words, True
        elif any(map(is_picture, outputs)):
            return words, True
    return words, False


def measure(root):
    "Rows (what, figure, aim) of the table, and the offenders of each kind: title -> [(figure, place)], worst first."
    cells = sorted(definition_cells(root), reverse=True)
    lines = sorted(o[0] for o in cells)
    private, public = list(private_imports(root)), set(public_names(root))
    in_modules, in_cells = list(long_lines(module_texts(root))), list(long_lines(code_cell_texts(root)))
    sizes = [(text.count("\n"), place) for place, text in module_texts(root)]
    chapters = [(*words_before_picture(path), path.name) for path in notebooks(root)]
    rows = [
        ("exported cells with a definition", len(cells), None),
        ("  lines, median", median(lines), 12),
        ("  lines, 90% have at most", lines[-(-9 * len(lines) // 10) - 1], 28),
        ("  lines, largest", lines[-1], 60),
        ("  with one definition, %", round(100 * sum(o[1] == 1 for o in cells) / len(cells)), None),
        ("private names imported from another module", len(private), 20),
        (f"lines over {WIDTH} characters, modules", len(in_modules), 0),
        (f"lines over {WIDTH} characters, code cells", len(in_cells), 0),
        (f"public names in `{PACKAGE}.all`", len({name for name, _ in public}), 70),
        (f"modules over {MODULE_LINES} lines", sum(n > MODULE_LINES for n, _ in sizes), 0),
    ]
    rows += [("words before the first picture", None, None)]
    rows += [(f"  {name}{'' if shown else ', which has none'}", n, None if name[:1] in "9i" else WORDS) for n, shown, name in chapters]
    by_module = {}
    for name, place in private: by_module.setdefault(place, []).append(name)
    imported = ((len(names), f"{place}: {', '.join(names)}") for place, names in by_module.items())
    worst = {
        "largest cells, lines": [(o[0], o[2]) for o in cells],
        "several definitions in one cell": sorted(((o[1], o[2]) for o in cells if o[1] > 1), reverse=True),
        "private names imported": sorted(imported, reverse=True),
        "longest lines of modules": sorted(in_modules, reverse=True),
        "longest lines of code cells": sorted(in_cells, reverse=True),
        "largest modules, lines": sorted(((n, str(place)) for n, place in sizes if n > MODULE_LINES), reverse=True),
    }
    return rows, worst


def report(root, many=0):
    "The table as text, with the `many` worst of each kind below it."
    rows, worst = measure(root)
    width = max(len(what) for what, *_ in rows)
    parts = [f"{'':{width}}  {'now':>6}  {'aim':>6}"]
    for what, figure, aim in rows:
        now, goal = "" if figure is None else f"{figure:g}", "" if aim is None else f"<= {aim}" if aim else "0"
        parts.append(f"{what:{width}}  {now:>6}  {goal:>6}{'' if aim is None or figure <= aim else '  over'}".rstrip())
    for title, offenders in worst.items() if many else ():
        parts += ["", f"{title}:", *(f"{figure:6}  {place}" for figure, place in offenders[:many])]
    return "\n".join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rev", help="a commit to measure in place of this checkout")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="show the N worst offenders of each kind too")
    args = parser.parse_args()
    if not args.rev: return print(report(ROOT, args.worst))
    done = subprocess.run(["git", "archive", args.rev, "nbs", PACKAGE], cwd=ROOT, capture_output=True)
    if done.returncode: sys.exit(f"measure.py: {done.stderr.decode().strip()}")
    with TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        print(report(Path(folder), args.worst))


if __name__ == "__main__":
    try: main()
    except BrokenPipeError: os._exit(0)  # into `head`, say
