# Two commands: `make demo` trains and judges a model, `make test` checks everything. Each needs Python >= 3.11 and git.
PYTHON ?= python3
BIN := .venv/bin
# The tested versions; torch goes first, so that nothing else chooses another build of it.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RECIPE := pyproject.toml constraints.txt

.PHONY: demo test test-slow lab bench lint clean

demo: .venv/demo
	$(BIN)/scfm demo

test: .venv/test lint
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/test .venv/benchmark
	$(BIN)/python -m pytest -m slow

lab: .venv/lab
	$(BIN)/jupyter lab notebooks

bench: .venv/benchmark
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/quality.py

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv build *.egg-info

.venv/python:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 to 3.13 is needed: make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo: .venv/python $(RECIPE)
	@echo "installing (a few minutes the first time)"
	$(INSTALL) torch
	$(INSTALL) --editable .
	touch $@

.venv/test .venv/lab .venv/benchmark: .venv/%: .venv/demo
	$(INSTALL) --editable ".[$*]"
	touch $@
