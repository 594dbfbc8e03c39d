"What `make docs` has made already, in .docs_cache: each thing under a number that is made of all that went into it."
import hashlib, sys, sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".docs_cache"


def number_of(*parts):
    "A number of texts, bytes and files, the files with their names."
    total = hashlib.sha256()
    for part in parts:
        name = str(part.relative_to(ROOT)) if isinstance(part, Path) else ""
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        total.update(f"{name} {len(data)} ".encode() + data)
    return total.hexdigest()[:32]


def files_of(folder, pattern="**/*"):
    "The files of a folder, sorted."
    return sorted(o for o in folder.glob(pattern) if o.is_file())


def environment():
    "Python's release and those of all packages, in one text."
    folders = {Path(sysconfig.get_path(o)) for o in ("purelib", "platlib")}
    return " ".join([sys.version, *sorted(o.name for folder in folders for o in folder.glob("*.dist-info"))])


def keep(
    path,  # in `CACHE`; its name holds the number of all that goes into it
    make,  # gives its bytes; called where they are not kept
):
    "Bytes that are made once. They are there as a whole or not at all."
    path = CACHE / path
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_bytes(make())
        partial.replace(path)
    return path.read_bytes()


def forget_others(
    pattern,  # of paths in `CACHE`
    used,  # paths in `CACHE` that stay
):
    "Remove what the tree no longer asks for."
    for path in set(CACHE.glob(pattern)) - {CACHE / o for o in used}: path.unlink()
