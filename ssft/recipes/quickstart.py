"""Built-in training data: order records to be turned into JSON and a confirmation sentence.

The task is a small real one, and worth predicting several tokens ahead: names, item and city are copied from the
prompt, keys and phrases are fixed, and the sentence follows from the delivery method. Some 10^12 records are possible,
so a few hundred of them teach the form and cannot be memorised. No download, no licence.
"""

import random
from typing import Any

from ssft.errors import DataError

FIRST_NAMES = (
    "Alice", "Anton", "Bruno", "Carla", "Clara", "Daniel", "Diana", "Emma", "Felix", "Grace", "Hannah", "Henry",
    "Irene", "Jacob", "Julia", "Kevin", "Laura", "Lucas", "Maria", "Martin", "Nina", "Oliver", "Olivia", "Oscar",
    "Paula", "Peter", "Rachel", "Robert", "Sarah", "Simon", "Sofia", "Thomas", "Victor", "Wendy",
)  # fmt: skip
LAST_NAMES = (
    "Adams", "Baker", "Brown", "Carter", "Clark", "Cooper", "Davis", "Evans", "Fisher", "Foster", "Garcia", "Gray",
    "Green", "Harris", "Hill", "Hughes", "Jackson", "Jones", "Keller", "King", "Lewis", "Martin", "Miller", "Moore",
    "Nelson", "Parker", "Reed", "Rossi", "Scott", "Silva", "Smith", "Taylor", "Turner", "Walker", "Ward", "Wilson",
    "Wood",
)  # fmt: skip
COLOURS = ("black", "blue", "brown", "green", "grey", "red", "silver", "white", "yellow")
MATERIALS = ("cotton", "glass", "leather", "metal", "paper", "plastic", "steel", "stone", "wooden", "wool")
ITEMS = (
    "backpack", "basket", "bench", "blanket", "bottle", "bowl", "box", "camera bag", "chair", "clock", "coat", "cup",
    "desk", "door mat", "frame", "hat", "jacket", "kettle", "lamp", "ladder", "mirror", "notebook", "pen holder",
    "phone case", "picture", "plate", "shelf", "sofa", "stool", "table", "tea pot", "towel", "tray", "umbrella", "vase",
    "wallet", "watch",
)  # fmt: skip
CITIES = (
    "Amsterdam", "Athens", "Berlin", "Boston", "Cairo", "Chicago", "Copenhagen", "Denver", "Dublin", "Geneva",
    "Hamburg", "Helsinki", "Lima", "Lisbon", "London", "Madrid", "Melbourne", "Milan", "Montreal", "Munich", "New York",
    "Oslo", "Oxford", "Paris", "Prague", "Rome", "San Diego", "Santiago", "Seattle", "Stockholm", "Sydney", "Tokyo",
    "Toronto", "Vienna", "Warsaw", "Zurich",
)  # fmt: skip
DELIVERY = {
    "standard": "It will be sent by standard mail and should arrive within five working days.",
    "express": "It will be sent by express courier and should arrive on the next working day.",
    "pickup": "It will be ready for pickup at our store from tomorrow morning.",
}
PARTS = ("train", "validation")
VALIDATION_SHARE = 5  # one of so many name pairs belongs to validation


def quickstart_rows(count: int, seed: int, part: str = "train") -> list[dict[str, Any]]:
    """`count` distinct rows with `prompt` and `completion`, the same for the same `count`, `seed` and `part`.

    No customer of part `train` occurs in part `validation`, whatever the seeds: first and last name together decide
    the part. Raises `DataError` for an unknown part or a count below 1.
    """
    if part not in PARTS:
        raise DataError(f"part={part!r}: the built-in rows have the parts {' and '.join(PARTS)}")
    if count < 1:
        raise DataError(f"count={count}: at least one built-in row is needed")
    rng = random.Random(f"{seed}/{part}")  # a string seed is hashed the same way in every process
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < count:
        row = _row(rng, part)
        rows.setdefault(row["prompt"], row)
    return list(rows.values())


def _customer(rng: random.Random, part: str) -> str:
    while True:
        first, last = rng.randrange(len(FIRST_NAMES)), rng.randrange(len(LAST_NAMES))
        if ((first + last) % VALIDATION_SHARE == 0) == (part == "validation"):
            return f"{FIRST_NAMES[first]} {LAST_NAMES[last]}"


def _row(rng: random.Random, part: str) -> dict[str, Any]:
    customer = _customer(rng, part)
    item = f"{rng.choice(COLOURS)} {rng.choice(MATERIALS)} {rng.choice(ITEMS)}"
    city, delivery = rng.choice(CITIES), rng.choice(tuple(DELIVERY))
    order, quantity = rng.randrange(100, 1000), rng.randrange(1, 10)
    prompt = (
        "Turn the order into JSON and a confirmation.\n\n"
        f"Order {order}: {customer}, {city}, {quantity} x {item}, {delivery}\n\n"
        "Answer:\n"
    )
    completion = (
        f'{{"order": {order}, "customer": "{customer}", "city": "{city}", "item": "{item}", "quantity": {quantity}, '
        f'"delivery": "{delivery}"}}\n'
        f"Thank you, {customer}. {DELIVERY[delivery]}"
    )
    return {"prompt": prompt, "completion": completion}
