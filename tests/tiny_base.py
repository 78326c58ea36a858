"""A tiny base on disk: random weights, a tokenizer with a chat template, data files: what a user has."""

import json
from pathlib import Path

from conftest import TINY
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

ALPHABET = [chr(c) for c in range(32, 127)] + ["\n"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def tiny_tokenizer():
    """One token per printable character, plus <pad> and <eos>."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = TEMPLATE
    return fast


def byte_tokenizer():
    """One token per byte and some of several, in the form that most bases have, plus <pad> and <eos>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<pad>", "<eos>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ['{"name": "some name", "kind": "select", "items": [{"count": 12}, {}]}'] * 4, trainer
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = TEMPLATE
    return fast


def save_tiny_base(folder: Path, architecture: str = "llama", make_tokenizer=tiny_tokenizer, **changes) -> Path:
    """Write a tiny base to `folder` and return it."""
    tokenizer = make_tokenizer()
    model = TINY[architecture](vocab_size=len(tokenizer), **changes)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(count: int, start: int = 0) -> list[dict[str, str]]:
    """Prompt/completion rows with a completion worth predicting."""
    return [{"prompt": f"say {i}:", "completion": f" {i} and {i}, done."} for i in range(start, start + count)]


def save_rows(path: Path, values: list[dict]) -> Path:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def two_steps(output):
    """Settings of a short training on the CPU: two steps of two rows, every one logged and none saved."""
    return {
        "output_dir": str(output),
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
