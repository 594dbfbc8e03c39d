"""How docs.py builds the site in _docs, from the outputs that the notebooks hold: no notebook runs.

nbdev turns the notebooks into pages in _proc: documentation of exported names, links to symbols, hidden cells gone. Either builder
starts from those, and takes title and sidebar from _quarto.yml. Sphinx reads another Markdown (MyST) and no cell options, so for
Sphinx the pages are translated.

Pages and pictures are made side by side, and those that were made before are kept (kept.py).
"""
import ast, html, importlib, inspect, io, json, multiprocessing, os, re, shutil, subprocess, sys, textwrap, tokenize
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

for _library in ("OMP", "OPENBLAS", "MKL"): os.environ.setdefault(f"{_library}_NUM_THREADS", "1")  # processes run side by side

import black, PIL, yaml
from execnb.nbio import mk_cell
from nbdev import processors, serve, serve_drv
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.processors import FilterDefaults, rm_export
from PIL import Image

import colab
from kept import CACHE, ROOT, environment, files_of, forget_others, keep, number_of

SITE = ROOT / "tools/site"  # what Sphinx needs beside pages
PAGES = ROOT / "_proc"
DOCS = ROOT / "_docs"


_number = re.compile(r"^\d+[a-zA-Z0-9]*_")  # of a notebook; its page has none


class SiteError(ValueError): "The site cannot be built; the message says why."


PROCESSES = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


def side_by_side(function, items):
    "What a function gives for each item, in processes that begin with what this one has imported."
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(PROCESSES, context) as pool: return list(pool.map(function, items))


# ---- Pages, for either builder ----

def owner_of(node):
    "`Class.` of a function that `@patch` puts into a class, else nothing."
    patched = any(re.match(r"patch\b", ast.unparse(o)) for o in getattr(node, "decorator_list", ()))
    return f"{ast.unparse(node.args.args[0].annotation)}." if patched else ""


def names_of(tree):
    "What a piece of Python defines at its top level, and methods as `Class.method`."
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): yield owner_of(node) + node.name
        if isinstance(node, ast.ClassDef): yield from (f"{node.name}.{o.name}" for o in node.body if isinstance(o, ast.FunctionDef))
        # Names that are bound; `presets["digits"] = ...` binds none
        if isinstance(node, ast.Assign): yield from (o.id for target in node.targets for o in ast.walk(target) if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Store))


def entries_of(tree):
    "What is given entries at the top level: `presets` by `presets[\"digits\"] = ...`."
    targets = (target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets)
    return (o.value.id for o in targets if isinstance(o, ast.Subscript) and isinstance(o.value, ast.Name))


def properties_of(tree):
    "Properties among what a piece of Python adds to classes by `@patch`, as `Class.name`."
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any(re.search(r"^patch\(.*\bas_prop=True\b", ast.unparse(o)) for o in node.decorator_list):
            yield owner_of(node) + node.name


# ---- Which code is shown, and how wide ----

WIDTH = 90  # characters of a line of code on a page


def is_check(node):
    "Whether a statement only checks: an assertion, a refusal that is expected, or a loop or block of such."
    called = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    if isinstance(node, ast.Assert): return True
    if called is not None: return re.match(r"(.*\.)?(assert|test)_", ast.unparse(called)) is not None
    if isinstance(node, ast.With) and "expect_fail" in ast.unparse(node.items[0]): return True
    return isinstance(node, (ast.For, ast.With)) and any(map(is_check, node.body)) and all(is_check(o) or isinstance(o, ast.Assign) for o in node.body)


@lru_cache(maxsize=None)
def package_names():
    "Every public name of the package."
    modules = importlib.import_module(f"{get_config().lib_path.name}._modidx").d["syms"]
    return {name for module in modules for name in getattr(importlib.import_module(module), "__all__", [])}


@lru_cache(maxsize=None)
def names_needed(source):
    "Names that a cell reads before it gives them a value itself, and those that it gives one."
    needed, given = set(), set()
    for statement in ast.parse(source).body:
        # What a comprehension counts with is nobody else's
        own = {o for node in ast.walk(statement) if isinstance(node, ast.comprehension) for o in ast.walk(node.target)}
        names = [o for o in ast.walk(statement) if isinstance(o, ast.Name) and o not in own]
        needed |= {o.id for o in names if isinstance(o.ctx, ast.Load)} - given
        given |= {o.id for o in names if isinstance(o.ctx, ast.Store)}
    return needed, given


def is_needed(names, sources):
    "Whether later cells read one of these names as it is."
    for source in sources:
        try: needed, given = names_needed(source)
        except SyntaxError: continue
        if names & needed: return True
        names = names - given
    return False


def folded_as(source, outputs, later=()):
    """The title under which a cell that exports nothing is folded, or None: imports, and checks that show nothing.

    What `later` cells go on with is not folded unless it is long, and neither is an import of everything, which says how it is done."""
    title = title_of(source, bool(outputs))
    if not title or title == "Imports" or is_long_check(source): return title
    return None if is_needed(names_needed(source)[1], [o for o, shown in later if not title_of(o, bool(shown))]) else title


def is_long_check(source):
    "Whether a cell that shows nothing is there to check, whatever it defines on the way: it ends in a check, and is long or has three."
    body = ast.parse(source).body
    checks = sum(is_check(o) for node in body for o in ast.walk(node) if isinstance(o, ast.stmt))
    return checks >= 3 or bool(body) and is_check(body[-1]) and len(source.splitlines()) >= 9


