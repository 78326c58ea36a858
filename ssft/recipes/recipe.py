"""Recipes: YAML files that settle a training run, checked against the dataclasses whose fields are their keys."""

import os
import re
import typing
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from ssft.bundle.shipped import shipped_adapters
from ssft.decoding.config import TreeConfig
from ssft.errors import ConfigError, SSFTError, nearest
from ssft.recipes.config import DataConfig
from ssft.recipes.limits import narrowed, reporters
from ssft.recipes.yaml import MAX_BYTES, Dumper, Loader
from ssft.schema import read, setting, shown, type_name
from ssft.streams.config import StreamConfig, layers_of_share

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from trl import SFTConfig

    from ssft.decoding.draft.medusa_heads import MedusaConfig
    from ssft.training.draft import DraftConfig

TOP = ""  # the section of the keys that stand at the top of the file
SECTIONS = ("data", "lora", "training", "tree", "medusa", "draft")
# the sections that a method reads beside data and training; the recipe of a twin or a prune head is that of an adapter
SECTIONS_READ = {
    "streams": ("lora", "tree"),
    "lora": ("lora", "tree"),
    "prune_head": ("lora", "tree"),
    "medusa": ("medusa",),
    "draft": ("draft",),
}
TRAINS = {
    "streams": "a LoRA with speculative streams",
    "lora": "the same LoRA without streams, for comparison",
    "prune_head": "a prune head for a trained adapter, of which every other tensor stays as it is",
    "medusa": "Medusa heads over a trained adapter, for comparison",
    "draft": "a small model of some of the bare base's layers, for comparison",
}
# keys of the underlying dataclasses that a recipe may not set, and who sets them
PEFT_OWN = "task_type peft_type auto_mapping peft_version base_model_name_or_path inference_mode runtime_config"
HUB = "push_to_hub hub_model_id hub_token hub_private_repo hub_strategy hub_always_push hub_revision"
NAME = re.compile(r"[\w-][\w.-]*")
RESERVED = {
    "lora": dict.fromkeys(PEFT_OWN.split(), "ssft sets it"),
    "training": {
        "output_dir": "it is the run's output folder; set it with --output",
        "gradient_checkpointing": "it is the old name of training.activation_checkpointing; write that",
        "gradient_checkpointing_kwargs": "it is the old name of training.activation_checkpointing_kwargs; write that",
        "trust_remote_code": "it would run code that came with a model, which ssft never does",
        "model_init_kwargs": "ssft loads the base itself; set base, dtype and quantization",
        **dict.fromkeys(HUB.split(), "a run writes to this machine only; upload its result with `ssft push`"),
    },
}


