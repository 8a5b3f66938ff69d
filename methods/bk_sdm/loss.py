"""BK-SDM's distillation (arXiv 2305.15798, section 3.2), with A-SDM's further terms beside it.

    L = task |eps - e_S|^2 + output |e_T - e_S|^2 + feature sum_l |f_T^l - f_S^l|^2

Squared norms are means over elements; e_T and e_S see the same caption, without guidance. The
features are what each stage gives to the next, down and up. Tiny has no innermost stage: its
stages on the way up are compared with the teacher's next outer ones, and its last one on the way
down, which does not shrink the map, by what comes out of its one attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sunbench.errors import UserError
from sunbench.methods.bk_sdm.surgery import CUTS
from sunbench.methods.common.losses import Drawn, Feed
from sunbench.training.diffusion import Schedule, noised

#: (teacher's module, student's module): what their outputs are compared by.
Pair = tuple[str, str]
#: (noisy latents, timesteps, noise by the teacher, noise by the student) -> a loss.
Semantic = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
MID: Pair = ("mid_block", "mid_block")


def stage_pairs(cut: str, stages: int) -> list[Pair]:
    """The published pairing of a cut's stages with its teacher's."""
    if CUTS[cut].innermost:
        names = [f"{way}_blocks.{i}" for way in ("down", "up") for i in range(stages)]
        return [(name, name) for name in names]
    last = stages - 2
    down: list[Pair] = [(f"down_blocks.{i}",) * 2 for i in range(last)]
    attention = f"down_blocks.{last}.attentions"
    down.append((f"{attention}.1.proj_out", f"{attention}.0.proj_out"))
    return down + [(f"up_blocks.{i + 1}", f"up_blocks.{i}") for i in range(stages - 1)]


@contextmanager
def outputs(unet: Any, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What modules of a network give in the passes of this context: the first of a tuple."""
    features: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: Any, args: Any, out: Any) -> None:
            features[name] = out[0] if isinstance(out, tuple) else out

        return keep

    handles = [unet.get_submodule(n).register_forward_hook(hook(n)) for n in dict.fromkeys(names)]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def predicted(
    unet: Any, names: Sequence[str], x: Tensor, index: Tensor, texts: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The noise that a network sees in x (B, C, h, w), float32, and its modules' outputs."""
    with outputs(unet, names) as features:
        out = unet(x, index, encoder_hidden_states=texts, return_dict=False)[0]
    return out.float(), features


@dataclass(frozen=True)
class PrunedLoss:
    """The loss of a micro-batch, by its number alone; terms of weight 0 are not computed.

    empty: (1, tokens, width) of the empty caption, which replaces a share of the captions.
    weights: of the terms by name. semantic: A-SDM's, None for none.
    """

    feed: Feed
    schedule: Schedule
    teacher: Any
    student: Any
    pairs: tuple[Pair, ...]
    weights: dict[str, float]
    empty: Tensor
    empty_share: float = 0.0
    semantic: Semantic | None = None

    def __post_init__(self) -> None:
        if self.weights["mid"] and self.student.mid_block is None:
            raise UserError("given mid above 0, expected 0: this cut has no mid block")

    def captions(self, d: Drawn) -> Tensor:
        """Texts of which a share is empty."""
        if not self.empty_share:
            return d.texts
        left_out = torch.rand(len(d.texts), generator=d.generator) < self.empty_share
        return torch.where(left_out.to(d.texts.device)[:, None, None], self.empty, d.texts)

    def __call__(self, k: int) -> dict[str, Tensor]:
        """``loss`` and its terms, each without its weight."""
        d, w = self.feed.draw(k), self.weights
        index = torch.randint(len(self.schedule.alpha), (len(d.x_0),), generator=d.generator)
        index, texts = index.to(d.x_0.device), self.captions(d)
        x = noised(d.x_0, d.eps, self.schedule.at(index))
        pairs = [*(self.pairs if w["feature"] else ()), *([MID] if w["mid"] else [])]
        with torch.no_grad():
            aim, theirs = predicted(self.teacher, [a for a, _ in pairs], x, index, texts)
        # older torch keeps weights that autocast cast: those of the pass above have no gradient
        torch.clear_autocast_cache()
        out, ours = predicted(self.student, [b for _, b in pairs], x, index, texts)
        terms = {"task": F.mse_loss(out, d.eps), "output": F.mse_loss(out, aim)}
        if w["feature"]:
            errors = [_error(theirs[a], ours[b]) for a, b in self.pairs]
            terms["feature"] = torch.stack(errors).sum()
        if w["mid"]:
            terms["mid"] = _error(theirs[MID[0]], ours[MID[1]])
        if w["semantic"] and self.semantic is not None:
            terms["semantic"] = self.semantic(x, index, aim, out)
        total = torch.stack([w[name] * term for name, term in terms.items()]).sum()
        return {"loss": total, **terms}


def _error(a: Tensor, b: Tensor) -> Tensor:
    return F.mse_loss(b.float(), a.float())
