"The project around the notebooks: is everything in step and linked?"
import configparser, json, os, re, shutil, subprocess, sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "batchbald_nbdev"
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def read_settings():
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def run(*command, cwd=ROOT):
    "Run Python with these arguments; what it printed, if it succeeded."
    done = subprocess.run([sys.executable, *command], cwd=cwd, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode: pytest.fail(done.stdout, pytrace=False)
    return done.stdout


def test_modules_readme_and_notebooks_are_in_step():
    run("tools/check.py")


def test_version_is_the_one_in_settings():
    version = read_settings()["version"]
    assert f'__version__ = "{version}"' in (ROOT / PACKAGE / "__init__.py").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(), "the changelog has no section for this version"


def test_citation_agrees_with_settings():
    settings, citation = read_settings(), yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["title"], citation["version"]) == (settings["title"], settings["version"])
    assert citation["repository-code"] == f"https://github.com/{settings['user']}/{settings['repo']}"
    assert [o["name"] for o in citation["authors"]] == [settings["author"]]


def test_issue_templates_say_what_they_are_for():
    templates = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.md"))
    assert templates
    for path in templates: assert set(yaml.safe_load(path.read_text(encoding="utf-8").split("---")[1])) == {"name", "about"}


def sidebar_files(contents):
    "The notebooks that a sidebar lists, sections opened."
    for entry in contents:
        if isinstance(entry, str): yield entry
        else: yield from sidebar_files(entry.get("contents", []))  # an entry with an address is no notebook


def test_sidebar_lists_every_chapter_in_order():
    listed = list(sidebar_files(yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["sidebar"]["contents"]))
    chapters = [o.name for o in NOTEBOOKS if o.name != "index.ipynb"]
    assert listed == ["index.ipynb", *chapters]


def test_site_settings_agree():
    "What Quarto and nbdev each want to be told is the same."
    assert (ROOT / "nbs/_quarto.yml").resolve() == ROOT / "_quarto.yml"
    cfg, quarto = read_settings(), yaml.safe_load((ROOT / "_quarto.yml").read_text())
    site = quarto["website"]
    assert quarto["project"]["output-dir"] == cfg["doc_path"]
    assert [site["title"], site["description"], site["repo-branch"]] == [cfg["title"], cfg["description"], cfg["branch"]]
    assert [site["site-url"], site["repo-url"]] == [cfg["doc_host"] + cfg["doc_baseurl"], cfg["git_url"]]


