# One-line knobs: which torch, and from which index. For a CUDA or CPU build other than your index's own:
#   make setup TORCH=torch==2.13.0 TORCH_INDEX=<index of that build>
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ssft-setup

.PHONY: setup base demo test lint format clean retrain-sql retrain-e2e_nlg retrain-dialogsum

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

# The base of the demo, the shipped adapters and some tests: 98 MB, once.
base: setup
	$(BIN)/python -m ssft bases fetch smollm2-135m

demo: setup
	$(BIN)/python examples/demo.py

test: lint base
	SSFT_REQUIRE_BASE=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

# The adapters that ship, from the start, and the plain LoRAs that their answers are compared with (outputs/start/sql,
# e2e_nlg, dialogsum). Interrupted, the same command goes on; what is finished below outputs/ is not made again. DATA holds
# NAME/train.jsonl.gz and NAME/validation.jsonl.gz.
#
#   make retrain-sql DATA=data        make retrain-e2e_nlg DATA=data        make retrain-dialogsum DATA=data
DATA ?= data
SSFT := $(BIN)/python -m ssft
REFERENCES = data.train=$(DATA)/$*/train.jsonl.gz $(VALIDATION)
VALIDATION = data.validation=$(DATA)/$*/validation.jsonl.gz
OWN_dialogsum := --limit 600 --max-new-tokens 128
FINISHED := adapter_config.json

retrain-sql retrain-e2e_nlg retrain-dialogsum: retrain-%: outputs/%/$(FINISHED)

# A query forgives nothing: the plain LoRA stays as it is, and the streams get a LoRA of their own. Both fit into the size
# of what ships in 16 bits.
outputs/sql/$(FINISHED): outputs/%/$(FINISHED): outputs/start/%/$(FINISHED)
	$(SSFT) train $*_streams $(REFERENCES) save_dtype=float16 --output outputs/$* --resume

# Where the answer is open, streams learn from what their own model says: a plain LoRA learns the task, its greedy
# answers become the rows, and over it come streams with a LoRA of their own (e2e_nlg), or both go on from its values.
outputs/e2e_nlg/$(FINISHED) outputs/dialogsum/$(FINISHED): outputs/%/$(FINISHED): outputs/own/%.jsonl
	$(SSFT) train $* adapter=outputs/start/$* data.train=$< $(VALIDATION) $(STREAMS_$*) --output outputs/$* --resume
STREAMS_e2e_nlg := training.mode=lossless training.stream_supervision=main training.num_msa_layers=12 lora.r=8 \
    lora.lora_alpha=16 training.learning_rate=2e-3 training.stream_loss_weight=0.1 training.max_steps=600 save_dtype=float16
STREAMS_dialogsum := training.learning_rate=2e-3 training.stream_loss_weight=0.1 training.stream_loss_warmup_ratio=0.1

outputs/own/%.jsonl: outputs/start/%/$(FINISHED)
	$(SSFT) generate outputs/start/$* --base smollm2-135m --dtype float32 --batch-size 8 --for-training \
	    --data $(DATA)/$*/train.jsonl.gz $(OWN_$*) --output $@

outputs/start/sql/$(FINISHED) outputs/start/e2e_nlg/$(FINISHED) outputs/start/dialogsum/$(FINISHED): outputs/start/%/$(FINISHED): | setup
	$(SSFT) train $* method=lora $(REFERENCES) --output outputs/start/$* --resume

.PRECIOUS: outputs/own/%.jsonl

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy ssft

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
