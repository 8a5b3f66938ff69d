"""Targets of the distilled methods against diffusers' schedulers and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler

from sunbench import registry
from sunbench.errors import UserError
from sunbench.methods.common.losses import noise_loss, weight
from sunbench.methods.common.networks import Conditioned, Guided, Plain
from sunbench.methods.common.settings import Guidance
from sunbench.methods.common.trainees import WholeStudent
from sunbench.methods.guided_distill.loss import HalvingLoss, halved
from sunbench.methods.guided_distill.train import Earlier, stage1, stage2
from sunbench.methods.lcm.loss import ConsistencyLoss, boundary, consistency, pseudo_huber
from sunbench.methods.lcm.method import GRID, SOLVER
from sunbench.methods.lcm.train import lcm_stage
from sunbench.sampling import SampleSettings
from sunbench.training.diffusion import Schedule, ddim_step, noised
from sunbench.training.encode import encode_texts

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DDIM = DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing")
SCHEDULE = Schedule.of(DDIM.alphas_cumprod)
EXACT = Schedule.of(DDIM.alphas_cumprod.double())


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lcm_scheduler() -> Any:
    scheduler = SOLVER.build({"num_train_timesteps": 1000, **SD})
    scheduler.set_timesteps(GRID)
    return scheduler


# ------------------------------------------------------------------------------ LCM


def test_boundary_functions_are_those_of_diffusers():
    index = torch.arange(1000)
    c_skip, c_out = boundary(index)
    theirs = LCMScheduler(**SD).get_scalings_for_boundary_condition_discrete(index.double())
    for ours, expected in zip((c_skip, c_out), theirs, strict=True):
        torch.testing.assert_close(ours.flatten(), expected.float())
    x, eps = normal(1, 4, 8, 8), normal(1, 4, 8, 8, seed=1)
    at = SCHEDULE.at(torch.tensor([0]))
    assert torch.equal(consistency(x, eps, torch.tensor([0]), at), x)


def test_consistency_function_and_noise_are_those_of_the_sampler():
    """Whole tensors at all 50 steps: the student is trained as the function it is sampled as."""
    scheduler = lcm_scheduler()
    x, eps = normal(GRID, 4, 8, 8), normal(GRID, 4, 8, 8, seed=1)
    index = scheduler.timesteps
    expected = torch.cat(
        [
            scheduler.step(
                eps[i : i + 1], t, x[i : i + 1], generator=torch.Generator().manual_seed(0)
            ).denoised
            for i, t in enumerate(index)
        ]
    )
    torch.testing.assert_close(
        consistency(x, eps, index, SCHEDULE.at(index)), expected, atol=2e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        noised(x, eps, SCHEDULE.at(index)), scheduler.add_noise(x, eps, index)
    )


def test_teacher_step_is_diffusers_ddim_over_the_whole_grid():
    DDIM.set_timesteps(GRID)
    x, eps = normal(GRID, 4, 8, 8), normal(GRID, 4, 8, 8, seed=1)
    index = DDIM.timesteps
    before = (index - 20).clamp_min(0)
    ours = ddim_step(x, eps, SCHEDULE.at(index), SCHEDULE.at(before))
    rows = zip(index, eps, x, strict=True)
    theirs = torch.stack([DDIM.step(e, int(t), z).prev_sample for t, e, z in rows])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_timesteps_are_the_samplers(make: Callable[..., Any]):
    """With k = 20 the 50 of the sampler, with k = 4 those and four between each two."""
    sampler = set(lcm_scheduler().timesteps.tolist())
    for k, count in ((20, 50), (4, 250)):
        loss = lcm_stage(make("lcm", f"k{k}", k=k)).loss
        assert isinstance(loss, ConsistencyLoss)
        drawn = set(loss.indices(20_000, torch.Generator().manual_seed(0)).tolist())
        assert len(drawn) == count
        assert sampler <= drawn
        assert max(drawn) == 999


def test_consistency_target_is_the_guided_step_seen_by_the_target(make: Callable[..., Any]):
    """Step by step by diffusers: guidance, DDIM from t to t - 20, denoised by the target network."""
    job = make("lcm")
    loss = lcm_stage(job).loss
    assert isinstance(loss, ConsistencyLoss)
    object.__setattr__(loss, "target", loss.student)
    a, d = loss.aim(3), loss.feed.draw(3)
    DDIM.set_timesteps(GRID)
    unet = job.pipeline.unet
    for i, t in enumerate(a.timestep.tolist()):
        x = DDIM.add_noise(d.x_0[i : i + 1], d.eps[i : i + 1], torch.tensor([t]))
        torch.testing.assert_close(a.x_t[i : i + 1], x)
        texts = [d.texts[i : i + 1], encode_texts(job.pipeline, [""])]
        with torch.no_grad():
            e_p, e_n = (unet(x, t, encoder_hidden_states=c).sample for c in texts)
            eps = e_n + a.guidance[i] * (e_p - e_n)
            x_s = DDIM.step(eps, t, x).prev_sample
            s = torch.tensor([max(t - 20, 0)])
            said = loss.student(x_s, s, texts[0], a.guidance[i : i + 1])
        c_skip, c_out = LCMScheduler(**SD).get_scalings_for_boundary_condition_discrete(int(s))
        at = DDIM.alphas_cumprod[s]
        expected = c_skip * x_s + c_out * (x_s - (1 - at).sqrt() * said) / at.sqrt()
        torch.testing.assert_close(a.target[i : i + 1], expected, atol=2e-4, rtol=1e-4)


def test_pseudo_huber_is_its_formula():
    a, b = normal(3, 4, 2, 2).double(), normal(3, 4, 2, 2, seed=1).double()
    expected = sum(math.sqrt(float(d) ** 2 + 0.1**2) - 0.1 for d in (a - b).flatten()) / a.numel()
    assert float(pseudo_huber(a, b, 0.1)) == pytest.approx(expected, rel=1e-12)
    assert float(pseudo_huber(a, a, 0.1)) == 0


# ------------------------------------------------------------------------------ weights


def test_weights_turn_the_noises_error_into_that_of_x0_and_v():
    index = torch.tensor([0, 300, 700, 999])
    at = EXACT.at(index)
    x_t, eps, out = (normal(4, 4, 2, 2, seed=i).double() for i in range(3))
    x_0 = [(x_t - at.sigma * e) / at.alpha for e in (eps, out)]
    v = [at.alpha * e - at.sigma * x for e, x in zip((eps, out), x_0, strict=True)]
    per_image = {
        "constant": (x_0[0] - x_0[1]).square().mean((1, 2, 3)),
        "snr": (eps - out).square().mean((1, 2, 3)),
        "v": (v[0] - v[1]).square().mean((1, 2, 3)),
    }
    per_image["snr_trunc"] = torch.maximum(per_image["constant"], per_image["snr"])
    for kind, expected in per_image.items():
        ours = (weight(kind, at) * (eps - out).square()).mean((1, 2, 3))
        torch.testing.assert_close(ours, expected)
        total = noise_loss(out, eps, weight(kind, at))
        assert float(total["loss"]) == pytest.approx(float(expected.mean()))
        assert float(total["mse"]) == pytest.approx(float(per_image["snr"].mean()))
    with pytest.raises(UserError, match=r"unknown weight 'snr_trunk'; did you mean 'snr_trunc'\?"):
        weight("snr_trunk", at)


# ------------------------------------------------------------------------------ halving


class Gaussian:
    """Data N(0, s^2): the ideal noise is sigma x / (alpha^2 s^2 + sigma^2) and the ODE is known."""

    def __init__(self, s: float) -> None:
        self.s = s

    def spread(self, t: torch.Tensor) -> torch.Tensor:
        """Standard deviation of x_t."""
        at = EXACT.level(t)
        return (at.alpha**2 * self.s**2 + at.sigma**2).sqrt()

    def __call__(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        at = EXACT.at(index)
        return at.sigma * x / (at.alpha**2 * self.s**2 + at.sigma**2)

    def ode(self, x: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """x_s on the exact path through x_t."""
        return x * self.spread(s) / self.spread(t)

    def ddim(self, x: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """One DDIM step in closed form: x (alpha_t alpha_s s^2 + sigma_t sigma_s) / spread^2."""
        at, to = EXACT.level(t), EXACT.level(s)
        top = at.alpha * to.alpha * self.s**2 + at.sigma * to.sigma
        return x * top / self.spread(t) ** 2


def starts(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    t = torch.arange(1, n + 1, dtype=torch.float64) / n
    return t, t - 1 / n


def step(x: torch.Tensor, eps: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    return ddim_step(x, eps, EXACT.level(t), EXACT.level(s))


def test_halving_target_is_the_closed_form_of_two_steps():
    toy, (t, s) = Gaussian(0.7), starts()
    x = normal(8, 4, 8, 8).double()
    target = halved(x, t, s, EXACT, toy)
    middle = (t + s) / 2
    expected = toy.ddim(toy.ddim(x, t, middle), middle, s)
    torch.testing.assert_close(step(x, target, t, s), expected, atol=1e-9, rtol=1e-9)


def test_halving_target_is_that_of_progressive_distillation():
    """The published x_0 form: (z_s - (sigma_s / sigma_t) z_t) / (alpha_s - (sigma_s / sigma_t) alpha_t)."""
    toy, (t, s) = Gaussian(0.7), starts()
    x = normal(8, 4, 8, 8).double()
    eps = halved(x, t, s, EXACT, toy)
    at, to, ratio = EXACT.level(t), EXACT.level(s), EXACT.level(s).sigma / EXACT.level(t).sigma
    x_s = step(x, eps, t, s)
    x_0 = (x_s - ratio * x) / (to.alpha - ratio * at.alpha)
    torch.testing.assert_close((x - at.sigma * eps) / at.alpha, x_0, atol=1e-8, rtol=1e-8)


def test_halving_again_and_again_approaches_the_exact_ode():
    """One student step for 2, 4, ..., 32 of the ideal teacher's: the distance to the ODE halves."""
    toy = Gaussian(0.7)
    t, s = torch.tensor([1.0, 0.75, 0.5]).double(), torch.tensor([0.75, 0.5, 0.25]).double()
    x = normal(3, 4, 8, 8).double()
    exact = toy.ode(x, t, s)
    errors = []
    for steps in (2, 4, 8, 16, 32):
        estimate = step(x, halved(x, t, s, EXACT, toy, steps), t, s)
        errors.append(float((estimate - exact).square().mean().sqrt()))
    ratios = [b / a for a, b in pairwise(errors)]
    assert all(0.4 < r < 0.6 for r in ratios), ratios
    assert errors[-1] < 0.01 * float(exact.std())


