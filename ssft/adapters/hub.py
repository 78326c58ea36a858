"""Adapters on the Hugging Face hub: push a bundle, pull one, or name one where a folder is expected.

Either way only the files of `BUNDLE_FILES` travel, and nothing is executed. The hub is that of HF_ENDPOINT, the token
is huggingface_hub's own (HF_TOKEN, or what `hf auth login` stored). Errors are made in `_hub_errors.py`.
"""

import hashlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token

from ssft._version import __version__
from ssft._write import replace_folder
from ssft.adapters._files import MAX_JSON, MAX_WEIGHTS, AdapterFiles
from ssft.adapters._hub_errors import TRIES, explained, patiently
from ssft.adapters.bundle import BUNDLE_FILES, LORA_CONFIG, LORA_WEIGHTS, WEIGHTS, Bundle, read_bundle
from ssft.adapters.bundle_writer import check_replaceable
from ssft.adapters.card import write_card
from ssft.adapters.shipped import local_adapter, shipped_adapters
from ssft.errors import BundleError, ConfigError, HubError

_TIMEOUT = 30.0
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*\w", re.ASCII)
_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}")


@dataclass(frozen=True)
class Pushed:
    """What `push` did. `files`: name -> bytes; `changed` is False if the hub held the same already."""

    repo: str
    revision: str
    commit: str
    url: str
    pull_request: str | None
    changed: bool
    files: dict[str, int]


@dataclass(frozen=True)
class Pulled:
    """What `pull` did: the checked bundle in `path` (its tensors released) and where it came from."""

    repo: str
    revision: str
    commit: str
    path: Path
    bundle: Bundle
    files: dict[str, int]

    @property
    def base(self) -> str | None:
        """The base that the adapter names."""
        return self.bundle.base.get("id") or self.bundle.lora.get("base_model_name_or_path")


def push(
    path: str | os.PathLike[str],
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
) -> Pushed:
    """Upload the bundle in the folder `path` as one commit; the repository is made if there is none.

    The bundle is checked first, and its card written anew from the other files (`card.py`; a plain LoRA's stays as it
    is). Files of a bundle that the repository has and the folder has not are deleted there, so
    that no mixture of two adapters results; other files of the repository stay. Large files that an interrupted call
    has uploaded are not uploaded again.

    Args:
        path: adapter folder.
        repo: "owner/name".
        private: make the repository private; an error if it is public already.
        revision: branch, made if there is none; default: main.
        create_pr: open a pull request against main instead of committing to it.

    Raises:
        BundleError: the folder is damaged. HubError: the hub refuses or cannot be reached.
    """
    _check_repo(repo)
    if create_pr and revision is not None:
        raise ConfigError(
            f"--create-pr opens a pull request against the main branch; leave out --revision {revision} or --create-pr"
        )
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        raise ConfigError(f"--revision {revision}: a commit cannot be changed; give a branch")
    bundle = read_bundle(path)
    bundle.release()
    with explained(repo, revision):
        if get_token() is None:
            raise HubError(
                f"{repo} on {constants.ENDPOINT}: no token was found, and uploading needs one with write access; set "
                "HF_TOKEN or run `hf auth login`"
            )
        if bundle.stream_config is not None:
            write_card(bundle)
        additions = _additions(bundle)
        api = _api()
        patiently(api.create_repo, repo, private=private or None, exist_ok=True)
        before = patiently(api.model_info, repo, timeout=_TIMEOUT)
        if private and before.private is False:
            raise HubError(
                f"{repo} on {constants.ENDPOINT} exists and is public, which --private does not change; make it "
                "private on the hub or choose another name. Nothing was uploaded"
            )
        branch = revision or constants.DEFAULT_REVISION
        if revision is not None:
            if not revision.startswith("refs/"):
                patiently(api.create_branch, repo, branch=revision, exist_ok=True)
            before = patiently(api.model_info, repo, revision=revision, timeout=_TIMEOUT)
        own = {operation.path_in_repo for operation in additions}
        stale = [entry.rfilename for entry in before.siblings or () if entry.rfilename in set(BUNDLE_FILES) - own]
        # Has retries of its own. `upload_folder` would do all in one call, but may split it into several commits.
        api.preupload_lfs_files(repo, additions, revision=branch, create_pr=create_pr, free_memory=False)
        commit = patiently(
            api.create_commit,
            repo,
            [*additions, *(CommitOperationDelete(name) for name in stale)],
            commit_message=f"Upload adapter with ssft {__version__}",
            revision=branch,
            create_pr=create_pr,
            tries=1 if create_pr else TRIES,  # a lost answer must not become a second pull request
        )
    files = {operation.path_in_repo: operation.upload_info.size for operation in additions}
    changed = commit.oid != before.sha
    return Pushed(repo, branch, commit.oid, str(commit.commit_url), commit.pr_url, changed, files)


