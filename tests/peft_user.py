"""What a user of peft and transformers has: a base and an adapter bundle on disk, and the model made of both."""

import torch
from fake_adapted import save_bundle
from peft import PeftModel
from tiny_base import save_tiny_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from ssft.runtime.generate import StreamGenerate

PROMPTS = ["select name from", "say 1", "what is the answer?"]
TOKENS = 24


class PeftUser:
    """`plain` is the PeftModel without hooks, `model` the same with them; `generate` is for `custom_generate=`."""

    def __init__(self, folder, architecture, **changes):
        self.base_path = save_tiny_base(folder / "base", architecture, **changes)
        self.bundle = save_bundle(folder / "adapter", self.base_path)
        self.tokenizer = AutoTokenizer.from_pretrained(self.base_path, padding_side="left")
        self.plain = self.load()
        self.model = self.load()
        self.generate = StreamGenerate.from_adapter(self.model, self.bundle)

    def base(self):
        return AutoModelForCausalLM.from_pretrained(self.base_path, dtype=torch.float32).eval()

    def load(self):
        return PeftModel.from_pretrained(self.base(), self.bundle).eval()

    def inputs(self, rows):
        return self.tokenizer([PROMPTS[row] for row in rows], return_tensors="pt", padding=True)

    def both(self, rows, tokens=TOKENS, ours=None, theirs=None, **settings):
        """(ids of `generate`, ids with streams) for the same inputs and settings; `ours`, `theirs`: for one of them."""
        settings = {"do_sample": False, "max_new_tokens": tokens, **settings}
        settings = {name: value for name, value in settings.items() if value is not None}
        inputs = self.inputs(rows)
        reference = self.plain.generate(**inputs, **settings, **(theirs or {}))
        return reference, self.model.generate(**inputs, custom_generate=self.generate, **settings, **(ours or {}))

    def calls(self):
        """Passes and tokens of the latest call."""
        return sum(row.calls for row in self.generate.last), sum(len(row.token_ids) for row in self.generate.last)