def test_a_student_that_says_the_target_has_no_loss_and_walks_the_teachers_path(
    make: Callable[..., Any],
):
    """A chain of such students at N steps ends where the teacher at 2 N steps does."""
    toy = Gaussian(0.7)
    x = student = normal(2, 4, 8, 8).double()
    teacher = x
    n = 4
    for i in range(n, 0, -1):
        t, s = torch.full((2,), i / n).double(), torch.full((2,), (i - 1) / n).double()
        student = step(student, halved(student, t, s, EXACT, toy), t, s)
        for a, b in ((t, (t + s) / 2), ((t + s) / 2, s)):
            teacher = toy.ddim(teacher, a, b)
    torch.testing.assert_close(student, teacher, atol=1e-9, rtol=1e-9)
    job = make("guided-distill")
    loss = stage2(job, job.begin({}), Earlier(None), WholeStudent(job.pipeline.unet).unet, 2).loss
    assert isinstance(loss, HalvingLoss)
    a = loss.aim(0)
    object.__setattr__(loss, "student", lambda *inputs: a.target)
    assert float(loss(0)["loss"]) == 0


def test_rounds_begin_at_the_times_of_their_ddim(make: Callable[..., Any]):
    job = make("guided-distill")
    loss = stage2(job, job.begin({}), Earlier(None), WholeStudent(job.pipeline.unet).unet, 8).loss
    assert isinstance(loss, HalvingLoss)
    t = loss.times(4000, torch.Generator().manual_seed(0))
    DDIM.set_timesteps(8)
    assert set(SCHEDULE.index(t).tolist()) == set(DDIM.timesteps.tolist())


