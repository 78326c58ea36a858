# One-line knobs: which torch, and from which index. For a CUDA or CPU build other than your index's own:
#   make setup TORCH=torch==2.13.0 TORCH_INDEX=<index of that build>
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ssft-setup

.PHONY: setup demo test lint format clean

setup: $(STAMP)

# torch comes first and alone: left to the dependencies, Linux would get the newest torch with gigabytes of CUDA.
# The second call is held to the torch that the first one chose, whichever that is.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip freeze | grep '^torch==' >> $(VENV)/constraints.txt
	$(BIN)/python -m pip install -c $(VENV)/constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/python examples/demo.py

test: lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy ssft

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
