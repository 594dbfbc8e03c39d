"""The site in _docs, as a reader meets it: its links, and its pages in a browser; and the panel of a chapter in JupyterLab.

What needs the site wants `make docs` first, what needs a browser wants Playwright (which `make docs` installs) and Chromium. Where
something is missing, items are skipped and say so. Screenshots to look at go to results/site.
"""
import html, http.server, io, json, os, re, shutil, socket, subprocess, sys, threading, time, tokenize, urllib.request
from functools import lru_cache, partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import bare

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "_docs"
SHOTS = ROOT / "results/site"
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
WEBSITE = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]
COLAB = f"https://colab.research.google.com/github/{urlsplit(WEBSITE['repo-url']).path[1:]}"


def page_of(file): return re.sub(r"^\d+[a-zA-Z0-9]*_", "", Path(file).stem)


def sidebar_pages(contents):
    for entry in contents:
        if isinstance(entry, str): yield page_of(entry)
        elif "href" in entry: yield page_of(entry["href"])
        else: yield from sidebar_pages(entry["contents"])


PAGES = list(sidebar_pages(WEBSITE["sidebar"]["contents"]))


# ---- What is needed ----

@pytest.fixture(scope="session")
def site():
    "The folder with the site, if there is one and it is fresh."
    index = DOCS / "index.html"
    if not index.exists(): pytest.skip("there is no site: run `make docs`")
    if not (DOCS / "searchindex.js").exists(): pytest.skip("the site is Quarto's: run `make docs BUILDER=sphinx`")
    sources = [*NOTEBOOKS, ROOT / "nbs/styles.css", ROOT / "nbs/site.js", ROOT / "_quarto.yml", *(ROOT / f"tools/{o}.py" for o in ("build_site", "docs", "kept")), *(ROOT / "tools/site").glob("*.*"),
               *(ROOT / "tools/site").glob("[st]*/*")]
    newer = [str(o.relative_to(ROOT)) for o in sources if o.stat().st_mtime > index.stat().st_mtime]
    if newer: pytest.skip(f"the site is older than {newer[0]}: run `make docs`")
    return DOCS


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope="session")
def address(site):
    "The site's address on this machine."
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def visit(browser, address):
    "Opens a page of the site, and fails at the end where anything went wrong on the way."
    contexts, trouble = [], []

    def watch_request(request):
        if not request.url.startswith((address, "data:", "blob:")): trouble.append(f"asked another host: {request.url}")

    def watch_response(response):
        if response.status >= 400: trouble.append(f"{response.status} {response.url}")

    def visit(path, width=1400, height=1000, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(120_000)  # other tests may keep the machine busy
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda o: trouble.append(f"console: {o.text}") if o.type in ("error", "warning") else None)
        page.on("pageerror", lambda o: trouble.append(f"script: {o}"))
        page.on("requestfailed", lambda o: trouble.append(f"failed: {o.url}"))
        page.on("request", watch_request)
        page.on("response", watch_response)
        page.goto(f"{address}/{path}", wait_until="load")
        page.evaluate("async () => { await document.fonts.ready; if (window.MathJax) await MathJax.startup.promise }")
        return page

    yield visit
    for context in contexts: context.close()
    assert not trouble


# ---- When it is built ----

@pytest.fixture
def tree(tmp_path, monkeypatch):
    "The tools that say what a tree gives, on a copy of this one."
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import docs, kept

    bare.copy_tracked(tmp_path / "tree")
    for module, name in [(kept, "ROOT"), (docs, "ROOT")]: monkeypatch.setattr(module, name, tmp_path / "tree")
    monkeypatch.setattr(kept, "CACHE", tmp_path / "cache")
    return tmp_path / "tree", docs, kept


def test_what_goes_into_the_site_is_seen_to_change(tree):
    folder, docs, _ = tree
    before = docs.number_of_tree("sphinx")
    parts = ["nbs/05_kbald.ipynb", "nbs/styles.css", "nbs/site.js", "nbs/images/loop.svg", "batchbald_nbdev/kbald.py", "batchbald_nbdev/_modidx.py", "_quarto.yml",
             "settings.ini", "CHANGELOG.md", "tools/build_site.py", "tools/colab.py", "tools/site/conf.py", "tools/site/package-lock.json",
             "tools/site/static/site.css", "tools/site/templates/page.html"]
    for name in parts:
        path = folder / name
        text = path.read_bytes()
        path.write_bytes(text + b" ")
        assert docs.number_of_tree("sphinx") != before, name
        path.write_bytes(text)
    path.rename(path.with_name("other.html"))
    assert docs.number_of_tree("sphinx") != before
    path.with_name("other.html").rename(path)
    (folder / "README.md").write_text("no part of the site")
    assert docs.number_of_tree("sphinx") == before != docs.number_of_tree("quarto")


def test_what_is_kept_is_made_once_and_as_a_whole(tree):
    _, _, kept = tree
    def fails(): raise ValueError("no page")
    with pytest.raises(ValueError, match="no page"): kept.keep("pages/one", fails)
    assert kept.keep("pages/one", lambda: b"made") == kept.keep("pages/one", fails) == b"made"
    kept.keep("pages/two", lambda: b"made too")
    kept.forget_others("pages/*", ["pages/two"])
    assert [o.name for o in (kept.CACHE / "pages").iterdir()] == ["two"]