# ------------------------------------------------------------------------------ guidance


def texts(pipe: Any) -> torch.Tensor:
    return encode_texts(pipe, ["a red cat", "a teal egg"])


def test_the_teacher_is_guided_as_the_user_means_in_one_call(pipe: Any):
    """e_n + g (e_p - e_n) with an own g for each image, both halves batched."""
    c, empty = texts(pipe), encode_texts(pipe, [""])
    x, index, g = normal(2, 4, 8, 8), torch.tensor([400, 900]), torch.tensor([3.0, 8.0])
    sizes: list[int] = []
    hook = pipe.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    ours = Guided(pipe.unet, empty)(x, index, c, g)
    hook.remove()
    assert sizes == [4]
    plain = Plain(pipe.unet)
    with torch.no_grad():
        e_p, e_n = plain(x, index, c, g), plain(x, index, empty.expand_as(c), g)
    expected = e_n + g[:, None, None, None] * (e_p - e_n)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_training_and_sampling_feed_the_same_w(make: Callable[..., Any], train: Callable[..., Any]):
    """guidance_scale 5 is w = 4 in both, so the papers' w = 8 is the user's 9."""
    job = make("lcm", sheet=0, loop={"steps": 1})
    path, pipe = train(job), job.pipeline
    lcm = registry.method("lcm", weights={"lcm": str(path)})
    sampler: Any = lcm.prepare(pipe, SampleSettings(4, 5.0))
    fed: list[torch.Tensor] = []
    unet = sampler.pipeline.unet
    unet.time_embedding.cond_proj.register_forward_pre_hook(lambda m, args: fed.append(args[0]))
    sampler.pipeline(
        prompt_embeds=texts(pipe), num_inference_steps=1, guidance_scale=5.0, output_type="latent"
    )
    Conditioned(unet, pipe)(
        normal(2, 4, 8, 8), torch.tensor([999, 999]), texts(pipe), torch.tensor([5.0, 5.0])
    )
    sampled, trained = fed
    assert torch.equal(sampled, trained)
    assert torch.equal(trained, pipe.get_guidance_scale_embedding(torch.tensor([4.0, 4.0]), 256))


