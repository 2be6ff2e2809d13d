# make lab    the lab, open in JupyterLab
# make test   every check that must pass
# make nightly  the tests once more, with many more random networks
# Both set up .venv by themselves; nothing else on the machine is touched.

VENV    ?= .venv
WORKERS ?= auto
LAB_ARGS ?=

BIN := $(VENV)/bin
PY  := $(BIN)/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# an interpreter may be named (make PYTHON=/opt/python3.13/bin/python3); otherwise the first that is new enough is taken
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help lab test nightly lint types unit alone format constraints clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

lab: $(VENV)/.lab
	$(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)/notebooks" --LabApp.default_url=/lab/tree/00-lab.ipynb \
	  --LabApp.news_url=None \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
	  $$([ "$$(id -u)" -eq 0 ] && echo --allow-root) $(LAB_ARGS)

test: lint types unit alone
	@echo "make test: everything passed"

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.test
	$(BIN)/mypy

# one torch thread for each worker: more would only make the workers wait for one another
unit: $(VENV)/.test
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not browser and not timing" --doctest-modules \
	  -n $(WORKERS) --maxprocesses 8 --dist worksteal eclab tests

# the same tests with 2,000 drawn examples in place of 100, and every optimizer on every architecture of the zoo
nightly: $(VENV)/.test
	ECLAB_HYPOTHESIS=nightly OMP_NUM_THREADS=1 $(PY) -m pytest -m "not browser and not timing and not notebook" \
	  -n $(WORKERS) --maxprocesses 8 --dist worksteal tests

# one after another with nothing beside them, since these measure how fast something answers
alone: $(VENV)/.test
	$(PY) -m pytest -m "browser or timing" tests

format: $(VENV)/.test
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/nbstripout notebooks/*.ipynb

# writes down what is installed now, once the tests have passed with it
constraints: $(VENV)/.test
	{ echo '# The constraints pin the versions that the tests ran with; pyproject.toml keeps the ranges open.'; \
	  $(PY) -m pip freeze --exclude-editable | sed 's/+[^ ]*$$//'; } > constraints.txt

$(VENV)/bin/python:
	@found=""; \
	for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "eclab needs Python 3.11 or newer; looked for: $(CANDIDATES)." >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "$$found has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	fi; \
	echo "$$found -m venv $(VENV)"; "$$found" -m venv "$(VENV)"

$(VENV)/.lab: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing eclab into $(VENV); the first time takes some minutes"
	$(PIP_INSTALL) --editable .
	$(PY) -m eclab.kernels.warm_up
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing eclab and its tests' tools into $(VENV); the first time takes some minutes"
	$(PIP_INSTALL) --editable ".[test]"
	@touch $@ $(VENV)/.lab

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