def local_links(markdown):
    "Targets of links and pictures that are files, without anchors. Code is no prose, so it is taken out first."
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", markdown, flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"""\]\(([^)\s]+)|\b(?:src|href)=["']([^"']+)""", prose)
    files = ((a or b).split("#")[0] for a, b in targets)
    return [o for o in files if o and not re.match(r"[a-z]+:|//", o)]


@pytest.mark.parametrize("path", [*NOTEBOOKS, *sorted(ROOT.glob("*.md"))], ids=lambda o: o.name)
def test_links_to_files_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join("".join(o["source"]) for o in json.loads(text)["cells"] if o["cell_type"] == "markdown")
    missing = [o for o in local_links(text) if not (path.parent / o).exists()]
    assert not missing


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda o: o.name)
def test_workflows_call_targets_that_exist(path):
    workflow = yaml.safe_load(path.read_text())
    assert {"name", "jobs"} <= workflow.keys() and True in workflow  # YAML reads the key `on` as true
    commands = "\n".join(step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"])
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = re.findall(r"\bmake ([\w-]+)", commands)
    assert called and set(called) <= set(targets)


def test_workflows_agree_with_settings():
    cfg = read_settings()
    workflows = {o.stem: yaml.safe_load(o.read_text()) for o in WORKFLOWS}
    assert workflows.keys() == {"pages", "release", "test"}
    assert all(o[True]["push"] == ({"tags": ["v*"]} if name == "release" else {"branches": [cfg["branch"]]}) for name, o in workflows.items())
    newest = re.search(r"^newest_minor = (\d+)", (ROOT / "setup.py").read_text(), re.MULTILINE)[1]
    assert workflows["test"]["jobs"]["test"]["strategy"]["matrix"]["python"] == [cfg["min_python"], f"3.{newest}"]
    upload, = [step for step in workflows["pages"]["jobs"]["build"]["steps"] if "upload-pages-artifact" in step.get("uses", "")]
    assert upload["with"]["path"] == cfg["doc_path"]


def test_a_release_is_checked_built_and_published_by_jobs_of_their_own():
    "Publishing needs a right that nothing else should have, and waits for what checks."
    build, publish = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"].values()
    assert [step["run"].split()[1] for step in build["steps"] if "run" in step] == ["release-check", "check", "docs", "test", "dist"]
    assert (publish["needs"], publish["environment"], publish["permissions"]) == ("build", "pypi", {"id-token": "write"})
    assert "permissions" not in build and not any("run" in step for step in publish["steps"])
    assert [step["uses"].split("@")[0] for step in publish["steps"]] == ["actions/download-artifact", "pypa/gh-action-pypi-publish"]
    given, taken = ([step["with"] for step in job["steps"] if "-artifact@" in step.get("uses", "")] for job in (build, publish))
    assert [(o["name"], o["path"]) for o in given + taken] == [("dist", "dist")] * 2


def test_only_the_tag_of_the_version_is_released(tmp_path):
    sys.path.insert(0, str(ROOT / "tools"))
    from release import problems
    version = read_settings()["version"]
    for name in ("settings.ini", "CITATION.cff", "CHANGELOG.md"): shutil.copy(ROOT / name, tmp_path)
    changelog = re.sub(rf"^## {re.escape(version)}.*", f"## {version} (2026-12-24)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    assert list(problems(tmp_path, f"v{version}")) == []
    for tag in (version, f"v{version}.1", f"v{version}rc1", "", "v0"):
        problem, = problems(tmp_path, tag)
        assert f"'v{version}'" in problem and f"{tag!r}" in problem
    for heading, word in ((f"## {version} (Unreleased)", "date"), (f"## {version}", "date"), (f"## {version}9 (2026-12-24)", "no section")):
        (tmp_path / "CHANGELOG.md").write_text(changelog.replace(f"## {version} (2026-12-24)", heading))
        problem, = problems(tmp_path, f"v{version}")
        assert word in problem
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    (tmp_path / "CITATION.cff").write_text("version: 9.9.9")
    problem, = problems(tmp_path, f"v{version}")
    assert "CITATION.cff has version 9.9.9" in problem


def test_the_matrix_says_for_each_variant_what_failed(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import os\n"
        "def test_path(): assert os.environ.get('ATEN_CPU_CAPABILITY') != 'default'\n"
        "def test_threads(): assert os.environ['OMP_NUM_THREADS'] == '1' and 'MKL_CBWR' not in os.environ\n"
    )
    def matrix(variants):
        command = [sys.executable, "tests/matrix.py", variants, "--logs", tmp_path / "logs", "--tests", f"{tmp_path / 'test_it.py'} -p no:cacheprovider"]
        return subprocess.run(command, cwd=ROOT, env=os.environ | {"MKL_CBWR": "AVX2"}, text=True, stdin=subprocess.DEVNULL, capture_output=True)

    done = matrix("threads1,sse,threads2")
    one, sse, two = done.stdout.splitlines()
    assert done.returncode == 1 and one.startswith("threads1: 2 passed in ") and "failed:" not in one
    assert sse.startswith("sse: 1 failed, 1 passed in ") and sse.endswith("test_it.py::test_path")
    assert two.startswith("threads2: 1 failed, 1 passed in ") and two.endswith("test_it.py::test_threads")
    assert "1 failed, 1 passed" in (tmp_path / "logs/sse.log").read_text()
    assert matrix("threads1").returncode == 0
    unknown = matrix("threads3")
    assert unknown.returncode == 2 and "no such variant: threads3" in unknown.stderr


@pytest.mark.parametrize("size", [0, 1e-2])
def test_noise_of_the_matrix_moves_weights_a_little_and_each_time_the_same(size):
    code = (
        "import noise, torch; start = torch.linspace(-1, 1, 101)\n"
        "def step(x): x = x.clone().requires_grad_(); x.grad = torch.zeros_like(x); torch.optim.SGD([x], lr=1.0).step(); return x.detach()\n"
        "moved = step(start); assert torch.equal(moved, step(start)) and torch.equal(moved[:50], step(start[:50]))\n"
        f"off = ((moved - start) / start.abs().clamp_min(1e-9)).abs().max(); assert {size} / 2 <= off <= {size} * 1.001, off"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tests", env=os.environ | {"WEIGHT_NOISE": str(size)}, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
