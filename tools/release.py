"""Can this tag be released? Prints one line for each thing that does not go with it and exits 1 if there is one; changes nothing.

    python tools/release.py v0.1.0
"""
import configparser, re, sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def problems(root, tag):
    "What does not go with the tag."
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(root / "settings.ini", encoding="utf-8")
    version = parser["DEFAULT"]["version"]
    if tag != f"v{version}": yield f"the tag is {tag!r}, and settings.ini has version {version}, whose tag is 'v{version}'"
    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    if cited != version: yield f"CITATION.cff has version {cited}, and settings.ini {version}"
    heading = re.search(rf"^## {re.escape(version)}( .*)?$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if not heading: yield f"CHANGELOG.md has no section {version}"
    elif not re.fullmatch(r" \(\d{4}-\d\d-\d\d\)", heading[1] or ""): yield f"CHANGELOG.md: the section {version} wants its date, as in `## {version} (2026-01-31)`"


if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit(__doc__)
    found = list(problems(ROOT, sys.argv[1]))
    print("\n".join(found) or f"{sys.argv[1]} can be released")
    sys.exit(bool(found))
