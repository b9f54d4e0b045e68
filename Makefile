PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test chromium data clean
.DEFAULT_GOAL := demo

## demo: install, get Fashion-MNIST, train one network under six learning rules, print a table and a figure
demo: $(VENV)/installed
	$(BIN)/alignonce compare --out runs/demo

## test: install, then format and lint checks, types, and all tests
test: $(VENV)/installed chromium
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto

## chromium: install the browser that the report is tested in, where that needs no password
chromium:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then :; \
	elif ! command -v apt-get >/dev/null; then \
		echo "No Chromium and no apt-get: the report's tests in a browser are skipped."; \
	elif [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq; apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	elif sudo -n true 2>/dev/null; then \
		sudo -n apt-get update -qq; sudo -n apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else \
		echo "No Chromium: for the report's tests in a browser, apt-get install chromium as root."; \
	fi || echo "Chromium could not be installed: the report's tests in a browser are skipped."

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