@pytest.mark.slow
def test_a_site_that_was_edited_is_the_one_that_is_built_anew(tree):
    "Pages that were kept are those that would be made; what was touched in the site itself is mended; where nothing changed nothing is built."
    folder, _, kept = tree
    modules = ROOT / "tools/site/node_modules"
    if not modules.exists(): pytest.skip("npm installed nothing yet: run `make docs BUILDER=sphinx`")
    shutil.copytree(modules, folder / "tools/site/node_modules")

    def build():
        done = subprocess.run([sys.executable, "tools/docs.py", "sphinx"], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return {str(o.relative_to(folder)): kept.number_of(o) for part in ("_docs", "_proc") for o in kept.files_of(folder / part)}, "is what this tree gives" in done.stdout

    first, unchanged = build()
    assert not unchanged and build() == (first, True)
    chapter = folder / "nbs/05_kbald.ipynb"
    nb = json.loads(chapter.read_text(encoding="utf-8"))
    nb["cells"][-1]["source"] = "A paragraph that was not there."
    chapter.write_text(json.dumps(nb), encoding="utf-8")
    edited, unchanged = build()
    assert not unchanged and {o for o in first if first[o] != edited[o]} == {"_docs/kbald.html", "_docs/searchindex.js", "_proc/05_kbald.ipynb"}
    (folder / "_docs/kbald.html").write_text("somebody was here")
    assert build() == (edited, False)
    shutil.rmtree(folder / ".docs_cache")
    assert build() == (edited, False)


# ---- The files ----

class PageParser(HTMLParser):
    "Targets, links, and what else a page asks for."

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.assets = {"", "top"}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if "id" in attributes: self.ids.add(attributes["id"])
        if tag == "a" and "href" in attributes: self.links.append(attributes["href"])
        if tag == "link" and attributes["rel"] != "canonical": self.assets.append(attributes["href"])
        if "src" in attributes: self.assets.append(attributes["src"])


@lru_cache(maxsize=None)
def parsed(path): return PageParser(path.read_text(encoding="utf-8"))


def own_file(url):
    "The file of this checkout that an address on GitHub or Colab shows, or None."
    match = re.match(rf"(?:{re.escape(WEBSITE['repo-url'])}|{COLAB})/blob/(?:{WEBSITE['repo-branch']}|v\d[^/]*)/(.+)", url)
    return ROOT / match[1].split("#")[0] if match else None


def broken_links(path):
    "Links of a page to files and anchors that are not there, and what it would fetch from other hosts."
    page = parsed(path)
    for url in [*page.links, *page.assets]:
        parts = urlsplit(url)
        if url in page.assets and (parts.scheme not in ("", "data") or parts.netloc): yield f"fetches {url}"
        elif url.startswith(WEBSITE["site-url"]): yield f"leaves for the published site: {url}"
        elif (file := own_file(url)) is not None:
            if not file.is_file(): yield f"no such file: {url}"
        elif not parts.scheme and not parts.netloc:
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file(): yield f"no such page: {url}"
            elif target.suffix == ".html" and unquote(parts.fragment) not in parsed(target).ids: yield f"no such anchor: {url}"


@pytest.mark.parametrize("page", [*PAGES, "search"])
def test_links_and_anchors_resolve(site, page):
    assert list(broken_links(site / f"{page}.html")) == []


def test_there_is_a_page_for_each_entry_of_the_sidebar_and_no_other(site):
    assert {o.stem for o in site.glob("*.html")} == {*PAGES, "search"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda o: o.name)
def test_page_leads_to_its_notebook_on_colab(site, notebook):
    links = [o for o in parsed(site / f"{page_of(notebook)}.html").links if o.startswith(COLAB)]
    door = {"01_bald.ipynb"} if notebook.stem == "index" else set()  # the landing page's door begins with a chapter
    assert links and {o.split("/")[-1] for o in links} == {notebook.name} | door


def test_pages_follow_one_another_as_in_the_sidebar(site):
    link = r'<a class="{}-page" href="([^"#]+)'
    for page, neighbour in zip(PAGES, PAGES[1:]):
        assert re.search(link.format("next"), (site / f"{page}.html").read_text(encoding="utf-8"))[1] == f"{neighbour}.html"
        assert re.search(link.format("prev"), (site / f"{neighbour}.html").read_text(encoding="utf-8"))[1] == f"{page}.html"


def test_every_symbol_has_an_anchor(site):
    "nbdev links names to these addresses, here and in other projects."
    from batchbald_nbdev._modidx import d
    addresses = {address for symbols in d["syms"].values() for address, _ in symbols.values()}
    addresses = {o for o in addresses if "._" not in o.split("#")[1]}  # private methods are nobody's to link to
    missing = [o for o in sorted(addresses) if o.split("#")[1] not in parsed(site / o.split("#")[0]).ids]
    assert addresses and not missing


def test_contents_for_language_models(site):
    "llms.txt names every page in the order of the sidebar, with the title and the subtitle of its notebook."
    title, summary, about, *lines = [o for o in (site / "llms.txt").read_text(encoding="utf-8").splitlines() if o]
    assert (title, summary) == (f"# {WEBSITE['title']}", f"> {WEBSITE['description']}")
    assert WEBSITE["repo-url"] in about
    assert [o.removeprefix("## ") for o in lines if o.startswith("#")] == ["Overview", *(o["section"] for o in WEBSITE["sidebar"]["contents"] if "section" in o)]
    entries = [re.fullmatch(rf"- \[(.+)\]\({re.escape(WEBSITE['site-url'])}/(\w+)\.html\): (.+?)(?: \(\[notebook\]\((\S+)\)\))?", o) for o in lines if not o.startswith("#")]
    assert [o[2] for o in entries] == PAGES
    assert sorted(own_file(o[4]) for o in entries if o[4]) == NOTEBOOKS
    firsts = {page_of(o): "".join(json.loads(o.read_text(encoding="utf-8"))["cells"][0]["source"]) for o in NOTEBOOKS}
    assert {o[2]: f"# {o[1]}\n\n> {o[3]}" for o in entries if o[2] in firsts} == {page: o.strip() for page, o in firsts.items()}


@lru_cache(maxsize=None)
def the_builder():
    sys.path.insert(0, str(ROOT / "tools"))
    import build_site
    return build_site


def text_of(markup): return html.unescape(re.sub(r"<[^>]+>", "", markup))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda o: o.name)
def test_cells_are_shown_folded_or_hidden_as_they_ask(site, notebook):
    "By the longest line of each cell of code, as the page has it. Imports and checks are folded, and what exports is shown where it says `shown`."
    build_site = the_builder()
    markup = (site / f"{page_of(notebook)}.html").read_text(encoding="utf-8")
    markup = re.sub(r"<(style|script)\b.*?</\1>", "", markup, flags=re.DOTALL)  # those of moving pictures are outputs
    everything = text_of(markup)
    unfolded = text_of(re.sub(r"<details class=\"[^\"]*\bhide\b.*?</details>", "", markup, flags=re.DOTALL))
    wanted = {"shown": set(), "folded": set(), "hidden": set()}
    def is_there(source): return not re.search(r"^#\s*\|\s*(hide|default_exp)\b", source, re.MULTILINE)
    cells = [o for o in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if o["cell_type"] == "code"]
    for i, cell in enumerate(cells):
        source = "".join(cell["source"])
        later = [(build_site.split_options("".join(o["source"]))[1], o["outputs"]) for o in cells[i + 1:] if is_there("".join(o["source"]))]
        flags = set(re.findall(r"^#\s*\|\s*(\S+)", source, re.MULTILINE))
        asked = re.search(r"^#\s*\|\s*code-fold:\s*(\w+)", source, re.MULTILINE)
        folded = flags & {"export", "exporti"} or asked and asked[1] == "true" or not asked and build_site.folded_as(build_site.split_options(source)[1], cell["outputs"], later)
        kind = "hidden" if flags & {"hide", "default_exp"} else "folded" if folded and "shown" not in flags else "shown"
        if kind == "shown": source = build_site.fit_lines(build_site.split_options(source)[1])
        code = [o.strip() for o in source.splitlines() if not re.match(r"\s*#", o)]  # comments may be in tables as well
        if any(code): wanted[kind].add(max(code, key=len))
    assert not [o for o in wanted["shown"] if o not in unfolded]
    assert not [o for o in wanted["folded"] - wanted["shown"] if o in unfolded or o not in everything]
    assert not [o for o in wanted["hidden"] - wanted["shown"] - wanted["folded"] if o in everything]


