"""SUN's training maths: Eq. 2 and 8 to 14 against closed forms and diffusers' DDIM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from sunbench.methods.sun import SunAdapter
from sunbench.methods.sun.loss import (
    Draw,
    Pair,
    Schedule,
    can_be_replaced,
    ddim_step,
    eps_step,
    guided_eps,
    noised,
    start,
    sub_steps,
    sun_loss,
    targets,
    trajectory,
)

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DDIM = DDIMScheduler(
    **SD, clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing", steps_offset=1
)
SCHEDULE = Schedule.of(DDIM.alphas_cumprod)
STAGES = [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def times(*values: float) -> torch.Tensor:
    return torch.tensor(values)


# ------------------------------------------------------------------------------ formulas


def test_guidance_is_that_of_diffusers():
    """w e_p + (1 - w) e_n = e_n + w (e_p - e_n)."""
    p, n = normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1)
    torch.testing.assert_close(guided_eps(p, n, 8.0), n + 8.0 * (p - n), atol=1e-4, rtol=1e-4)
    assert torch.equal(guided_eps(p, n, 1.0), p)


def test_times_are_those_of_the_trailing_grid():
    assert SCHEDULE.index(times(1, 0.75, 0.5, 0.25, 0)).tolist() == [999, 749, 499, 249, 0]
    for steps in (4, 8, 12, 25):
        DDIM.set_timesteps(steps)
        t = torch.arange(steps, 0, -1) / steps
        assert SCHEDULE.index(t).tolist() == DDIM.timesteps.tolist()


@pytest.mark.parametrize(("t", "s"), STAGES)
def test_eq_10_is_the_inverse_of_eq_9(t: float, s: float):
    at, to = SCHEDULE.level(times(t, t)), SCHEDULE.level(times(s, s))
    x, eps = normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1)
    torch.testing.assert_close(
        eps_step(x, ddim_step(x, eps, at, to), at, to), eps, atol=1e-4, rtol=1e-4
    )
    x_s = normal(2, 4, 3, 3, seed=2)
    torch.testing.assert_close(
        ddim_step(x, eps_step(x, x_s, at, to), at, to), x_s, atol=1e-4, rtol=1e-4
    )


def test_eq_9_is_one_step_of_diffusers_ddim():
    DDIM.set_timesteps(4)
    x, eps = normal(1, 4, 3, 3), normal(1, 4, 3, 3, seed=1)
    for t, s in STAGES:
        there = DDIM.step(eps, int(SCHEDULE.index(times(t))), x, eta=0.0).prev_sample
        here = ddim_step(x, eps, SCHEDULE.level(times(t)), SCHEDULE.level(times(s)))
        torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)


def test_sub_steps_divide_each_stage_evenly():
    sub_times = sub_steps(times(1.0, 0.6), times(0.75, 0.0), 5)
    assert sub_times.shape == (6, 2)
    torch.testing.assert_close(sub_times[0], times(1.0, 0.6))
    torch.testing.assert_close(sub_times[-1], times(0.75, 0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(sub_times.diff(dim=0)[:, 0], torch.full((5,), -0.05))


def test_a_teacher_that_knows_the_noise_stays_on_its_line():
    """With e_hat = eps everywhere, N steps end where q(x_s | x_0) with that noise is."""
    x_0, eps = normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1)
    t, s = times(1.0, 0.7), times(0.75, 0.45)
    x_t = noised(x_0, eps, SCHEDULE.level(t))
    x_s = trajectory(x_t, sub_steps(t, s, 6), SCHEDULE, lambda x, index: eps)
    torch.testing.assert_close(x_s, noised(x_0, eps, SCHEDULE.level(s)), atol=1e-4, rtol=1e-4)
    estimate = eps_step(x_t, x_s, SCHEDULE.level(t), SCHEDULE.level(s))
    torch.testing.assert_close(estimate, eps, atol=1e-4, rtol=1e-4)


def test_replacement_needs_a_stage_before_t():
    assert can_be_replaced(times(1, 0.76, 0.75, 0.25), 0.25).tolist() == [False, False, True, True]


# ------------------------------------------------------------------------------ with networks


@pytest.fixture
def pair(pipeline: Any, randomly: Any) -> Any:
    """Teacher and student of three images; bound while the test runs."""
    adapter = randomly(pipeline.unet, add_pos=True)
    binding = adapter.bind(pipeline.unet)
    width = pipeline.unet.config.cross_attention_dim
    yield Pair(pipeline.unet, adapter, normal(3, 6, width), normal(3, 6, width, seed=1), 3.0)
    binding.release()


def draw(t: torch.Tensor, *replaced: bool) -> Draw:
    return Draw(normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1), t, torch.tensor(replaced))


NONE = (False, False, False)


def test_closed_form_without_replacement_one_sub_step_and_equal_texts(pair: Pair):
    """Then e_hat and e_step are both the base's own e_p: L = (1 + lambda) |e_p - e_S|^2."""
    pair = replace(pair, negative=pair.positive)
    drawn = draw(times(1.0, 0.6, 0.3), *NONE)
    aim = targets(pair, SCHEDULE, drawn, delta=0.25, n=1)
    with torch.no_grad():
        out = pair.student(aim.x, aim.timestep)
        base = pair.unet(aim.x, aim.timestep, pair.positive, return_dict=False)[0]
    parts = sun_loss(out, aim, lam=0.5)
    expected = (base - out).square().mean()
    assert expected > 1e-3
    torch.testing.assert_close(parts["l_cfg"], expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(parts["l_msc"], expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(parts["loss"], 1.5 * expected, atol=1e-5, rtol=1e-3)


def test_fresh_adapter_with_equal_texts_has_no_loss(pipeline: Any):
    """The released form starts as guidance in attention space, which vanishes for equal texts."""
    adapter = SunAdapter.for_unet(pipeline.unet, add_pos=True)
    binding = adapter.bind(pipeline.unet)
    c = normal(3, 6, pipeline.unet.config.cross_attention_dim)
    pair = Pair(pipeline.unet, adapter, c, c, 8.0)
    aim = targets(pair, SCHEDULE, draw(times(1.0, 0.6, 0.3), *NONE), delta=0.25, n=1)
    with torch.no_grad():
        parts = sun_loss(pair.student(aim.x, aim.timestep), aim, lam=1.0)
    binding.release()
    assert float(parts["loss"]) < 1e-7


def test_the_teacher_is_guided_ddim_on_its_own_grid(pair: Pair):
    """x_s from e_step equals diffusers' DDIM over the same 6 sub-steps of a 24-step grid."""
    one = pair.pick(torch.tensor([True, False, False]))
    x_0, eps = normal(1, 4, 8, 8), normal(1, 4, 8, 8, seed=1)
    drawn = Draw(x_0, eps, times(1.0), torch.tensor([False]))
    aim = targets(one, SCHEDULE, drawn, delta=0.25, n=6)
    x = aim.x
    DDIM.set_timesteps(24)
    for t in DDIM.timesteps[:6]:
        with torch.no_grad():
            p = one.unet(x, t, one.positive, return_dict=False)[0]
            n = one.unet(x, t, one.negative, return_dict=False)[0]
        # timesteps are rounded: the step ends where the next one begins, not at t - 1000 // 24
        to = DDIM.timesteps[DDIM.timesteps.tolist().index(int(t)) + 1]
        at = [Schedule.of(DDIM.alphas_cumprod).level((k + 1.0)[None] / 1000) for k in (t, to)]
        x = ddim_step(x, n + 3.0 * (p - n), *at)
    assert aim.eps_step is not None
    x_s = ddim_step(aim.x, aim.eps_step, SCHEDULE.level(times(1.0)), SCHEDULE.level(times(0.75)))
    torch.testing.assert_close(x_s, x, atol=1e-4, rtol=1e-3)


def test_replaced_inputs_come_from_the_student_and_keep_the_teachers_end(pair: Pair):
    """Eq. 12: xhat_t is one student's step from t + Delta; e_step leads it to the teacher's x_s."""
    drawn = draw(times(0.75, 0.6, 0.3), True, False, True)
    with torch.no_grad():
        x_t, x = start(pair, SCHEDULE, drawn, 0.25, 2)
        before = drawn.t + 0.25
        noisy = noised(drawn.x_0, drawn.eps, SCHEDULE.level(before))
        eps = pair.student(noisy, SCHEDULE.index(before))
        xhat = ddim_step(noisy, eps, SCHEDULE.level(before), SCHEDULE.level(drawn.t))
        path = trajectory(noisy, sub_steps(before, drawn.t, 2), SCHEDULE, pair.teacher)
    aim = targets(pair, SCHEDULE, drawn, delta=0.25, n=2)
    assert torch.equal(aim.x, x)
    plain = noised(drawn.x_0, drawn.eps, SCHEDULE.level(drawn.t))
    torch.testing.assert_close(x[1], plain[1])
    torch.testing.assert_close(x[::2], xhat[::2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(x_t[::2], path[::2], atol=1e-4, rtol=1e-4)
    assert bool(((x_t - x)[::2].flatten(1).norm(dim=1) > 0.01).all())
    with torch.no_grad():
        s = drawn.t - 0.25
        x_s = trajectory(x_t, sub_steps(drawn.t, s, 2), SCHEDULE, pair.teacher)
        e_hat = pair.teacher(x, SCHEDULE.index(drawn.t))
    assert aim.eps_step is not None
    end = ddim_step(aim.x, aim.eps_step, SCHEDULE.level(drawn.t), SCHEDULE.level(s))
    torch.testing.assert_close(end, x_s, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(aim.eps_cfg, e_hat, atol=1e-4, rtol=1e-4)


def test_an_image_does_not_depend_on_who_else_is_replaced(pair: Pair):
    t = times(0.75, 0.6, 0.3)
    few = targets(pair, SCHEDULE, draw(t, True, False, False), delta=0.25, n=2)
    many = targets(pair, SCHEDULE, draw(t, True, True, True), delta=0.25, n=2)
    assert few.eps_step is not None
    assert many.eps_step is not None
    torch.testing.assert_close(few.x[0], many.x[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(few.eps_step[0], many.eps_step[0], atol=1e-3, rtol=1e-3)


def test_without_l_step_nothing_is_replaced(pair: Pair):
    drawn = draw(times(0.75, 0.6, 0.3), True, True, True)
    aim = targets(pair, SCHEDULE, drawn, delta=0.25, n=2, step=False)
    assert aim.eps_step is None
    torch.testing.assert_close(aim.x, noised(drawn.x_0, drawn.eps, SCHEDULE.level(drawn.t)))
    assert set(sun_loss(aim.x, aim, lam=1.0)) == {"loss", "l_cfg"}


def test_targets_carry_no_gradient(pair: Pair):
    aim = targets(pair, SCHEDULE, draw(times(0.75, 0.6, 0.3), True, False, True), delta=0.25, n=1)
    assert not any(x.requires_grad for x in (aim.x, aim.eps_cfg, aim.eps_step) if x is not None)
    sun_loss(pair.student(aim.x, aim.timestep), aim, lam=1.0)["loss"].backward()
    assert all(p.grad is None for p in pair.unet.parameters())
    assert all(bool(p.grad.any()) for p in pair.adapter.parameters())


@pytest.mark.parametrize(("cfg", "names"), [(True, {"l_cfg", "l_msc"}), (False, {"l_msc"})])
def test_parts_can_be_switched(pair: Pair, cfg: bool, names: set[str]):
    aim = targets(pair, SCHEDULE, draw(times(0.75, 0.6, 0.3), *NONE), delta=0.25, n=1)
    parts = sun_loss(normal(3, 4, 8, 8), aim, lam=2.0, cfg=cfg)
    assert parts.keys() - {"loss"} == names
    expected = 2 * parts["l_msc"] + parts.get("l_cfg", torch.tensor(0.0))
    torch.testing.assert_close(parts["loss"], expected)
