"""What a method is told about the model that it runs on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelContext:
    """A loaded model's identity, by which methods find the weights that were trained on it.

    name: of its card. unet_sha256: of its U-Net's weight files; None where merged LoRAs made it
    another network.
    """

    name: str = ""
    unet_sha256: str | None = None
