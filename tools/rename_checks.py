"""Move what public functions ask of their arguments to the module `checks`, in any checkout: python rename_checks.py ROOT

Renames in nbs/*.ipynb (code and prose), tests/*.py, benchmarks/*.py, tools/*.py; takes definitions of the moved names
out of all notebooks but 92_checks; makes imports come from `batchbald_nbdev.checks`. Can be run again.
"""
import ast, json, re, sys
from pathlib import Path

NAMES = {
    "_tensor": "as_tensor", "_as_tensor": "as_float_tensor", "_slack": "SLACK", "_brief": "brief", "_as_scalar": "as_scalar",
    "_as_whole": "as_whole", "_as_number": "as_number", "_endless": "ENDLESS", "_check_count": "check_count", "_check_number": "check_number",
    "_memory": "get_memory", "_check_room": "check_room", "_work_dtype": "choose_dtype", "_work_device": "choose_device",
    "_check_batch_size": "check_batch_size", "_check_scores": "check_scores", "_check_given": "check_positions", "_generator": "check_generator",
    "_full_precision": "full_precision", "_warn": "warn", "_listening": "listening", "_without": "silencing", "_listener": "_listener",
    "_ReadOnly": "_ReadOnly",
}
MOVED = set(NAMES.values()) - {"_listener", "_ReadOnly"} | {"check_labels"}
HOMES = {f"batchbald_nbdev.{m}" for m in ("information", "bald", "joint_entropy", "active_learning")}
WIDTH = 120


def rename(text, labels):
    text = re.sub(r"(?<!def )\b_check_given\(((?:[^()]|\([^()]*\))*)\)", r'check_positions(\1, "given")', text)
    for old, new in NAMES.items():
        text = re.sub(rf"(?<![\w.]){old}\b", new, text)
    text = re.sub(rf"\b(information|bald|joint_entropy)\.({'|'.join(NAMES)})\b", lambda m: "checks." + NAMES[m[2]], text)
    text = re.sub(r'setattr\((information|bald|joint_entropy), "(get_memory|check_room|choose_device)"', r'setattr(checks, "\2"', text)
    if labels: text = re.sub(r"(?<![\w.])_check_labels\b", "check_labels", text)
    return text


def take_out(source):
    "The cell without definitions of moved names; None where nothing else is in it."
    try: tree = ast.parse(source)
    except SyntaxError: return source
    lines, gone = source.splitlines(), set()
    for node in tree.body:
        name = getattr(node, "name", None)
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            name = getattr(target, "id", None)
        if name in MOVED or name in ("_listener", "_ReadOnly"):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            gone |= set(range(first - 1, node.end_lineno))
    if not gone: return source
    kept = "\n".join(line for i, line in enumerate(lines) if i not in gone)
    kept = re.sub(r"\n{4,}", "\n\n\n", kept).strip("\n")
    directives = re.match(r"(?:#\s*\|.*\n?)*", kept)[0]
    body = kept[len(directives):].strip("\n")
    return directives + body if body else None


def statement(names, module="batchbald_nbdev.checks"):
    names = sorted(names, key=lambda n: (0 if n.isupper() else 1 if n[0].isupper() else 2, n))
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH: return line
    lines, row = [], "   "
    for name in names:
        if len(row) + len(name) + 2 > WIDTH: lines.append(row); row = "   "
        row += f" {name},"
    return "\n".join([f"from {module} import (", *lines, row, ")"])


def imports(source, wanted=()):
    "Imports of moved names from `checks`, and of those that are wanted beside."
    try: tree = ast.parse(source)
    except SyntaxError: return source
    moved, lines, edits = set(wanted), source.splitlines(), []
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or node.level: continue
        if node.module == "batchbald_nbdev.checks":
            moved |= {a.name for a in node.names}; edits.append((node, None))
        elif node.module in HOMES and (here := {a.name for a in node.names} & MOVED):
            moved |= here
            rest = [a.name + (f" as {a.asname}" if a.asname else "") for a in node.names if a.name not in MOVED]
            edits.append((node, statement(rest, node.module) if rest else ""))
    if not moved: return source
    if not wanted and all(new is None for _, new in edits): return source
    for node, new in sorted(edits, key=lambda e: -e[0].lineno):
        lines[node.lineno - 1:node.end_lineno] = new.splitlines() if new else []
    after = [i for i, line in enumerate(lines) if (m := re.match(r"from (batchbald_nbdev\.\w+) import", line)) and m[1] > "batchbald_nbdev.checks"]
    before = [i for i, line in enumerate(lines) if re.match(r"(from|import) ", line)]
    if after: at = after[0]
    else:
        at = (before[-1] + 1) if before else len(lines)
        while at < len(lines) and (lines[at].startswith(" ") or lines[at].startswith(")")): at += 1
        if before and not lines[before[-1]].startswith("from batchbald_nbdev"): lines.insert(at, ""); at += 1
    lines[at:at] = statement(moved).splitlines()
    return "\n".join(lines)


