"""Models with a tokenizer of bytes, which forms of a text need, their adapters, forms, and drafts of a known text."""

import functools
import math
import tempfile
from pathlib import Path

from shelf import PLAIN, SHELF, save_adapter
from tiny_base import byte_tokenizer, save_tiny_base

from ssft.decoding.draft.drafter import Drafter, Guesses
from ssft.runtime.model import MultiAdapterModel

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "kind": {"enum": ["select", "count", 5, None]},
        "items": {
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {"count": {"type": "integer", "minimum": -99, "maximum": 999}, "ok": {"type": "boolean"}},
                "required": ["count", "ok"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["name", "kind", "items"],
    "additionalProperties": False,
}
REGEX = r"name: [a-z]{2,6}; (kind: (select|count); ){1,2}end"
GRAMMAR = 'start: "items" (" " item)+ "."\nitem: "<" item ">" | NUMBER\nNUMBER: /[0-9]{1,3}/'
FORMS = {"json_schema": SCHEMA, "regex": REGEX, "grammar": GRAMMAR}
PROMPTS = ["say 12:", "tell me, please", "x", "one more prompt"]
ADAPTERS = ["deep", None, "many", PLAIN]


@functools.cache
def model_of(architecture):
    folder = Path(tempfile.mkdtemp(prefix="ssft-structured-"))
    base = save_tiny_base(folder / "base", architecture, byte_tokenizer)
    model = MultiAdapterModel.from_pretrained(base, dtype="float32", device_map="cpu")
    for name in ("deep", "many"):
        lora, streams, tree = SHELF[name]
        model.load_adapter(save_adapter(folder / name, base, lora, streams, tree))
    model.load_adapter(save_adapter(folder / PLAIN, base))
    return model


class Oracle(Drafter):
    """Guesses that are never, sometimes or always right, by the texts {prompt: token ids}."""

    reach = 3

    def __init__(self, drafts, texts):
        self.drafts, self.texts = drafts, texts

    def propose(self, stops, states, step):
        return [self.guess(stop.row) for stop in stops]

    def guess(self, row):
        at = len(row.result.token_ids)
        right = [*self.texts[tuple(row.request.prompt)][at : at + self.reach], 0, 0, 0][: self.reach]
        good = {"never": 0, "sometimes": at % 2, "always": 1}[self.drafts]
        wrong = [[token for token in (40, 41, 42) if token != truth] for truth in right]
        places = [[a, truth if good else b] for truth, (a, b, *_) in zip(right, wrong, strict=True)]
        return Guesses(places, [[math.log(0.6), math.log(0.3)]] * self.reach)