@lru_cache(maxsize=None)
def title_of(source, shows):
    "The title of imports or checks, whatever follows them."
    try: body = ast.parse(source).body
    except SyntaxError: return None  # magics and the like
    if body and all(isinstance(o, (ast.Import, ast.ImportFrom)) for o in body):
        return None if any(o.name == "*" for node in body for o in node.names) else "Imports"
    checks_only = any(map(is_check, body)) and all(is_check(o) or isinstance(o, ast.Assign) for o in body)
    if shows or not (checks_only or is_long_check(source)): return None
    called = [ast.unparse(o.func).split(".")[-1] for o in ast.walk(ast.parse(source)) if isinstance(o, ast.Call)]
    of = list(dict.fromkeys(o for o in called if o in package_names()))
    return f"Check of {', '.join(of[:3])}" if of else "Check"


def fold_checks(cells):
    "Fold what `folded_as` says, of the code cells of a notebook that ask for nothing else."
    code = [(cell, split_options(cell.source)[1], cell.outputs) for cell in cells if cell.cell_type == "code" and "show_doc(" not in cell.source]
    for i, (cell, source, outputs) in enumerate(code):
        if "defines_" in cell or "#| code-fold:" in cell.source: continue
        if title := folded_as(source, outputs, [o[1:] for o in code[i + 1:]]): fold(cell, title)


def is_too_long(text): return max(map(len, text.splitlines()), default=0) > WIDTH


def raised_comments(source, raises=lambda i, line: len(line) > WIDTH):
    "Code in which comments behind it stand above their lines, where a line is too long with its comment, or others."
    lines = source.splitlines()
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(source).readline))):
        if token.type != tokenize.COMMENT or not raises(token.start[0] - 1, lines[token.start[0] - 1]): continue
        i, column = token.start[0] - 1, token.start[1]
        code, indent = lines[i][:column].rstrip(), re.match(" *", lines[i])[0]
        if re.match(r" *[])}]", code): indent += "    "  # above what closes a bracket it stands in line with what is inside
        above = textwrap.wrap(token.string[1:].strip(), WIDTH - len(indent) - 2)
        lines[i:i + 1] = [*(f"{indent}# {o}" for o in above), *([code] if code else [])]
    return "\n".join(lines)


def wrapped_string(line):
    "A line that holds one long string: documentation in several lines, any other string in two."
    if len(line) <= WIDTH: return [line]
    if match := re.fullmatch(r'( *)"([^"]*)"', line):
        first, *rest = textwrap.wrap(f'"""{match[2]}"""', WIDTH - len(match[1]), break_on_hyphens=False)
        return [match[1] + first, *(match[1] + o for o in rest)]
    match = re.fullmatch(r"""( *)(f?)(["'])((?:(?!\3).)*)\3([,)]*)""", line)
    if not match: return [line]
    indent, prefix, quote, text, end = match.groups()
    room = WIDTH - len(indent) - len(prefix) - 2
    depth = [text[:i].count("{") - text[:i].count("}") for i in range(len(text))]
    ends = lambda *marks: [i + 1 for i, o in enumerate(text[:room]) if o in marks and not (prefix and depth[min(i + (o == "}"), len(text) - 1)])]
    cut = max(ends(" ") or ends("}"), default=0)
    if not cut or "\\" in text: return [line]
    if not indent: return ["(", *wrapped_string(f"    {line}"), ")"]
    return [f"{indent}{prefix}{quote}{text[:cut]}{quote}", *wrapped_string(f"{indent}{prefix}{quote}{text[cut:]}{quote}{end}")]


_black = black.Mode(line_length=WIDTH, string_normalization=False, preview=True, enabled_features={black.Preview.string_processing})


def wrapped_documentation(text):
    "Lines of documentation, broken between words."
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)): continue
        for i in range(node.lineno - 1, node.end_lineno if node.end_lineno > node.lineno else 0):
            if len(lines[i]) > WIDTH:
                indent = re.match(" *", lines[i])[0]
                lines[i] = "\n".join(textwrap.wrap(lines[i], WIDTH, initial_indent="", subsequent_indent=indent, drop_whitespace=True, break_on_hyphens=False))
    return "\n".join(lines)


def start_of(node): return min([node.lineno, *(o.lineno for o in getattr(node, "decorator_list", ()))])


def spans(text):
    "First and last line of each statement that has its lines to itself, or of its head, where its body stands below."
    lines = text.splitlines()
    def begins(node): return not lines[node.lineno - 1].encode()[:node.col_offset].strip()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.stmt) or not begins(node): continue
        if getattr(node, "body", None) and begins(node.body[0]):
            end = start_of(node.body[0]) - 1
            while re.match(r"\s*(#|$)", lines[end - 1]): end -= 1
            yield start_of(node), end, True
        elif re.match(rb"\s*(#|$)", lines[node.end_lineno - 1].encode()[node.end_col_offset:]):
            yield start_of(node), node.end_lineno, False


def raised_from_end(text):
    "A statement or its head, with what is said behind it above it; above its last line, if that is what a function returns."
    margin, last = re.match(" *", text)[0], text.count("\n")
    *lines, end = raised_comments(text, lambda i, line: i == last).splitlines()
    above = [margin + o.lstrip() for o in lines[last:]]
    return "\n".join([*lines[:last], *above, end] if is_signature(text) else [*above, *lines[:last], end])


