"Package metadata. Every value comes from settings.ini, which nbdev reads too, so nothing is written down twice."
import re, shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

lib = cfg["lib_path"]
oldest_minor = int(cfg["min_python"].split(".")[1])
newest_minor = 13
status = {"1": "1 - Planning", "2": "2 - Pre-Alpha", "3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}
readme = here / "README.md"


def with_addresses(text):
    "The README as PyPI has to get it: what lies beside it in the repository has a full address."
    def full(match):
        kind = "raw" if match["picture"] else "blob"
        return f"{match['start']}{cfg['git_url']}/{kind}/{cfg['branch']}/{match['path']}"

    here_or_there = r"(?![a-z][a-z0-9+.-]*:|[#/])(?P<path>[^\s)\"']+)"
    text = re.sub(rf"(?P<start>(?P<picture>!)\[[^\]]*\]\(|\]\(){here_or_there}", full, text)
    return re.sub(rf"""(?P<start>\b(?:(?P<picture>src)|href)=["']){here_or_there}""", full, text)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=with_addresses(readme.read_text(encoding="utf-8")) if readme.exists() else cfg["description"],
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    project_urls={"Documentation": cfg["doc_host"] + cfg["doc_baseurl"], "Source": cfg["git_url"]},
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    classifiers=[
        f"Development Status :: {status[cfg['status']]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(oldest_minor, newest_minor + 1)),
    ],
    packages=find_packages(include=[lib, f"{lib}.*"]),
    package_data={lib: ["data/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={
        o: shlex.split(cfg[f"{o}_requirements"])
        for o in ("dask", "vision", "mnist5k", "doors", "others", "dev", "docs", "bench")
    },
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        # Lets nbdev in other projects link to our documentation
        "nbdev": [f"{lib}={lib}._modidx:d"],
    },
    zip_safe=False,
)
