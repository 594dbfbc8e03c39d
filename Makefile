# Needs Python 3.10 or newer with pip, make, and the internet for the first run. `make` alone lists what there is.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python processes that the tests keep busy at a time
WORKERS ?= 2
# What `make matrix` runs, and under which variants, such as sse,oldest; empty is all of them
TESTS ?= tests/test_notebooks.py
VARIANTS ?=
# Notebooks that `make outputs` re-runs, and the flags (say `slow`) of further cells that it includes
NBS ?=
FLAGS ?=
# How long `make fuzz` may take, how many cases of each kind it tries at most, and what they are drawn from
SECONDS ?= 600
CASES ?= 10000
SEED ?= 0
# How `make docs` builds: quarto or sphinx; empty is Quarto where it is installed
BUILDER ?=
# What `make bench` runs; `make bench-full` runs the slower ones too
BENCHMARKS ?= peers limit growth quality memory predictions round
ALL_BENCHMARKS ?= $(BENCHMARKS) many_machines kbald temperature masks sure labels late moving_over
# Options of benchmarks/gpu.py for `make gpu`, such as --full
GPU ?=

# uv where it works, else a private copy that pip puts into .uv (allowed even where the system's Python is locked)
SYSTEM_UV := $(shell uv --version >/dev/null 2>&1 && command -v uv)
UV := $(or $(SYSTEM_UV),.uv/bin/uv)
INSTALL := $(UV) pip install --python $(BIN)/python

# An empty file per kind of installation: newer than what it was made from means nothing to do
RUN_INSTALLED := $(BIN)/.installed
DEV_INSTALLED := $(BIN)/.installed-dev
DOCS_INSTALLED := $(BIN)/.installed-docs
BENCH_INSTALLED := .venv-bench/.installed
DOORS_INSTALLED := .venv-doors/.installed
METADATA := settings.ini setup.py pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help demo install dev test test-slow test-doors matrix fuzz check export outputs docs bench bench-full gpu release-check dist

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo '  with PYTHON=python3.12, WORKERS=4, BUILDER=sphinx, BENCHMARKS=kbald to choose otherwise'

demo: $(RUN_INSTALLED) ## compare acquisition functions on digits, into results/digits; resumes where it stopped
	$(BIN)/batchbald_compare --resume --out results/digits

install: $(RUN_INSTALLED) ## set up .venv with what running needs

dev: $(DEV_INSTALLED) ## set up .venv with what development needs

test: $(DEV_INSTALLED) ## run every notebook and the project's own tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-slow: $(DEV_INSTALLED) ## the same with slow cells and tests, and gpu cells where there is a GPU
	SLOW=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-doors: $(DOORS_INSTALLED) ## the chapter and the tests that run models of other libraries, with these, in .venv-doors
	.venv-doors/bin/python -m pytest tests/test_doors_libraries.py tests/test_doors_sklearn.py tests/test_notebooks.py -k "doors_ or 08c"

matrix: $(DEV_INSTALLED) ## notebooks on other code paths, threads and releases of PyTorch (hours); VARIANTS=sse,oldest for some
	UV=$(UV) $(BIN)/python tests/matrix.py $(VARIANTS) --python $(PYTHON) --tests "$(TESTS) -n $(WORKERS) --dist worksteal"

fuzz: $(DEV_INSTALLED) ## valid and invalid input for everything public, against brute force; SECONDS=600 CASES=10000 SEED=0
	$(BIN)/python tests/fuzz.py --seconds $(SECONDS) --cases $(CASES) --seed $(SEED)

check: $(DEV_INSTALLED) ## are modules, README and notebooks in step? changes nothing
	@$(BIN)/python tools/check.py

# Cleaning comes before exporting: it gives new cells the ids that the modules refer to
export: $(DEV_INSTALLED) ## clean the notebooks, export them to modules, write README.md
	$(BIN)/python tools/colab.py
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python tools/readme.py

outputs: $(DEV_INSTALLED) ## run notebooks in place, all or NBS="nbs/01_bald.ipynb"; FLAGS="slow" for slow cells too
	$(BIN)/python tools/exec_nbs.py $(addprefix --flag ,$(FLAGS)) $(NBS)
	$(BIN)/python tools/readme.py

docs: $(DOCS_INSTALLED) ## build the site in _docs, with Quarto, or else with Sphinx and npm
	$(BIN)/python tools/docs.py $(BUILDER)

bench: $(BENCH_INSTALLED) ## time BatchBALD against other libraries and by itself, into benchmarks/records (some 5 minutes)
	@set -e; for o in $(BENCHMARKS); do echo "== $$o"; .venv-bench/bin/python benchmarks/$$o.py; done

bench-full: $(BENCH_INSTALLED) ## the same at every size (hours; for a release, on an idle machine)
	@set -e; for o in $(ALL_BENCHMARKS); do echo "== $$o"; .venv-bench/bin/python benchmarks/$$o.py --full; done

gpu: ## what needs a GPU, on a machine with one, in 6 minutes: tests, notebook cells, benchmarks; writes a record
	@$(PYTHON) tools/run_on_gpu.py $(GPU)

release-check: $(DEV_INSTALLED) ## before a release: do tag, version and changelog agree? make release-check TAG=v0.1.0
	$(BIN)/python tools/release.py "$$TAG"

# From the folder of the new environment, where the checkout cannot be imported
dist: | $(BIN)/python ## build sdist and wheel into dist, and pick a batch with the wheel in an environment of its own
	rm -rf build dist
	$(UV) build --quiet --out-dir dist
	$(UV) venv --quiet --python $(PYTHON) build/venv
	$(UV) pip install --quiet --python build/venv/bin/python dist/*.whl
	cd build/venv && bin/python -c "from batchbald_nbdev.all import *; print(get_batchbald_batch(example_log_probs(), 3).indices)"
	cd build/venv && bin/batchbald_compare --help >/dev/null && bin/batchbald_select --help >/dev/null

.uv/bin/uv:
	$(PYTHON) -m pip install --quiet --target .uv uv

$(BIN)/python: | $(if $(SYSTEM_UV),,.uv/bin/uv)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "$(PYTHON) is older than 3.10 or missing; name another: make PYTHON=python3.12 ..."; exit 1; }
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)

$(RUN_INSTALLED): $(METADATA) | $(BIN)/python
	$(INSTALL) --quiet --editable .
	@touch $@

$(DEV_INSTALLED): $(METADATA) | $(BIN)/python
	$(INSTALL) --quiet --editable '.[dev]'
	@touch $@

$(DOCS_INSTALLED): $(DEV_INSTALLED)
	$(INSTALL) --quiet --editable '.[dev,docs]'
	@touch $@

# Apart from .venv, so that what other libraries want does not decide what development uses
$(BENCH_INSTALLED): $(METADATA) | $(if $(SYSTEM_UV),,.uv/bin/uv)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-bench
	$(UV) pip install --python .venv-bench/bin/python --quiet --editable '.[bench]'
	@touch $@

$(DOORS_INSTALLED): $(METADATA) | $(if $(SYSTEM_UV),,.uv/bin/uv)
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv-doors
	$(UV) pip install --python .venv-doors/bin/python --quiet --editable '.[dev,doors,others]'
	@touch $@