def wrapped_piece(text, is_head, **mode):
    "A statement or its head, as black wraps it where it stands."
    margin, text = re.match(" *", text)[0], raised_from_end(text)
    is_other = re.search(r"^ *elif\b", text, re.MULTILINE)
    alone = re.sub(r"^( *)elif\b", r"\1if", text, count=1, flags=re.MULTILINE) if is_other else text
    around = [f"{'    ' * i}if 1:" for i in range(len(margin) // 4)]
    whole = "\n".join([*around, alone, *([f"{margin}    pass"] * is_head)])
    wrapped = black.format_str(whole, mode=replace(_black, **mode)).rstrip().splitlines()
    wrapped = "\n".join(wrapped[len(around):len(wrapped) - is_head])
    return re.sub(r"^( *)if\b", r"\1elif", wrapped, count=1, flags=re.MULTILINE) if is_other else wrapped


_behind = re.compile(r"^ *[])}].*  # ", re.MULTILINE)  # a comment behind what closes a bracket


def is_signature(text): return re.match(r"(@.*\n *)*(async )?def\b", text.strip()) and "->" in text


def joined_pieces(text):
    "Code in which no statement is in several lines only so that a comment fits behind it."
    lines = text.splitlines()
    for start, end, is_head in sorted(spans(text), reverse=True):
        piece = "\n".join(lines[start - 1:end])
        if start == end or is_signature(piece) or not _behind.match(lines[end - 1]) or piece.count("#") > 1: continue
        joined = wrapped_piece(piece, is_head, magic_trailing_comma=False).splitlines()
        if sum(not o.lstrip().startswith("#") for o in joined) == 1: lines[start - 1:end] = joined
        elif len(lines[end - 1]) > WIDTH: lines[start - 1:end] = raised_from_end(piece).splitlines()
    return "\n".join(lines)


def wrapped_pieces(text):
    "Code of which black has wrapped the statements with a line that is too long, and no others."
    lines, above = text.splitlines(), len(text)
    while (i := max((i for i, o in enumerate(lines[:above]) if len(o) > WIDTH), default=None)) is not None:
        around = [o for o in spans("\n".join(lines)) if o[0] <= i + 1 <= o[1]]
        if around:
            start, end, is_head = min(around, key=lambda o: o[1] - o[0])
            lines[start - 1:end] = wrapped_piece("\n".join(lines[start - 1:end]), is_head).splitlines()
            i = start - 1
        above = i
    return "\n".join(lines)


def wrapped_strings(text): return "\n".join(o for line in text.splitlines() for o in wrapped_string(line))


def fit_statement(text):
    "One statement in lines that fit, or as it is where that would change what it does."
    same = lambda source: re.sub(r"\\n|\s", "", ast.dump(ast.parse(source)))  # lines of documentation are broken elsewhere
    try:
        fitted = wrapped_documentation(wrapped_strings(text))
        for wrap in (wrapped_pieces, lambda text: black.format_str(text, mode=_black).rstrip()):
            if is_too_long(fitted): fitted = wrapped_documentation(wrapped_strings(raised_comments(wrap(fitted))))
        return fitted if same(fitted) == same(text) else text
    except (SyntaxError, black.InvalidInput): return text


def fit_lines(source):
    "Code of which no line is cut at the right edge of a page. Statements that fit stay as they are."
    source = re.sub(r"  # fmt: \w+$", "", source, flags=re.MULTILINE)  # words to a formatter
    if not is_too_long(source) and not _behind.search(source): return source
    try: source = raised_comments(joined_pieces(source))
    except (SyntaxError, tokenize.TokenError): return source  # magics and the like
    body = ast.parse(source).body
    lines, result, done = source.splitlines(), [], 0
    for node in body:
        start = start_of(node) - 1
        if start < done: continue  # it shares a line with the one before
        result += lines[done:start]
        text, done = "\n".join(lines[start:node.end_lineno]), node.end_lineno
        result.append(fit_statement(text) if is_too_long(text) else text)
    return "\n".join(result + lines[done:])


def fold(cell, summary): cell.source = f'#| code-fold: true\n#| code-summary: "{summary}"\n{cell.source}'


def fold_export(cell):
    "Exported code stays on its page because prose speaks of it: folded, or open under `#| shown`. nbdev would remove it."
    directives = set(cell.directives_ or ())
    if directives & {"hide", "default_exp"}: del cell["source"]
    elif directives & {"export", "exporti"}:
        tree = ast.parse(cell.source)
        cell.defines_ = list(dict.fromkeys(names_of(tree)))  # a name that ends in _ is not written to the file
        cell.properties_ = set(properties_of(tree))
        inside = {f"{node.name}.{o.name}" for node in tree.body if isinstance(node, ast.ClassDef) for o in node.body if isinstance(o, ast.FunctionDef)}
        annotated = [o.target.id for o in tree.body if isinstance(o, ast.AnnAssign)]
        cell.titles_ = [o for o in dict.fromkeys([*cell.defines_, *annotated, *entries_of(tree)]) if o not in inside]
        calls = dict.fromkeys(ast.unparse(o.value.func) for o in tree.body if isinstance(o, ast.Expr) and isinstance(o.value, ast.Call))
        cell.shown_ = "shown" in directives
        if not cell.shown_: fold(cell, label_of(cell.titles_) if cell.titles_ else f"Call of {', '.join(calls)}" if calls else "Imports")


def label_of(titles): return f"Source of {', '.join(titles[:4])}{' and more' * (len(titles) > 4)}"


def name_fold(cell):
    "Say what is in a cell that asks to be folded, where it does not say so itself."
    options, source = split_options(cell.source)
    if options.get("code-fold") != "true" or "code-summary" in options: return
    try: body = ast.parse(source).body
    except SyntaxError: return
    helpers = [o.name for o in body if isinstance(o, (ast.FunctionDef, ast.ClassDef))]
    is_picture = any(o.startswith("image/") for output in cell.outputs for o in output.get("data", {}))
    are_imports = [isinstance(o, (ast.Import, ast.ImportFrom)) for o in body]
    settles = all(is_import or isinstance(o, ast.Assign) or isinstance(o, ast.Expr) for o, is_import in zip(body, are_imports)) and not cell.outputs
    if is_picture: summary = "Code of the figure"
    elif helpers: summary = label_of(helpers)
    elif all(are_imports): summary = "Imports"
    else: summary = "Imports and settings" if settles and any(are_imports) else "Settings" if settles else None
    if summary: cell.source = cell.source.replace("#| code-fold: true\n", f'#| code-fold: true\n#| code-summary: "{summary}"\n', 1)


_preamble = re.compile(r'#\| code-fold: true\n#\| code-summary: "(Imports|Settings|Imports and settings)"\n')


def merged_preambles(cells):
    "Cells in which imports and settings that stand in a row are folded once."
    result = []
    for cell in cells:
        found = [_preamble.match(o.source) for o in (*result[-1:], cell) if o.cell_type == "code"]
        if len(found) == 2 and all(found):
            titles = {o[1] for o in found}
            result[-1].source = "\n\n".join(split_options(o.source)[1] for o in (result[-1], cell))
            fold(result[-1], titles.pop() if len(titles) == 1 else "Imports and settings")
        else: result.append(cell)
    return result


def merged_sources(cells):
    "Cells in which exported code that is folded in a row, with nothing but anchors between, is folded once."
    result, anchors = [], []
    for cell in cells:
        is_anchor = cell.cell_type == "markdown" and re.fullmatch(r'(<span id="[^"]*"></span>)+', cell.source)
        before = result[-1] if result else {}
        if is_anchor and before.get("titles_"): anchors.append(cell)
        elif cell.get("titles_") and before.get("titles_") and not cell.shown_ and not before.shown_:
            titles = list(dict.fromkeys(before.titles_ + cell.titles_))
            source = "\n\n\n".join(split_options(o.source)[1] for o in (before, cell))
            before.titles_, before.source = titles, source
            fold(before, label_of(titles))
            result[-1:-1], anchors = anchors, []
        else: result, anchors = [*result, *anchors, cell], []
    return [*result, *anchors]


def one_comment_each(line):
    "A line of a signature: a parameter with a comment stands alone, so that the comment is seen to be its own."
    code, mark, comment = line.partition(", # ")
    depth = [sum(code[:i].count(o) for o in "([{") - sum(code[:i].count(o) for o in ")]}") for i in range(len(code))]
    cuts = [o.start() for o in re.finditer(", ", code) if not depth[o.start()]]
    if not (mark and cuts): return line
    return f"{code[:cuts[-1]]},\n    {code[cuts[-1] + 2:]}{mark}{comment}"


def mend_documentation(text, properties):
    "Documentation as nbdev wrote it. In the signature: names for links, no type that says nothing, and what a property is."
    def mended(match):
        code = re.sub(r"\[(`[^`]+`)\]\([^)]*\)", r"\1", match[2])
        code = code.replace(":NoneType=None", "=None").replace(":store_true=", ":bool=").replace("torch._C.Generator", "torch.Generator")
        code = "\n".join(map(one_comment_each, code.split("\n")))
        return f"{match[1]}{'@property' + chr(10) if name in properties else ''}{code}{match[3]}"

    name = re.search(r"^#+ (.+)", text, re.MULTILINE)[1]
    return re.sub(r"^(```python\n)(.*?)(^```$)", mended, text, count=1, flags=re.MULTILINE | re.DOTALL)


@lru_cache(maxsize=None)
def clear_names():
    """Public names that can mean only one thing: in `__all__` of one module, and no method of a public class.

    nbdev links every name of the package, and of two of one name the first, public or not, so that a method said without its class
    led to a function of another chapter."""
    modules = importlib.import_module(f"{get_config().lib_path.name}._modidx").d["syms"]
    names = [name for module in modules for name in getattr(importlib.import_module(module), "__all__", [])]
    owned = [name.removeprefix(f"{module}.").split(".") for module, symbols in modules.items() for name in symbols]
    methods = {o[1] for o in owned if len(o) == 2 and not o[0].startswith("_")}
    return {name for name in names if names.count(name) == 1 and name not in methods}


class ClearLookup(NbdevLookup):
    "nbdev's addresses of names, for those that are public and, unless their class stands before them, can mean only one thing."
    def doc(self, name):
        is_clear = name in clear_names() if "." not in name else not re.search(r"(^|\.)_", name)
        return super().doc(name) if is_clear else None


def add_links(cell):
    "As nbdev does, names in prose and documentation are linked to their pages; only clear ones."
    lookup = ClearLookup()
    if cell.cell_type == "markdown": cell.source = lookup.linkify(cell.source)
    for data in (o["data"] for o in cell.get("outputs", []) if "text/markdown" in o.get("data", {})):
        data["text/markdown"] = [lookup.link_line(o) for o in data["text/markdown"]]


def is_table(output):
    "Whether columns of a printed text line up: at least two of its lines have two wide gaps. Such lines must not be wrapped."
    text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
    return sum(len(re.findall(r"\S {2,}(?=\S)", line)) > 1 for line in text.splitlines()) > 1


def wrap_sentences(output):
    "Break long lines of a printed text between words, other than those of a table."
    data, key = (output, "text") if "text" in output else (output.get("data", {}), "text/plain")
    def wrapped(line): return [line] if len(line) <= WIDTH or re.search(r"\S {2,}(?=\S)", line) else textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False)
    if key in data: data[key] = "\n".join(o for line in "".join(data[key]).split("\n") for o in wrapped(line))


class PageFilter(FilterDefaults):
    "nbdev's processing of a notebook, with exported code folded below its documentation."

    def base_procs(self):
        ours = {rm_export: fold_export, processors.add_links: add_links}
        return [ours.get(o, o) for o in super().base_procs()]

    def __call__(self, nb):
        ids = {o.id for o in nb.cells}
        super().__call__(nb)
        properties = {o for cell in nb.cells for o in cell.get("properties_", ())}
        fold_checks(nb.cells)
        for cell in nb.cells:
            if cell.cell_type != "code": continue
            name_fold(cell)
            if "#| code-fold: true" not in cell.source: cell.source = fit_lines(cell.source)
            if any(map(is_table, cell.outputs)):
                cell.source = f"#| classes: aligned\n{cell.source}"
                for output in cell.outputs: wrap_sentences(output)
            for data in (o["data"] for o in cell.outputs if "show_doc(" in cell.source and "text/markdown" in o.get("data", {})):
                data["text/markdown"] = mend_documentation("".join(data["text/markdown"]), properties)
        documented = {o for cell in nb.cells for o in re.findall(r"^show_doc\(([\w.]+)", cell.source, re.MULTILINE)}
        cells, sources, shown = [], [], {o for cell in nb.cells if cell.get("shown_") for o in cell.defines_}
        for cell in nb.cells:
            if "show_doc(" not in cell.source: cells, sources = cells + sources, []
            if "defines_" not in cell:
                names = re.findall(r"^show_doc\(([\w.]+)", cell.source, re.MULTILINE)
                if not names or not shown.issuperset(names): cells.append(cell)
                continue
            if cell.get("shown_"):  # its own signature and comments are its documentation
                cells += [mk_cell("".join(f'<span id="{o.lower()}"></span>' for o in cell.defines_), "markdown"), cell]
                continue
            # Links to symbols need an anchor. Documentation brings one along; other names have none
            if anchors := "".join(f'<span id="{o.lower()}"></span>' for o in cell.defines_ if o not in documented):
                sources.append(mk_cell(anchors, "markdown"))
            sources.append(cell)
        nb.cells = merged_preambles(merged_sources(cells + sources))
        for i, cell in enumerate(o for o in nb.cells if o.get("id") not in ids): cell["id"] = f"made-{i}"  # nbdev draws lots


@lru_cache(maxsize=None)
def number_of_tools():
    "A number of what makes a page, apart from its notebook: these tools, the package, which documents itself, and settings."
    return number_of(environment(), *files_of(ROOT / "tools", "*.py"), *files_of(get_config().lib_path, "**/*.py"), get_config().config_file)


def kept_page(notebook): return f"pages/{notebook.stem}-{number_of(number_of_tools(), notebook)}.ipynb"


def make_page(notebook):
    "The page of a notebook, as bytes."
    with TemporaryDirectory() as folder:
        page = Path(folder, "page.ipynb")
        serve_drv.main((notebook, page, PageFilter))
        return page.read_bytes()


def keep_page(notebook): keep(kept_page(notebook), lambda: make_page(notebook))


def fill_pages(main, files, **options):
    "Stands for nbdev's `parallel`: a page whose notebook and tools are those of an earlier build is not made again."
    targets = {source.resolve(): target for source, target, _ in files}
    missing = [o for o in targets if not (CACHE / kept_page(o)).exists()]
    if missing: importlib.import_module(f"{get_config().lib_path.name}.all")  # once, for all processes
    side_by_side(keep_page, sorted(missing, key=lambda o: -o.stat().st_size))
    for source, target in targets.items(): shutil.copyfile(CACHE / kept_page(source), target)
    forget_others("pages/*.ipynb", map(kept_page, targets))


def doors():
    "The three ways in, for the landing page."
    entries = [("information.html", "Read the book", "From two coins to batches out of millions of points, one idea at a time."),
               (colab.get_url("01_bald.ipynb"), "Run it on Colab", "Every chapter is a notebook that installs itself. Begin with BALD."),
               ("api.html", "Import the library", "Plain functions over PyTorch tensors, all on one page.")]
    links = (f'<a href="{url}"><strong>{title}</strong> <span>{text}</span></a>' for url, title, text in entries)
    return f'<div class="doors">\n{chr(10).join(links)}\n</div>'


def read_sidebar():
    "Of each page, in order: its name, its section, and its notebook's file name (none for the list of all names)."
    def walk(contents, section):
        for entry in contents:
            if isinstance(entry, str): yield _number.sub("", Path(entry).stem), section, entry
            elif "href" in entry: yield Path(entry["href"]).stem, section, None
            else: yield from walk(entry["contents"], entry["section"])
    website = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]
    return list(walk(website["sidebar"]["contents"], None))


