"""Pruned students: how one is built from a U-Net, and its file.

A file (``.safetensors``) holds whole weights, or differences to what surgery makes of the model's
own U-Net (``sunbench.methods.common.deltas``): on a fine-tune they make another student, which
keeps the fine-tune's style as far as surgery does. Its metadata says how the student is built.
Whole weights may also be a diffusers folder, as the authors publish them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.methods.bk_sdm.surgery import CUTS, cut_of, empty_pruned, stages_of, teacher_name
from sunbench.methods.common.condconv import EXPERTS, ROUTER, place_experts
from sunbench.methods.common.deltas import LEVELS, added, is_difference, stored, write_difference
from sunbench.methods.common.regional import place_regional
from sunbench.methods.common.trainees import Trainee
from sunbench.methods.common.weights import metadata, weight_files
from sunbench.store import write_atomic
from sunbench.store.files import make_folder
from sunbench.store.tensors import check_floating, load_weights, read_header
from sunbench.training.settings import one_of, within

EXPERT_INITS = ("sibling", "random")
ATTENTIONS = ("plain", "gri")


@dataclass(frozen=True)
class Layout:
    """How a student is built from a U-Net of four stages with two layers each.

    cut: what is pruned (``surgery.CUTS``). experts: of the outer convolutions, 0 leaves them
    plain. expert_init: the second and further experts hold the convolutions of the stage's pruned
    and other layers where their shapes match ("sibling", the paper's text) or random values
    ("random", its captions). attention: "gri" for ``common.regional``. seed: of random values.
    """

    cut: str
    experts: int = 0
    expert_init: str = "sibling"
    attention: str = "plain"
    seed: int = 0

    def __post_init__(self) -> None:
        cut_of(self.cut)
        one_of("expert_init", self.expert_init, EXPERT_INITS)
        one_of("attention", self.attention, ATTENTIONS)
        if self.experts:
            within("experts", self.experts, 2, 64)

    def empty(self, unet: Any) -> Any:
        """The student without weights, on the meta device; UserError for an unfit U-Net."""
        student = empty_pruned(unet, CUTS[self.cut])
        if self.experts:
            student = place_experts(student, self.experts)
        return place_regional(student) if self.attention == "gri" else student

    def shapes(self, unet: Any) -> Mapping[str, tuple[int, ...]]:
        """The student's tensors; built once per architecture, since diffusers takes a second."""
        return _shapes(self, json.dumps(dict(unet.config), sort_keys=True))

    def initial(self, unet: Any) -> dict[str, Tensor]:
        """The student's tensors by surgery alone, in the dtype of the U-Net."""
        teacher, stages, cut = unet.state_dict(), stages_of(unet.config), CUTS[self.cut]
        generator = torch.Generator().manual_seed(self.seed)
        device, dtype = unet.device, unet.dtype
        out: dict[str, Tensor] = {}
        for name, shape in self.shapes(unet).items():
            conv, _, leaf = name.rpartition(".")
            if leaf == EXPERTS:
                source = teacher_name(f"{conv}.weight", cut, stages)
                out[name] = self._experts(source, teacher, generator)
            elif f".{ROUTER}." in name:
                out[name] = torch.zeros(shape, dtype=dtype, device=device)
            else:
                out[name] = teacher[teacher_name(name, cut, stages)]
        return out

    def _experts(
        self, source: str, teacher: Mapping[str, Tensor], generator: torch.Generator
    ) -> Tensor:
        """Kernels of a mixture: the teacher's own first, then by ``expert_init``."""
        own = teacher[source]
        rows = [own]
        if self.expert_init == "sibling":
            rows += [teacher[n] for n in siblings(source, teacher) if teacher[n].shape == own.shape]
        bound = own[0].numel() ** -0.5
        while len(rows) < self.experts:
            drawn = torch.empty(own.shape).uniform_(-bound, bound, generator=generator)
            rows.append(drawn.to(own.device, own.dtype))
        return torch.cat(rows[: self.experts])

    @property
    def about(self) -> dict[str, str]:
        """Metadata of a file."""
        return {"layout": json.dumps(asdict(self))}


@lru_cache(maxsize=64)
def _shapes(layout: Layout, config: str) -> Mapping[str, tuple[int, ...]]:
    student = layout.empty(SimpleNamespace(config=json.loads(config)))
    return {name: tuple(tensor.shape) for name, tensor in student.state_dict().items()}


def siblings(source: str, teacher: Mapping[str, Tensor]) -> list[str]:
    """The same convolution in the stage's other layers, the middle one (which is pruned) first.

    On the way down the pruned layer is the second of two, on the way up the second of three.
    """
    stage, layer, conv = source.split(".resnets.")[0], *source.split(".resnets.")[1].split(".", 1)
    layers = [f"{stage}.resnets.{k}.{conv}" for k in (1, 0, 2) if k != int(layer)]
    return [name for name in layers if name in teacher]


def layout_of(path: Path, cut: str) -> Layout:
    """How weights say that their student is built; a plain one where they say nothing.

    Raises UserError for the weights of another cut.
    """
    text = "" if path.is_dir() else metadata(path).get("layout", "")
    if not text:
        return Layout(cut)
    try:
        layout = Layout(**json.loads(text))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its layout is {text!r:.80}, expected a student's") from error
    if CUTS[layout.cut] != CUTS[cut]:
        raise UserError(f"{path}: weights of the cut {layout.cut}, expected {cut}")
    return layout


def check_student(path: Path, unet: Any, cut: str) -> Layout:
    """The layout of a student's weights; reads names and shapes only.

    Raises UserError, one line, for another cut or architecture, missing or extra tensors.
    """
    layout = layout_of(path, cut)
    shapes = layout.shapes(unet)
    held: dict[str, tuple[int, ...]] = {}
    for file in weight_files(path):
        header = read_header(file)
        held |= dict(header)
        if not is_difference(path):
            check_floating(file, header)
    wanted = stored(path, shapes, shapes) if is_difference(path) else shapes
    wrong = [k for k in held.keys() | wanted.keys() if held.get(k) != wanted.get(k)]
    if wrong:
        raise UserError(
            f"{path}: weights of another cut or architecture, {len(wrong)} tensors differ from the"
            f" {len(wanted)} of {cut}, such as {min(wrong)}"
        )
    return layout


def load_pruned(path: Path, unet: Any, cut: str) -> Any:
    """The student with its weights, on the device and in the dtype of the model's U-Net."""
    layout = check_student(path, unet, cut)
    student = layout.empty(unet)
    if is_difference(path):
        tensors = added(path, layout.initial(unet))
    else:
        tensors = {k: v for file in weight_files(path) for k, v in load_weights(file).items()}
    place = unet.device, unet.dtype  # diffusers looks at every module for each
    own = {k: v.to(*place) for k, v in tensors.items()}
    student.load_state_dict(own, assign=True)
    student.to(memory_format=torch.channels_last)
    return student.eval().requires_grad_(False)


class PrunedStudent(Trainee):
    """A student beside its teacher, the base's own U-Net.

    form, levels: of its file (``settings.FORMS``).
    """

    def __init__(
        self, unet: Any, layout: Layout, form: str = "whole", levels: int = LEVELS
    ) -> None:
        self.base, self.layout, self.form, self.levels = unet, layout, form, levels
        self.unet = layout.empty(unet)
        begin = {k: v.detach().clone() for k, v in layout.initial(unet).items()}
        self.unet.load_state_dict(begin, assign=True)
        self.unet.eval().requires_grad_(True)
        self.module: nn.Module = self.unet

    def begin_as(self, path: Path) -> None:
        """Start from weights of the same cut; UserError where they do not fit.

        A student with experts may start from one without: its first experts are that one's.
        """
        if layout_of(path, self.layout.cut) == self.layout:
            self.unet.load_state_dict(load_pruned(path, self.base, self.layout.cut).state_dict())
            return
        plain = load_pruned(path, self.base, self.layout.cut).state_dict()
        self.take(plain)

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Take these tensors over; a convolution's becomes the first expert of its mixture."""
        for name, value in tensors.items():
            own = dict(self.unet.named_parameters())
            if name in own:
                own[name].copy_(value)
                continue
            experts = f"{name.removesuffix('.weight')}.{EXPERTS}"
            if experts not in own:
                raise UserError(f"cannot take {name} over, the student has no place for it")
            own[experts][: len(value)].copy_(value)

    def write(self, path: Path, about: Mapping[str, str], dtype: torch.dtype) -> None:
        """One file, whole or of weight deltas."""
        state = self.unet.state_dict()
        more = {**about, **self.layout.about}
        if self.form == "difference":
            write_difference(path, state, self.layout.initial(self.base), more, self.levels)
            return
        make_folder(path.parent)
        own = {k: v.detach().to("cpu", dtype).contiguous() for k, v in state.items()}
        write_atomic(path, save(own, {**more, "format": "pt"}))
