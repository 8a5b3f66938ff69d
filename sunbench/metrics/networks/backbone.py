"""What every feature network shares: chunks, precision, identity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from sunbench.errors import UserError

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def full_precision() -> Iterator[None]:
    """Inference in true float32: no TF32, no autocast of half precision, no cuDNN search."""
    before = torch.get_float32_matmul_precision()
    flags = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    with torch.no_grad(), flags:
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def checked(images: Tensor) -> Tensor:
    """The same images, or UserError if they are not uint8 (N, 3, H, W)."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        shape = tuple(images.shape)
        raise UserError(f"given {images.dtype} images of {shape}, expected uint8 (N, 3, H, W)")
    return images


def in_chunks(f: Callable[[Tensor], Tensor], images: Tensor, size: int) -> Tensor:
    """f over at most `size` images at a time, in float32 on its device: memory stays flat."""
    with full_precision():
        return torch.cat([f(part) for part in checked(images).split(size)])


def weights_key(module: nn.Module, protocol: str) -> str:
    """sha256 of a protocol's text and of all weights in name order, first 20 hex digits."""
    digest = hashlib.sha256(protocol.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:20]


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(x / 255 - mean) / std per channel; pixels 0..255, (N, 3, H, W)."""
    x = pixels.float()
    m, s = (x.new_tensor(v).view(1, -1, 1, 1) for v in (mean, std))
    return (x / 255 - m) / s


def frozen(module: Module, device: str) -> Module:
    """A module in float32 evaluation mode on its device, without gradients."""
    return module.to(device=device, dtype=torch.float32).eval().requires_grad_(False)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar of transformers while a small network is read; put back afterwards."""
    from transformers.utils import logging as speaker

    before = speaker.is_progress_bar_enabled()
    speaker.disable_progress_bar()
    try:
        yield
    finally:
        (speaker.enable_progress_bar if before else speaker.disable_progress_bar)()
