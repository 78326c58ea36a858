# One-line knobs: which torch, and from which index. For a CUDA or CPU build other than your index's own:
#   make setup TORCH=torch==2.13.0 TORCH_INDEX=<index of that build>
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ssft-setup

.PHONY: setup demo test lint format clean retrain-sql retrain-e2e_nlg retrain-dialogsum

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

# The adapters that ship, from the start; interrupted, the same command goes on. DATA holds NAME/train.jsonl.gz and
# NAME/validation.jsonl.gz. Their twins lie beside: outputs/peers/NAME/twin.
#
#   make retrain-sql DATA=data        make retrain-e2e_nlg DATA=data        make retrain-dialogsum DATA=data
DATA ?= data
SSFT := $(BIN)/python -m ssft
SOURCES = data.train=$(DATA)/$*/train.jsonl.gz data.validation=$(DATA)/$*/validation.jsonl.gz
OWN_dialogsum := --limit 600 --max-new-tokens 128

retrain-sql: retrain-%: setup
	$(SSFT) train $* $(SOURCES) --output outputs/$* --resume
	$(SSFT) train outputs/$*/run.yaml method=lora --output outputs/peers/$*/twin --resume

# Where the answer is open, streams learn from what their own model says: the twin's greedy answers are the data.
retrain-e2e_nlg retrain-dialogsum: retrain-%: setup outputs/own/%.jsonl
	$(SSFT) train $* $(SOURCES) data.train=outputs/own/$*.jsonl --output outputs/$* --resume

outputs/own/%.jsonl: outputs/peers/%/twin/adapter_config.json
	$(SSFT) generate outputs/peers/$*/twin --base smollm2-135m --dtype float32 --batch-size 8 --for-training \
	    --data $(DATA)/$*/train.jsonl.gz $(OWN_$*) --output $@

.PRECIOUS: outputs/own/%.jsonl outputs/peers/%/twin/adapter_config.json
outputs/peers/%/twin/adapter_config.json: | setup
	$(SSFT) train $* method=lora $(SOURCES) --output outputs/peers/$*/twin --resume

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
