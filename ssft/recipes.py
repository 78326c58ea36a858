"""Recipes: YAML files that settle a training run, checked against the dataclasses whose fields are their keys."""

import re
import types
import typing
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from enum import Enum
from functools import cache
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union

import yaml

from ssft.data import DataConfig
from ssft.decoding.config import TreeConfig
from ssft.errors import ConfigError, SSFTError
from ssft.streams.config import StreamConfig

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

    from ssft.training.config import StreamSFTConfig

TOP = ""  # the section of the keys that stand at the top of the file
SECTIONS = ("data", "lora", "training", "tree")
# keys of the underlying dataclasses that a recipe may not set, and who sets them
PEFT_OWN = "task_type peft_type auto_mapping peft_version base_model_name_or_path inference_mode runtime_config"
PEFT_OWN = "task_type peft_type auto_mapping peft_version base_model_name_or_path inference_mode runtime_config"
RESERVED = {
    "lora": dict.fromkeys(PEFT_OWN.split(), "ssft sets it"),
    "training": {
        "output_dir": "it is the run's output folder; set it with --output",
        "gradient_checkpointing": "it is the old name of training.activation_checkpointing; write that",
        "gradient_checkpointing_kwargs": "it is the old name of training.activation_checkpointing_kwargs; write that",
    },
}


@dataclass
class Recipe:
    """One training run. `training` stays a dict of checked values: building the arguments touches the device."""

    name: str = field(default="", metadata={"help": "name of the run; empty: the file's name"})
    base: str = field(default="smollm2-135m", metadata={"help": "base model: alias, hub id or local folder"})
    quantization: Literal["none", "4bit"] = field(
        default="none", metadata={"help": "weights of the base: none, or 4bit (bitsandbytes NF4)"}
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "compute dtype; auto: the best one of the device"}
    )
    data: DataConfig = field(default_factory=DataConfig)
    lora: "LoraConfig" = field(default_factory=lambda: _lora({}))
    training: dict[str, Any] = field(default_factory=dict)
    tree: TreeConfig = field(default_factory=TreeConfig)
    explicit: tuple[tuple[str, str], ...] = field(default=(), repr=False, compare=False)  # (section, key) as given

    def check(self) -> None:
        """Raise `ConfigError` if a setting that can be judged without a model is out of range."""
        self.data.check_data()
        self.tree.check_tree()
        if self.lora.r < 1:
            raise ConfigError(f"lora.r={self.lora.r}: a LoRA has a rank of at least 1")
        streams = {f.name for f in fields(StreamConfig)}
        StreamConfig(**{key: value for key, value in self.training.items() if key in streams}).check_streams()

    def build_training_args(
        self, output_dir: str | Path, device: "str | torch.device | None" = None
    ) -> "StreamSFTConfig":
        """The trainer's arguments for a run into `output_dir` on `device` (none or 'auto': CUDA if there is any).

        Where the recipe is silent, `use_cpu` follows the device, `bf16` and `fp16` follow the dtype, and `report_to` is
        none. Raises `ConfigError`.
        """
        import torch

        from ssft.bases import auto_dtype
        from ssft.training.config import StreamSFTConfig

        cuda = torch.cuda.is_available()
        device = torch.device(("cuda" if cuda else "cpu") if device in (None, "auto") else device)
        dtype = auto_dtype(device) if self.dtype == "auto" else getattr(torch, self.dtype)
        use_cpu = device.type == "cpu" or not cuda
        bf16, fp16 = dtype == torch.bfloat16, dtype == torch.float16 and not use_cpu
        resolved = {"report_to": "none", "use_cpu": use_cpu, "bf16": bf16, "fp16": fp16}
        try:
            return StreamSFTConfig(**{**resolved, **self.training, "output_dir": str(output_dir)})
        except (TypeError, ValueError) as error:
            if isinstance(error, SSFTError):
                raise
            raise ConfigError(f"recipe {self.name or '(unnamed)'}, training: {error}") from error