def test_no_markup_stands_in_code(site):
    "nbdev writes links into the comments of signatures, where they cannot work."
    code = [text_of(o) for page in PAGES for o in re.findall(r"<pre>.*?</pre>", (site / f"{page}.html").read_text(encoding="utf-8"), re.DOTALL)]
    assert len(code) > 1000 and not [o for o in code if 'class="reference' in o or f"]({WEBSITE['site-url']}" in o]


def signatures(site, page):
    markup = re.findall(r'<section class="documented".*?</pre>', (site / f"{page}.html").read_text(encoding="utf-8"), re.DOTALL)
    return {re.search(r"<h[23]>([\w.]+)", o)[1]: text_of(o[o.index("<pre>"):]) for o in markup}


def test_signatures_say_what_is_so(site):
    "Properties are called properties, types say something, and a comment stands beside the one parameter that it is about."
    everything = {name: code for page in PAGES for name, code in signatures(site, page).items()}
    assert everything["Labelling.is_due"].startswith("@property\ndef is_due()") and not everything["Labelling.learn"].startswith("@")
    assert "    method:str,\n    accuracy:float, # in [0, 1]\n" in everything["get_labels_to"]
    assert not [o for o in everything.values() if re.search("NoneType|store_true|torch[.]_C", o)]
    assert "    device=None, # where" in everything["get_bald_batch"]


def test_all_names_are_all_names(site):
    import importlib
    from batchbald_nbdev import all as package
    from batchbald_nbdev._modidx import d
    names = {name for module in d["syms"] for name in getattr(importlib.import_module(module), "__all__", [])}
    rows = dict(re.findall(r'<tr[^>]*><td><p><a href="[^"]*"><code>(\w+)</code></a></p></td>\s*<td><p>(.+?)</p></td>', (site / "api.html").read_text(encoding="utf-8")))
    assert rows.keys() == names and {"presets", "mnist_initial_indices", "methods"} <= names
    assert "20 images" in rows["mnist_initial_indices"] and not [o for o in rows.values() if len(o) < 10]
    public = {o for o in vars(package) if not o.startswith("_")}
    assert len(public) <= 70 and public <= names


def test_old_names_do_not_lead_to_ours(site):
    markup = (site / "from_batchbald_redux.html").read_text(encoding="utf-8")
    tables = re.findall(r'<div class="names renamed">(.*?)</table>', markup, re.DOTALL)
    rows = [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for table in tables for row in re.findall("<tr.*?</tr>", table, re.DOTALL)]
    old, new = [row[0] for row in rows if row], [row[1] for row in rows if row]
    assert len(tables) == 5 and "get_bald_batch" in map(text_of, old)
    assert not [o for o in old if "<a " in o] and sum("<a " in o for o in new) > len(new) / 2


def test_names_lead_to_a_page_only_where_they_can_mean_one_thing():
    from execnb.nbio import mk_cell
    build_site = the_builder()

    def linked(text):
        cell = mk_cell(text, "markdown")
        build_site.add_links(cell)
        return re.findall(r"\[`([^`]+)`\]\([^)]*/([^)/]+)\)", cell.source)

    assert linked("`get_bald_batch`, `compute_bald()`") == [("get_bald_batch", "bald.html#get_bald_batch"), ("compute_bald()", "bald.html#compute_bald")]
    assert linked("`ConsistentDropout.draw_masks`") == [("ConsistentDropout.draw_masks", "bayesian_models.html#consistentdropout.draw_masks")]
    assert linked("`WeightedJointEntropy.compute_gains`") == [("WeightedJointEntropy.compute_gains", "joint_entropy.html#weightedjointentropy.compute_gains")]
    assert linked("`evaluate`") == [("evaluate", "active_learning.html#evaluate")]  # `_Step.evaluate` is nobody's to mean
    # A method, said without its class, and a function of another page; a function and a method of one name; functions that are in no `__all__`
    assert not linked("`compute_gains` `draw_masks` `select` `find_smaller` `_Unfit` `_Unfit.name` `nothing_at_all`")
    assert not linked("```\n`get_bald_batch`\n```")


def test_labels_of_folded_code_name_each_name_once(site):
    for page in PAGES:
        for label in re.findall(r'<p class="collapsed admonition-title">Source of (.*?)</p>', (site / f"{page}.html").read_text(encoding="utf-8")):
            names = text_of(label).removesuffix(" and more").split(", ")
            assert len(set(names)) == len(names), (page, label)


def test_what_is_folded_in_a_row_is_folded_once_and_says_what_it_is():
    from execnb.nbio import mk_cell
    build_site = the_builder()

    def page(*sources):
        cells = [mk_cell(o, "markdown" if o[0] == "<" else "code") for o in sources]
        for cell in cells:
            if cell.cell_type == "code": cell.outputs, cell.directives_ = [], {"exporti": []} if cell.source.startswith(("def", "D", "call")) else {}
            if cell.cell_type == "code": build_site.fold_export(cell)
            if cell.cell_type == "code": build_site.name_fold(cell)
        made = build_site.merged_preambles(build_site.merged_sources(cells))
        return [re.findall('code-summary: "(.*)"', o.source) + [build_site.split_options(o.source)[1]] for o in made]

    assert page("def f(): 1", '<span id="g"></span>', "def g(): 2") == [['<span id="g"></span>'], ["Source of f, g", "def f(): 1\n\n\ndef g(): 2"]]
    assert page("def f(): 1", "<p>Prose</p>", "def g(): 2")[::2] == [["Source of f", "def f(): 1"], ["Source of g", "def g(): 2"]]
    assert page("D: dict = {}")[0][0] == "Source of D" and page("call(1)")[0][0] == "Call of call"
    folded = "#| code-fold: true\n"
    assert page(f"{folded}import a", f"{folded}B = 1", f"{folded}import c") == [["Imports and settings", "import a\n\nB = 1\n\nimport c"]]
    assert page(f"{folded}import a", f"{folded}import b")[0][0] == "Imports"
    assert page(f"{folded}class A: pass")[0][0] == "Source of A"
    assert page("import a", "x = 1") == [["import a"], ["x = 1"]]  # not folded


