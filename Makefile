# Two commands: `make demo` trains and judges a model, `make test` checks everything. Each needs Python >= 3.11 and git.
PYTHON ?= python3
BIN := .venv/bin
# The tested versions; torch goes first, so that nothing else chooses another build of it.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Every notebook runs from a fresh kernel, and what it prints is compared with what it stores.
NBVAL := rm -rf .nbval && SCFM_WORK_DIR=$(CURDIR)/.nbval $(BIN)/python -m pytest --nbval --nbval-current-env -x \
    --nbval-sanitize-with tests/nbval_sanitize.cfg -p no:cacheprovider
RECIPE := pyproject.toml constraints.txt

.PHONY: demo test test-slow lab notebooks book checkpoint vectors picture bench lint audit clean

demo: .venv/demo
	$(BIN)/scfm demo

# As scfm_lib/__init__.py asks for, also where torch is imported first: waiting threads leave the cores to others.
test test-slow notebooks: export GOMP_SPINCOUNT := 1000

test: .venv/test lint
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadscope --cov=scfm_lib --cov-branch --cov-report=
	$(NBVAL) notebooks/0*.ipynb notebooks/solutions/0*.ipynb

test-slow: .venv/test .venv/benchmark
	$(BIN)/python -m pytest -m slow --cov=scfm_lib --cov-branch --cov-append --cov-report=term:skip-covered

lab: .venv/lab
	$(BIN)/jupyter lab notebooks/01_hardware_check.ipynb

# Runs every notebook anew, lessons from their py:percent twins, and stores what it prints; then the README's table.
notebooks: .venv/test
	rm -rf .nbval
	SCFM_WORK_DIR=$(CURDIR)/.nbval $(BIN)/python notebooks/build.py

# The lessons with their stored outputs as a site: build/book/index.html. A warning, such as of a dead link, is an error.
book: .venv/book
	$(BIN)/sphinx-build -q -W --keep-going -c notebooks/book . build/book
	@echo "build/book/index.html"

# The small trained model that lies in data/.
checkpoint: .venv/benchmark
	$(BIN)/python benchmarks/checkpoint.py

# Every method's vectors of the sorted cells, which lesson 06 judges.
vectors: .venv/benchmark
	$(BIN)/python benchmarks/vectors.py

# The picture of the README.
picture: .venv/benchmark
	$(BIN)/python benchmarks/picture.py

bench: .venv/benchmark
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/quality.py

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Known holes in what is installed, and everybody's licence. Asks pypi.org.
audit: .venv/test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python benchmarks/licences.py
	$(BIN)/pip-audit

clean:
	rm -rf .venv build *.egg-info

.venv/python:
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11 to 3.13 is needed: make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	touch $@

.venv/demo: .venv/python $(RECIPE)
	@echo "installing (a few minutes the first time)"
	$(INSTALL) torch
	$(INSTALL) --editable .
	touch $@

.venv/test .venv/lab .venv/book .venv/benchmark: .venv/%: .venv/demo
	$(INSTALL) --editable ".[$*]"
	touch $@
