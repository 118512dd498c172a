# Everything runs in .venv, which make creates: nothing is assumed but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
STAMP := $(VENV)/.installed
# Small matrix products slow down tenfold when every library takes every core.
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test check world clean

demo: $(STAMP)  ## start a server with the starter world and watch a game talk to it
	$(BIN)/biblioteca play --demo

test: check  ## lint, types, import rules, then every test that takes seconds
	$(BIN)/pytest -m "not slow and not gpu"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

world: $(STAMP)  ## rebuild the starter world's models from its text, and time it
	$(BIN)/biblioteca build

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# torch first and by its exact version, so that no other package chooses one for us.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[train,dev]"
	touch $@
