"""LoRAs on top of a model, merged into its weights."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from sunbench.errors import UserError
from sunbench.store.tensors import (
    Header,
    check_finite,
    check_floating,
    load_tensors,
    read_header,
    refuse_pickle,
)

from .catalogue import place
from .hub import fetch_file
from .protocols import Pipeline

#: Names of the two factors in the layouts of kohya, PEFT and diffusers: down -> up.
FACTORS = {
    "lora_down": "lora_up",
    "lora_A": "lora_B",
    "lora.down": "lora.up",
    "lora_linear_layer.down": "lora_linear_layer.up",
}
_NAMES = "|".join(re.escape(name) for pair in FACTORS.items() for name in pair)
FACTOR = re.compile(rf"(?P<layer>.+)\.(?P<factor>{_NAMES})(?P<adapter>(\.default)?)\.weight")


@dataclass(frozen=True)
class LoraPair:
    """One layer of a LoRA file: its name in the file, the keys of its factors, its rank."""

    layer: str
    down: str
    up: str
    rank: int


def read_lora(path: Path) -> list[LoraPair]:
    """Read and check the layers of a LoRA file.

    Raises UserError, one line that names the file, for a pickle or a broken file, a layer without
    one of its factors, integer or misshapen factors, a rank of 0, an alpha that is not one number,
    and values that are not finite.
    """
    refuse_pickle(str(path))
    header = read_header(path)
    factors = [match for key in header if (match := FACTOR.fullmatch(key))]
    if not factors:
        raise UserError(f"{path}: holds no LoRA layers")
    pairs = [_pair(path, match, header) for match in factors if match["factor"] in FACTORS]
    ups = {pair.up for pair in pairs}
    for match in factors:
        if match["factor"] not in FACTORS and match[0] not in ups:
            raise UserError(f"{path}: {match[0]} has no partner, the LoRA's other factor")
    _check_values(path, header, pairs)
    return pairs


def _pair(path: Path, match: re.Match[str], header: Header) -> LoraPair:
    layer, down = match["layer"], match[0]
    up = f"{layer}.{FACTORS[match['factor']]}{match['adapter']}.weight"
    if up not in header:
        raise UserError(f"{path}: {down} has no partner {up}")
    rank = header[down][0] if header[down] else 0
    if len(header[down]) < 2 or len(header[up]) < 2 or header[up][1] != rank or rank == 0:
        raise UserError(
            f"{path}: {layer} has factors of shapes {header[down]} and {header[up]},"
            " expected (rank, in, ...) and (out, rank, ...) of a rank of at least 1"
        )
    return LoraPair(layer, down, up, rank)


def _check_values(path: Path, header: Header, pairs: list[LoraPair]) -> None:
    names = [name for pair in pairs for name in (pair.down, pair.up)]
    check_floating(path, header, names)
    check_finite(path, load_tensors(path, names))
    read_alphas(path, header)


def read_alphas(path: Path, header: Header) -> dict[str, float]:
    """Read the alphas that stand in a LoRA file's tensors, by layer."""
    keys = [key for key in header if key.endswith(".alpha")]
    for key in keys:
        if math.prod(header[key]) != 1:
            raise UserError(f"{path}: {key} has shape {header[key]}, expected one number")
    alphas = {key: float(value.real) for key, value in load_tensors(path, keys).items()}
    for key, alpha in alphas.items():
        if not math.isfinite(alpha) or alpha == 0:
            raise UserError(f"{path}: {key} is {alpha:g}, expected a finite number other than 0")
    return {key.removesuffix(".alpha"): alpha for key, alpha in alphas.items()}


def lora_file(spec: str) -> Path:
    """Give the local file of a LoRA named by a path or `owner/name[@revision]:file.safetensors`."""
    source = place(spec, "LoRA")
    if source.kind == "hub" and source.file is not None:
        return fetch_file(source.id, source.revision, source.file)
    if source.kind == "file":
        return Path(source.id)
    raise UserError(
        f"given LoRA {spec!r}, expected a .safetensors file or owner/name:file.safetensors"
    )


#: What diffusers and PEFT raise for a LoRA of another network.
MISFITS = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    OSError,
)


def merge_lora(pipeline: Pipeline, path: Path, scale: float) -> None:
    """Merge one LoRA: W + scale * alpha / rank * up @ down (Hu et al. 2021, equation 3).

    Raises UserError when its shapes do not fit or only some of its layers find their place.
    """
    layers = len(read_lora(path))
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
    except MISFITS as error:
        raise UserError(f"{path}: LoRA does not fit this model ({_reason(error)})") from error
    finally:
        pipeline.unload_lora_weights()


def _check_loaded(pipeline: Pipeline, layers: int, path: Path) -> None:
    modules = [*pipeline.unet.modules(), *pipeline.text_encoder.modules()]
    loaded = sum(1 for module in modules if "extra" in getattr(module, "lora_A", {}))
    if loaded != layers:
        raise UserError(f"{path}: only {loaded} of its {layers} LoRA layers fit this model")


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    mismatch = [line for line in lines if "size mismatch" in line]
    return (mismatch or lines or [type(error).__name__])[0]
