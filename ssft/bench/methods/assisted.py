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

NAME = "assisted"
DESCRIPTION = "assisted generation of transformers: a small draft model with a cache of its own"
KIND = "speculative"
LOSSLESS = True

FOLDER = "draft"


class Method(_transformers.DraftingMethod):
    """The draft proposes a chain, the adapted model verifies it; only the latter's passes are calls."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.folder = _peers.find_part(setting, NAME, FOLDER, "config.json", "draft model")
        target = self.backbone.model
        # Where there is no GPU, None is the CPU too, and without accelerate's hooks.
        device = None if target.device.type == "cpu" and not torch.cuda.is_available() else str(target.device)
        dtype = str(target.dtype).removeprefix("torch.")
        self.draft, tokenizer = load_base(self.folder, dtype=dtype, device=device)
        self.draft.eval()
        self._check(tokenizer)

    def extra_parameters(self) -> int:
        """All of the draft's."""
        return sum(parameter.numel() for parameter in self.draft.parameters())

    def extra_bytes(self) -> int:
        """The draft's weights on disk; its tokenizer is the base's."""
        return sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))

    def training(self) -> dict[str, Any]:
        """The draft's, as far as its folder tells."""
        return _peers.read_training(self.folder)

    def _arguments(self) -> dict[str, Any]:
        # transformers reads the schedule from here and may leave a new state of it behind.
        self.draft.generation_config = GenerationConfig()
        return {"assistant_model": self.draft}

    def _check(self, tokenizer: Any) -> None:
        """The two exchange token ids, so they must agree about them, and about how many fit."""
        own = base_fingerprint(self.backbone.model, self.adapted.tokenizer, "")["tokenizer_sha256"]
        if base_fingerprint(self.draft, tokenizer, "")["tokenizer_sha256"] != own:
            raise ConfigError(
                f"{self.folder}: the draft's tokenizer is not the base's, so its token ids mean other text; train a "
                f"draft from the adapter's own base: {_peers.command(self.adapted.active.name, NAME, self.folder)}"
            )
        for key, enough in (("vocab_size", "=="), ("max_position_embeddings", ">=")):
            draft, base = getattr(self.draft.config, key), getattr(self.backbone.config, key)
            if draft < base or (enough == "==" and draft != base):
                raise ConfigError(
                    f"{self.folder}: the draft's {key} is {draft}, the base's {base}; train a draft from the adapter's "
                    f"own base: {_peers.command(self.adapted.active.name, NAME, self.folder)}"
                )