def split_front_matter(nb):
    "Title and the like, which nbdev puts into a raw cell at the top, and the other cells."
    first, *cells = nb["cells"]
    return yaml.safe_load("".join(first["source"]).strip().strip("-")), cells


def what_is(module, name):
    "The first line of a name's documentation; of a constant, which has none, the comment that it is defined with."
    value = getattr(module, name)
    if inspect.isroutine(value) or inspect.isclass(value): return " ".join(inspect.getdoc(value).split("\n\n")[0].split())
    comment = re.search(rf"(?:^# (?P<above>[^%\n].*)\n)?^{name}(?:: [^=\n]+)? = .*?(?:  # (?P<beside>.*))?$", inspect.getsource(module), re.MULTILINE)
    keys = list(value) if isinstance(value, dict) else []
    listed = f"dictionary; its keys: {', '.join(f'`{o}`' for o in keys[:6])}{', ...' * (len(keys) > 6)}" if keys else type(value).__name__
    return comment["beside"] or comment["above"] or listed


def api_page(titles):
    "Every public name by chapter, with its first line of documentation."
    package = get_config().lib_path.name
    symbols = importlib.import_module(f"{package}._modidx").d["syms"]
    lines = ["# All names", "", f"`from {package}.all import *` brings those that people who use the package call. The others come from their module, whose name stands above each table: `from {package}.several_labels import get_multilabel_batchbald_batch`. Each name leads to the chapter that derives, checks and documents it."]
    modules = {page: name for name, links in symbols.items() for page in {link.split(".html")[0] for link, _ in links.values()}}
    for page, title in titles.items():
        if page not in modules: continue
        module = importlib.import_module(modules[page])
        rows = []
        for name in module.__all__:
            link, _ = symbols[module.__name__].get(f"{module.__name__}.{name}", (f"{page}.html#{name.lower()}", None))
            what = what_is(module, name).replace("|", r"\|")
            rows.append(f'| <a href="{link}"><code>{name}</code></a> | {what} |')
        if rows: lines += ["", f"## {title}", "", f'`{module.__name__}`, from <a href="{page}.html">{title}</a>', "", '<div class="names">', "", "| name | what it is |", "|---|---|", *rows, "", "</div>"]
    return "\n".join(lines) + "\n"


