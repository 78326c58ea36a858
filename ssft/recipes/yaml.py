"""YAML as recipes use it: scalars of YAML 1.2, and no key twice."""

import re
from typing import Any

import yaml

MAX_BYTES = 2**20
"""Of a file, which may come with a foreign adapter."""
MAX_VALUES = 100_000
"""Values of one document, those that aliases repeat counted each time."""


class Loader(yaml.SafeLoader):
    """YAML 1.2 scalars (1e-3 is a float, `no` a string, as the trainer's strategies need it); no duplicate keys; no
    aliases of aliases that stand for more values than memory holds."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > MAX_VALUES:
            problem = f"with its aliases it has more than {MAX_VALUES:,} values; write less of them"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
        ) as error:  # a number of thousands of digits, !!int x
            problem = f"{str(node.value)[:40]!r} is no {node.tag.rpartition(':')[-1]} ({error})"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                problem = f"duplicate key {key.value!r}; keep one of the two"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _size(node: Any, sizes: dict[int, float]) -> float:
    """Values below a node, infinite for one that contains itself; `sizes` are those known, by identity."""
    if id(node) not in sizes:
        sizes[id(node)] = float("inf")  # until its parts are known
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in flat)
    return sizes[id(node)]


class Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads back."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf", "-+0123456789."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)
for _class in (Loader, Dumper):
    _class.yaml_implicit_resolvers = {}
    for _tag, _pattern, _first in _SCALARS:
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)