def test_pictures_lead_to_their_full_size_and_keep_room(site):
    from PIL import Image
    count = 0
    for page in PAGES:
        markup = (site / f"{page}.html").read_text(encoding="utf-8")
        shown = re.findall(r'<img[^>]* src="(_images/[^"]+\.png)"', markup)
        linked = re.findall(r'<a class="picture(?: wide)?" [^>]*href="([^"]+)"[^>]*><img[^>]* src="([^"]+)" width="(\d+)" height="(\d+)"', markup)
        assert [o[1] for o in linked] == shown
        for target, source, width, height in linked: assert target == source and Image.open(site / source).size == (int(width), int(height))
        count += len(linked)
        assert not re.search(r'<img[^>]* alt="[^"]*[\\`$\[]', markup)
    assert count > 50


CHAPTERS = [o for o in NOTEBOOKS if o.name[0] in "01"]


def shown_code(site, page):
    "Code of a page that is not folded, cell by cell."
    markup = re.sub(r"<details class=\"[^\"]*\bhide\b.*?</details>", "", (site / f"{page}.html").read_text(encoding="utf-8"), flags=re.DOTALL)
    return [text_of(block) for block in re.findall(r'<div class="cell_input.*?<pre>(.*?)</pre>', markup, re.DOTALL)]


@pytest.mark.parametrize("page", PAGES)
def test_shown_code_fits(site, page):
    "No line of code that is shown is longer than 90 characters."
    long = [o for code in shown_code(site, page) for o in code.splitlines() if len(o) > the_builder().WIDTH]
    assert not [o for o in long if not re.fullmatch(r""" *f"\{[^{}]*\}"[,)]*""", o)]  # one expression in a string cannot be broken


def broken_brackets(code):
    """Brackets over several lines: what stands in them, the line that they would make without comments, and whether a comment
    alone tears them: one that stands in them beside one thing, or behind them."""
    lines, opened, comments = code.splitlines(), [], {}
    tokens = [o for o in tokenize.generate_tokens(io.StringIO(code).readline) if o.type != tokenize.NL]
    for o in tokens:
        if o.type == tokenize.COMMENT:
            comments[o.start[0]] = o
            lines[o.start[0] - 1] = lines[o.start[0] - 1][:o.start[1]].rstrip()
    for i, o in enumerate(tokens):
        inside = opened[-1] if opened else {}
        if o.type == tokenize.COMMENT and inside: inside["comments"] += 1
        if o.string == "," and inside: inside["commas"] += 1
        if o.type == tokenize.OP and o.string in "([{": opened.append({"start": o.start, "commas": 0, "comments": 0})
        if o.type != tokenize.OP or o.string not in ")]}": continue
        first, last = opened[-1]["start"][0], o.start[0]
        inside = opened.pop()
        if first == last: continue
        parts = [part.strip() for part in lines[first - 1:last] if part.strip()]
        parts = [a.removesuffix(",") if b[0] in ")]}" else a for a, b in zip(parts, parts[1:])] + parts[-1:]
        indent = len(lines[first - 1]) - len(lines[first - 1].lstrip())
        joined = re.sub(r"(?<=[(\[{]) | (?=[)\]}])", "", " ".join(parts))
        content = re.sub(r"\s|,(?=[)\]}])", "", "".join([lines[first - 1][inside["start"][1]:], *lines[first:last - 1], lines[last - 1][:o.end[1]]]))
        within = [row for row in comments if first <= row < last]
        behind = last in comments and not within and " def " not in f" {joined}".replace("->", " def ")
        yield content, " " * indent + joined, bool(inside["comments"] and not inside["commas"] and last - first < 4 or behind)