class Key(NamedTuple):  # one key of a section, as its dataclass field declares it
    hint: Any
    default: Any
    help: str


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars (1e-3 is a float, `no` a string, as the trainer's strategies need it); no duplicate keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                problem = f"duplicate key {key.value!r}; keep one of the two"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf", "-+0123456789."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)
for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {}
    for _tag, _pattern, _first in _SCALARS:
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


@cache
def _schema(section: str) -> dict[str, Key]:
    """The keys of a section; the libraries are imported on first use only."""
    from peft import LoraConfig

    from ssft.training.config import StreamSFTConfig

    if section not in (TOP, *SECTIONS):
        raise ConfigError(f"unknown section {section!r}; there are {', '.join(SECTIONS)}")
    schema_class: Any = (Recipe, DataConfig, LoraConfig, StreamSFTConfig, TreeConfig)[(TOP, *SECTIONS).index(section)]
    hints = typing.get_type_hints(schema_class, localns={"LoraConfig": Any})
    hidden = RESERVED.get(section, {}) if section else {*SECTIONS, "explicit"}
    shown = [f for f in fields(schema_class) if f.name not in hidden]
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in shown}
    return {f.name: Key(hints[f.name], defaults[f.name], f.metadata.get("help", "")) for f in shown}


def describe_keys(section: str = TOP) -> list[tuple[str, str, Any, str]]:
    """(key, type, default, help) of every key of a section; '' is the top of the file."""
    return [(name, _type_name(k.hint), k.default, " ".join(k.help.split())) for name, k in _schema(section).items()]


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Enum)


def _type_name(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " | ".join(_type_name(option) for option in _options(hint))
    if origin is Literal or _is_enum(hint):
        return " | ".join(repr(value) for value in args or [member.value for member in hint])
    if args:
        return f"{origin.__name__}[{', '.join(_type_name(arg) for arg in args)}]"
    return "none" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _options(hint: Any) -> list[Any]:
    """Members of a union, plain str last; without it where an enum lists the strings that are valid."""
    options = sorted(typing.get_args(hint), key=lambda option: option is str)
    if any(map(_is_enum, options)):
        options.remove(str)
    return options


def _convert(value: Any, hint: Any) -> Any:
    """`value` as the annotation `hint` wants it; raises `ValueError` if it does not fit."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        options = _options(hint)
        if type(None) in options and str not in options and isinstance(value, str) and value.lower() == "none":
            return None
        for option in options:
            with suppress(ValueError):
                return _convert(value, option)
    elif hint is Any or (hint is type(None) and value is None):
        return value
    elif origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
        # PEFT writes a number to be filled in as [...] inside the literal
        if isinstance(value, str) and any("[" in str(c) and value.startswith(c.partition("[")[0]) for c in args):
            return value
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif (hint in (bool, int, str) and type(value) is hint) or (_is_enum(hint) and value in [m.value for m in hint]):
        return value
    elif (origin or hint) is list and isinstance(value, list):
        return [_convert(item, args[0] if args else Any) for item in value]
    elif origin is tuple and isinstance(value, list) and len(value) == len(args):
        return tuple(_convert(item, arg) for item, arg in zip(value, args, strict=True))
    elif (origin or hint) is dict and isinstance(value, dict):
        return {key: _convert(item, args[1] if args else Any) for key, item in value.items()}
    raise ValueError(value)


def _checked(section: str, name: str, value: Any, where: str, raw: str | None = None) -> Any:
    """The converted value of one key; `raw` is the text of an override, taken as it is where a string is wanted."""
    path = f"{section}.{name}" if section else name
    key = _schema(section).get(name) if section in (TOP, *SECTIONS) else None
    if key is None:
        if reason := RESERVED.get(section, {}).get(name):
            raise ConfigError(f"{where}: {path} cannot be set in a recipe: {reason}")
        raise ConfigError(f"{where}: unknown key {path}{_suggest(path)}")
    for candidate in (value,) if raw is None else (value, raw):
        with suppress(ValueError):
            return _convert(candidate, key.hint)
    raise ConfigError(f"{where}: {path}={value!r} is of the wrong type; expected {_type_name(key.hint)}")


def _suggest(path: str) -> str:
    known = [f"{section}.{name}" if section else name for section in (TOP, *SECTIONS) for name in _schema(section)]
    # a key in the wrong section, or in none, is far from the right path in letters, but near in its last part
    last = {path.rpartition(".")[2]: path for path in known}
    near = [last[part] for part in get_close_matches(path.rpartition(".")[2], last, cutoff=0.7)]
    near += get_close_matches(path, known, n=1)
    return f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else f"; sections are {', '.join(SECTIONS)}"


def _file_values(path: Path) -> Iterator[tuple[str, str, Any]]:
    """(section, key, checked value) of a recipe file."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}, line {line}: invalid YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values; write `key: value` lines")
    for name, value in document.items():
        if name not in SECTIONS:
            yield TOP, str(name), _checked(TOP, str(name), value, str(path))
        elif not isinstance(value, dict | None):
            raise ConfigError(f"{path}: section {name} is {value!r}; write indented `key: value` lines below it")
        else:
            for key, item in (value or {}).items():
                yield name, str(key), _checked(name, str(key), item, str(path))


