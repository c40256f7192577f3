# Everything happens in .venv; set PYTHON to choose another interpreter, VENV another place.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CONSTRAINTS := .ci/constraints.txt

.PHONY: install quickstart test test-long check

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

install: $(VENV)/installed

quickstart: install
	$(BIN)/accelerate launch -m srel_hub.condense recipes/quickstart.yaml

test: install
	$(BIN)/python -m pytest -m 'not long' --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-long: install
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) --editable '.[browser]'
	$(BIN)/python -m pytest --resume

check: install
	$(BIN)/ruff check srel_hub tests benchmarks examples
	$(BIN)/ruff format --check srel_hub tests benchmarks examples
	$(BIN)/mypy
