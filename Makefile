# Two commands on a fresh machine: `make demo` and `make test`. They need python3 (3.11 or newer), make and a C compiler.
#
#   make demo    create .venv if missing, install, run `jepa demo` (options: make demo ARGS="--out runs/demo2")
#   make test    the same, then the tests (everything but `slow` and `gpu`; ARGS go to pytest)
#   make lint    ruff: rules and formatting      make types   mypy --strict      make clean   remove what was generated
#
# Stamps inside the environment say what has been installed; they are written last, so an interrupted install is redone,
# and a second `make demo` installs nothing. Another Python: make PYTHON=python3.12 VENV=.venv312 test.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: demo test lint types clean

demo: $(VENV)/.installed
	$(BIN)/jepa demo $(ARGS)

# One thread per process: the tests run in $(JOBS) processes already.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not slow and not gpu" $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) found; install Python 3.11 or newer, or give one: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version) is too old, 3.11 or newer is needed; give another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: $$($(PYTHON) --version) lacks the module venv; on Debian and Ubuntu it is the package python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: setup.cfg pyproject.toml $(VENV)/.created
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(PIP) -e '.[dev]'
	@touch $@