def contents(facts):
    "The site for a language model (llms.txt, https://llmstxt.org): every page by section, with what it says of itself."
    website, section_before = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"], None
    notebooks = f"{website['repo-url']}/blob/{website['repo-branch']}/nbs"
    lines = [f"# {website['title']}", "", f"> {website['description']}", "",
             f"The repository is {website['repo-url']}. Its notebooks are the only source: the package is exported from them, and each page below is made of one."]
    for page, section, notebook in read_sidebar():
        section = section or "Overview"
        if section != section_before: lines += ["", f"## {section}", ""]
        section_before = section
        source = f" ([notebook]({notebooks}/{notebook}))" if notebook else ""
        lines.append(f"- [{facts[page]['title']}]({website['site-url']}/{page}.html): {facts[page]['description']}{source}")
    return "\n".join(lines) + "\n"


def is_caption(cell): return cell["cell_type"] == "markdown" and "".join(cell["source"]).startswith("**Figure.** ")


def has_picture(cell): return any(key.startswith("image/") for output in cell.get("outputs", []) for key in output.get("data", {}))


def number_figures(nb, chapter):
    "Captions, which stand in cells below their figures, in a box of their own, with the number of chapter and figure."
    count = 0
    for cell in nb["cells"]:
        if not is_caption(cell): continue
        count += 1
        text = "".join(cell["source"]).removeprefix("**Figure.** ")
        name = f"Figure {chapter}.{count}." if chapter else f"Figure {count}."
        cell["source"] = f'<div class="caption" id="figure-{count}">\n\n**{name}** {text}\n\n</div>'