@lru_cache(maxsize=None)
def broken_in_notebooks():
    "What brackets hold that notebooks break themselves."
    def broken(cell):
        try: return [o[0] for o in broken_brackets("".join(cell["source"]))]
        except (tokenize.TokenError, SyntaxError): return []
    return {o for notebook in NOTEBOOKS for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code" for o in broken(cell)}


@pytest.mark.parametrize("page", PAGES)
def test_no_bracket_is_broken_for_a_comment(site, page):
    "A comment stands above its line rather than within a type or among arguments, and what would fit in a line is not broken."
    found = []
    for code in shown_code(site, page):
        try: brackets = list(broken_brackets(code))
        except (tokenize.TokenError, SyntaxError): continue  # magics and the like
        fitting = [o for o in brackets if len(o[1]) <= the_builder().WIDTH]
        found += [joined for content, joined, is_torn in fitting if is_torn or content not in broken_in_notebooks()]
    assert not found


@pytest.mark.parametrize("source", [
    "x = 1",
    "if a:  # " + "a long comment " * 9 + "\n    b = 2",
    "def f(\n    a,  # " + "what it is " * 9 + "\n):\n    \"" + "Returned is this. " * 7 + "\"\n    return a",
    "f\"" + "{a:.2f} nats of {b}, " * 8 + "\"",
    "def f():\n    \"\"\"Returned is this.\n\n    " + "And more is said here. " * 6 + "\"\"\"\n    return 1",
    "print(first(a, b, c), [x for x in range(100) if x % 2], " + ", ".join(f"name_{i}=value_{i}" for i in range(9)) + ")",
], ids=["short", "comment", "documentation", "string", "paragraph", "call"])
def test_lines_are_broken_so_that_nothing_else_changes(source):
    import ast
    fitted = the_builder().fit_lines(source)
    assert max(map(len, fitted.splitlines())) <= 90
    same = lambda o: re.sub(r"\\n|\s", "", ast.dump(ast.parse(o)))
    assert same(fitted) == same(source)


@pytest.mark.parametrize("source, shown", [
    ("def f(\n    a: int | None = None,  # " + "what it is " * 7 + "\n):\n    return first(a), [b for b in range(100) if b % 2], " + "a, " * 20,
     ["    # " + ("what it is " * 7).strip(), "    a: int | None = None,", "):"]),
    ("for a, b in c.items(): print(a, b)  # " + "what it does " * 5, ["# " + ("what it does " * 5).strip(), "for a, b in c.items(): print(a, b)"]),
    ("assert (\n    a > b\n)  # since it is", ["# since it is", "assert a > b"]),
    ("def f(\n    S,\n):  # " + "what it is " * 7 + "\n    return S", ["# " + ("what it is " * 7).strip(), "def f(S):", "    return S"]),
    ("def f(\n    a,  # one\n) -> int:  # " + "what it is " * 7 + "here\n    return a",
     ["    a,  # one", "    # " + "what it is " * 7 + "here", ") -> int:", "    return a"]),
    ("x = [\n    [1, 2],  # one\n    [3, 4],\n]", ["x = [", "    [1, 2],  # one", "    [3, 4],", "]"]),
], ids=["parameter", "loop", "brackets", "head", "returned", "rows"])
def test_comments_stand_above_what_they_make_too_long(source, shown):
    lines = the_builder().fit_lines(source).splitlines()
    at = lines.index(shown[0])
    assert lines[at:at + len(shown)] == shown


def test_checks_are_told_from_what_shows_something():
    folded = the_builder().folded_as
    assert folded("import torch\nfrom math import log", []) == "Imports"
    assert folded("x = compute_bald(y)\nassert x.min() >= 0", []) == "Check of compute_bald"
    assert folded("for i in range(3):\n    a = f(i)\n    assert_close(a, i)", []) == "Check"
    assert folded("with expect_fail(ValueError): compute_bald(1)", []) == "Check of compute_bald"
    for shown in ("def f(): return 1\nassert f() == 1", "x = 1", "assert x\nx", "for i in range(3): print(i)"): assert folded(shown, []) is None
    assert folded("assert x", [{"output_type": "stream", "text": "said"}]) is None
    assert folded("from batchbald_nbdev.all import *", []) is None  # which is what a reader writes
    assert folded("def f(x): return x\nassert f(1)\nassert f(2)\nassert f(3)", []) == "Check"  # what it defines is there to check
    assert folded("def f(x):\n" + "    x += 1\n" * 7 + "assert f(1)", []) == "Check"
    assert folded("def f(x):\n" + "    x += 1\n" * 7 + "    return x", []) is None
    made = "pool = 1\nassert pool"
    assert folded(made, [], [("y = 2", []), ("pool + 1", ["3"])]) is None  # needed below
    for later in ([], [("pool = 2\npool", ["2"])], [("assert pool", [])]): assert folded(made, [], later) == "Check"
    assert folded("assert [i for i in range(3)]", [], [("i + 1", ["3"])]) == "Check"  # the `i` of a comprehension is nobody else's


@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda o: o.name)
def test_chapter_has_an_early_picture_and_questions(site, notebook, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import measure
    words, shown = measure.words_before_picture(notebook)
    assert shown and words <= measure.WORDS
    markup = (site / f"{page_of(notebook)}.html").read_text(encoding="utf-8")
    assert 3 <= len(re.findall(r'<details class="answer"><summary>[^<]{15,}</summary>', markup)) <= 5


# Results writes a caption and the commands below each of its figures itself; those of Experiments stand beside what they are about
UNCAPTIONED = {"results", "experiments"}


@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda o: o.name)
def test_figures_have_captions(site, notebook):
    build_site, cells = the_builder(), json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    bare = [cell["id"] for cell, after in zip(cells, [*cells[1:], cells[0]]) if build_site.has_picture(cell) and not build_site.is_caption(after)]
    assert not bare or page_of(notebook) in UNCAPTIONED
    captions = [o for o in cells if build_site.is_caption(o)]
    assert all(40 < len("".join(o["source"])) < 500 for o in captions)
    numbers = re.findall(r'<div class="caption" id="figure-(\d+)">', (site / f"{page_of(notebook)}.html").read_text(encoding="utf-8"))
    assert numbers == [f"{i + 1}" for i in range(len(captions))]


def test_figures_of_results_are_told_by_their_captions(site):
    markup = (site / "results.html").read_text(encoding="utf-8")
    captions = re.findall(r'<div class="caption">\s*<p><strong>(Figure 12\.\d+)\.</strong>', markup)
    assert captions == [f"Figure 12.{i + 1}" for i in range(len(captions))] and len(captions) > 15
    assert re.findall(r'<img[^>]* alt="(Figure 12\.\d+)\.', markup) == captions and "the text around it says" not in markup


# ---- In a browser ----

# Math that was not typeset: elements without MathJax's output or with its error, and TeX in the text
UNTYPESET = r"""() => {
  const elements = [...document.querySelectorAll(".math")].filter(o => !o.querySelector("mjx-container") || o.querySelector("mjx-merror, [data-mjx-error]"))
  const walker = document.createTreeWalker(document.querySelector("article"), NodeFilter.SHOW_TEXT), texts = []
  while (walker.nextNode()) {
    const o = walker.currentNode
    if (!o.parentElement.closest("pre, code, script, mjx-container") && /\$|\\[a-zA-Z]{2,}/.test(o.data)) texts.push(o.data)
  }
  return [...elements.map(o => o.textContent), ...texts]
}"""
# Beside the page itself. Local files are not compressed; a server would send less
WEIGHT = """() => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")].reduce((sum, o) => sum + o.transferSize, 0)"""
# Equations that run into their number
TOO_LONG = """() => [...document.querySelectorAll("div.math")].filter(o => {
  const math = o.querySelector("mjx-math"), number = o.querySelector(".eqno")
  return math && number && math.getBoundingClientRect().right > number.getBoundingClientRect().left
}).map(o => o.querySelector(".eqno").textContent)"""
# The theme lets its column scroll on a phone, so the window alone tells nothing
TOO_WIDE = """() => [document.documentElement, document.querySelector(".content")].filter(o => o.scrollWidth > o.clientWidth).map(o => `${o.className}: ${o.scrollWidth}`)"""


