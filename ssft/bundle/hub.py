"""Adapters on the Hugging Face hub: pull one, or name one where a folder is expected (`ssft/hub.py` pushes).

Either way only the files of `BUNDLE_FILES` travel, and nothing is executed. The hub is that of HF_ENDPOINT, the token
is huggingface_hub's own (HF_TOKEN, or what `hf auth login` stored). Errors are made in `hub_errors.py`.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants

from ssft._version import __version__
from ssft.bundle.folder import MAX_JSON, MAX_WEIGHTS, AdapterFiles
from ssft.bundle.format import BUNDLE_FILES, LORA_CONFIG, LORA_WEIGHTS, WEIGHTS, Bundle
from ssft.bundle.hub_errors import explained, patiently
from ssft.bundle.read import read_bundle
from ssft.bundle.shipped import check_adapter_name, local_adapter
from ssft.bundle.write import check_replaceable
from ssft.errors import BundleError, ConfigError, HubError
from ssft.files import whole_folder
from ssft.schema import PATH, check, is_hub_id

TIMEOUT = 30.0


@dataclass(frozen=True)
class Pulled:
    """What `pull` did: the checked bundle in `path` (its tensors released), where it came from, bytes of its files."""

    repo: str
    revision: str
    commit: str
    path: Path
    bundle: Bundle
    files: dict[str, int]

    @property
    def base(self) -> str | None:
        """The base that the adapter names."""
        return self.bundle.base.get("id") or self.bundle.loras[0].config.get("base_model_name_or_path") or None


def pull(repo: str, output: str | os.PathLike[str] | None = None, revision: str | None = None) -> Pulled:
    """Download the adapter `repo` ("owner/name") into the folder `output` (default: adapters/<name>).

    The files go into the hub's cache first, where a later call finds those that were complete, and are checked before
    the folder appears, whole. A bundle that is there already is replaced; anything else there is an error before
    anything is downloaded. A plain peft LoRA is pulled too: its `bundle.stream_config` is None.

    Raises:
        BundleError: the repository holds no adapter, or a damaged one. HubError: it cannot be had.
    """
    check_repo(repo)
    target = Path(output) if output is not None else Path("adapters") / repo.split("/")[1]
    check_replaceable(target)
    snapshot = _download(repo, revision)
    files = {}
    try:
        with whole_folder(target, check_replaceable) as folder:
            for name in filter(AdapterFiles(snapshot).exists, BUNDLE_FILES):
                shutil.copyfile(snapshot / name, folder / name)  # the cache holds links; the folder gets files
                files[name] = (folder / name).stat().st_size
            try:
                read_bundle(folder)
            except BundleError as error:
                text = f"{str(error).replace(f'{folder}{os.sep}', f'{repo}/')}. {target} was not written"
                raise BundleError(f"{text}; try another --revision or tell the owner") from error
    except OSError as error:
        raise BundleError(f"{target} cannot be written ({error}); choose another --output or make room") from error
    bundle = read_bundle(target)
    bundle.release()
    return Pulled(repo, revision or constants.DEFAULT_REVISION, snapshot.name, target, bundle, files)


def resolve_adapter(path_or_repo: str | os.PathLike[str]) -> Path:
    """The folder of an adapter: an existing path wins, then a shipped one ("adapters/sql"), else "owner/name" is
    fetched into the hub's cache.

    The folder's content is unchecked: `read_bundle` does that. "./owner/name" never asks the hub.

    Raises:
        BundleError: neither can be had; says what was tried.
    """
    text = os.fspath(check(PATH, path_or_repo, "adapter", BundleError))
    if (folder := local_adapter(text)) is not None:
        return folder
    check_adapter_name(text)
    try:
        return _download(text, None)
    except HubError as error:
        raise BundleError(f"adapter {text!r} is no folder here, and on the hub: {error}") from error


def api() -> HfApi:
    """The hub of HF_ENDPOINT, as ssft asks it."""
    return HfApi(library_name="ssft", library_version=__version__)


def check_repo(repo: str) -> None:
    """Raise `ConfigError` unless `repo` has the form owner/name."""
    if not is_hub_id(repo):
        raise ConfigError(f"repository {repo!r}: expected owner/name, such as alice/sql-adapter")


def _download(repo: str, revision: str | None) -> Path:
    """Fetch an adapter's own files into the hub's cache and return the folder there, whose name is the commit."""
    wanted = revision or constants.DEFAULT_REVISION
    settings: dict[str, Any] = {"revision": wanted, "allow_patterns": list(BUNDLE_FILES)}
    with explained(repo, revision):
        hub = api()
        if constants.is_offline_mode():
            return Path(hub.snapshot_download(repo, **settings))
        # On its own, `snapshot_download` would fall back to an old copy where the hub refuses or is down.
        info = patiently(hub.model_info, repo, revision=wanted, files_metadata=True, timeout=TIMEOUT)
        entries = {entry.rfilename: entry for entry in info.siblings or ()}
        _check_listing(repo, {name: entry.size for name, entry in entries.items()})
        for force in (False, True):
            folder = Path(patiently(hub.snapshot_download, repo, force_download=force, **settings))
            if folder.name != info.sha:
                raise HubError(f"{repo}: {wanted!r} changed while it was downloaded; run the same command again")
            broken = [name for name in BUNDLE_FILES if name in entries and not _is_whole(folder / name, entries[name])]
            if not broken:
                return folder
        raise HubError(
            f"{repo}: {broken[0]} is not what {constants.ENDPOINT} lists, downloaded twice; something between here and "
            "there (proxy, mirror in HF_ENDPOINT) changes it"
        )


def _check_listing(repo: str, sizes: dict[str, int | None]) -> None:
    """Raise `BundleError` for what cannot be an adapter before any of it is downloaded."""
    if LORA_CONFIG not in sizes:
        raise BundleError(f"{repo} holds no adapter: {LORA_CONFIG} is missing. A base model is named by --base")
    if LORA_WEIGHTS not in sizes:
        pickles = [name for name in sizes if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
        reason = f"; {pickles[0]} is a pickle, which could run code when it is read" if pickles else ""
        raise BundleError(f"{repo}: {LORA_WEIGHTS} is missing{reason}. The adapter has to be saved as safetensors")
    for name in BUNDLE_FILES:
        limit = MAX_WEIGHTS if name in WEIGHTS else MAX_JSON
        if (size := sizes.get(name) or 0) > limit:
            raise BundleError(f"{repo}: {name} has {size:,} bytes, but no adapter needs more than {limit:,} here")


def _is_whole(path: Path, entry: Any) -> bool:
    """Whether a downloaded file has the hash that the hub lists (sha256 of a large file, else git's)."""
    large = entry.lfs is not None
    digest = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest() == entry.lfs.sha256 if large else entry.blob_id in (None, digest.hexdigest())
