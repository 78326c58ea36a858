# One-line knobs: which torch, and from which index. For a CUDA or CPU build other than your index's own:
#   make setup TORCH=torch==2.13.0 TORCH_INDEX=<index of that build>
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ssft-setup

.PHONY: setup base demo test lint format clean retrain-sql retrain-e2e_nlg retrain-dialogsum retrain-chat

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

# The adapters that ship, from the start, and the plain LoRAs that their answers are compared with (outputs/start/NAME). A
# recipe NAME makes the plain LoRA, NAME_streams what ships. Interrupted, the same command goes on; what is finished below
# outputs/ is not made again. DATA holds NAME/train.jsonl.gz and NAME/validation.jsonl.gz.
#
#   make retrain-sql DATA=data        make retrain-e2e_nlg DATA=data        make retrain-dialogsum DATA=data
DATA ?= data
SSFT := $(BIN)/python -m ssft
REFERENCES = data.train=$(DATA)/$*/train.jsonl.gz
VALIDATION = data.validation=$(DATA)/$*/validation.jsonl.gz
FINISHED := adapter_config.json

retrain-sql retrain-e2e_nlg retrain-dialogsum: retrain-%: outputs/%/$(FINISHED)

# A query forgives nothing: the streams of sql learn from the references, the others' from what their own model says.
outputs/sql/$(FINISHED): outputs/%/$(FINISHED): outputs/start/%/$(FINISHED)
	$(SSFT) train $*_streams $(REFERENCES) $(VALIDATION) --output outputs/$* --resume

outputs/e2e_nlg/$(FINISHED): outputs/own/e2e_nlg/as_they_are.jsonl outputs/own/e2e_nlg/renamed.jsonl
outputs/e2e_nlg/$(FINISHED): outputs/own/e2e_nlg/renamed_again.jsonl
outputs/dialogsum/$(FINISHED): outputs/own/dialogsum.jsonl
outputs/e2e_nlg/$(FINISHED) outputs/dialogsum/$(FINISHED): outputs/%/$(FINISHED):
	$(SSFT) train $*_streams $(VALIDATION) --output outputs/$* --resume

ANSWERS = $(SSFT) distill smollm2-135m --dtype float32 --max-new-tokens 128

outputs/own/dialogsum.jsonl: outputs/start/dialogsum/$(FINISHED)
	$(ANSWERS) --adapter outputs/start/dialogsum --data $(DATA)/dialogsum/train.jsonl.gz --limit 2200 --output $@.part
	mv $@.part $@

outputs/own/e2e_nlg/as_they_are.jsonl: outputs/start/e2e_nlg/$(FINISHED)
	$(ANSWERS) --adapter outputs/start/e2e_nlg --data $(DATA)/e2e_nlg/train.jsonl.gz --output $@.part
	mv $@.part $@

# E2E has 44 names, which streams learn by heart; from prompts with made-up ones they learn to copy.
outputs/own/e2e_nlg/renamed.jsonl: RENAMED = --seed 7
outputs/own/e2e_nlg/renamed.jsonl: ROWS = --limit 1500
outputs/own/e2e_nlg/renamed_again.jsonl: RENAMED = --seed 8
outputs/own/e2e_nlg/renamed_again.jsonl: ROWS = --limit 3000
outputs/own/e2e_nlg/renamed.jsonl outputs/own/e2e_nlg/renamed_again.jsonl: outputs/start/e2e_nlg/$(FINISHED)
	$(SSFT) rename --data $(DATA)/e2e_nlg/train.jsonl.gz --unlike $(DATA)/e2e_nlg/validation.jsonl.gz $(RENAMED) \
	    --output outputs/start/e2e_nlg/$(notdir $@)
	$(ANSWERS) --adapter outputs/start/e2e_nlg --data outputs/start/e2e_nlg/$(notdir $@) $(ROWS) --output $@.part
	mv $@.part $@

# The chat adapter has no LoRA of the text, and its rows are the base's own: answers to questions that it asks itself, and to
# prompts that templates make, some of which are about those answers.
retrain-chat: outputs/chat/$(FINISHED)

OWN_CHAT = $(SSFT) distill smollm2-135m --keep-cut-off --max-new-tokens 128 --batch-size 16

outputs/chat/$(FINISHED): outputs/own/chat/answers.jsonl outputs/own/chat/asked.jsonl
	$(SSFT) train chat_lossless data.train=outputs/own/chat --output outputs/chat --resume

outputs/own/chat/asked.jsonl: | setup
	$(OWN_CHAT) --questions 1400 --max-question-tokens 64 --seed 1 --output $@.part
	mv $@.part $@

outputs/own/chat/answers.jsonl: outputs/own/chat/asked.jsonl
	mkdir -p outputs/start
	$(BIN)/python examples/chat_prompts.py --count 1080 --texts $< --seed 21 --output outputs/start/chat_prompts.jsonl
	$(OWN_CHAT) --data outputs/start/chat_prompts.jsonl --output $@.part
	mv $@.part $@

# The LoRA of dialogsum is of 4,800 dialogues, seen once on a GPU; the others are of as many rows as their recipes say.
outputs/start/dialogsum/$(FINISHED): MORE = data.max_train_rows=0 max_steps=300 per_device_train_batch_size=16 save_dtype=float16
outputs/start/sql/$(FINISHED) outputs/start/e2e_nlg/$(FINISHED) outputs/start/dialogsum/$(FINISHED): outputs/start/%/$(FINISHED): | setup
	$(SSFT) train $* method=lora $(REFERENCES) $(VALIDATION) $(MORE) --output outputs/start/$* --resume

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy ssft examples docs/tables.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