def _override(text: str) -> tuple[str, str, Any]:
    """(section, key, checked value) of one `key=value`."""
    where = f"override {text!r}"
    path, equals, raw = text.partition("=")
    section, _, name = path.strip().rpartition(".")
    if not equals or not name:
        raise ConfigError(f"{where}: write key=value, such as training.num_streams=6")
    if not section and name not in _schema(TOP):
        homes = [home for home in SECTIONS if name in _schema(home) or name in RESERVED.get(home, ())]
        if len(homes) > 1:
            raise ConfigError(f"{where}: {name} is ambiguous; write {' or '.join(f'{home}.{name}' for home in homes)}")
        section = homes[0] if homes else section
    value: Any = raw  # text that is no YAML, such as a template, stays as it is; the type check decides
    with suppress(yaml.YAMLError):
        value = yaml.load(raw, Loader=_Loader)
    return section, name, _checked(section, name, value, where, raw)


def load_recipe(name_or_path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """A shipped recipe by name, or a YAML file, with `key=value` overrides applied in order (the last one wins).

    A key is written with its section (`training.num_streams=6`); the section may be left out where only one has the
    key. Raises `ConfigError`.
    """
    path = recipe_path(name_or_path)
    given = chain(_file_values(path), map(_override, overrides))
    values = {(section, key): value for section, key, value in given}
    of: dict[str, dict[str, Any]] = {section: {} for section in (TOP, *SECTIONS)}
    for (section, key), value in values.items():
        of[section][key] = value
    recipe = Recipe(
        **{**of[TOP], "name": of[TOP].get("name") or path.stem},
        data=DataConfig(**of["data"]),
        lora=_lora(of["lora"]),
        training=of["training"],
        tree=TreeConfig(**of["tree"]),
        explicit=tuple(values),
    )
    recipe.check()
    return recipe


def _lora(values: dict[str, Any]) -> "LoraConfig":
    from peft import LoraConfig

    try:
        return LoraConfig(task_type="CAUSAL_LM", **values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lora: {error}") from error


def dump_recipe(recipe: Recipe) -> str:
    """YAML that reproduces the recipe through `load_recipe`: every key that was given or differs from its default."""
    document: dict[str, Any] = {key: getattr(recipe, key) for key in _schema(TOP)}
    plain = Recipe()  # not the fields' defaults: PEFT rewrites some while it builds
    for section in SECTIONS:
        now, default = getattr(recipe, section), getattr(plain, section)
        chosen = now
        if section != "training":
            pairs = {key: (getattr(now, key), getattr(default, key)) for key in _schema(section)}
            chosen = {key: v for key, (v, old) in pairs.items() if v != old or (section, key) in recipe.explicit}
        if chosen:
            document[section] = {key: sorted(v) if isinstance(v, set) else v for key, v in chosen.items()}
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _folder() -> Path:
    """Shipped recipes: inside the package in a wheel, beside it in the source tree."""
    packaged = Path(__file__).parent / "_recipes"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def recipe_path(name: str | Path) -> Path:
    """The file of a shipped recipe or of a path; raises `ConfigError` with the nearest name if there is none."""
    if str(name) in recipe_names():
        return _folder() / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    near = "".join(f"did you mean {match}? " for match in get_close_matches(str(name), recipe_names(), n=1))
    raise ConfigError(f"no recipe {str(name)!r}: {near}Shipped are {', '.join(recipe_names())}; or give a YAML file")


def recipe_head(path: str | Path) -> str:
    """The comment at the top of a recipe file, without the comment signs."""
    lines = takewhile(lambda line: line.startswith("#"), Path(path).read_text(encoding="utf-8").splitlines())
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)
