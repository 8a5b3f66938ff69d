"""The hub: fetch what a card names, once, through huggingface_hub's own cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sunbench.errors import NotAvailable, UserError
from sunbench.store.tensors import refuse_pickle

logger = logging.getLogger(__name__)

# HfHubHTTPError's bases are the HTTP library's own error and OSError, whichever library it is.
UNREACHABLE: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError)
REFUSED: tuple[type[BaseException], ...] = (HFValidationError, *UNREACHABLE)
Choose = Callable[[Sequence[str]], list[str]]


def _named(repo: str, revision: str | None) -> str:
    return repo if revision is None else f"{repo}@{revision}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _known_error(error: BaseException, repo: str, revision: str | None) -> UserError | None:
    """Translate what the hub itself answered; None for everything that looks like the network."""
    name = _named(repo, revision)
    if isinstance(error, GatedRepoError):
        return UserError(f"model {name} is gated: accept its license, then run: hf auth login")
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"given model {repo!r}, the hub has none (or it is private: hf auth login)"
        )
    if isinstance(error, RevisionNotFoundError):
        return UserError(f"given revision {revision!r}, model {repo} has none of that name")
    if isinstance(error, HFValidationError):
        return UserError(f"given model {repo!r}, expected a hub id owner/name")
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return UserError(f"model {name}: no such file ({_first_line(error)})")
    return None


def _not_available(repo: str, revision: str | None, why: str) -> NotAvailable:
    return NotAvailable(
        f"model {_named(repo, revision)} is not available offline ({why}); "
        "fetch it once online, or give a local folder or file"
    )


def fetch_folder(repo: str, revision: str | None, choose: Choose) -> Path:
    """Fetch the files that `choose` picks out of the repository's, and give the local folder.

    Offline, or when the hub cannot be reached, the local cache answers.
    Raises UserError for what the hub refuses, NotAvailable when the cache has not all of it.
    """
    try:
        names = _listing(repo, revision)
    except REFUSED as error:
        known = _known_error(error, repo, revision)
        if known:
            raise known from None
        return _cached_folder(repo, revision, choose, _first_line(error))
    patterns = choose(names)
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except UNREACHABLE as error:
        raise _broken_download(repo, revision, error) from None


def _listing(repo: str, revision: str | None) -> list[str]:
    """Names of a repository's files, by one request that is not tried again."""
    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    siblings = HfApi().model_info(repo, revision=revision).siblings or []
    return [sibling.rfilename for sibling in siblings]


@dataclass(frozen=True)
class RepositoryInfo:
    """What the hub says of a repository; sizes: bytes of every file."""

    commit: str
    license: str
    sizes: dict[str, int]


def repository_info(repo: str, revision: str | None) -> RepositoryInfo:
    """Ask the hub for a repository's files and license.

    Raises UserError for what the hub refuses, NotAvailable when it cannot be reached.
    """
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    except REFUSED as error:
        raise (
            _known_error(error, repo, revision)
            or NotAvailable(
                f"the hub cannot be reached for {_named(repo, revision)} ({_first_line(error)})"
            )
        ) from None
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    named = info.card_data.get("license") if info.card_data else None
    return RepositoryInfo(info.sha or "", str(named or "not stated"), sizes)


def _cached_folder(repo: str, revision: str | None, choose: Choose, why: str) -> Path:
    try:
        folder = Path(
            snapshot_download(
                repo, revision=revision, local_files_only=True, allow_patterns=["*.json"]
            )
        )
        choose(local_names(folder))
    except (OSError, UserError):
        raise _not_available(repo, revision, why) from None
    logger.info("model %s: hub out of reach (%s), using the local cache", repo, why)
    return folder


def local_names(folder: Path) -> list[str]:
    """Give the POSIX paths of all files below a folder, sorted."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def _broken_download(repo: str, revision: str | None, error: BaseException) -> UserError:
    return _known_error(error, repo, revision) or NotAvailable(
        f"model {_named(repo, revision)}: the download broke off ({_first_line(error)}); "
        "what has arrived is kept, run the same command again"
    )


def fetch_file(repo: str, revision: str | None, name: str) -> Path:
    """Fetch one file of a repository."""
    refuse_pickle(name)
    try:
        _listing(repo, revision)
    except REFUSED as error:
        known = _known_error(error, repo, revision)
        if known:
            raise known from None
        return _cached_file(repo, revision, name, _first_line(error))
    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except LocalEntryNotFoundError as error:
        raise _not_available(repo, revision, _first_line(error)) from None
    except REFUSED as error:
        raise _broken_download(repo, revision, error) from None


def _cached_file(repo: str, revision: str | None, name: str, why: str) -> Path:
    try:
        return Path(hf_hub_download(repo, name, revision=revision, local_files_only=True))
    except OSError:
        raise _not_available(repo, revision, why) from None


def commit_of(path: Path) -> str | None:
    """Give the commit of a path in the hub's cache, None for any other path."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else None
