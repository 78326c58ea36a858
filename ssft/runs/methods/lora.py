"""method=lora: the LoRA without streams, trained by TRL's own trainer and written as a plain peft folder.

With the recipe of an adapter it gives that adapter's twin: what the streams cost in quality is the difference between
the two, and nothing else differs (`ssft.runs.twin` tells whether that is so).
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from trl import SFTTrainer

from ssft.base.load import public_name
from ssft.bundle.format import CARD, LORA_CONFIG, LORA_WEIGHTS
from ssft.bundle.read import read_bundle
from ssft.bundle.write import save_lora
from ssft.files import write_sorted_json
from ssft.runs.methods._peer import Peer
from ssft.runs.run import PreparedRun
from ssft.streams.modules import StreamModules
from ssft.training.trainer import keep_gradients_on_cpu


class Method(Peer):
    """A plain LoRA whose rows come in the order of the run with streams, from the same first values.

    Both hold as long as nothing random happens inside the model (`lora.lora_dropout=0`): dropout draws more numbers
    where there are streams.
    """

    product = "adapter"
    part = "twin"

    def build_trainer(self, run: PreparedRun, **data: Any) -> SFTTrainer:
        trainer: Any = SFTTrainer(run.model, run.args, peft_config=run.recipe.lora, **data)
        # 4-bit weights train in both runs or in neither.
        keep_gradients_on_cpu(trainer.model)
        # The order of the rows is drawn after the streams' first values, from the same generator: draw those here, too.
        StreamModules(run.recipe.stream_config(run.model.config.num_hidden_layers), run.model.config.hidden_size)
        return trainer

    def fill(self, folder: Path, run: PreparedRun, trainer: Any) -> None:
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder, save_embedding_layers=False)
        config = json.loads((folder / LORA_CONFIG).read_text(encoding="utf-8"))
        named = public_name(run.fingerprint["id"], config["base_model_name_or_path"] or "")
        write_sorted_json(folder / LORA_CONFIG, {**config, "base_model_name_or_path": named})
        save_lora(folder / LORA_WEIGHTS, load_file(folder / LORA_WEIGHTS), run.recipe.torch_save_dtype())
        # peft's card is a form that nobody filled in.
        (folder / CARD).unlink(missing_ok=True)
        read_bundle(folder)
