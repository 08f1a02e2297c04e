# `make demo` and `make test` are all a fresh machine needs: they find a Python, build .venv
# from the pins of constraints.txt and go. Targets are what CI runs, too.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory
.DEFAULT_GOAL := help

# One thread per process: tests and studies run side by side, and results depend on the number.
export OMP_NUM_THREADS = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

BIN   := .venv/bin
STAMP := .venv/.installed
DEMO  := .demo
# Tried in this order; `make PYTHON=/path/to/python` goes first.
PYTHONS = $(PYTHON) python3.11 python3.12 python3.13 python3 python3.14 /usr/bin/python3

.PHONY: help demo test check format bench crash coverage schema constraints clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 20

# --------------------------------------------------------------------------- set-up

.venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c 'import sys, pip; assert sys.version_info >= (3, 11)' 2>/dev/null; then \
		found=; \
		for python in $(PYTHONS); do \
			if "$$python" -c 'import sys, ensurepip, venv; assert sys.version_info >= (3, 11)' 2>/dev/null; then \
				found=$$python; break; \
			fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo 'tunesafe needs Python 3.11 or newer with its venv module; none was found. Nothing was changed.' >&2; \
			echo 'On Debian or Ubuntu: apt-get install python3 python3-venv. Elsewhere: make PYTHON=/path/to/python3.' >&2; \
			exit 2; \
		fi; \
		echo "setting up .venv with $$("$$found" --version) (a few minutes, once)" >&2; \
		"$$found" -m venv --clear .venv; \
	fi
	$(BIN)/python -m pip install -q -c constraints.txt setuptools
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[all,dev]'
	@touch $@

# --------------------------------------------------------------------------- use

demo: $(STAMP)  ## tune a real network on real data (scikit-learn's digits), in the scratch folder .demo
	@mkdir -p $(DEMO)
	@cp studies/digits.yaml studies/digits.py $(DEMO)/
	$(BIN)/tunesafe run $(DEMO)/digits.yaml
	$(BIN)/tunesafe status $(DEMO)/digits.yaml
	$(BIN)/tunesafe best $(DEMO)/digits.yaml
	@rm -rf $(DEMO)/best
	$(BIN)/tunesafe export $(DEMO)/digits.yaml -o $(DEMO)/best

# --------------------------------------------------------------------------- proof

test: $(STAMP)  ## every test but the slow ones, doctests included
	$(BIN)/pytest -q -n 2

check: $(STAMP)  ## format, lint, types, architecture: before every commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/architecture

crash: $(STAMP)  ## the whole crash matrix: processes killed at every failpoint and at random
	$(BIN)/pytest -q -n 2 -m crash tests/crash

bench: $(STAMP)  ## what tunesafe costs, against a hand-written loop and plain Optuna
	$(BIN)/python bench/run.py

coverage: $(STAMP)  ## branch coverage of the tests
	$(BIN)/pytest -q -n 2 --cov --cov-report=term

# --------------------------------------------------------------------------- upkeep

format: $(STAMP)  ## rewrite in our format, with safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(STAMP)  ## the study file's JSON Schema for editors, from the models
	$(BIN)/python -m tunesafe.spec.schema > studies/study.schema.json.new
	@mv studies/study.schema.json.new studies/study.schema.json

constraints: $(STAMP)  ## pin what .venv holds now
	@{ grep '^#' constraints.txt; \
	   $(BIN)/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+[a-z0-9]*$$//'; \
	 } > constraints.txt.new
	@mv constraints.txt.new constraints.txt

clean:  ## everything made here, .venv too
	rm -rf .venv .s3-venv $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
