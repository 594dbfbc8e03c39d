"Items marked `slow` run only with SLOW=1, as cells flagged `#| slow` do, and items marked `gpu` only where there is a GPU."
import os, shutil, socket, tarfile, tempfile
from functools import lru_cache

# One thread each, because tests run side by side; before anything imports PyTorch, and for what tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What hypothesis caches belongs to nobody: not into the checkout
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(tempfile.gettempdir(), "hypothesis"))

import pytest

import bare
from unchanged import pytest_sessionfinish, pytest_sessionstart, pytest_terminal_summary  # noqa: F401, hooks


def pytest_collection_modifyitems(items):
    slow = os.environ.get("SLOW") == "1"
    for item in items:
        if "slow" in item.keywords and not slow: item.add_marker(pytest.mark.skip(reason="slow: set SLOW=1"))
        if item.get_closest_marker("gpu") and not has_gpu(): item.add_marker(pytest.mark.skip(reason="gpu: PyTorch finds none here"))


@lru_cache
def has_gpu():
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def call(capsys, monkeypatch):
    "A console script within this process, which saves importing PyTorch each time; what it printed."
    from batchbald_nbdev import command_line

    def inner(script, *args, status=0):
        try:
            with monkeypatch.context() as patched:
                patched.setattr("sys.argv", [script, *map(str, args)])
                getattr(command_line, script)()
            got = 0
        except SystemExit as e:
            got = e.code
        out, err = capsys.readouterr()
        assert got == status, err
        return out, err

    return inner


@pytest.fixture
def refused(call):
    "One clear line on stderr, nothing on stdout, status 2."
    def inner(script, *args, message):
        out, err = call(script, *args, status=2)
        assert out == "" and err.count("\n") == 1 and err.startswith(f"{script}: ") and message in err, err

    return inner


@pytest.fixture
def torchvision(monkeypatch, tmp_path):
    "Torchvision's data sets with their addresses turned to a port where nobody answers, and a home of our own."
    datasets = pytest.importorskip("torchvision.datasets")
    from dataclasses import replace

    from batchbald_nbdev.image_sets import image_sets

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{s.getsockname()[1]}/"
    for kind in (datasets.MNIST, datasets.FashionMNIST): monkeypatch.setattr(kind, "mirrors", [nobody])
    monkeypatch.setattr(datasets.EMNIST, "url", nobody + "gzip.zip")
    monkeypatch.setattr(datasets.CIFAR10, "url", nobody + "cifar-10-python.tar.gz")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BATCHBALD_DATA", raising=False)
    monkeypatch.setattr("batchbald_nbdev.image_sets.FASHION_MNIST", tmp_path / "no such package")
    for name, known in image_sets.items():
        monkeypatch.setitem(image_sets, name, replace(known, sizes=None))  # small sets are as good as whole ones
    return datasets


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    "A folder with `source` (what git would hand out), its sdist, and the wheel that is made of the sdist."
    folder = tmp_path_factory.mktemp("packed")
    bare.copy_tracked(folder / "source")
    bare.build("sdist", folder / "source", folder)
    sdist, = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive: archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    bare.build("wheel", folder / sdist.name.removesuffix(".tar.gz"), folder)
    return folder


@pytest.fixture(scope="session")
def browser():
    "One for all tests of a process: Playwright cannot be started twice."
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: run `make docs`")
    chromium = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    if not chromium: pytest.skip("Chromium is missing: install it (`apt-get install chromium`), or name it in CHROMIUM")
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=quiet)
        yield browser
        browser.close()
