"""What SUN's adapter is trained to predict: Eq. 2 and 8 to 14 of arXiv 2312.08887.

Notation: alpha_t = sqrt(alphas_cumprod[t]) and sigma_t = sqrt(1 - alphas_cumprod[t]); t and s are
times in 0..1, s the end of a stage of length Delta that begins at t; i = 0 (with probability p)
is written ``replaced``.

Where the paper is silent: Delta is read as the stage length t - s, in which the teacher takes N
sub-steps (the text makes it a sub-step, but the value 0.25 only makes sense as one of 4 stages);
squared norms are means over elements, a constant factor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sunbench.training.diffusion import (
    Schedule,
    ddim_step,
    eps_step,
    guided_eps,
    noised,
    sub_steps,
    trajectory,
)


def squared_error(target: Tensor, out: Tensor) -> Tensor:
    """Mean over elements of |target - out|^2 (Eq. 8 and 11)."""
    return (target - out).square().mean()


# ------------------------------------------------------------------------------ networks


@dataclass(frozen=True)
class Pair:
    """Teacher and student of a batch: one frozen U-Net, without and with its adapter.

    positive, negative: c_p and c_n, (B, tokens, width); w: the teacher's guidance.
    """

    unet: Any
    adapter: Any
    positive: Tensor
    negative: Tensor
    w: float

    def pick(self, rows: Tensor) -> Pair:
        """For some images only; rows: their numbers (n,), or a mask (B,)."""
        return replace(self, positive=self.positive[rows], negative=self.negative[rows])

    def teacher(self, x_t: Tensor, index: Tensor) -> Tensor:
        """e_hat(x_t), both halves of guidance in one call (Eq. 2)."""
        texts = torch.cat([self.positive, self.negative])
        out = self.unet(
            torch.cat([x_t, x_t]),
            torch.cat([index, index]),
            encoder_hidden_states=texts,
            return_dict=False,
        )[0]
        eps_p, eps_n = out.float().chunk(2)
        return guided_eps(eps_p, eps_n, self.w)

    def student(self, x_t: Tensor, index: Tensor) -> Tensor:
        """e_S(x_t, c_p, c_n, t)."""
        out: Tensor = self.adapter(self.unet, x_t, index, self.positive, self.negative)
        return out.float()


# ------------------------------------------------------------------------------ targets


class Draw(NamedTuple):
    """What chance decides in a batch: x_0, its noise, times t (B,) and ``replaced`` (B,) bool.

    ``replaced`` stays on the CPU, where it is drawn: no device is waited for to know how many rows
    there are.
    """

    x_0: Tensor
    eps: Tensor
    t: Tensor
    replaced: Tensor

    @property
    def rows(self) -> Tensor:
        """Numbers of the replaced images: (n,) on the device of the rest."""
        return self.replaced.cpu().nonzero().flatten().to(self.t.device)


class Targets(NamedTuple):
    """The student's input x (B, C, h, w) at timesteps (B,), and what it should say."""

    x: Tensor
    timestep: Tensor
    eps_cfg: Tensor
    eps_step: Tensor | None


def can_be_replaced(t: Tensor, delta: float) -> Tensor:
    """Whether a stage of the student's lies before t: t + Delta <= 1."""
    return t + delta <= 1 + 1e-6


def start(
    pair: Pair, schedule: Schedule, draw: Draw, delta: float, n: int
) -> tuple[Tensor, Tensor]:
    """The teacher's x_t and the student's input, i x_t + (1 - i) xhat_t (Eq. 12).

    i = 1: x_t is x_0 with noise. i = 0: x_0 gets its noise at t + Delta; from there the teacher
    comes to x_t in n sub-steps and the student to xhat_t in one.
    """
    x_t = noised(draw.x_0, draw.eps, schedule.level(draw.t))
    rows = draw.rows
    if not len(rows):
        return x_t, x_t
    some, to = pair.pick(rows), draw.t[rows]
    before = to + delta
    x = noised(draw.x_0[rows], draw.eps[rows], schedule.level(before))
    x_t[rows] = trajectory(x, sub_steps(before, to, n), schedule, some.teacher)
    x_in = x_t.clone()
    x_in[rows] = trajectory(x, sub_steps(before, to, 1), schedule, some.student)
    return x_t, x_in


@torch.no_grad()
def targets(
    pair: Pair, schedule: Schedule, draw: Draw, *, delta: float, n: int, step: bool = True
) -> Targets:
    """Targets of both losses for one student pass.

    n: the teacher's sub-steps per stage, whose first is e_hat at x_t. step: whether e_step is
    wanted; without it nothing is replaced. A replaced input gets the e_hat of its own place and
    the e_step that leads it back to the teacher's x_s.
    """
    if not step:
        draw = draw._replace(replaced=torch.zeros_like(draw.replaced))
    t, index, rows = draw.t, schedule.index(draw.t), draw.rows
    x_t, x_in = start(pair, schedule, draw, delta, n)
    first = pair.teacher(x_t, index)
    eps_cfg = first
    if len(rows):
        eps_cfg = first.clone()
        eps_cfg[rows] = pair.pick(rows).teacher(x_in[rows], index[rows])
    if not step:
        return Targets(x_in, index, eps_cfg, None)
    times = sub_steps(t, (t - delta).clamp_min(0), n)
    here, there = schedule.level(t), schedule.level(times[-1])
    x = ddim_step(x_t, first, here, schedule.level(times[1]))
    x_s = trajectory(x, times[1:], schedule, pair.teacher)
    return Targets(x_in, index, eps_cfg, eps_step(x_in, x_s, here, there))


def sun_loss(out: Tensor, aim: Targets, *, lam: float, cfg: bool = True) -> dict[str, Tensor]:
    """L = L_cfg + lambda L_msc (Eq. 14) of the student's output, and its parts.

    ``l_msc`` is Eq. 11 on the input of Eq. 12: L_step itself at p = 0.
    """
    parts = {}
    if cfg:
        parts["l_cfg"] = squared_error(aim.eps_cfg, out)
    if aim.eps_step is not None:
        parts["l_msc"] = squared_error(aim.eps_step, out)
    weights = {"l_cfg": 1.0, "l_msc": lam}
    total = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
    return {"loss": total, **parts}
