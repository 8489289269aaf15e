# Everything runs in a virtual environment of its own: .venv, or the folder that VENV names.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean emulate fuzz nodes support

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

demo: $(VENV)/.installed  ## Install, then compile, verify and time two networks.
	$(BIN)/blockfuse demo

test: $(VENV)/.installed lint  ## Install, then check style and types and run all tests.
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

emulate: $(VENV)/.installed  ## Emulated kernels: 300 random blocks; with PRODUCT=1 every family at every size and type, for hours, or SLICE=3/16 of it.
	BLOCKFUSE_EMULATE_ALL=1 BLOCKFUSE_EMULATE_PRODUCT=$(PRODUCT) BLOCKFUSE_EMULATE_SLICE=$(SLICE) $(BIN)/python -m pytest -q -n 2 tests/emulated/test_cuda_covering.py tests/emulated/test_cuda_random.py

nodes: $(VENV)/.installed  ## All of ONNX's node tests and the networks that come with onnx; CI runs a share of them.
	BLOCKFUSE_ALL_NODES=1 $(BIN)/python -m pytest -q tests/e2e/test_backend_nodes.py tests/e2e/test_light_models.py

support: $(VENV)/.installed  ## Write docs/support.md, the table of operators, from the code.
	$(BIN)/python -m blockfuse.tools.support > docs/support.md

KIND ?= blocks
COUNT ?= 100
SEED ?= 0
fuzz: $(VENV)/.installed  ## Random cases: KIND=blocks, networks, graphs or files, COUNT of them, from SEED on.
	$(BIN)/python -m tests.fuzz $(KIND) --count $(COUNT) --seed $(SEED)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
