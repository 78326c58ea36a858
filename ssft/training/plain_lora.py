"""The plain-LoRA twin of an adapter with streams: same base, data, seed, steps and LoRA, trained by TRL's own trainer.

What the streams cost in quality is the difference between the two; nothing else differs.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from trl import SFTTrainer

from ssft.bundle.format import LORA_CONFIG, LORA_WEIGHTS
from ssft.bundle.read import read_bundle
from ssft.bundle.write import save_lora
from ssft.streams.config import StreamConfig
from ssft.streams.modules import StreamModules
from ssft.training.peer_folder import made_by, result_folder
from ssft.training.trainer import keep_gradients_on_cpu


def build_twin_trainer(
    model: Any,
    args: Any,
    train_rows: Any,
    validation_rows: Any,
    tokenizer: Any,
    *,
    lora: Any,
    streams: StreamConfig,
) -> SFTTrainer:
    """TRL's `SFTTrainer` with the LoRA `lora` over `model`, whose rows come in the order of the run with streams.

    `args` is an `SFTConfig`, `streams` the configuration of the adapter whose twin this is. The LoRA's first values
    are equal to that adapter's, and so is the order of the rows as long as nothing random happens inside the model
    (`lora.lora_dropout=0`): dropout draws more numbers where there are streams.
    """
    trainer: Any = SFTTrainer(
        model,
        args,
        train_dataset=train_rows,
        eval_dataset=validation_rows,
        processing_class=tokenizer,
        peft_config=lora,
    )
    # 4-bit weights train in both runs or in neither.
    keep_gradients_on_cpu(trainer.model)
    # The order of the rows is drawn after the streams' first values, from the same generator: draw those here, too.
    StreamModules(streams, model.config.hidden_size)
    return trainer


def save_twin(
    path: Path,
    peft_model: Any,
    base: str,
    run_yaml: str,
    provenance: dict[str, Any],
    save_dtype: torch.dtype | None = None,
) -> None:
    """Write the LoRA as peft does, with `run.yaml` and `provenance.json`; the folder appears whole or not at all.

    `base` is the name under which the base is loaded again, `save_dtype` the type of the tensors, None: their own.
    """
    with result_folder(path, run_yaml, provenance, lambda old: made_by(old) == "lora") as folder:
        peft_model.save_pretrained(folder, save_embedding_layers=False)
        config = json.loads((folder / LORA_CONFIG).read_text(encoding="utf-8"))
        # peft stores where the base lay on this machine.
        config["base_model_name_or_path"] = base
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / LORA_CONFIG).write_text(text + "\n", encoding="utf-8")
        save_lora(folder / LORA_WEIGHTS, load_file(folder / LORA_WEIGHTS), save_dtype)
        # peft's card is a form that nobody filled in.
        (folder / "README.md").unlink(missing_ok=True)
        read_bundle(folder)
