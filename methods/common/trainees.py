"""What is trained: a whole U-Net with guidance as an input, a LoRA on one, or its biases.

Each has a ``unet`` that predicts, a ``module`` of just the parameters that are trained, and
``write``. All start as the base itself, or from weights of an earlier training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import peft
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.methods.boostdiff.method import biases, check_biases, write_biases
from sunbench.methods.common.deltas import LEVELS, write_difference
from sunbench.methods.common.lora import lora_layers, sharing_copy, write_lora
from sunbench.methods.common.students import INPUT, load_student, student_config
from sunbench.store import write_atomic
from sunbench.store.files import make_folder
from sunbench.store.tensors import load_weights

#: Numbers of the w-embedding, as LCM has it.
W_DIM = 256
FILE = "diffusion_pytorch_model.safetensors"


class Trainee:
    """Something trained beside a frozen base: the network that predicts, and what is trained."""

    unet: Any
    module: nn.Module

    @property
    def written(self) -> nn.Module:
        """The part of the module that ``write`` writes: all of it but for helpers."""
        return self.module

    def write(self, path: Path, about: Mapping[str, str], dtype: torch.dtype) -> None:
        """Write the weights in the layout that the method's sampler reads."""
        raise NotImplementedError

    def aside(self) -> AbstractContextManager[None]:
        """A while in which the base is as if nothing were trained beside it."""
        return nullcontext()


def parameters_of(module: nn.Module) -> int:
    """How many parameters are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


# ------------------------------------------------------------------------------ whole U-Nets


def student_on_meta(unet: Any) -> Any:
    """The student of a U-Net without its weights, on the meta device."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(student_config(unet, W_DIM))


def _initial(student: Any, unet: Any) -> dict[str, Tensor]:
    """The U-Net's weights, and a w-input of zeros: at first no w changes anything."""
    own = {key: x.detach().clone() for key, x in unet.state_dict().items()}
    shape = student.state_dict()[INPUT].shape
    return {INPUT: torch.zeros(shape, device=unet.device, dtype=unet.dtype), **own}


class WholeStudent(Trainee):
    """A student of a U-Net, or of another student, with weights of its own.

    base: what a file of weight deltas is taken from, the U-Net itself by default; levels: of its
    rounding.
    """

    def __init__(
        self, unet: Any, start: Path | None = None, base: Any = None, levels: int = LEVELS
    ) -> None:
        self.levels = levels
        self.base = unet if base is None else base
        if start is None:
            self.unet = student_on_meta(unet)
            self.unet.load_state_dict(_initial(self.unet, unet), assign=True)
        else:
            self.unet = load_student(start, self.base)
        self.unet.eval().requires_grad_(True)
        self.module: nn.Module = self.unet

    def write(self, path: Path, about: Mapping[str, str], dtype: torch.dtype) -> None:
        """A file of weight deltas, or a diffusers folder, complete once its weights are there."""
        own: dict[str, Tensor] = self.unet.state_dict()
        if path.suffix == ".safetensors":
            write_difference(path, own, self.base.state_dict(), about, self.levels)
            return
        make_folder(path)
        state = {k: v.detach().to("cpu", dtype).contiguous() for k, v in own.items()}
        write_atomic(path / "config.json", self.unet.to_json_string().encode())
        write_atomic(path / FILE, save(state, {**about, "format": "pt"}))


def student_file(folder: Path, name: str, form: str) -> Path:
    """Where a student of that form is written: a folder, or a file of weight deltas."""
    return folder / (f"{name}.safetensors" if form == "difference" else name)


def average_of(student: WholeStudent) -> Any:
    """A U-Net of a student's kind that waits for ``fit``'s average as its weights."""
    with torch.device("meta"):
        average = UNet2DConditionModel.from_config(student.unet.config)
    return average.eval().requires_grad_(False)


# ------------------------------------------------------------------------------ LoRA


def _flat(name: str) -> str:
    return name.replace(".", "_")