@pytest.mark.parametrize("g", [0.0, 1.0])
def test_w_of_zero_and_below_is_never_fed(pipe: Any, g: float):
    student = Conditioned(WholeStudent(pipe.unet).unet, pipe)
    scales = torch.tensor([5.0, g])
    with pytest.raises(UserError, match=f"given guidance_scale {g:g}, expected more than 1"):
        student(normal(2, 4, 8, 8), torch.tensor([9, 9]), texts(pipe), scales)
    with pytest.raises(UserError, match="expected more than 1"):
        Guidance(g, 5.0)


def test_scales_are_drawn_from_the_whole_range():
    g = Guidance(3.0, 15.0).draw(4000, torch.Generator().manual_seed(0))
    assert 3 <= float(g.min()) < 3.05
    assert 14.95 < float(g.max()) <= 15
    assert Guidance(5.0, 5.0).draw(3, torch.Generator()).tolist() == [5.0, 5.0, 5.0]


def test_at_first_no_w_changes_anything(pipe: Any):
    """The w-input is zero, so every student begins as the base under one conditional pass."""
    student = Conditioned(WholeStudent(pipe.unet).unet, pipe)
    x, index = normal(2, 4, 8, 8), torch.tensor([100, 900])
    with torch.no_grad():
        expected = Plain(pipe.unet)(x, index, texts(pipe), torch.ones(2))
        for g in (1.5, 9.0):
            prediction = student(x, index, texts(pipe), torch.full((2,), g))
            assert torch.equal(prediction, expected)


def test_stage_1_learns_every_timestep_and_scale(make: Callable[..., Any]):
    job = make("guided-distill", loop={"batch": 64})
    loss: Any = stage1(job, job.begin({}), Earlier(None)).loss
    a = loss.aim(0)
    assert int(a.timestep.min()) < 100
    assert int(a.timestep.max()) > 900
    assert 3 <= float(a.guidance.min()) < 5 < 13 < float(a.guidance.max()) <= 15