def pull(repo: str, output: str | os.PathLike[str] | None = None, revision: str | None = None) -> Pulled:
    """Download the adapter `repo` ("owner/name") into the folder `output` (default: adapters/<name>).

    The files go into the hub's cache first, where a later call finds those that were complete, and are checked before
    the folder appears, whole. A bundle that is there already is replaced; anything else there is an error before
    anything is downloaded. A plain peft LoRA is pulled too: its `bundle.stream_config` is None.

    Raises:
        BundleError: the repository holds no adapter, or a damaged one. HubError: it cannot be had.
    """
    _check_repo(repo)
    target = Path(output) if output is not None else Path("adapters") / repo.split("/")[1]
    check_replaceable(target)
    snapshot = _download(repo, revision)
    try:
        files = _install(snapshot, target, repo)
    except OSError as error:
        raise BundleError(f"{target} cannot be written ({error}); choose another --output or make room") from error
    bundle = read_bundle(target)
    bundle.release()
    return Pulled(repo, revision or constants.DEFAULT_REVISION, snapshot.name, target, bundle, files)


def resolve_adapter(path_or_repo: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of an adapter: an existing path wins, then a shipped one ("adapters/sql"), else "owner/name" is
    fetched into the hub's cache.

    The folder's content is unchecked: `read_bundle` does that. "./owner/name" never asks the hub.

    Raises:
        BundleError: neither can be had; says what was tried.
    """
    text = os.fspath(path_or_repo)
    if revision is not None and os.path.lexists(text):
        raise ConfigError(f"revision={revision!r} is for the hub, but {text!r} exists here; leave out one of them")
    if revision is None and (folder := local_adapter(text)) is not None:
        return folder
    if not _REPO.fullmatch(text):
        raise BundleError(
            f"adapter {text!r} is no folder; give the folder that `ssft train --output` wrote, one that comes with "
            f"ssft ({', '.join(shipped_adapters()) or 'none here'}), or a repository of the hub as owner/name"
        )
    try:
        return _download(text, revision)
    except HubError as error:
        raise BundleError(f"adapter {text!r} is no folder here, and on the hub: {error}") from error


# -- up ---------------------------------------------------------------------------------------------------------


def _api() -> HfApi:
    return HfApi(library_name="ssft", library_version=__version__)


def _check_repo(repo: str) -> None:
    if not _REPO.fullmatch(repo):
        raise ConfigError(f"repository {repo!r}: expected owner/name, such as alice/sql-adapter")


def _additions(bundle: Bundle) -> list[CommitOperationAdd]:
    """The bundle's own files as parts of a commit: small ones as bytes, weights as paths with their hashes."""
    files, token, additions = AdapterFiles(bundle.path), get_token(), []
    for name in BUNDLE_FILES:
        if not files.exists(name):
            continue
        source: str | bytes = str(bundle.path / name)
        if name not in WEIGHTS:
            source = files.read(name, MAX_JSON, hashed=False)
            if _TOKEN.search(source) or (token and token.encode() in source):
                raise BundleError(
                    f"{bundle.path / name}: holds an access token of the hub; take it out of the file, and replace the "
                    "token on the hub if others could read the file"
                )
        additions.append(CommitOperationAdd(path_in_repo=name, path_or_fileobj=source))
    if not bundle.unchanged():
        raise BundleError(f"{bundle.path} changed while it was read; push it again when nothing writes to it")
    return additions


# -- down -------------------------------------------------------------------------------------------------------


def _download(repo: str, revision: str | None) -> Path:
    """Fetch an adapter's own files into the hub's cache and return the folder there, whose name is the commit."""
    wanted = revision or constants.DEFAULT_REVISION
    settings: dict[str, Any] = {"revision": wanted, "allow_patterns": list(BUNDLE_FILES)}
    with explained(repo, revision):
        api = _api()
        if constants.is_offline_mode():
            return Path(api.snapshot_download(repo, **settings))
        # On its own, `snapshot_download` would fall back to an old copy where the hub refuses or is down.
        info = patiently(api.model_info, repo, revision=wanted, files_metadata=True, timeout=_TIMEOUT)
        entries = {entry.rfilename: entry for entry in info.siblings or ()}
        _check_listing(repo, {name: entry.size for name, entry in entries.items()})
        for force in (False, True):
            folder = Path(patiently(api.snapshot_download, repo, force_download=force, **settings))
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


def _install(snapshot: Path, target: Path, repo: str) -> dict[str, int]:
    """Make `target` a checked copy of the bundle in `snapshot`, at once; returns the bytes of its files."""
    real = target.resolve()  # a link to a folder stays a link
    real.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=real.parent, prefix=f".{real.name}.") as scratch:
        folder = Path(scratch) / "bundle"
        folder.mkdir()
        files = _copy(snapshot, folder)
        try:
            read_bundle(folder)
        except BundleError as error:
            text = str(error).replace(f"{folder}{os.sep}", f"{repo}/")
            raise BundleError(f"{text}. {target} was not written; try another --revision or tell the owner") from error
        check_replaceable(target)
        replace_folder(folder, real, Path(scratch) / "replaced")
    return files


def _copy(snapshot: Path, folder: Path) -> dict[str, int]:
    """Copy a bundle's own files; returns their bytes by name."""
    files, sizes = AdapterFiles(snapshot), {}
    for name in BUNDLE_FILES:
        if files.exists(name):
            # The cache holds links; the folder gets files.
            shutil.copyfile(snapshot / name, folder / name)
            sizes[name] = (folder / name).stat().st_size
    return sizes