class LoraStudent(Trainee):
    """A U-Net with PEFT's LoRA layers on the targets; the base's own weights are shared."""

    def __init__(
        self,
        unet: Any,
        targets: Sequence[str],
        rank: int,
        alpha: float | None = None,
        seed: int = 0,
        start: Path | None = None,
    ) -> None:
        self.alpha = float(rank if alpha is None else alpha)
        self.unet = sharing_copy(unet).requires_grad_(False)
        layers: dict[str, Any] = {"r": rank, "lora_alpha": self.alpha}  # not only whole numbers
        config = peft.LoraConfig(target_modules=list(targets), **layers)
        with torch.random.fork_rng():  # the layers' first values are not used
            peft.inject_adapter_in_model(config, self.unet)
        self.unet.eval()
        self.layers = {
            name: nn.ModuleDict({"down": m.lora_A["default"], "up": m.lora_B["default"]})
            for name, m in self.unet.named_modules()
            if isinstance(m, peft.tuners.lora.LoraLayer)
        }
        self.module: nn.Module = nn.ModuleDict({_flat(n): m for n, m in self.layers.items()})
        self.module.float().requires_grad_(True)
        self._reset(seed)
        if start is not None:
            self._load(start, unet, self.alpha / rank)

    @torch.no_grad()
    def _reset(self, seed: int) -> None:
        """Down uniform in +-1 / sqrt(inputs), up 0: the base itself at first (Hu et al. 2021)."""
        g = torch.Generator().manual_seed(seed)
        for layer in self.layers.values():
            down: Tensor = layer["down"].get_parameter("weight")
            bound = 1 / math.sqrt(down[0].numel())
            down.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=g))
            layer["up"].get_parameter("weight").zero_()

    @torch.no_grad()
    def _load(self, path: Path, unet: Any, scale: float) -> None:
        """Start from a LoRA on the same layers, of the same rank."""
        layers = {layer.module: layer for layer in lora_layers(path, unet)}
        if layers.keys() != self.layers.keys():
            odd = min(layers.keys() ^ self.layers.keys())
            raise UserError(
                f"{path}: LoRA on {len(layers)} layers, expected {len(self.layers)}; {odd} differs"
            )
        tensors = load_weights(path)
        for name, layer in layers.items():
            down: Tensor = self.layers[name]["down"].get_parameter("weight")
            up: Tensor = self.layers[name]["up"].get_parameter("weight")
            value = tensors[layer.down]
            if len(value) != len(down):
                raise UserError(f"{path}: LoRA of rank {len(value)}, expected {len(down)}")
            down.copy_(value.reshape(down.shape))
            lifted = tensors[layer.up].reshape(up.shape)
            up.copy_(lifted.float() * (layer.scale / scale))

    def write(self, path: Path, about: Mapping[str, str], dtype: torch.dtype) -> None:
        """One file in kohya's layout, with its alpha."""
        factors = {
            name: (layer["down"].get_parameter("weight"), layer["up"].get_parameter("weight"))
            for name, layer in self.layers.items()
        }
        cast = {name: (down.to(dtype), up.to(dtype)) for name, (down, up) in factors.items()}
        write_lora(path, cast, self.alpha, about)


# ------------------------------------------------------------------------------ biases


class BiasStudent(Trainee):
    """A U-Net with biases of its own; all other weights are the base's."""

    def __init__(self, unet: Any, start: Path | None = None) -> None:
        self.base = unet
        self.unet = sharing_copy(unet).requires_grad_(False).eval()
        delta = {} if start is None else self._read(start)
        trained = nn.ParameterDict()
        for name, bias in biases(unet).items():
            value = bias.detach().clone()
            if name in delta:
                value += delta[name].to(value.device, value.dtype)
            module, _, leaf = name.rpartition(".")
            trained[_flat(name)] = nn.Parameter(value)
            setattr(self.unet.get_submodule(module), leaf, trained[_flat(name)])
        self.module: nn.Module = trained

    def _read(self, path: Path) -> dict[str, Tensor]:
        check_biases(path, self.base)
        return load_weights(path)

    def write(self, path: Path, about: Mapping[str, str], dtype: torch.dtype) -> None:
        """One file of weight deltas; float32, whatever the dtype: there are few."""
        write_biases(path, self.unet, self.base, about)


def about_weights(document: Mapping[str, object], guidance_scale: float | None) -> dict[str, str]:
    """Metadata of a file of weights: how it was trained, and the one guidance that it holds."""
    base = {"base": str(document["base"]), "base_sha256": json.dumps(document["base_sha256"])}
    about = {**base, "training": json.dumps(document)}
    return about if guidance_scale is None else {**about, "guidance_scale": repr(guidance_scale)}
