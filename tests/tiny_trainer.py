"""A trainer of a tested architecture: a tiny model of it, its windows wider than any row, and two steps to train."""

from datasets import Dataset
from peft import LoraConfig
from tiny_architectures import ARCHITECTURES, targets_of, tiny
from tiny_base import rows, tiny_tokenizer, two_steps

from ssft.training.config import StreamSFTConfig
from ssft.training.lossless import restrict_to_stream_layers
from ssft.training.trainer import StreamSFTTrainer

GAMMA, N_S = 3, 2


def wide(name, **changes):
    """The tiny model, its windows wider than any sequence here."""
    windowed = "sliding_window" in ARCHITECTURES[name][1] and name != "mixtral"
    return tiny(name, **({"sliding_window": 64} if windowed else {}), **changes)


def make_trainer(output, name, model=None, targets=None, **settings):
    """A `StreamSFTTrainer` over eight rows. model: instead of a tiny one. targets: of the LoRA, else those that fit."""
    tokenizer = tiny_tokenizer()
    own = {"num_streams": GAMMA, "num_msa_layers": N_S, "stream_loss_weight": 0.5, **settings}
    model = model or wide(name, vocab_size=len(tokenizer))
    lora = LoraConfig(r=4, target_modules=targets or targets_of(name), task_type="CAUSAL_LM")
    if settings.get("mode") == "lossless":
        lora = restrict_to_stream_layers(lora, model, N_S)
    return StreamSFTTrainer(
        model,
        StreamSFTConfig(**two_steps(output) | own),
        train_dataset=Dataset.from_list(rows(8)),
        processing_class=tokenizer,
        peft_config=lora,
    )
