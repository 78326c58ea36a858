"""Adapters on the Hugging Face hub: push a bundle. (`bundle/hub.py` pulls one.)

Only the files of `BUNDLE_FILES` travel. The hub is that of HF_ENDPOINT, the token is huggingface_hub's own
(HF_TOKEN, or what `hf auth login` stored).
"""

import os
import re
from dataclasses import dataclass

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants, get_token

from ssft._version import __version__
from ssft.bundle.folder import MAX_JSON, AdapterFiles
from ssft.bundle.format import BUNDLE_FILES, WEIGHTS, Bundle
from ssft.bundle.hub import TIMEOUT, api, check_repo
from ssft.bundle.hub_errors import LOGIN, TRIES, explained, patiently
from ssft.bundle.read import read_bundle
from ssft.card.write import card_files
from ssft.errors import BundleError, ConfigError, HubError

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


def push(
    path: str | os.PathLike[str],
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
) -> Pushed:
    """Upload the bundle in the folder `path` as one commit; the repository is made if there is none.

    The bundle is checked first. Its card is written for the repository, whose name its commands hold; the folder stays
    as it is, and so does the card of a plain LoRA. Files of a bundle that the repository has and the folder has not are
    deleted there, so that no mixture of two adapters results; other files of the repository stay. Large files that an
    interrupted call has uploaded are not uploaded again.

    `private` makes the repository private, and is an error if it is public already. `revision` is a branch, made if
    there is none. `create_pr` opens a pull request against main instead of committing to it. Raises `BundleError` for
    a damaged folder, `HubError` where the hub refuses or cannot be reached.
    """
    check_repo(repo)
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
            where = f"{repo} on {constants.ENDPOINT}"
            raise HubError(f"{where}: no token was found, and uploading needs one with write access; {LOGIN}")
        additions = _additions(bundle, {} if bundle.stream_config is None else card_files(bundle, repo))
        hub = api()
        patiently(hub.create_repo, repo, private=private or None, exist_ok=True)
        before = patiently(hub.model_info, repo, timeout=TIMEOUT)
        if private and before.private is False:
            raise HubError(
                f"{repo} on {constants.ENDPOINT} exists and is public, which --private does not change; make it "
                "private on the hub or choose another name. Nothing was uploaded"
            )
        branch = revision or constants.DEFAULT_REVISION
        if revision is not None:
            if not revision.startswith("refs/"):
                patiently(hub.create_branch, repo, branch=revision, exist_ok=True)
            before = patiently(hub.model_info, repo, revision=revision, timeout=TIMEOUT)
        own = {operation.path_in_repo for operation in additions}
        stale = [entry.rfilename for entry in before.siblings or () if entry.rfilename in set(BUNDLE_FILES) - own]
        # Has retries of its own. `upload_folder` would do all in one call, but may split it into several commits.
        hub.preupload_lfs_files(repo, additions, revision=branch, create_pr=create_pr, free_memory=False)
        commit = patiently(
            hub.create_commit,
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


def _additions(bundle: Bundle, card: dict[str, bytes]) -> list[CommitOperationAdd]:
    """The bundle's own files as parts of a commit, those of `card` in the place of the folder's: small ones as bytes,
    weights as paths with their hashes."""
    files, token, additions = AdapterFiles(bundle.path), get_token(), []
    for name in (name for name in BUNDLE_FILES if name in card or files.exists(name)):
        source: str | bytes = str(bundle.path / name)
        if name not in WEIGHTS:
            source = card[name] if name in card else files.read(name, MAX_JSON, hashed=False)
            if _TOKEN.search(source) or (token and token.encode() in source):
                raise BundleError(
                    f"{bundle.path / name}: holds an access token of the hub; take it out of the file, and replace the "
                    "token on the hub if others could read the file"
                )
        additions.append(CommitOperationAdd(path_in_repo=name, path_or_fileobj=source))
    if not bundle.unchanged():
        raise BundleError(f"{bundle.path} changed while it was read; push it again when nothing writes to it")
    return additions