@dataclass
class Recipe:
    """One training run. `training` stays a dict of checked values: building the arguments touches the device."""

    name: str = setting("", "name of the run, of letters, digits, . _ -; empty: the file's name")
    method: Literal["streams", "lora", "prune_head", "medusa", "draft"] = setting(
        "streams", "what is trained. " + "; ".join(f"{name}: {what}" for name, what in TRAINS.items())
    )
    adapter: str = setting(
        "",
        "a trained adapter: a folder, adapters/NAME or owner/name. streams and lora begin from its values "
        "instead of fresh ones (a plain LoRA gets its streams), streams with training.mode=lossless keeps its LoRA "
        "as it is and gives the streams one of their own; medusa gives it its heads, prune_head its prune head",
    )
    base: str = setting("smollm2-135m", "base model: alias, hub id or local folder")
    quantization: Literal["none", "4bit"] = setting("none", "weights of the base: none, or 4bit (bitsandbytes NF4)")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "compute dtype; auto: the best one of the device"
    )
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "type in which the LoRA that is trained is written, two bytes a value in 16 bits; auto: as it was trained. One "
        "that is kept stays as it is",
    )
    data: DataConfig = field(default_factory=DataConfig)
    lora: "LoraConfig" = field(default_factory=lambda: _section("lora", {}))
    training: dict[str, Any] = field(default_factory=dict)
    tree: TreeConfig = field(default_factory=TreeConfig)
    medusa: "MedusaConfig" = field(default_factory=lambda: _section("medusa", {}))
    draft: "DraftConfig" = field(default_factory=lambda: _section("draft", {}))
    explicit: tuple[tuple[str, str], ...] = field(default=(), repr=False, compare=False)  # (section, key) as given

    def check(self) -> None:
        """Raise `ConfigError` if a setting that can be judged without a model is out of range."""
        if self.name and not NAME.fullmatch(self.name):
            what = f"name={self.name[:60]!r} names a folder: letters, digits and . _ - only, and no dot in front"
            raise ConfigError(f"{what}; set name=...")
        self._check_method()
        self.data.check_data()
        self.tree.check_tree()
        self.medusa.check_medusa()
        self.draft.check_draft()
        self.stream_config(num_layers=2).check_streams()  # no base is known; a share of layers fits any

    def _check_method(self) -> None:
        """Raise `ConfigError` for a setting that `method` would silently leave unused, or cannot work with."""
        reads = ("data", "training", *SECTIONS_READ[self.method])
        unused = [f"{section}.{key}" for section, key in self.explicit if section and section not in reads]
        if "lora" not in reads:
            unused += [f"training.{key}" for key in sorted(set(self.training) & _stream_keys())]
            if self.save_dtype != "auto":
                unused.insert(0, f"save_dtype={self.save_dtype}")
        if self.adapter and self.method == "draft":
            unused.append(f"adapter={self.adapter}")
        if unused:
            what = f"{unused[0]} has no effect with method={self.method}, which trains {TRAINS[self.method]}"
            raise ConfigError(f"{what}; leave it out or choose another method")
        over = {"medusa": "heads over", "prune_head": "a prune head for"}
        if self.method in over and not self.adapter:
            what = f"method={self.method} trains {over[self.method]} an adapter, and none is named"
            raise ConfigError(f"{what}; set adapter=FOLDER")
        if self.method == "streams" and self.tree.prunes and not self.training.get("prune_head_rank"):
            raise ConfigError(
                f"tree.prune_below={self.tree.prune_below:g}, tree.prune_keep={self.tree.prune_keep}: without a prune "
                "head nobody says which branches are likely; set training.prune_head_rank=8, or leave both out"
            )
        if self.method == "draft" and self.quantization != "none":
            what = f"method=draft with quantization={self.quantization}: a draft is trained in full"
            raise ConfigError(f"{what}, which quantised weights cannot be; set quantization=none")
        if self.method == "lora" and self.training.get("mode", "shared") == "lossless":
            raise ConfigError(
                "method=lora with training.mode=lossless: the text of a lossless adapter is the base's own, or that of "
                "the adapter whose LoRA it kept; compare with that, or set training.mode=shared"
            )
        if self.training.get("dataloader_persistent_workers") and not self.training.get("dataloader_num_workers"):
            raise ConfigError(
                "training.dataloader_persistent_workers=true keeps workers, and there are none; set "
                "training.dataloader_num_workers to at least 1"
            )
        packed = [key for key in ("packing", "padding_free") if self.training.get(key)]
        if packed and self.method == "lora":
            what = f"training.{packed[0]}=true puts several rows into one, which the run that it is the twin of cannot"
            raise ConfigError(f"{what}; set training.{packed[0]}=false")

    def stream_config(self, num_layers: int) -> StreamConfig:
        """The streams that `training` describes for a base of N = `num_layers` layers, defaults where it is silent."""
        known = {f.name for f in fields(StreamConfig)}
        values = {key: value for key, value in self.training.items() if key in known}
        if isinstance(share := values.get("num_msa_layers"), float):
            values["num_msa_layers"] = layers_of_share(share, num_layers)
        return StreamConfig(**values)

    def torch_save_dtype(self) -> "torch.dtype | None":
        """`save_dtype` as torch's; None for the type that a LoRA was trained in."""
        import torch

        return None if self.save_dtype == "auto" else getattr(torch, self.save_dtype)

    def build_training_args(self, output_dir: str | Path, device: "str | torch.device | None" = None) -> "SFTConfig":
        """The trainer's arguments for a run into `output_dir` on `device` (none or 'auto': CUDA if there is any).

        `StreamSFTConfig` for streams, else TRL's own `SFTConfig` with the same values. Where the recipe is silent,
        `use_cpu` follows the device, `bf16` and `fp16` follow the dtype, and `report_to` is none. Raises `ConfigError`.
        """
        import torch
        from trl import SFTConfig

        from ssft.base.load import auto_dtype, named_device
        from ssft.training.config import StreamSFTConfig

        device = named_device(device)
        dtype = auto_dtype(device) if self.dtype == "auto" else getattr(torch, self.dtype)
        use_cpu = device.type == "cpu" or not torch.cuda.is_available()
        bf16, fp16 = dtype == torch.bfloat16, dtype == torch.float16 and not use_cpu
        resolved = {"report_to": "none", "use_cpu": use_cpu, "bf16": bf16, "fp16": fp16}
        values = {**resolved, **self.training, "output_dir": str(output_dir)}
        kind: type[SFTConfig] = StreamSFTConfig
        if self.method != "streams":
            kind, values = SFTConfig, {key: value for key, value in values.items() if key not in _stream_keys()}
        try:
            args = kind(**values)
            for name in args.report_to or ():
                reporters()[name]()  # as the trainer will
        except SSFTError:
            raise
        except Exception as error:  # the libraries raise anything here, from ValueError to ImportError
            raise ConfigError(f"recipe {self.name or '(unnamed)'}, training: {error}") from error
        return args


