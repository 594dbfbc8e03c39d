"Sphinx's settings. tools/build_site.py writes what it reads, and gives the two folders in the environment."
import html, json, os, re, sys
from pathlib import Path

from docutils import nodes
from PIL import Image

sys.modules["rfc3987_syntax"] = None  # else jsonschema takes seconds to prepare for kinds of addresses that no notebook has

_facts = json.loads((Path(os.environ["SITE_SOURCE"]) / "site.json").read_text(encoding="utf-8"))
_website, _pages = _facts["website"], _facts["pages"]
_repo, _branch = _website["repo-url"], _website["repo-branch"]

project = html_title = _website["title"]
copyright = _facts["copyright"]
html_baseurl = _website["site-url"]
extensions = ["myst_nb", "sphinx_copybutton"]
source_suffix = {".ipynb": "myst-nb", ".md": "myst-nb"}

nb_execution_mode = "off"
nb_render_markdown_format = "myst"
myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # nbdev's documentation of a name is a heading of level 3, wherever it stands

mathjax_path = "mathjax/tex-chtml.js"

templates_path = ["templates"]
html_theme = "furo"
html_static_path = [os.environ["SITE_STATIC"]]
html_css_files = ["styles.css", "site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_favicon = html_logo = "../../nbs/images/logo.svg"
html_copy_source = html_show_sourcelink = False
html_domain_indices = html_use_index = False
_sans = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_github = '<svg viewBox="0 0 16 16" fill="currentColor"><path d="M8 0C3.58 0 0 3.58 0 8c0 3.54 2.29 6.53 5.47 7.59.4.07.55-.17.55-.38v-1.34c-2.23.48-2.7-1.07-2.7-1.07-.36-.93-.89-1.17-.89-1.17-.73-.5.05-.49.05-.49.8.06 1.23.83 1.23.83.71 1.23 1.87.87 2.33.67.07-.52.28-.88.5-1.08-1.77-.2-3.64-.89-3.64-3.95 0-.88.31-1.59.83-2.15-.09-.2-.36-1.02.08-2.13 0 0 .67-.21 2.2.82a7.6 7.6 0 0 1 4 0c1.53-1.04 2.2-.82 2.2-.82.44 1.11.16 1.93.08 2.13.51.56.82 1.27.82 2.15 0 3.07-1.87 3.75-3.65 3.95.29.25.54.73.54 1.48v2.2c0 .21.15.46.55.38A8 8 0 0 0 8 0z"/></svg>'
html_theme_options = {
    "footer_icons": [{"name": "Source code on GitHub", "url": _repo, "html": _github, "class": ""}],
    "light_css_variables": {"font-stack": _sans, "color-brand-primary": "#00588a", "color-brand-content": "#0067a3"},
    "dark_css_variables": {"color-brand-primary": "#6cb8e8", "color-brand-content": "#6cb8e8"},
}


def number_equations(app, doctree):
    "Number the equations of a chapter as 3.1, 3.2, ... (papers' equations have plain numbers), each with a link to itself."
    number = _pages.get(app.env.docname, {}).get("number")
    if number is None: return
    for count, node in enumerate(doctree.findall(nodes.math_block), 1):
        node["number"] = f"{number}.{count}"
        node["ids"].append(f"equation-{count}")


def add_facts(app, pagename, templatename, context, doctree):
    "What the page template and search engines want to know."
    page = _pages.get(pagename, {})
    context["page_facts"] = page
    if notebook := page.get("notebook"): context["notebook_url"] = f"{_repo}/blob/{_branch}/nbs/{notebook}"
    description = page.get("description") or _website["description"]
    fonts = "".join(f'<link rel="preload" href="_static/fonts/source-serif-4-latin-wght-{style}.woff2" as="font" type="font/woff2" crossorigin>' for style in ("normal", "italic"))
    context["metatags"] = context.get("metatags", "") + f'<meta name="description" content="{description}">{fonts}'


def hang(match):
    "A line of code that a phone breaks, in a box of its own, so that it goes on to the right of where it begins."
    text = html.unescape(re.sub("<[^>]+>", "", match[0]))
    if len(text) <= 36: return match[0]
    line = re.sub("^((?:<[^>]+>)*)( +)", r'\1<span class="indent">\2</span>', match[0])
    return f'<span class="line" style="--indent: {len(text) - len(text.lstrip())}">{line}</span>'


def finish_markup(app, pagename, templatename, context, doctree):
    "What Sphinx's own markup lacks: room kept for pictures and links to their full size, short code in one piece, numbers of chapters in a column."
    sources = {name: path for path, name in app.builder.images.items()}

    def linked(match):
        name = html.unescape(match[2])
        with Image.open(Path(app.srcdir, sources[name])) as picture: width, height = picture.size
        wide = " wide" if width > 480 else ""
        return f'<a class="picture{wide}" style="--full: {width}px" href="_images/{match[2]}" title="Open large"><img{match[1]} src="_images/{match[2]}" width="{width}" height="{height}"{match[3]}></a>'

    def breakable(match):
        name = re.sub(r"([_.])", r"\1<wbr>", match[2])
        return f'{match[1] or ""}">{name}<'

    if body := context.get("body"):
        body = re.sub(r'<img([^>]*) src="_images/([^"]*\.(?:png|jpe?g))"([^>]*?) ?/?>', linked, body)
        body = re.sub(r'<span class="pre">([^<]{1,24})</span>', r'<span class="pre short">\1</span>', body)
        body = re.sub(r'(<div class="highlight-\w+ notranslate"><div class="highlight"><pre>)(.*?)(?=</pre>)',
                      lambda code: code[1] + re.sub(".+", hang, code[2]), body, flags=re.DOTALL)
        context["body"] = re.sub(r"<table\b.*?</table>", lambda table: re.sub(r'(?<=<span class="pre)( short)?">([\w.]+)<', breakable, table[0]), body, flags=re.DOTALL)
    if tree := context.get("furo_navigation_tree"):
        context["furo_navigation_tree"] = re.sub(r">(\d+[a-z]*)\u2002", r'><span class="number">\1 </span>', tree)


def setup(app):
    app.connect("doctree-read", number_equations)
    app.connect("html-page-context", add_facts)
    app.connect("html-page-context", finish_markup, priority=900)  # after the theme
