"""The labelling panel in JupyterLab, in a browser, by really clicking: labels reach the file, undo, learning, a restarted kernel.

Needs Playwright (`make docs` installs it) and Chromium (`apt-get install chromium`), and is skipped without. SHOTS is a
folder for screenshots. The picture in chapter 13 is one of them:

    SLOW=1 SHOTS=nbs/images python -m pytest tests/test_label_panel.py -k chapter
"""
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(find_spec("jupyterlab") is None, reason="JupyterLab is missing: run `make dev`")

CELLS = [
    "from batchbald_nbdev.datasets import get_balanced_indices, get_repeated_digits\nfrom batchbald_nbdev.label_panel import label_by_hand",
    """data = get_repeated_digits(2, originals=150, test=300)
start = {i: int(data.pool_labels[i]) for i in get_balanced_indices(data.pool_labels, 2)}
panel = label_by_hand(data.pool_inputs, "labels.jsonl", image_shape=(8, 8), start=start, pool_labels=data.pool_labels,
                      test_inputs=data.test_inputs, test_labels=data.test_labels, steps=200)
panel""",
]


def write_notebook(path, sources):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab of its own, in a folder of its own: its address, and the folder."
    work = tmp_path_factory.mktemp("lab")
    (work / "files").mkdir()
    write_notebook(work / "files" / "panel.ipynb", CELLS)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    folders = {f"JUPYTER_{o}": str(work / o) for o in ("CONFIG_DIR", "RUNTIME_DIR", "DATA_DIR")}
    folders |= {f"JUPYTERLAB_{o}": str(work / o) for o in ("SETTINGS_DIR", "WORKSPACES_DIR")}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser", f"--port={port}", "--ServerApp.ip=127.0.0.1",
               "--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={work / 'files'}", "--LabApp.news_url=None",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    with open(work / "log", "w") as log:
        server = subprocess.Popen(command, env={**os.environ, **folders, "PYTHONPATH": path}, stdout=log, stderr=log)
        try:
            for _ in range(240):
                assert server.poll() is None, (work / "log").read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=2)
                    break
                except OSError:
                    time.sleep(0.5)
            yield f"http://127.0.0.1:{port}", work / "files"
        finally:
            server.terminate()  # its kernels with it
            server.wait(30)


@pytest.fixture(scope="module")
def truth():
    "Known labels of the pool, by position, from the same lines as the notebook's."
    from batchbald_nbdev.datasets import get_repeated_digits

    return get_repeated_digits(2, originals=150, test=300).pool_labels.tolist()


class Page:
    "The page with the panel, as a reader sees it."

    def __init__(self, browser, url, path="panel.ipynb", width=1400):
        self.page = browser.new_page(viewport={"width": width, "height": 1500})
        self.page.set_default_timeout(60_000)
        self.page.goto(f"{url}/lab/tree/{path}?reset")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.wait_idle()

    def wait_idle(self):
        "Before `run all` means anything, a kernel has to be there."
        status = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status"
        self.page.wait_for_function(f"() => {status} === 'idle'", timeout=120_000)

    def run_all(self):
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")

    def says(self, text, timeout=120_000):
        self.page.locator(".jp-OutputArea .widget-html", has_text=re.compile(text)).first.wait_for(timeout=timeout)

    def asks(self, other_than=None):
        "Position of the image that is asked about, the large one above the buttons; `other_than` waits until it is another one."
        if other_than is not None:
            old = self.page.locator(f'.widget-html:has-text("What is this?") img[alt="image {other_than} of the pool"]')
            old.wait_for(state="detached")
        alt = self.page.locator(".widget-html", has_text="What is this?").locator("img").get_attribute("alt")
        return int(re.fullmatch(r"image (\d+) of the pool", alt)[1])

    def button(self, name):
        return self.page.locator(".jp-OutputArea").get_by_role("button", name=name, exact=True)

    def shot(self, name, of=None):
        if folder := os.environ.get("SHOTS"):
            (of or self.page).screenshot(path=str(Path(folder) / f"{name}.png"))


def clicks(folder):
    "Position and label of every click in the file; `skip` for those that nobody could tell."
    lines = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    return [(o["position"], o.get("label", "skip")) for o in lines if o["kind"] in ("label", "skip")]