@cache
def _stream_keys() -> frozenset[str]:
    """Keys of `training` that TRL's own trainer does not have."""
    from trl import SFTConfig

    from ssft.training.config import StreamSFTConfig

    return frozenset(f.name for f in fields(StreamSFTConfig)) - {f.name for f in fields(SFTConfig)}


@cache
def _classes() -> dict[str, Any]:
    """The dataclass of every section; the libraries are imported on first use only."""
    from peft import LoraConfig

    from ssft.decoding.draft.medusa_heads import MedusaConfig
    from ssft.training.config import StreamSFTConfig
    from ssft.training.draft import DraftConfig

    classes = (Recipe, DataConfig, LoraConfig, StreamSFTConfig, TreeConfig, MedusaConfig, DraftConfig)
    return dict(zip((TOP, *SECTIONS), classes, strict=True))


def _section(section: str, values: dict[str, Any]) -> Any:
    """A section's object from checked values."""
    try:
        return _classes()[section](**{**values, **({"task_type": "CAUSAL_LM"} if section == "lora" else {})})
    except SSFTError:
        raise
    except Exception as error:  # peft asks for other packages, too
        raise ConfigError(f"{section}: {error}") from error


@cache
def _schema(section: str) -> dict[str, tuple[Any, Any, str]]:
    """The keys of a section: name -> (annotation, default, help)."""
    if section not in _classes():
        raise ConfigError(f"unknown section {section!r}; there are {', '.join(SECTIONS)}")
    kind = _classes()[section]
    names = {value.__name__: value for value in _classes().values()}
    hints = typing.get_type_hints(kind, localns=names, include_extras=True)
    hidden = RESERVED.get(section, {}) if section else {*SECTIONS, "explicit"}
    keys = [f for f in fields(kind) if f.name not in hidden]
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in keys}
    wanted = {f.name: narrowed(section, f.name, hints[f.name], f.metadata.get("choices")) for f in keys}
    return {f.name: (wanted[f.name], defaults[f.name], " ".join(f.metadata.get("help", "").split())) for f in keys}


def describe_keys(section: str = TOP) -> list[tuple[str, str, Any, str]]:
    """(key, type, default, help) of every key of a section; '' is the top of the file."""
    return [(name, type_name(hint), default, help) for name, (hint, default, help) in _schema(section).items()]


def _checked(section: str, name: str, value: Any, where: str, raw: str | None = None) -> Any:
    """The converted value of one key; `raw` is the text of an override, taken as it is where a string is wanted."""
    path = f"{section}.{name}" if section else name
    if section not in _classes() or name not in _schema(section):
        if reason := RESERVED.get(section, {}).get(name):
            raise ConfigError(f"{where}: {path} cannot be set in a recipe: {reason}")
        known = [f"{home}.{name}" if home else name for home in (TOP, *SECTIONS) for name in _schema(home)]
        hint = nearest(path, known) or f"sections are {', '.join(SECTIONS)}"
        raise ConfigError(f"{where}: unknown key {path}; {hint}")
    wanted = _schema(section)[name][0]
    options = typing.get_args(wanted)
    if isinstance(value, str) and value.lower() == "none" and type(None) in options and str not in options:
        return None
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{where}: {path}={shown(value)} holds the character NUL, which no setting can; remove it")
    try:
        return read(wanted, value, path)
    except ValueError as error:
        with suppress(ValueError):
            if raw is not None:
                return read(wanted, raw, path)
        raise ConfigError(f"{where}: {error}") from error