# Texts that are seen, each with its element; `VISIBLE` begins what follows
VISIBLE = """() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), texts = []
  while (walker.nextNode()) {
    const text = walker.currentNode, o = text.parentElement
    if (!text.data.trim() || o.closest("script, style, noscript, mjx-container, :disabled") || !o.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue
    texts.push([text.data.trim(), o])
  }
"""
SMALL = VISIBLE + """
  return texts.filter(([, o]) => parseFloat(getComputedStyle(o).fontSize) < 10.5).map(([text]) => text)
}"""
# Contrast of what is read with the ground below it: less than 4.5, which WCAG asks for
DIM = VISIBLE + r"""
  const numbers = colour => { const all = colour.match(/[\d.]+/g).map(Number); return [...all.slice(0, 3), all[3] ?? 1] }
  const mix = (above, below) => [0, 1, 2].map(i => above[i] * above[3] + below[i] * (1 - above[3]))
  const light = colour => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => sum + share * ((colour[i] / 255 + 0.055) / 1.055) ** 2.4, 0)
  const ground = o => { const own = numbers(getComputedStyle(o).backgroundColor); return own[3] === 1 || o === document.body ? own : mix(own, ground(o.parentElement)) }
  return texts.filter(([, o]) => o.closest("article")).map(([text, o]) => {
    const below = ground(o), style = getComputedStyle(o), shades = [mix(numbers(o.closest("svg") ? style.fill : style.color), below), below].map(light).sort((a, b) => b - a)
    return [text, (shades[0] + 0.05) / (shades[1] + 0.05)]
  }).filter(([text, contrast]) => contrast < 4.5 && text !== "¶" && text !== "#")
}"""
# What scrolls in its box and neither says so nor is reached by the keyboard
UNSEEN = """() => [...document.querySelectorAll(".table-wrapper, .cell_output pre, mjx-container[display='true']")].filter(o => o.checkVisibility() && o.scrollWidth > o.clientWidth + 1)
  .filter(o => o.tabIndex !== 0 || getComputedStyle(o).backgroundImage === "none").map(o => o.textContent.slice(0, 80))"""


@pytest.mark.parametrize("name", PAGES)
def test_page_in_a_browser(visit, name):
    "No error, no other host, all math typeset and numbered, all pictures there, not heavy, not wider than a phone, all text large and clear enough in light and dark."
    page = visit(f"{name}.html")
    assert page.evaluate(UNTYPESET) == []
    assert page.evaluate("[...document.images].filter(o => !o.naturalWidth || !o.alt).map(o => o.src)") == []
    assert page.evaluate(WEIGHT) < 3e6
    chapter = re.search(r"Chapter (\w+)", page.locator(".eyebrow").inner_text()) if page.locator(".eyebrow").count() else None
    if chapter:
        numbers = [o.strip("()¶# ") for o in page.locator(".eqno").all_text_contents()]
        assert numbers == [f"{chapter[1]}.{i + 1}" for i in range(page.locator("div.math").count())]
        assert page.locator(".eqno a").count() == len(numbers)
    page.set_viewport_size({"width": 1400, "height": 1000})
    assert page.evaluate(TOO_LONG) == []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(DIM) == [], scheme
    assert page.evaluate(SMALL) == []
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(TOO_WIDE) == []
    page.wait_for_timeout(300)  # what scrolls is looked for after a change of width
    assert page.evaluate(UNSEEN) == []
    assert page.evaluate(SMALL) == []


# Text outputs that are cut at the right, other than tables, which scroll
CUT = """() => [...document.querySelectorAll(".cell_output pre")].filter(o => o.scrollWidth > o.clientWidth && !o.closest(".tag_aligned")).map(o => o.textContent)"""
# Options that are broken in two
BROKEN = r"""() => [...document.querySelectorAll("article p code, article li code")].flatMap(o => o.children.length ? [...o.children] : [o])
  .filter(o => /^--[\w-]+$/.test(o.textContent) && o.getClientRects().length > 1).map(o => o.textContent)"""


@pytest.mark.parametrize("width", [1280, 390])
def test_printed_text_wraps_and_printed_tables_do_not(visit, width):
    for name in ("batchbald", "results", "experiments"):
        page = visit(f"{name}.html", width)
        assert page.evaluate(CUT) == []
        assert page.evaluate(BROKEN) == []
        lines = "() => [...document.querySelectorAll('.tag_aligned .cell_output pre')].map(o => getComputedStyle(o).whiteSpace)"
        assert set(page.evaluate(lines)) <= {"pre"} and (name == "results" or page.evaluate(lines))


def test_tables_fit_a_laptop_and_those_of_names_a_phone(visit):
    wide = "() => [...document.querySelectorAll('.table-wrapper')].filter(o => o.checkVisibility() && o.scrollWidth > o.clientWidth).map(o => o.textContent.slice(0, 80))"
    assert [visit(f"{name}.html", 1280).evaluate(wide) for name in ("experiments", "from_batchbald_redux")] == [[], []]
    page = visit("from_batchbald_redux.html", 390)
    assert page.evaluate(wide.replace(".table-wrapper", ".renamed .table-wrapper")) == []
    assert visit("index.html", 390).evaluate(wide) == []


def test_names_in_tables_break_on_a_phone_and_nowhere_else(visit):
    broken = """() => [...document.querySelectorAll('table code.literal')].filter(o => o.textContent.length < 20)
      .filter(o => new Set([...o.getClientRects()].map(o => o.top)).size > 1).map(o => o.textContent)"""
    assert visit("experiments.html", 1280).evaluate(broken) == []
    names = visit("experiments.html", 390).locator("table .pre:has(wbr)")
    assert names.count() and set(names.evaluate_all("all => all.map(o => getComputedStyle(o).whiteSpace)")) == {"normal"}


def test_sentences_beside_a_printed_table_are_broken():
    sentence, row = "a sentence that goes on, " * 6, "a    b    " + "c" * 99
    cases = {"stream": {"text": [f"{sentence}\n", row]}, "value": {"data": {"text/plain": f"{sentence}\n{row}"}}, "picture": {"data": {"image/png": ""}}}
    for output in cases.values(): the_builder().wrap_sentences(output)
    assert cases["stream"]["text"] == cases["value"]["data"]["text/plain"] and cases["picture"] == {"data": {"image/png": ""}}
    *lines, last = cases["stream"]["text"].split("\n")
    assert last == row and " ".join(lines) == sentence.strip() and max(map(len, lines)) <= 90


@pytest.mark.parametrize("width", [1280, 390])
def test_printed_tables_are_not_much_wider_than_a_laptop(visit, width):
    wide = "() => [...document.querySelectorAll('.cell_output pre')].filter(o => o.scrollWidth > 1100).map(o => o.textContent)"
    for name in ("command_line", "epig", "experiments"): assert visit(f"{name}.html", width).evaluate(wide) == []


