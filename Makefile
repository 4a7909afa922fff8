# Each target sets up what it needs. The only requirements are make and Python 3.11 or newer.
PY ?= python3
VENV ?= .venv
OUT ?= demo
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format bench compare-codecs clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

demo: $(VENV)/.installed  ## Train, measure and sample a small model in a few minutes; results in demo/
	@$(BIN)/image-transformer demo --out $(OUT)

test: $(VENV)/.installed-dev  ## Run the tests
	$(BIN)/python -m pytest

test-all: $(VENV)/.installed-dev  ## Run the tests that take minutes, too
	$(BIN)/python -m pytest -m ""

lint: $(VENV)/.installed-dev  ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-bench  ## Time training and sampling on this machine, beside what else can be installed
	$(BIN)/python benchmarks/bench.py

compare-codecs: $(VENV)/.installed-bench  ## Compare lossless codecs with ours, in bits/dim and speed
	@$(BIN)/python benchmarks/compare_codecs.py

clean:  ## Remove the virtual environment, the demo and caches
	rm -rf $(VENV) $(OUT) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info

# torch first and by its pin: an open range would fetch gigabytes of CUDA libraries that a CPU does not need
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PY=python3.12")'
	$(PY) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@
