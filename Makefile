# Two commands for a newcomer: `make demo` and `make test`. Everything lives in .venv; nothing else is touched, except
# that `make test` installs openssh-server where it is missing and it may.

PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/bash

# uv is fast, and trusts its own certificates only; behind a company's proxy pip knows better.
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help demo test check format bench docs clean

help:
	@echo "make demo    install into .venv and run a real job on two local nodes"
	@echo "make test    install what the tests need and run them"
	@echo "make check   formatting, lint, types, docs"
	@echo "make format  format the code"
	@echo "make docs    write the reference out of the code, and what pages say is printed"
	@echo "make bench   measure against peers, as ratios (minutes)"
	@echo "make clean   remove .venv and caches"

.venv/base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "skyward needs Python 3.11 or newer; $(PYTHON) is older: make demo PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "cannot make a virtual environment: on Debian, apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/uv || $(PIP) uv
	@$(UV) -e . 2>/dev/null || $(PIP) -e .
	@touch $@

.venv/test: .venv/base
	@$(UV) -e '.[test,check]' 2>/dev/null || $(PIP) -e '.[test,check]'
	@touch $@

demo: .venv/base
	@$(BIN)/skyward run examples/census.py:main --nodes 2

test: .venv/test
	@tests/install-sshd
	@$(BIN)/python -m pytest -q -n 4 --dist loadfile --durations=20 $(ARGS)

check: .venv/test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python docs/generate.py --check

format: .venv/test
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: .venv/test
	@$(BIN)/python docs/generate.py
	@$(BIN)/python docs/generate.py --outputs

# Peers live in an environment of their own, because they pin hard.
.venv/peers: .venv/test
	@$(BIN)/uv venv --quiet .venv/peers-env
	@$(BIN)/uv pip install --quiet --python .venv/peers-env/bin/python 'ray[default]' distributed
	@touch $@

bench: .venv/peers
	@tests/install-sshd
	@BENCH_PYTHON=.venv/peers-env/bin/python $(BIN)/python bench/tasks.py
	@BENCH_PYTHON=.venv/peers-env/bin/python $(BIN)/python bench/faults.py
	@$(BIN)/python bench/catalog_query.py
	@$(BIN)/python bench/cloud.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