def test_code_on_a_phone_goes_on_to_the_right_of_where_it_begins(visit):
    "And is copied as it was written."
    page = visit("kbald.html", 390, 844)
    lines = page.evaluate("""() => [...document.querySelectorAll(".cell_input pre .line")].filter(o => o.checkVisibility()).map(o => {
      const range = document.createRange()
      range.selectNodeContents(o)
      const [first, ...others] = [...range.getClientRects()].filter(o => o.width > 1), left = o.getBoundingClientRect().left
      return [Number(o.style.getPropertyValue("--indent")), first.left - left, Math.min(...others.filter(o => o.top > first.top + 9).map(o => o.left - left))]
    }).filter(([, , left]) => isFinite(left))""")
    assert len(lines) > 50 and not [o for o in lines if abs(o[1]) > 1 or o[2] < min(7 * (o[0] + 1), 120)]
    copied, written = page.evaluate("""() => {
      const pre = [...document.querySelectorAll(".cell_input pre")].filter(o => o.checkVisibility() && o.querySelector(".line"))[3]
      getSelection().selectAllChildren(pre)
      return [getSelection().toString(), pre.textContent]
    }""")
    assert copied.rstrip() == written.rstrip() and "\n" in copied.rstrip()


@pytest.mark.parametrize("name", ["information", "kbald", "epig"])
def test_equations_are_not_clipped(visit, name):
    "Equations that are not wider than the page look the same where what stands out of their boxes is shown."
    page = visit(f"{name}.html", 1400)
    page.evaluate("() => document.querySelector('article').replaceChildren(...document.querySelectorAll('div.math'))")
    assert 3 < page.locator("div.math").count() < 40
    clipped = page.locator("article").screenshot()
    page.add_style_tag(content="mjx-container[display='true'] { overflow: visible !important }")
    assert page.locator("article").screenshot() == clipped


def test_numbers_of_chapters_stand_in_a_column(visit):
    "Titles begin where the second line of a long title does."
    page = visit("index.html")
    starts = page.evaluate("""() => [...document.querySelectorAll(".sidebar-tree .number")].flatMap(o => {
      const range = document.createRange()
      range.selectNodeContents(o.nextSibling)
      return [...range.getClientRects()].filter(o => o.width > 5).map(o => Math.round(o.left))
    })""")
    assert len(starts) > 14 and max(starts) - min(starts) <= 2, starts


@pytest.mark.parametrize("name", ["kbald", "batchbald", "bald", "joint_entropy"])
def test_equations_fit_a_phone_or_say_that_they_scroll(visit, name):
    page = visit(f"{name}.html", 390, 844)
    page.wait_for_function("() => document.querySelector('mjx-container')")
    page.wait_for_timeout(500)
    cut = """() => [...document.querySelectorAll("mjx-container[display='true']")].filter(o => o.scrollWidth > o.clientWidth + 1)
      .filter(o => !o.classList.contains("scrolls") || o.tabIndex !== 0 || getComputedStyle(o).backgroundImage === "none").length"""
    assert page.evaluate(cut) == 0
    small = "() => Math.min(...[...document.querySelectorAll('mjx-container[display=true]')].map(o => parseFloat(getComputedStyle(o).fontSize)))"
    assert page.evaluate(small.replace("display=true", "display='true'").replace("'mjx", "`mjx").replace("]')", "]`)")) > 11


def test_wide_figures_can_be_read_on_a_phone(visit):
    "Their letters are those of 14 pixels at full size, and at least seven tenths of that here."
    page = visit("batchbald.html", 390, 844)
    widths = page.evaluate("() => [...document.querySelectorAll('a.picture.wide img')].map(o => o.getBoundingClientRect().width / o.naturalWidth)")
    assert widths and min(widths) > 0.7
    assert page.evaluate(TOO_WIDE) == []


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
def test_a_figure_opens_large_and_closes(visit, width, scheme):
    page = visit("information.html", width, 844, scheme)
    picture = page.locator("a.picture").first
    picture.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog.large")
    dialog.wait_for()
    box = dialog.locator("img").bounding_box()
    assert box["width"] >= dialog.locator("img").evaluate("o => o.naturalWidth") and dialog.locator("p").inner_text()
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"large_{width}_{scheme}.png")
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert page.url.endswith("information.html")


@pytest.mark.parametrize("name", ["information", "batchbald", "fast_batchbald", "moving_pictures"])
@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
def test_moving_pictures_move_without_a_kernel(visit, name, width, scheme):
    "By buttons and by the keyboard alone; what changed is said where screen readers hear it. No request is made, which `visit` watches."
    page = visit(f"{name}.html", width, 844, scheme)
    for i in range(page.locator("figure.moving").count()):
        figure = page.locator("figure.moving").nth(i)
        said, slider = figure.locator("[aria-live=polite]"), figure.locator("input").first
        assert slider.evaluate("o => !!(o.getAttribute('aria-label') || o.closest('label')?.textContent.trim())")
        texts = [said.inner_text()]
        slider.focus()
        page.keyboard.press("ArrowRight")
        texts.append(said.inner_text())
        assert slider.get_attribute("aria-valuetext")
        if figure.locator("button").count():
            back, forth = figure.locator("button").all()
            while forth.is_enabled():
                forth.click()
                texts.append(said.inner_text())
            assert len(set(texts)) == len(texts) == int(slider.get_attribute("max")) + 1
            back.click()
            assert said.inner_text() == texts[-2]
        assert len(set(texts)) > 1 and len(figure.evaluate("o => o.outerHTML")) < 12_000
        assert len(figure.evaluate("o => o.nextElementSibling.outerHTML")) < 12_000
        SHOTS.mkdir(parents=True, exist_ok=True)
        figure.screenshot(path=SHOTS / f"moving_{name}_{i}_{width}_{scheme}.png")
    assert page.locator("figure.moving").count() and page.evaluate(TOO_WIDE) == []


def equations_for_quarto(notebook):
    "Addresses and TeX of a chapter's equations as Quarto gets them, from the cells that a page shows."
    build_site = the_builder()
    nb = json.loads(notebook.read_text(encoding="utf-8"))
    build_site.number_equations(nb, build_site.chapter_number(notebook.name))
    text = "\n\n".join("".join(o["source"]) for o in nb["cells"] if o["cell_type"] == "markdown")
    assert text.count("$$") == 2 * text.count('<span id="equation-')
    return re.findall(r'<span id="(equation-\d+)"></span>\$\$(.+?)\$\$', text, re.DOTALL)


def test_quarto_gets_the_numbers_and_addresses_that_sphinx_gives(visit):
    "Without Quarto: what it would hand to MathJax is typeset here, with its number."
    page, total = visit("kbald.html"), 0
    typeset = """tex => MathJax.tex2chtmlPromise(tex, {display: true}).then(o => [!!o.querySelector("mjx-merror, [data-mjx-error]"), !!o.querySelector("mjx-labels")])"""
    for notebook in NOTEBOOKS:
        if notebook.name.startswith(("9", "index")): continue  # no chapters
        equations = equations_for_quarto(notebook)
        markup = (DOCS / f"{page_of(notebook)}.html").read_text(encoding="utf-8")
        shown = list(dict.fromkeys(re.findall(r'\bid="(equation-\d+)"', markup)))
        assert [address for address, _ in equations] == shown
        assert [page.evaluate(typeset, tex) for _, tex in equations] == [[False, True]] * len(equations), notebook.name
        total += len(equations)
    assert total > 50


