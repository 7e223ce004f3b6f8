# `make demo` traces a circuit of the shipped model, `make test` runs the tests; every target builds .venv first.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo
# Libraries that spin idle threads lose more on a busy machine than they gain on models this small.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test fuzz lint types docs notebooks hooks lock dist clean

demo: .venv/package
	$(BIN)/featcircuits trace --output $(RUN)
	$(BIN)/featcircuits evaluate $(RUN) --start-layer 1
	$(BIN)/featcircuits export $(RUN) --to gexf,graphml,json
	$(BIN)/featcircuits view $(RUN)

test: .venv/dev
	$(BIN)/python -m pytest -n 2

# 20,000 cases of damaged and hostile input, and a kill at every point of writing; about twenty minutes
fuzz: .venv/dev
	$(BIN)/python -m tests.fuzz
	FEATCIRCUITS_THOROUGH=1 $(BIN)/python -m pytest -n 2 tests/test_runs.py

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/basedpyright

# The site in build/site; every warning is an error. The variable silences a notice about other programs.
docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The notebooks with fresh outputs
notebooks: .venv/dev
	$(BIN)/python -m experiments.notebooks

# git runs lint and types before each commit
hooks: .venv/dev
	$(BIN)/pre-commit install

# constraints.txt made anew: the newest version of everything, in a new environment, but of torch
lock:
	.ci/lock

# The wheel and the source archive
dist: .venv/dev
	$(BIN)/python -m build --outdir dist

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/package: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ .venv/package

clean:
	rm -rf .venv runs/demo
