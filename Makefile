# Two commands: `make study` runs the UniScale study and writes report/index.html, `make test` runs every check.
# Both make .venv and install what they need the first time; a second call installs nothing.

PYTHON ?= python3
PRESET ?= laptop
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
SOURCES := unisc data_gen experiments sweeps analysis

.PHONY: study test torture clean
.DEFAULT_GOAL := study

study: $(VENV)/.study
	$(BIN)/unisc study uniscale --preset $(PRESET) $(ARGS)

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --summary=none
	$(BIN)/lint-imports
	$(BIN)/pytest -n auto $(ARGS)

# Workers and a training run killed at random moments, in full; ends with one JSON line.
torture: $(VENV)/.test
	$(BIN)/python benchmarks/torture.py $(ARGS)

$(VENV)/.venv:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# The stamps depend on what is declared, so a changed dependency installs again and nothing else does.
$(VENV)/.study: $(VENV)/.venv pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.study
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,notebooks,objects,ray,spark,tensorboard]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
