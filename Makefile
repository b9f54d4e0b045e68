PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Where the library looks first, too.
DATA := $(or $(ALIGNONCE_DATA),$(HOME)/.cache/alignonce)/fashion-mnist
PACKAGE := dataset-fashion-mnist
FILES := train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte
APT := LC_ALL=C apt-get -qq -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 -o Acquire::Retries=1

.PHONY: demo test chromium fashion-mnist data clean
.DEFAULT_GOAL := demo

## demo: install, get Fashion-MNIST, train one network under six learning rules, print a table and a figure
demo: $(VENV)/installed fashion-mnist
	$(BIN)/alignonce compare --out runs/demo

## test: install, then format and lint checks, types, and all tests
test: $(VENV)/installed chromium fashion-mnist
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

## fashion-mnist: put the files of Debian's package into the cache, which needs no root
fashion-mnist:
	@set -e; \
	for folder in "$(DATA)" /usr/share/datasets/fashion-mnist; do \
		missing=; \
		for file in $(FILES); do [ -e "$$folder/$$file.gz" ] || [ -e "$$folder/$$file" ] || missing=1; done; \
		[ -n "$$missing" ] || exit 0; \
	done; \
	fail() { echo "No Fashion-MNIST: $$1. A hub is asked for it, and then the digits stand in."; exit 0; }; \
	for tool in apt-get dpkg-deb; do command -v $$tool >/dev/null || fail "this machine has no $$tool"; done; \
	work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; cd "$$work"; \
	$(APT) download $(PACKAGE) >log 2>&1 \
		|| { [ "$$(id -u)" = 0 ] && $(APT) update >log 2>&1 && $(APT) download $(PACKAGE) >log 2>&1; } \
		|| fail "$$(tail -n 1 log)"; \
	{ dpkg-deb -x *.deb unpacked && mkdir -p "$(DATA)"; } >log 2>&1 || fail "$$(tail -n 1 log)"; \
	for file in $(FILES); do \
		cp "unpacked/usr/share/datasets/fashion-mnist/$$file.gz" "$(DATA)/$$file.gz.part"; \
		mv "$(DATA)/$$file.gz.part" "$(DATA)/$$file.gz"; \
	done

## data: get Fashion-MNIST only, and say where it came from
data: $(VENV)/installed fashion-mnist
	$(BIN)/python -m alignonce.experiments.data

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@
