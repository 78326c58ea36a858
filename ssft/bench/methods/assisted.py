"""Two-model speculation of transformers: `generate(assistant_model=…)` with a small draft model.

The schedule is what transformers 5 does by default: up to 20 tokens per draft (`num_assistant_tokens`, schedule
"constant"), and a draft ends earlier where its own model gives the next token less than 0.4
(`assistant_confidence_threshold`, which transformers adapts within an answer if scikit-learn is installed).
"""

from typing import Any

import torch
from transformers import GenerationConfig

from ssft.base.fingerprint import base_fingerprint
from ssft.base.load import load_base
from ssft.bench.methods import Setting, _peers, _transformers
from ssft.errors import ConfigError


class Method(_transformers.DraftingMethod):
    """The draft proposes a chain, the adapted model verifies it; only the latter's passes are calls."""

    DESCRIPTION = "assisted generation of transformers: a small draft model with a cache of its own"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.folder = _peers.find_part(setting, self.name, "draft", "config.json", "draft model")
        target = self.backbone.model
        # Where there is no GPU, None is the CPU too, and without accelerate's hooks.
        device = None if target.device.type == "cpu" and not torch.cuda.is_available() else str(target.device)
        self.draft, tokenizer = load_base(self.folder, dtype=str(target.dtype).removeprefix("torch."), device=device)
        self.draft.eval()
        # The two exchange token ids, so they must agree about them, and about how many fit.
        base, draft = self.backbone.config, self.draft.config
        own = base_fingerprint(target, self.adapted.tokenizer, "")["tokenizer_sha256"]
        if base_fingerprint(self.draft, tokenizer, "")["tokenizer_sha256"] != own:
            self._refuse("the draft's tokenizer is not the base's, so its token ids mean other text")
        if draft.vocab_size != base.vocab_size:
            self._refuse(f"the draft's vocab_size is {draft.vocab_size}, the base's {base.vocab_size}")
        if draft.max_position_embeddings < base.max_position_embeddings:
            lengths = f"{draft.max_position_embeddings}, the base's {base.max_position_embeddings}"
            self._refuse(f"the draft's max_position_embeddings is {lengths}")
        self.extra_parameters = sum(parameter.numel() for parameter in self.draft.parameters())
        # The draft's tokenizer is the base's.
        self.extra_bytes = sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))
        self.training = _peers.training(self.folder)

    def _refuse(self, why: str) -> None:
        command = _peers.command(self.adapted.active.name, self.name, self.folder)
        raise ConfigError(
            f"{self.folder}: {why}; train a draft from the adapter's own base in its place: {command} with --force"
        )

    def _arguments(self) -> dict[str, Any]:
        # transformers reads the schedule from here and may leave a new state of it behind.
        self.draft.generation_config = GenerationConfig()
        return {"assistant_model": self.draft}