def _file_values(path: Path) -> Iterator[tuple[str, str, Any]]:
    """(section, key, checked value) of a recipe file."""
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ConfigError(f"{path}: {size:,} bytes, no recipe needs more than {MAX_BYTES:,}; is it another file?")
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}, line {line}: invalid YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values; write `key: value` lines")
    for name, value in document.items():
        if name not in SECTIONS:
            yield TOP, str(name), _checked(TOP, str(name), value, str(path))
        elif not isinstance(value, dict | None):
            raise ConfigError(f"{path}: section {name} is {shown(value)}; write indented `key: value` lines below it")
        else:
            for key, item in (value or {}).items():
                yield name, str(key), _checked(name, str(key), item, str(path))


def _override(text: str) -> tuple[str, str, Any]:
    """(section, key, checked value) of one `key=value`."""
    where = f"override {shown(text)}"
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
    with suppress(yaml.YAMLError, RecursionError):
        value = yaml.load(raw, Loader=Loader)
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
    top: dict[str, Any] = of.pop(TOP)
    top["name"] = top.get("name") or path.stem
    built: dict[str, Any] = {
        section: chosen if section == "training" else _section(section, chosen) for section, chosen in of.items()
    }
    recipe = Recipe(**top, **built, explicit=tuple(values))
    recipe.check()
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """YAML that reproduces the recipe through `load_recipe`: every key that was given or differs from its default."""
    plain = Recipe()  # not the fields' defaults: PEFT rewrites some while it builds
    document: dict[str, Any] = {key: getattr(recipe, key) for key in _schema(TOP)}
    # Both came after the first adapters: a run that an earlier version began compares equal, and can be resumed.
    for key in ("method", "adapter"):
        if document[key] == getattr(plain, key):
            del document[key]
    for section in SECTIONS:
        now, default = getattr(recipe, section), getattr(plain, section)
        chosen = now
        if section != "training":
            pairs = {key: (getattr(now, key), getattr(default, key)) for key in _schema(section)}
            chosen = {key: v for key, (v, old) in pairs.items() if v != old or (section, key) in recipe.explicit}
        if chosen:
            document[section] = {key: sorted(v) if isinstance(v, set) else v for key, v in chosen.items()}
    return yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def _folder() -> Path:
    """Shipped recipes: inside the package in a wheel, beside it in the source tree."""
    packaged = Path(__file__).parent.parent / "_recipes"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "recipes"


def recipe_names() -> list[str]:
    """Names of the shipped recipes; those in a folder are named with it (`peers/medusa_sql`)."""
    folder = _folder()
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def recipe_path(name: str | Path) -> Path:
    """The file of a shipped recipe, of a path, or in a shipped adapter (`adapters/sql/run.yaml`); raises `ConfigError`
    with the nearest name if there is none."""
    if str(name) in recipe_names():
        return _folder() / f"{name}.yaml"
    if os.path.isfile(name):  # false also for what no file can be named
        return Path(name)
    path = Path(name)
    shipped = shipped_adapters().get(path.parent.as_posix())
    if shipped is not None and os.path.isfile(shipped / path.name):
        return shipped / path.name
    hint = nearest(str(name).removesuffix(".yaml"), recipe_names()) or f"shipped are {', '.join(recipe_names())}"
    raise ConfigError(f"{str(name)!r} is neither a shipped recipe nor a YAML file; {hint}")


def recipe_summary(path: str | Path) -> str:
    """The first sentence of `recipe_head`."""
    return re.split(r"(?<=\.)\s", recipe_head(path), maxsplit=1)[0].replace("\n", " ")


def recipe_head(path: str | Path) -> str:
    """The comment at the top of a recipe file, without the comment signs."""
    lines = takewhile(lambda line: line.startswith("#"), Path(path).read_text(encoding="utf-8").splitlines())
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)