def drop(source, names):
    "The cell without imports of these names."
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.ImportFrom) and node.module == "batchbald_nbdev.checks":
            rest = {a.name for a in node.names} - names
            lines[node.lineno - 1:node.end_lineno] = statement(rest).splitlines() if rest else []
    return "\n".join(lines)


def used(source):
    try: tree = ast.parse(source)
    except SyntaxError: return set()
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} & MOVED


def notebook(path):
    text = path.read_text(encoding="utf-8")
    nb, name = json.loads(text), path.stem
    is_checks = name == "92_checks"
    cells = []
    for cell in nb["cells"]:
        old = "".join(cell["source"])
        new = rename(old, labels=not name.startswith("09"))
        if cell["cell_type"] == "code" and not is_checks:
            new = take_out(new)
            if new is None: continue
            new = imports(new)
        if new != old: cell["source"] = new.splitlines(True)
        cells.append(cell)
    nb["cells"] = cells
    if not is_checks:
        sources = [(c, "".join(c["source"])) for c in cells if c["cell_type"] == "code"]
        exported = [(c, s) for c, s in sources if re.search(r"^#\s*\|\s*export", s, re.M)]
        need = set().union(*(used(s) for _, s in exported)) if exported else set()
        have = set()
        for _, s in exported:
            for node in ast.parse(s).body:
                if isinstance(node, ast.ImportFrom): have |= {a.name for a in node.names}
                have |= {getattr(node, "name", "")}
        if need - have:
            cell, s = next((c, s) for c, s in exported if "import" in s)
            cell["source"] = imports(s, need - have).splitlines(True)
        sources = [(c, "".join(c["source"])) for c, _ in sources]
        gone = have & MOVED - set().union(*(used(s) for _, s in sources))
        for cell, s in sources if gone else []:
            if "batchbald_nbdev.checks" in s: cell["source"] = drop(s, gone).splitlines(True)
        everywhere, bound = set().union(*(used(s) for _, s in sources)), set()
        for _, s in [(c, "".join(c["source"])) for c, _ in sources]:
            try: body = ast.parse(s).body
            except SyntaxError: continue
            for node in body:
                if isinstance(node, ast.ImportFrom): bound |= {a.name for a in node.names}
                bound |= {getattr(node, "name", "")}
        if everywhere - bound: print(f"{path.name}: cells use {sorted(everywhere - bound)} without importing it")
    new = json.dumps(nb, indent=1, ensure_ascii=False) + "\n"
    if new != text: path.write_text(new, encoding="utf-8"); print("changed", path.name)


def script(path):
    old = path.read_text(encoding="utf-8")
    new = rename(old, labels=path.stem not in ("test_datasets",))
    if "import" in new and any(re.search(rf"\b{n}\b", new) for n in MOVED):
        done = imports(new)
        new = done if done == new else done.rstrip("\n") + "\n"
    if "checks." in new and not re.search(r"import .*\bchecks\b", new):
        new = re.sub(r"^(from batchbald_nbdev import )(.*)$", lambda m: m[1] + ", ".join(sorted({*m[2].split(", "), "checks"})), new, count=1, flags=re.M)
    if new != old: path.write_text(new, encoding="utf-8"); print("changed", path.name)


root = Path(sys.argv[1])
for path in sorted((root / "nbs").glob("*.ipynb")): notebook(path)
for folder in ("tests", "benchmarks", "tools"):
    for path in sorted((root / folder).glob("*.py")): script(path)
