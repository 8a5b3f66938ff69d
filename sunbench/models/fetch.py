"""Bring all the weights of a run onto this machine: sizes and licenses first, then the files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from huggingface_hub import constants, try_to_load_from_cache

from sunbench.errors import UserError

from .card import OWN_VAE, ModelCard
from .catalogue import Place, find_model, place
from .checkpoint import architecture_of, pick_weights
from .clip_tokenizer import REPOSITORY, has_local_vocabulary, tokenizer_files
from .hub import Choose, fetch_file, repository_info
from .sources import config_names, open_source
from .vae import vae_files, vae_of


class PublishedWeights(Protocol):
    """Where the authors of a method have put its weights."""

    @property
    def published(self) -> str:
        """The repository owner/name, "" for none."""

    @property
    def file(self) -> str:
        """The file in it."""

    @property
    def revision(self) -> str | None:
        """The revision of the repository, None for the newest."""

    @property
    def folders(self) -> bool:
        """Whether the file stands for its whole folder, with its config."""


@dataclass(frozen=True)
class Need:
    """Something that a run reads from the hub; choose: the repository's names -> those it needs."""

    what: str
    repository: str
    revision: str | None
    choose: Choose


@dataclass(frozen=True)
class Download:
    """A need with what the hub says of it.

    sizes: bytes of every file that is needed. missing: files that are not in the cache yet.
    commit: what the revision stands for now.
    """

    need: Need
    license: str
    commit: str
    sizes: dict[str, int]
    missing: tuple[str, ...]

    @property
    def bytes_missing(self) -> int:
        """Bytes that are still to come."""
        return sum(self.sizes[name] for name in self.missing)


def model_needs(card: ModelCard) -> Iterator[Need]:
    """What a card's pipeline reads from the hub; nothing for the zoo and local weights."""
    card = known_architecture(card)
    base = card if card.unet_into is None else find_model(card.unet_into)
    vae = vae_of(card)
    kept = ["text_encoder", *(["vae"] if vae == OWN_VAE else [])]
    yield from _source_needs(card, "model", ["unet", *kept] if base is card else ["unet"])
    if base is not card:
        yield from _source_needs(base, "base model", kept)
    if vae != OWN_VAE:
        yield from _vae_needs(vae)
    for spec, _ in card.loras:
        yield from _file_needs(place(spec, "LoRA"), "LoRA")


def known_architecture(card: ModelCard) -> ModelCard:
    """Fill a card's architecture in by its configs; a single file on the hub counts as SD 1."""
    if card.architecture != "auto":
        return card
    if card.source == "hub" and place(card.id).file is not None:
        return replace(card, architecture="sd1")
    shape = open_source(card).shape()
    return replace(card, architecture=architecture_of(shape, card.id))


def method_needs(name: str, weights: PublishedWeights) -> Iterator[Need]:
    """What a method's published weights are read from."""
    if not weights.published:
        return
    folder = str(PurePosixPath(weights.file).parent) if weights.folders else ""

    def choose(names: Sequence[str]) -> list[str]:
        if not weights.folders:
            return [_listed(names, weights.file, weights.published)]
        inside = "" if folder == "." else folder
        config = f"{inside}/config.json".lstrip("/")
        return [config, *pick_weights(names, inside, None, weights.published)]

    yield Need(f"weights of {name}", weights.published, weights.revision, choose)


def _source_needs(card: ModelCard, what: str, components: Sequence[str]) -> Iterator[Need]:
    if card.source == "zoo":
        return
    where = place(card.id)
    if where.file is not None or where.kind == "file":
        yield from _file_needs(replace(where, revision=card.revision or where.revision), what)
        if card.tokenizer is None and not has_local_vocabulary():
            yield Need("tokenizer", REPOSITORY, None, tokenizer_files)
        return
    if where.kind == "folder":
        return

    def choose(names: Sequence[str]) -> list[str]:
        weights = [
            name
            for component in components
            for name in pick_weights(names, component, card.variant, where.id)
        ]
        return [name for name in names if name in {*config_names(names), *weights}]

    yield Need(what, where.id, card.revision or where.revision, choose)


def _vae_needs(spec: str) -> Iterator[Need]:
    where = place(spec, "VAE")
    if where.kind == "hub" and where.file is None:
        yield Need("VAE", where.id, where.revision, lambda names: vae_files(names, spec))
    else:
        yield from _file_needs(where, "VAE")


def _file_needs(where: Place, what: str) -> Iterator[Need]:
    file = where.file
    if where.kind == "hub" and file is not None:
        yield Need(what, where.id, where.revision, lambda names: [_listed(names, file, where.id)])


def _listed(names: Sequence[str], name: str, repository: str) -> str:
    if name not in names:
        raise UserError(f"model {repository}: no such file {name}")
    return name


def look_up(need: Need) -> Download:
    """Ask the hub for the sizes and the license of a need.

    Raises UserError for what the hub refuses, NotAvailable when it cannot be reached.
    """
    info = repository_info(need.repository, need.revision)
    sizes = {name: info.sizes.get(name, 0) for name in need.choose(list(info.sizes))}
    missing = tuple(
        name
        for name in sizes
        if not isinstance(
            try_to_load_from_cache(
                need.repository, name, cache_dir=constants.HF_HUB_CACHE, revision=info.commit
            ),
            str,
        )
    )
    return Download(need, info.license, info.commit, sizes, missing)


def check_room(downloads: Sequence[Download]) -> None:
    """Raise UserError unless the cache's disk has room for what is missing."""
    needed = sum(download.bytes_missing for download in downloads)
    folder = Path(constants.HF_HUB_CACHE)
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"the downloads need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in {folder}"
            " (set HF_HOME to a folder with more room)"
        )


def bring(download: Download, done: Callable[[str, int], None]) -> None:
    """Download what is missing; done: called with the name and the bytes of each file.

    A download that broke off goes on where it stopped.
    """
    need = download.need
    for name in download.missing:
        fetch_file(need.repository, need.revision, name)
        done(name, download.sizes[name])