def make_pages():
    "Fill _proc."
    os.chdir(ROOT)
    serve.parallel = fill_pages
    serve.proc_nbs(force=True)
    index = PAGES / "index.ipynb"
    nb = json.loads(index.read_text(encoding="utf-8"))
    # The doors stand above the picture (a badge is no picture: it stands in a link)
    for cell in nb["cells"]:
        cell["source"], found = re.subn(r"^!\[", lambda match: f"{doors()}\n\n![", "".join(cell["source"]), count=1, flags=re.MULTILINE)
        if found: break
    else: raise SiteError("nbs/index.ipynb: no cell has a line that begins with a picture, above which the landing page has its links")
    index.write_text(json.dumps(nb), encoding="utf-8")
    facts = {}
    for page, _, notebook in read_sidebar():
        if not notebook: continue
        nb = json.loads((PAGES / notebook).read_text(encoding="utf-8"))
        facts[page] = split_front_matter(nb)[0]
        number_figures(nb, chapter_number(notebook))
        (PAGES / notebook).write_text(json.dumps(nb), encoding="utf-8")
    titles = {page: o["title"] for page, o in facts.items()}
    kept_names = f"api-{number_of(number_of_tools(), json.dumps(titles))}.md"
    names = keep(kept_names, lambda: api_page(titles).encode()).decode()
    forget_others("api-*.md", [kept_names])
    (PAGES / "api.md").write_text(names, encoding="utf-8")
    title, _, about, *_ = names.splitlines()
    (PAGES / "llms.txt").write_text(contents({**facts, "api": {"title": title.lstrip("# "), "description": about}}), encoding="utf-8")


# ---- Quarto ----

_equation = re.compile(r"\$\$(.+?)(\s*)\$\$", re.DOTALL)


def number_equations(nb, chapter):
    "Equations get the numbers and the addresses that Sphinx gives them: 3.1, 3.2, ... in chapter 3."
    count = 0

    def numbered(match):
        nonlocal count
        count += 1
        return rf'<span id="equation-{count}"></span>$${match[1]}\tag{{{chapter}.{count}}}{match[2]}$$'

    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown": cell["source"] = _equation.sub(numbered, "".join(cell["source"]))


def build_with_quarto():
    for _, _, notebook in read_sidebar():
        if not (chapter := chapter_number(notebook)): continue
        nb = json.loads((PAGES / notebook).read_text(encoding="utf-8"))
        number_equations(nb, chapter)
        (PAGES / notebook).write_text(json.dumps(nb), encoding="utf-8")
    subprocess.run(["quarto", "render", "--no-cache"], cwd=PAGES, check=True)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PAGES / DOCS.name, DOCS)


