# `make demo` and `make test` are the two commands; both prepare .venv once through `make setup`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One OpenMP thread a worker: two busy workers with two threads each would wait for each other.
WORKERS ?= 2
TEST_ENV := OMP_NUM_THREADS=1 GOMP_SPINCOUNT=0

.PHONY: setup demo test test-all lint format clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "nanohydra needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt torch
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/nanohydra speedrun

test: setup
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not slow'

test-all: setup
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info
