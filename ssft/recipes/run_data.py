"""How the rows looked that an adapter learned from, as far as the `run.yaml` in its folder tells."""

from pathlib import Path

import yaml

from ssft.bundle.folder import AdapterFiles
from ssft.bundle.format import RUN
from ssft.errors import ConfigError
from ssft.recipes.config import DataConfig
from ssft.recipes.yaml import MAX_BYTES, Loader
from ssft.schema import read


def data_of_run(folder: Path) -> DataConfig:
    """Section `data` of an adapter's run.yaml; the defaults, which name no columns, where there is no such file.

    The other sections are left alone: they are the libraries' own, and reading them takes seconds. Raises `ConfigError`
    for a damaged section.
    """
    files = AdapterFiles(folder)
    if not files.exists(RUN):
        return DataConfig()
    try:
        document = yaml.load(files.text(RUN, MAX_BYTES), Loader=Loader)
        section = document.get("data") if isinstance(document, dict) else None
        data: DataConfig = read(DataConfig, section or {}, "data")
        data.check_data()
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # `ConfigError` is a ValueError
        raise ConfigError(f"{folder / RUN}: {error}; give prompts as whole texts") from error
    return data
