"""LoRAs on top of a model, merged into its weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sunbench.errors import UserError
from sunbench.store.tensors import Header, read_header

from .catalogue import place
from .hub import fetch_file

DOWN = re.compile(r"\.(lora_down|lora_A|lora\.down|lora_linear_layer\.down)(\.default)?\.weight$")


def lora_file(spec: str) -> Path:
    """Give the local file of a LoRA named by a path or `owner/name[@revision]:file.safetensors`."""
    found = place(spec, "LoRA")
    if found.kind == "hub" and found.file is not None:
        return fetch_file(found.id, found.revision, found.file)
    if found.kind == "file":
        return Path(found.id)
    raise UserError(
        f"given LoRA {spec!r}, expected a .safetensors file or owner/name:file.safetensors"
    )


def merge_lora(pipeline: Any, path: Path, scale: float) -> None:
    """Merge one LoRA: W + scale * alpha / rank * up @ down (Hu et al. 2021, equation 3).

    Raises UserError when its shapes do not fit or only some of its layers find their place.
    """
    layers = _count(read_header(path), path)
    try:
        pipeline.load_lora_weights(
            str(path.parent),
            weight_name=path.name,
            adapter_name="extra",
            use_safetensors=True,
            local_files_only=True,
        )
        _check_loaded(pipeline, layers, path)
        pipeline.set_adapters(["extra"], [scale])
        pipeline.fuse_lora(components=["unet", "text_encoder"], adapter_names=["extra"])
    except UserError:
        raise
    except (RuntimeError, ValueError, KeyError, IndexError, OSError) as error:
        raise UserError(f"{path}: LoRA does not fit this model ({_reason(error)})") from error
    finally:
        pipeline.unload_lora_weights()


def _count(header: Header, path: Path) -> int:
    layers = sum(1 for key in header if DOWN.search(key))
    if layers == 0:
        raise UserError(f"{path}: holds no LoRA layers")
    return layers


def _check_loaded(pipeline: Any, layers: int, path: Path) -> None:
    modules = [*pipeline.unet.modules(), *pipeline.text_encoder.modules()]
    loaded = sum(1 for module in modules if "extra" in getattr(module, "lora_A", {}))
    if loaded != layers:
        raise UserError(f"{path}: only {loaded} of its {layers} LoRA layers fit this model")


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    mismatch = [line for line in lines if "size mismatch" in line]
    return (mismatch or lines or [type(error).__name__])[0]
