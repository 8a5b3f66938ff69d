"""The VAE policy: one VAE for both sides of every comparison, and its name in the record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from sunbench.errors import NotAvailable, UserError
from sunbench.store.tensors import read_header

from .card import OWN_VAE, ModelCard
from .catalogue import place
from .checkpoint import pick_weights
from .folder import folder_config
from .hashes import files_hash
from .hub import fetch_file, fetch_folder, local_names
from .mistakes import one_line
from .sources import shipped_configs

DEFAULT_VAE = {"sd1": "stabilityai/sd-vae-ft-mse@31f26fdeee1355a5c34592e401dd41e45d25a493"}
CLASSES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


def vae_of(card: ModelCard) -> str:
    """Name the VAE that decodes: the card's, else the family's default, else "own"."""
    return card.vae or DEFAULT_VAE.get(card.architecture, OWN_VAE)


def load_vae(spec: str, architecture: str, dtype: torch.dtype) -> tuple[Any, str]:
    """Load a VAE from a hub id, a folder or a file, and give its hash.

    Raises NotAvailable, naming the way out, when the hub is out of reach.
    """
    try:
        path = _local(spec)
    except NotAvailable as error:
        raise NotAvailable(f'VAE: {error}; vae = "own" keeps the checkpoint\'s own') from error
    with one_line(f"VAE {spec!r}"):
        return (
            _from_file(path, architecture, dtype) if path.is_file() else _from_folder(path, dtype)
        )


def _local(spec: str) -> Path:
    source = place(spec, "VAE")
    if source.kind != "hub":
        return Path(source.id)
    if source.file is not None:
        return fetch_file(source.id, source.revision, source.file)
    return fetch_folder(source.id, source.revision, lambda names: vae_files(names, spec))


def vae_files(names: Sequence[str], where: str) -> list[str]:
    """Choose the files of a VAE, which may stand in a folder of its own; where: for errors."""
    folder = _component(names)
    config = f"{folder}/config.json".lstrip("/")
    return [config, *pick_weights(names, folder, None, where)]


def _component(names: Sequence[str]) -> str:
    return "vae" if "vae/config.json" in names else ""


def _from_folder(folder: Path, dtype: torch.dtype) -> tuple[Any, str]:
    names = local_names(folder)
    component = _component(names)
    kind = folder_config(folder, component, "vae").get("_class_name")
    if kind not in CLASSES:
        raise UserError(f"{folder}: given a {kind}, expected one of {', '.join(CLASSES)}")
    paths = [folder / name for name in pick_weights(names, component, None, str(folder))]
    for path in paths:
        read_header(path)
    return (
        CLASSES[kind].from_pretrained(str(folder / component), use_safetensors=True, dtype=dtype),
        files_hash(paths),
    )


def _from_file(path: Path, architecture: str, dtype: torch.dtype) -> tuple[Any, str]:
    read_header(path)
    config = shipped_configs("sd2" if architecture == "sd2" else "sd1", path)
    vae = AutoencoderKL.from_single_file(
        str(path),
        config=str(config),
        subfolder="vae",
        local_files_only=True,
        dtype=dtype,
    )
    return vae, files_hash([path])