# ---- Sphinx ----

_option = re.compile(r"^#\s*\|\s*([\w-]+)\s*:\s*(.*?)\s*$")
_tags = {("code-fold", "true"): "hide-input", ("code-fold", "false"): None, ("classes", "aligned"): "aligned", ("eval", "false"): None}  # MyST-NB's, of options


def split_options(source):
    "The options (`#| echo: false`) of a code cell, and the code without them and without flags such as `#| slow`."
    options, code = {}, []
    for line in source.splitlines():
        if match := _option.match(line): options[match[1]] = match[2].strip("\"'")
        elif not re.match(r"#\s*\|", line): code.append(line)
    return options, "\n".join(code).strip("\n")


def to_myst(text):
    "Markdown as Quarto reads it, as MyST reads it."
    cfg = get_config()
    label = r"((?:`[^`]*`|[^\]`])*)"
    base = re.escape(cfg.doc_host + cfg.doc_baseurl)
    # Badges are pictures in links; here they are text
    text = re.sub(r"\[!\[([^\]]*)\]\([^)]*\)\]\(([^)]*)\)", r'<a class="badge" href="\2">\1</a>', text)
    # nbdev links symbols by the site's full address
    text = re.sub(rf"\[{label}\]\({base}/([^)\s]*)\)", r'<a class="reference internal" href="\2">\1</a>', text)
    return re.sub(r"\]\(\d+[a-zA-Z0-9]*_(\w+\.ipynb)", r"](\1", text)  # pages are named without their numbers


def documentation_to_myst(text):
    "What `show_doc` wrote."
    link, text = re.fullmatch(r"---\n\n\[source\]\(([^)]*)\)\{[^}]*\}\n\n(.*)", text, re.DOTALL).groups()
    name = re.match(r"#+ (.+)", text)[1]
    return f'<span id="{html.escape(name.lower())}"></span><a class="source-link" href="{link}">source</a>\n\n\n\n{{.documented}}\n{to_myst(text)}'


def plain(text):
    "Prose of Markdown without its markup."
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)|</?[a-zA-Z][^>]*>", lambda match: match[1] or "", text)
    return " ".join(re.sub(r"[*`]", "", text).split())


def alternative(section, prose):
    "What stands for a figure where it cannot be seen: its section, and the last sentences before it, as many as are short and hold no TeX."
    paragraph, said = re.split(r"\n\s*\n", prose.strip())[-1], ""
    for sentence in reversed(re.split(r"(?<=[.!?]) +(?=[^a-z])", plain(paragraph))):
        if re.match(r"[#|>:-]", paragraph) or re.search(r"[$\\]", sentence) or len(said) + len(sentence) > 300: break
        said = f"{sentence} {said}".strip()
    said = re.sub(r":$", ".", said)
    return f"Figure, section {plain(section)}: {said}" if said else f"Figure, section {plain(section)}; the text around it says what it shows"


def code_cell(cell, alt):
    "A code cell for MyST-NB, or Markdown where it holds documentation, or None where nothing of it is shown."
    options, code = split_options("".join(cell["source"]))
    if options.get("output") == "asis":
        texts = ["".join(o["data"]["text/markdown"]) for o in cell["outputs"] if "text/markdown" in o.get("data", {})]
        return {"cell_type": "markdown", "metadata": {}, "source": "\n\n".join(map(documentation_to_myst, texts))}
    if not (code or cell["outputs"]): return None
    prompt = options.pop("code-summary", "Code")
    if unknown := [o for o in options.items() if o not in _tags]:
        raise SiteError(f"cell {cell.get('id')}: the option `#| {': '.join(unknown[0])}` is not translated for Sphinx")
    tags = [_tags[o] for o in options.items() if _tags[o]]
    settings = {"code_prompt_show": prompt, "code_prompt_hide": prompt, "image": {"alt": alt}}
    for output in cell["outputs"]:
        # Widgets need a kernel, which a page does not have; their text stays
        output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
        if markdown := output.get("data", {}).get("text/markdown"): output["data"]["text/markdown"] = to_myst("".join(markdown))
    return {"cell_type": "code", "metadata": {"tags": tags, "mystnb": settings}, "source": code, "outputs": cell["outputs"], "execution_count": None}


