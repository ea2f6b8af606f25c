# Two commands do everything, each by itself on a fresh machine with Python 3.11 or newer:
#   make demo    install, then run the main job on the real images in examples/
#   make test    install, then lint, types, layers and tests

VENV  ?= .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
# The first interpreter that is new enough; override with `make PYTHON=/path/to/python demo`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test install lint types layers unit bench clean help

help:            ## show this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; none of python3, python3.11 to python3.13 is."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "could not create $(VENV): on Debian or Ubuntu install the package python3-venv"; exit 1; }
	@echo "Installing into $(VENV) (once; about 3 GB with the CPU build of torch) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(STAMP) ## create .venv and install everything into it

demo: $(STAMP)    ## run the main job on the real images in examples/
	@$(BIN)/microsnoop demo

lint: $(STAMP)    ## ruff: style and bugs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)   ## mypy, strict
	$(BIN)/mypy

layers: $(STAMP)  ## who may import whom
	$(BIN)/lint-imports

# What starts a Ray cluster uses all cores itself; the thousands of small tests are spread over them.
unit: $(STAMP)    ## the tests alone
	$(BIN)/pytest -n auto --maxprocesses 4 tests/unit tests/contract
	$(BIN)/pytest tests/ray

test: lint types layers unit ## everything that must be green

bench: $(STAMP)   ## pipeline against a bare torch loop
	$(BIN)/python benchmarks/throughput.py

clean:           ## remove the environment and the caches (never runs/)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
