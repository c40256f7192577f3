# Everything happens in .venv; set PYTHON to choose another interpreter, VENV another place.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS := .ci/constraints.txt
# Tests start over a hundred processes; without bytecode, each would compile the package for 2 seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install quickstart test test-long check docs

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

install: $(VENV)/installed

quickstart: install
	$(BIN)/srel-hub condense recipes/quickstart.yaml

test: install
	$(BIN)/python -m pytest -m 'not long' --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-long: install
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[browser,docs]'
	$(BIN)/python -m pytest --resume --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: install
	$(BIN)/ruff check srel_hub tests benchmarks examples docs
	$(BIN)/ruff format --check srel_hub tests benchmarks examples docs
	$(BIN)/mypy

docs: install
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[docs]'
	$(BIN)/mkdocs build --strict