def notebook_to_myst(nb):
    "A page from _proc for MyST-NB."
    meta, cells = split_front_matter(nb)
    result = [{"cell_type": "markdown", "metadata": {}, "source": f"# {meta['title']}\n\n{{.subtitle}}\n{meta.get('description', '')}"}]
    section, prose = meta["title"], ""
    for cell, after in zip(cells, [*cells[1:], None]):
        source = "".join(cell["source"])
        if headings := re.findall(r"^#+ (.+)", source, re.MULTILINE) if cell["cell_type"] == "markdown" else None: section = headings[-1]
        if "WARNING: THIS FILE WAS AUTOGENERATED" in source: continue
        if cell["cell_type"] == "markdown":
            prose = source
            result.append({"cell_type": "markdown", "metadata": {}, "source": to_myst(source)})
        elif cell["cell_type"] == "code":
            shows = ["".join(o["data"].get("text/markdown", "")) for o in cell["outputs"] if "data" in o]  # where a cell writes its own caption
            caption = re.search(r'<div class="caption"[^>]*>\n\n(.*?)\n\n</div>', "\n\n".join([*shows, "".join(after["source"]) if after else ""]), re.DOTALL)
            shown = code_cell(cell, plain(caption[1]) if caption else alternative(section, prose))
            if shown: result.append(shown)
    for number, cell in enumerate(result): cell["id"] = f"cell-{number}"
    return {"cells": result, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def toctrees(sidebar, titles):
    "The sidebar for Sphinx: one hidden table of contents for each section, chapters with their numbers."
    sections = {}
    for page, section, notebook in sidebar:
        number = chapter_number(notebook)
        if page != "index": sections.setdefault(section, []).append(f"{number}\u2002{titles[page]} <{page}>" if number else page)
    return "\n\n".join("```{toctree}\n:hidden:\n" + (f":caption: {section}\n\n" if section else "\n") + "\n".join(pages) + "\n```"
                       for section, pages in sections.items())


def chapter_number(notebook):
    "`4a` of `04a_many_machines.ipynb`, or None: what comes after the chapters (90 and up) has none."
    match = re.match(r"0?(\d+[a-z]*)_", notebook or "")
    return match[1] if match and not re.match(r"9\d", match[1]) else None


def write_sphinx_source(folder):
    "All that Sphinx reads, apart from its conf.py."
    sidebar = read_sidebar()
    facts = {"website": yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"], "copyright": get_config().copyright, "pages": {}}
    titles = {}
    for page, section, notebook in sidebar:
        facts["pages"][page] = {"section": section, "number": chapter_number(notebook), "notebook": notebook}
        if not notebook:
            shutil.copy(PAGES / f"{page}.md", folder)
            continue
        nb = json.loads((PAGES / notebook).read_text(encoding="utf-8"))
        meta, _ = split_front_matter(nb)
        facts["pages"][page]["description"], titles[page] = meta.get("description"), meta["title"]
        try: nb = notebook_to_myst(nb)
        except SiteError as error: raise SiteError(f"nbs/{notebook}: {error}") from None
        (folder / f"{page}.ipynb").write_text(json.dumps(nb), encoding="utf-8")
    index = folder / "index.ipynb"
    nb = json.loads(index.read_text(encoding="utf-8"))
    nb["cells"].append({"cell_type": "markdown", "metadata": {}, "id": "toctrees", "source": toctrees(sidebar, titles)})
    index.write_text(json.dumps(nb), encoding="utf-8")
    shutil.copytree(PAGES / "images", folder / "images")
    (folder / "site.json").write_text(json.dumps(facts), encoding="utf-8")


def write_static(folder):
    "Styles, and what npm brings, so that a page asks no other host for anything."
    if not shutil.which("npm"): raise SiteError("npm is missing: install Node.js (https://nodejs.org), or Quarto (https://quarto.org)")
    installed = SITE / "node_modules/.package-lock.json"  # npm writes it last
    if not installed.exists() or installed.stat().st_mtime < max((SITE / o).stat().st_mtime for o in ("package.json", "package-lock.json")):
        done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=SITE, capture_output=True, text=True)
        if done.returncode: raise SiteError(f"`npm ci` failed in {SITE.relative_to(ROOT)}:\n{done.stderr}")
    shutil.copytree(SITE / "static", folder)
    for name in ("styles.css", "site.js"): shutil.copy(ROOT / "nbs" / name, folder)
    modules = SITE / "node_modules"
    for source, target, patterns in [("mathjax/es5", "mathjax", ["tex-chtml.js", "output/chtml/fonts/woff-v2/*"]),
                                     ("@fontsource-variable/source-serif-4/files", "fonts", ["*-latin-wght-*.woff2"])]:
        for path in (o for pattern in patterns for o in (modules / source).glob(pattern)):
            destination = folder / target / path.relative_to(modules / source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, destination)


def shrunk(data):
    "Figures need few colours: 256 of them halve a file, and nobody sees it. What is transparent or hardly smaller stays as it was."
    with Image.open(io.BytesIO(data)) as picture:
        if picture.mode == "P" or picture.convert("RGBA").getextrema()[3][0] < 255: return data
        small = io.BytesIO()
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue() if small.tell() < 0.8 * len(data) else data


def kept_picture(path): return f"pictures/{number_of(PIL.__version__, inspect.getsource(shrunk), path.read_bytes())}.png"


def shrink_picture(path):
    "Put a small picture in place of one; its number in `CACHE`."
    kept = kept_picture(path)
    path.write_bytes(keep(kept, lambda: shrunk(path.read_bytes())))
    return kept


def shrink_pictures(folder): forget_others("pictures/*.png", side_by_side(shrink_picture, files_of(folder, "*.png")))


def build_with_sphinx():
    with TemporaryDirectory() as folder:
        folder = Path(folder)
        source, static, output = folder / "source", folder / "static", folder / "html"
        source.mkdir()
        write_sphinx_source(source)
        write_static(static)
        command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-E", "-W", "--keep-going", "-j", f"{PROCESSES}", "-c", SITE, "-d", folder / "doctrees", source, output]
        done = subprocess.run(command, env={**os.environ, "SITE_SOURCE": str(source), "SITE_STATIC": str(static)})
        if done.returncode: raise SiteError("Sphinx warned or failed, see above")
        shrink_pictures(output / "_images")
        for name in ("objects.inv", ".buildinfo"): (output / name).unlink(missing_ok=True)  # for other projects, and for the next build
        shutil.rmtree(DOCS, ignore_errors=True)
        shutil.move(output, DOCS)


def build(builder):
    "Fill _docs, with `quarto` or `sphinx`."
    try:
        make_pages()
        {"quarto": build_with_quarto, "sphinx": build_with_sphinx}[builder]()
        shutil.copy(PAGES / "llms.txt", DOCS)
    except (SiteError, subprocess.CalledProcessError) as error: sys.exit(f"{error}")
