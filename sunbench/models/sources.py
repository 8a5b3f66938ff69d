"""The two ways in which weights come: a diffusers folder, or one file for everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import torch
from diffusers import UNet2DConditionModel

from sunbench.errors import UserError
from sunbench.store.files import JsonObject
from sunbench.store.tensors import read_header

from .card import ModelCard
from .catalogue import place
from .checkpoint import Shape, file_shape, folder_shape, pick_weights
from .clip_tokenizer import clip_tokenizer
from .folder import check_tokenizer, folder_config, scheduler_config
from .hub import commit_of, fetch_file, fetch_folder, local_names

CONFIGS = Path(str(package_files("sunbench.models"))) / "configs"
CONFIGURED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
NOTHING = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


class Source(Protocol):
    """Where a model's weights come from: looked at first, loaded later."""

    @property
    def path(self) -> Path:
        """The local folder or file."""

    def shape(self) -> Shape:
        """Give the U-Net's shape without loading weights."""

    def fetch(self, components: Sequence[str]) -> Source:
        """Make these components' weights local, and check each file's length."""

    def weights(self, component: str) -> list[Path]:
        """Give the local weight files of one component."""

    def configs(self, architecture: str) -> JsonObject:
        """Give the component configs that the weights are read with."""

    def unet(self, architecture: str, dtype: torch.dtype) -> Any:
        """Load the U-Net alone."""

    def pipeline(
        self, kind: Any, architecture: str, parts: Mapping[str, Any], dtype: torch.dtype
    ) -> Any:
        """Load a pipeline of class `kind`; `parts` are components already loaded."""


def open_source(card: ModelCard) -> Source:
    """Find a card's weights; of a hub folder only the configs are fetched yet."""
    if card.source == "zoo":
        from sunbench import zoo

        return FolderSource(Path(zoo.folder(card.id)), card.variant)
    if card.source in ("folder", "file"):
        return _local(card)
    source = place(card.id)
    revision = card.revision or source.revision
    if source.kind != "hub":
        raise UserError(f"model card {card.name!r}: given id {card.id!r}, expected a hub id")
    if source.file is not None:
        return FileSource(fetch_file(source.id, revision, source.file), card.tokenizer)
    folder = fetch_folder(source.id, revision, config_names)
    return FolderSource(folder, card.variant, source.id, revision)


def _local(card: ModelCard) -> Source:
    source = place(card.id)
    if source.kind != card.source:
        raise UserError(f"model card {card.name!r}: given id {card.id!r}, expected a {card.source}")
    path = Path(source.id)
    if source.kind == "file":
        return FileSource(path, card.tokenizer)
    return FolderSource(path, card.variant)


def config_names(names: Sequence[str]) -> list[str]:
    """Choose the configs of a repository; UserError unless it is a diffusers one."""
    if "model_index.json" not in names:
        single = [name for name in names if name.endswith(".safetensors")]
        hint = f"name one file as owner/name:{single[0]}" if single else "no .safetensors in it"
        raise UserError(f"the repository has no model_index.json, expected a diffusers one; {hint}")
    return ["model_index.json", *(name for name in names if _is_config(PurePosixPath(name)))]


def _is_config(name: PurePosixPath) -> bool:
    return str(name.parent) in CONFIGURED and name.suffix in (".json", ".txt")


def _public(config: Mapping[str, Any]) -> JsonObject:
    return {
        key: value
        for key, value in config.items()
        if key != "_name_or_path" and "_version" not in key
    }


def _read_configs(folder: Path) -> JsonObject:
    """Read the configs that shape an image: the three networks' and the scheduler's."""
    networks = {name: _public(folder_config(folder, name)) for name in CONFIGURED[:3]}
    return {**networks, "scheduler": _public(scheduler_config(folder))}


