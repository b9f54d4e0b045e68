PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test data clean
.DEFAULT_GOAL := demo

## demo: install, get Fashion-MNIST, train one network under six learning rules, print a table and a figure
demo: $(VENV)/installed
	$(BIN)/alignonce compare --out runs/demo

## test: install, then format and lint checks, types, and all tests
test: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto

## data: get Fashion-MNIST only, and say where it came from
data: $(VENV)/installed
	$(BIN)/python -m alignonce.experiments.data

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@
