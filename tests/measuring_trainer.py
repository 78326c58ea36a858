"""A `StreamSFTTrainer` over a tiny base that measures tokens per call as it goes."""

from conftest import TINY
from datasets import Dataset
from peft import LoraConfig
from tiny_base import rows, tiny_tokenizer

from ssft.decoding.config import TreeConfig
from ssft.training.config import StreamSFTConfig
from ssft.training.lossless import restrict_to_stream_layers
from ssft.training.trainer import StreamSFTTrainer

TREE = TreeConfig(max_nodes=5, top_k=2, max_batch_nodes=4)
HELD_BACK = rows(6, start=100)


def make_trainer(tmp_path, model=None, validation=6, tree=TREE, dropout=0.0, **settings):
    """A trainer over a tiny Llama: γ = 3, N_s = 2, four steps of two rows, measured at every other."""
    if model is None:
        model = TINY["llama"](vocab_size=len(tiny_tokenizer()))
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=dropout)
    if settings.get("mode") == "lossless":
        lora = restrict_to_stream_layers(lora, model, 2)
    defaults = {
        "output_dir": str(tmp_path / "out"),
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "num_streams": 3,
        "num_msa_layers": 2,
        "stream_loss_weight": 0.5,
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "measure_steps": 2,
        "measure_rows": 2,
    }
    return StreamSFTTrainer(
        model,
        StreamSFTConfig(**{**defaults, **settings}),
        train_dataset=Dataset.from_list(rows(16)),
        eval_dataset=Dataset.from_list(HELD_BACK[:validation]) if validation else None,
        processing_class=tiny_tokenizer(),
        peft_config=lora,
        tree=tree,
    )