def test_landing_page_has_promise_picture_and_doors(visit):
    page = visit("index.html", 1400, 1000)
    assert WEBSITE["description"] in page.locator("article").inner_text()
    doors = page.locator(".doors a")
    assert doors.count() == 3
    picture = page.locator("article img").first
    assert picture.bounding_box()["y"] < 1000  # begins on the first screen, and so do the doors above it
    assert doors.nth(2).bounding_box()["y"] < picture.bounding_box()["y"]
    doors.nth(0).click()
    page.wait_for_url("**/information.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_keyboard_is_seen_where_it_is(visit, scheme):
    "What Tab reaches, or its box, has an outline."
    page = visit("epig.html", scheme=scheme)
    outlines = "() => [document.activeElement, document.activeElement.parentElement].map(o => getComputedStyle(o)).filter(o => o.outlineStyle !== 'none' && parseFloat(o.outlineWidth) >= 1).length"
    kinds = set()
    page.evaluate("() => document.querySelectorAll('.sidebar-tree a').forEach((o, i) => { if (i > 3) o.tabIndex = -1 })")  # those are alike
    for _ in range(30):
        page.keyboard.press("Tab")
        kinds.add(page.evaluate("document.activeElement.tagName"))
        assert page.evaluate(outlines), page.evaluate("document.activeElement.outerHTML")[:300]
    assert kinds >= {"A", "INPUT", "BUTTON", "SUMMARY"}


def test_search_finds_a_word_of_the_book(visit):
    page = visit("index.html")
    box = page.locator("input[name=q]").first
    box.fill("submodular")
    box.press("Enter")
    page.wait_for_url("**/search.html**")
    page.locator("#search-results li a").first.wait_for()
    page.get_by_text(re.compile("Search finished")).wait_for()
    targets = page.locator("#search-results li a").evaluate_all("all => all.map(o => o.href.split('/').pop().split(/[?#]/)[0])")
    assert "bald.html" in targets


def test_first_text_of_a_chapter_is_there_within_a_second(visit):
    "The best of three, since other tests may keep the machine busy."
    times = []
    for _ in range(3):
        page = visit("kbald.html")
        times.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        assert page.locator("article .subtitle").is_visible()
    assert min(times) < 1000, times


@pytest.mark.parametrize("name", ["information", "batchbald", "results"])
def test_text_does_not_jump_when_fonts_and_pictures_arrive(visit, name):
    "The sum of what browsers call layout shifts; below 0.1 it counts as good."
    page = visit(f"{name}.html", 1440, 900)
    shifts = """() => new Promise(done => new PerformanceObserver(o => done(o.getEntries().reduce((sum, e) => sum + e.value, 0)))
      .observe({type: "layout-shift", buffered: true}) ?? setTimeout(() => done(0), 1000))"""
    assert page.evaluate(shifts) < 0.1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_and_figures_in(visit, scheme):
    "Light and dark follow the system and the button, and figures can be read in both. The screenshots are for people."
    from PIL import Image
    SHOTS.mkdir(parents=True, exist_ok=True)

    def shades(target, name):
        "Grey values of a screenshot, sorted."
        path = SHOTS / f"{name}_{scheme}.png"
        target.screenshot(path=path)
        return sorted(Image.open(path).convert("L").tobytes())

    for name, path, width, height in [("landing", "index.html", 1400, 1000), ("phone", "batchbald.html", 390, 844), ("chapter", "information.html", 1400, 1000)]:
        page = visit(path, width, height, scheme)
        seen = shades(page, name)
        assert (seen[len(seen) // 2] > 200) == (scheme == "light"), name
        assert (seen[len(seen) // 2] < 60) == (scheme == "dark"), name
    seen = shades(page.locator(".cell_output img").first, "figure")
    assert seen[len(seen) // 2] > 190 and seen[len(seen) // 100] < 120  # ground and ink
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator(".theme-toggle-content button").click()  # the first click is for what the system does not have
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


# ---- JupyterLab ----

@pytest.fixture
def lab(tmp_path):
    "JupyterLab on a notebook that shows the panel of the chapter Information, by that chapter's own cell."
    chapter = json.loads((ROOT / "nbs/00_information.ipynb").read_text(encoding="utf-8"))
    call, = [o for o in chapter["cells"] if "eval: false" in "".join(o["source"]) and "explore_i_diagram" in "".join(o["source"])]
    sources = [["from batchbald_nbdev.plots import explore_i_diagram"], call["source"]]
    cells = [{"cell_type": "code", "execution_count": None, "id": f"cell-{i}", "metadata": {}, "outputs": [], "source": o} for i, o in enumerate(sources)]
    notebook = {"cells": cells, "metadata": {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "panel.ipynb").write_text(json.dumps(notebook))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    own = {o: str(tmp_path / o) for o in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser", f"--port={port}", "--ServerApp.ip=127.0.0.1",
               "--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}"]
    log = tmp_path / "log"
    with open(log, "w") as file: process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **own}, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        for _ in range(240):
            try: urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=2); break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/panel.ipynb?reset"
    finally:
        process.terminate()
        process.wait(30)


def test_panel_follows_its_slider_in_jupyterlab(browser, lab):
    "Numbers and picture are those that the panel has for the slider's new value; saved state could not know it."
    from batchbald_nbdev.plots import explore_i_diagram
    expected = explore_i_diagram()
    slider, _, scores, _ = expected.children
    page = browser.new_page(viewport={"width": 1400, "height": 1200})
    page.set_default_timeout(120_000)
    page.goto(lab)
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    handle = page.locator(".jp-OutputArea .widget-slider .noUi-handle").first
    handle.wait_for()
    page.get_by_text(scores.value).wait_for()
    picture = page.locator(".jp-OutputArea img.widget-image")
    before = picture.screenshot()
    handle.focus()
    for _ in range(4): handle.press("ArrowLeft")
    slider.value -= 4 * slider.step
    page.get_by_text(scores.value).wait_for()
    page.wait_for_timeout(1000)  # the picture comes in a message of its own
    assert picture.screenshot() != before
    page.close()
