# All targets use .venv; PYTHON is the interpreter that creates it (3.11 or newer).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install dev quickstart notebooks test lint types docs bench clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  (PYTHON=$(PYTHON) VENV=$(VENV) WORKERS=$(WORKERS) can be overridden)"

install: $(VENV)/.installed-test  ## virtual environment with the library and the requirements of its tests

dev: $(VENV)/.installed-dev  ## the same, with ruff, pyright and pre-commit

quickstart: install  ## train a small model of each kind on this machine and score it; optional: SEED=1
	$(BIN)/python launch/quickstart.py $(if $(SEED),--seed=$(SEED) --output=runs/quickstart-$(SEED))

notebooks: $(VENV)/.installed-notebooks  ## execute the notebooks and store their outputs
	$(BIN)/python -m notebooks.build

test: install  ## the default test suite
	$(BIN)/python -m pytest -n $(WORKERS) -q

lint: dev  ## formatting and lint
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .

types: dev  ## static types
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

docs: $(VENV)/.installed-docs  ## the documentation as a site, in docs/_build/index.html; warnings are errors
	$(BIN)/python -m sphinx -q -n -W --keep-going docs docs/_build

bench: install  ## speed; optional: PEER=python-with-torch-and-transformers to compare with, TEXT=input.txt.gz for w5
	$(BIN)/python -m benchmarks.limits
	for work in w1 w2 w3 w4b1 w4b16; do $(BIN)/python -m benchmarks $$work $(if $(PEER),--transformers=$(PEER)) || exit 1; done
	$(if $(TEXT),$(BIN)/python -m benchmarks w5 $(TEXT))
	$(BIN)/python -m benchmarks.data

clean:  ## remove the environment and every cache (data stores and work directories stay)
	rm -rf $(VENV) build dist docs/_build docs/reference .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "lm_jax needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1). Name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# One stamp file per extra; it is older than setup.cfg when the requirements have changed.
$(VENV)/.installed-%: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@
