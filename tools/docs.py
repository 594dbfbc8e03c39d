"""Build the site in _docs, unless it is there and is the one that this tree gives. build_site.py says how it is built.

    python tools/docs.py            with Quarto where it is installed, else with Sphinx
    python tools/docs.py sphinx     with Sphinx in any case
"""
import argparse, os, shutil, sys

from kept import CACHE, ROOT, environment, files_of, number_of

DOCS = ROOT / "_docs"
STAMP = CACHE / "built"


def number_of_tree(builder):
    "A number of all that goes into the site."
    tools = [*files_of(ROOT / "tools", "*.py"), *files_of(ROOT / "tools/site", "*.*"), *files_of(ROOT / "tools/site/static"), *files_of(ROOT / "tools/site/templates")]
    package = files_of(ROOT / "batchbald_nbdev", "**/*.py")
    settings = [ROOT / o for o in ("_quarto.yml", "settings.ini", "CHANGELOG.md")]
    programs = [f"{o} {os.stat(o).st_mtime_ns}" for o in map(shutil.which, ("quarto", "npm")) if o]
    return number_of(builder, environment(), *programs, *settings, *tools, *package, *files_of(ROOT / "nbs"))


def stamp_of(builder):
    "What stands in `STAMP` after the tree, as it is, gave the site, as it is."
    return f"{number_of_tree(builder)} {number_of(*files_of(DOCS))}\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builder", nargs="?", choices=["quarto", "sphinx"], default="quarto" if shutil.which("quarto") else "sphinx")
    builder = parser.parse_args().builder
    index = (DOCS / "index.html").relative_to(ROOT)
    if STAMP.exists() and STAMP.read_text() == stamp_of(builder):
        os.utime(DOCS / "index.html")  # newer than what it is made from, as after `make`
        print(f"{index} is what this tree gives, built with {builder.title()}")
        sys.exit()
    import build_site  # takes seconds

    STAMP.unlink(missing_ok=True)
    tree = number_of_tree(builder)
    build_site.build(builder)
    if number_of_tree(builder) == tree: STAMP.write_text(stamp_of(builder))  # nothing was edited meanwhile
    print(f"{index}, built with {builder.title()}")
