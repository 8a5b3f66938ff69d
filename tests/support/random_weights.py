"""Random weights of every distilled method for a pipeline, in the layouts that they are read in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from paper_counts import targeted
from safetensors.torch import save_file

from sunbench.methods.agd.adapter import AgdAdapter, write_agd
from sunbench.methods.bk_sdm.student import Layout, PrunedStudent
from sunbench.methods.boostdiff.method import TARGETS as ATTENTION
from sunbench.methods.boostdiff.method import write_biases
from sunbench.methods.common.fitted import write_step_tables
from sunbench.methods.common.lora import sharing_copy, write_lora
from sunbench.methods.common.students import student_config
from sunbench.methods.lcm.lora import TARGETS

#: Published LoRAs that a card runs.
ADAPTERS = ("tcd-lora", "pcm-lora", "pcm-lora-cfg", "hyper-sd", "hyper-sd-cfg", "flash-sd")


def student(unet: Any, folder: Path, seed: int) -> Path:
    """A random w-conditioned U-Net beside the given one, as a diffusers folder."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        UNet2DConditionModel.from_config(student_config(unet, 256)).save_pretrained(folder)
    return folder


def lora(unet: Any, path: Path, targets: Sequence[str], seed: int) -> Path:
    """A random LoRA of rank 2 and alpha 1 in kohya's layout."""
    g = torch.Generator().manual_seed(seed)
    layers = {}
    for name, module in targeted(unet, targets):
        out, *rest = module.get_parameter("weight").shape
        ones = (1,) * (len(rest) - 1)
        down = torch.randn(2, *rest, generator=g) / 4
        layers[name] = (down, torch.randn(out, 2, *ones, generator=g) / 4)
    write_lora(path, layers, alpha=1.0)
    return path


def biases(unet: Any, path: Path, seed: int) -> Path:
    """Random differences of all biases."""
    g = torch.Generator().manual_seed(seed)
    own = sharing_copy(unet)
    state = own.state_dict()
    for name in [key for key in state if key.endswith(".bias")]:
        state[name] = state[name] + torch.randn(state[name].shape, generator=g) / 4
    own.load_state_dict(state, assign=True)
    write_biases(path, own, unet)
    return path


def agd(unet: Any, path: Path, seed: int) -> Path:
    """A random AGD adapter of width 8."""
    adapter = AgdAdapter(unet, 8, seed)
    g = torch.Generator().manual_seed(seed)
    for layer in adapter.layers:
        layer.out.weight.data.copy_(torch.randn(layer.out.weight.shape, generator=g) / 4)
    write_agd(path, adapter, {}, torch.float32)
    return path


def difference(unet: Any, path: Path, seed: int) -> Path:
    """Random differences of all weights."""
    g = torch.Generator().manual_seed(seed)
    state = unet.state_dict()
    save_file({k: torch.randn(x.shape, generator=g) / 20 for k, x in state.items()}, path)
    return path


def tables(folder: Path) -> dict[str, Path]:
    """Fitted numbers for 1 and 4 steps: method -> path."""
    g = torch.Generator().manual_seed(4)
    fitted = {
        "gits": {1: torch.tensor([999]), 4: torch.tensor([999, 700, 400, 100])},
        "ld3": {1: torch.tensor([999]), 4: torch.tensor([999, 800, 300, 50])},
        "linear-ag": {n: torch.randn(n, 2, n, generator=g) / 4 for n in (1, 4)},
    }
    for name, held in fitted.items():
        write_step_tables(folder / f"{name}.safetensors", held, {})
    return {name: folder / f"{name}.safetensors" for name in fitted}


def pruned(unet: Any, path: Path, seed: int, **layout: Any) -> Path:
    """A pruned student of random weights near the teacher's, as a file of differences."""
    trainee = PrunedStudent(unet, Layout(**layout), "difference")
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in trainee.unet.parameters():
            p.add_(torch.randn(p.shape, generator=g) / 20)
    trainee.write(path, {"base": "tiny"}, torch.float32)
    return path


def networks(unet: Any, folder: Path) -> dict[str, Path]:
    """Random weights of every pruned and assembled network for a U-Net of four stages."""
    cuts = {f"bk-sdm-{cut}": cut for cut in ("base", "small", "tiny")}
    cuts |= {f"a-sdm-m{i}": f"m{(i - 1) % 3 + 1}" for i in range(1, 7)}
    cuts |= {"small-sd": "base", "tiny-sd": "tiny"}
    files = {
        cut: pruned(unet, folder / f"{cut}.safetensors", i, cut=cut)
        for i, cut in enumerate(dict.fromkeys(cuts.values()))
    }
    return {name: files[cut] for name, cut in cuts.items()}


def write(unet: Any, folder: Path) -> dict[str, Path]:
    """Write them all into a folder: method -> path."""
    for steps in (1, 4):
        student(unet, folder / "guided-distill" / str(steps), steps)
    return {
        "lcm": student(unet, folder / "lcm", 0),
        "guided-distill": folder / "guided-distill",
        "lcm-lora": lora(unet, folder / "lcm-lora.safetensors", TARGETS, 1),
        "boostdiff-lora": lora(unet, folder / "boostdiff-lora.safetensors", ATTENTION, 2),
        "boostdiff-bitfit": biases(unet, folder / "boostdiff-bitfit.safetensors", 3),
        **{
            name: lora(unet, folder / f"{name}.safetensors", TARGETS, 5 + k)
            for k, name in enumerate(ADAPTERS)
        },
        "dmd2-lora": lora(unet, folder / "dmd2-lora.safetensors", TARGETS, 20),
        "perflow": difference(unet, folder / "perflow.safetensors", 21),
        "agd": agd(unet, folder / "agd.safetensors", 9),
        **tables(folder),
    }