def test_clicking_labels_learns_and_survives_a_restart(lab, browser, truth):
    url, folder = lab
    page = Page(browser, url)
    page.run_all()
    page.says("round 0: 0 of 10 labelled")

    # one click: the file has it when the page shows it, and another image is asked about
    first = page.asks()
    page.button(str(truth[first])).click()
    page.says("round 0: 1 of 10 labelled")
    assert clicks(folder) == [(first, truth[first])]
    second = page.asks(other_than=first)

    # a wrong one, and back
    page.button(str((truth[second] + 1) % 10)).click()
    page.says("round 0: 2 of 10 labelled")
    page.button("Undo").click()
    page.says("round 0: 1 of 10 labelled")
    assert clicks(folder)[1:] == [(second, (truth[second] + 1) % 10), (second, None)]
    page.page.locator(f'.widget-html:has-text("What is this?") img[alt="image {second} of the pool"]').wait_for()
    page.shot("1-undone")

    # the rest of the batch; the last button is clicked twice in the same moment, and the second click must not label the next batch
    asked = second
    for n in range(2, 10):
        page.button(str(truth[asked])).click()
        page.says(f"round 0: {n} of 10 labelled")
        asked = page.asks(other_than=asked)
    page.button(str(truth[asked])).evaluate("button => { button.click(); button.click() }")
    page.says("round 1: 0 of 10 labelled")
    page.says(r"BatchBALD: 30 labels, \d+\.\d% of 300 test images right, \d+% of its last batch right before it saw the labels")
    time.sleep(1)  # for the second click to arrive
    page.says("round 1: 0 of 10 labelled; clicks in all: 10,")
    assert [label for _, label in clicks(folder)[3:]] == [truth[i] for i, _ in clicks(folder)[3:]]
    page.shot("2-learned")

    # three of the next batch, by the keyboard alone, and one that nobody can tell
    asked = page.asks(other_than=asked)
    for n, key in enumerate(["Space", "Enter", "Space"]):
        page.button(str(truth[asked])).focus()
        page.page.keyboard.press(key)
        page.says(f"round 1: {n + 1} of 10 labelled")
        asked = page.asks(other_than=asked)
    doubtful = asked
    page.button("Cannot tell").click()
    page.says("round 1: 3 of 9 labelled, 1 skipped")
    asked = page.asks(other_than=doubtful)
    assert clicks(folder)[-1] == (doubtful, "skip")
    page.shot("3-skipped")
    page.page.set_viewport_size({"width": 640, "height": 1500})
    page.shot("4-narrow")
    page.page.set_viewport_size({"width": 1400, "height": 1500})

    # then the kernel is restarted and the notebook run again
    before = page.page.locator(".jp-OutputArea .widget-html").all_inner_texts()
    page.page.evaluate("() => { window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart() }")
    page.page.wait_for_function("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.connectionStatus === 'connected'")
    page.wait_idle()
    page.page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.page.locator(".jp-OutputArea .widget-html").first.wait_for(state="detached")
    page.run_all()
    page.says("round 1: 3 of 9 labelled, 1 skipped; clicks in all: 14,")
    assert page.page.locator(".jp-OutputArea .widget-html").all_inner_texts() == before
    assert page.asks() == asked

    # it is alive, and readable in the dark
    page.button(str(truth[asked])).click()
    page.says("round 1: 4 of 9 labelled, 1 skipped")
    page.page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    assert text_contrast(page.page.locator(".jp-OutputArea .widget-html", has_text="What is this?")) > 4.5
    page.shot("5-dark")
    page.page.close()


def text_contrast(locator):
    "Contrast of text against what is behind it (WCAG 2)."
    script = """element => {
        const text = getComputedStyle(element.querySelector('.widget-html-content')).color
        for (let e = element; e; e = e.parentElement) {
            const back = getComputedStyle(e).backgroundColor
            if (!/^rgba\\(.*, 0\\)$|transparent/.test(back)) return [text, back]
        }
        return [text, 'rgb(255, 255, 255)']
    }"""

    def luminance(color):
        channels = [float(o) / 255 for o in re.findall(r"[\d.]+", color)[:3]]
        return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for w, c in zip((0.2126, 0.7152, 0.0722), channels))

    light, dark = sorted(map(luminance, locator.first.evaluate(script)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.slow
def test_the_two_cells_of_the_chapter_open_a_file_that_was_labelled_without_a_browser(lab, browser):
    from batchbald_nbdev.labelling import Labelling, explain_in_words

    url, folder = lab
    chapter = nbformat.read(ROOT / "nbs" / "13_label_by_hand.ipynb", 4)
    code = [cell.source for cell in chapter.cells if cell.cell_type == "code"]
    first = next(i for i, source in enumerate(code) if source.startswith("data = get_repeated_digits()"))
    assert "label_by_hand(data.pool_inputs" in code[first + 1]
    here = {}
    exec(CELLS[0] + "\n" + code[first], here)
    (folder / "chapter").mkdir()
    labelling = Labelling(here["data"].pool_inputs, folder / "chapter" / "labels.jsonl", **here["options"])
    for _ in range(36):
        labelling.label(int(here["data"].pool_labels[labelling.current]))
        labelling.learn()

    write_notebook(folder / "chapter" / "chapter.ipynb", [CELLS[0], *code[first : first + 2]])
    page = Page(browser, url, "chapter/chapter.ipynb", width=1300)
    page.run_all()
    page.says("round 3: 6 of 10 labelled; clicks in all: 36, saved in labels.jsonl")
    assert page.asks() == labelling.current
    for batch, title in zip(labelling.batches.values(), ("BatchBALD", "BALD (top-k)")):
        row = page.page.locator(".jp-OutputArea .widget-html", has_text=f"{title}: own scores")
        assert explain_in_words(batch) in row.inner_text()
        alts = [image.get_attribute("alt") for image in row.locator("img").all()]
        assert alts == [f"image {i} of the pool" for i in batch["indices"]]
    panel = page.page.locator(".jp-OutputArea-output .widget-vbox").first
    panel.evaluate("element => { element.style.padding = '10px' }")  # a margin for the picture
    page.shot("label_panel", panel)
    page.page.close()