@dataclass(frozen=True)
class FolderSource:
    """A diffusers folder, on disk or in the hub's cache."""

    path: Path
    variant: str | None = None
    repository: str | None = None
    revision: str | None = None

    @property
    def where(self) -> str:
        """The name for errors."""
        return self.repository or str(self.path)

    def shape(self) -> Shape:
        """Give the U-Net's shape."""
        return folder_shape(self.path)

    def fetch(self, components: Sequence[str]) -> FolderSource:
        """Make these components' weights local, and check each file's length."""

        def choose(names: Sequence[str]) -> list[str]:
            picked = [
                name
                for component in components
                for name in pick_weights(names, component, self.variant, self.where)
            ]
            return config_names(names) + picked

        if self.repository is not None:
            fetch_folder(self.repository, self.revision, choose)
        if "text_encoder" in components:
            check_tokenizer(self.path)
            _read_configs(self.path)
        paths = [path for component in components for path in self.weights(component)]
        for path in paths:
            read_header(path)
        if self.variant and not any(f".{self.variant}." in path.name for path in paths):
            raise UserError(f"{self.where}: given variant {self.variant!r}, it has no such weights")
        return self

    def weights(self, component: str) -> list[Path]:
        """Give the chosen weight files of one component."""
        names = pick_weights(local_names(self.path), component, self.variant, self.where)
        return [self.path / name for name in names]

    def configs(self, architecture: str) -> JsonObject:
        """Give the folder's own configs."""
        return _read_configs(self.path)

    def unet(self, architecture: str, dtype: torch.dtype) -> Any:
        """Load the U-Net alone."""
        return UNet2DConditionModel.from_pretrained(
            str(self.path),
            subfolder="unet",
            variant=self._variant("unet"),
            use_safetensors=True,
            dtype=dtype,
        )

    def _variant(self, component: str) -> str | None:
        chosen = self.weights(component)[0].name
        return self.variant if self.variant and f".{self.variant}." in chosen else None

    def pipeline(
        self, kind: Any, architecture: str, parts: Mapping[str, Any], dtype: torch.dtype
    ) -> Any:
        """Load the folder's pipeline with `parts` in place of its own."""
        return kind.from_pretrained(
            str(self.path),
            variant=self.variant,
            use_safetensors=True,
            local_files_only=True,
            dtype=dtype,
            **NOTHING,
            **parts,
        )


@dataclass(frozen=True)
class FileSource:
    """A single .safetensors checkpoint in the original layout, as Civitai gives them."""

    path: Path
    tokenizer: str | None = None

    def shape(self) -> Shape:
        """Give the U-Net's shape from the header."""
        return file_shape(self.path)

    def fetch(self, components: Sequence[str]) -> FileSource:
        """Check the file's length; it is local already."""
        read_header(self.path)
        return self

    def weights(self, component: str) -> list[Path]:
        """Give the one file."""
        return [self.path]

    def configs(self, architecture: str) -> JsonObject:
        """Give the configs that the package ships for this architecture."""
        return _read_configs(shipped_configs(architecture, self.path))

    def unet(self, architecture: str, dtype: torch.dtype) -> Any:
        """Load the U-Net alone."""
        return UNet2DConditionModel.from_single_file(
            str(self.path),
            config=str(shipped_configs(architecture, self.path)),
            subfolder="unet",
            in_channels=self.shape().in_channels,
            local_files_only=True,
            dtype=dtype,
        )

    def pipeline(
        self, kind: Any, architecture: str, parts: Mapping[str, Any], dtype: torch.dtype
    ) -> Any:
        """Load a pipeline through the shipped configs; the tokenizer comes from elsewhere."""
        if "unet" not in parts:
            parts = {**parts, "unet": self.unet(architecture, dtype)}
        return kind.from_single_file(
            str(self.path),
            config=str(shipped_configs(architecture, self.path)),
            local_files_only=True,
            dtype=dtype,
            tokenizer=clip_tokenizer(self.tokenizer, architecture),
            **NOTHING,
            **parts,
        )


def shipped_configs(architecture: str, path: Path) -> Path:
    """Give the package's folder of component configs for an architecture."""
    folder = CONFIGS / architecture
    if not folder.is_dir():
        raise UserError(f"{path}: single files are read as sd1 or sd2, given a {architecture} one")
    return folder


def commit(source: Source) -> str | None:
    """Give the hub commit that a source came from, None for local ones."""
    return commit_of(source.path)
