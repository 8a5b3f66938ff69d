"""Networks in turns: the same one is bit-exact no switch at all; plans; counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sunbench import registry, zoo
from sunbench.errors import UserError
from sunbench.sampling import ImageId, SampleSettings, make_batch

SETTINGS = SampleSettings(6, 4.0)


def batch() -> Any:
    g = torch.Generator().manual_seed(3)
    c, n = torch.randn(2, 24, 32, generator=g), torch.randn(2, 24, 32, generator=g)
    return make_batch([ImageId("p0", 0), ImageId("p1", 0)], c, n, (4, 8, 8))


def sample(name: str, pipe: Any, weights: dict[str, str], settings: Any = SETTINGS) -> torch.Tensor:
    return registry.method(name, weights=weights).prepare(pipe, settings).sample(batch())


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_same_network_is_no_switch(guidance: float, deep: Any, deep_weights: dict[str, str]):
    """Bit-exact: the multistep solver's history survives."""
    settings = SampleSettings(6, guidance)
    own = sample("switch:model@2,model@4", deep, deep_weights, settings)
    assert torch.equal(own, sample("dpm++", deep, deep_weights, settings))
    base = sample("switch:bk-sdm-base@3,bk-sdm-base@3", deep, deep_weights, settings)
    assert torch.equal(base, sample("bk-sdm-base", deep, deep_weights, settings))


def test_each_network_takes_its_turn(deep: Any, deep_weights: dict[str, str]):
    """By hand: diffusers' pipeline with its U-Net replaced after two steps."""
    method: Any = registry.method("switch:bk-sdm-base@2,model@4", weights=deep_weights)
    sampler = method.prepare(deep, SETTINGS)
    ours = sampler.sample(batch())
    assert torch.equal(sampler.sample(batch()), ours)  # the plan begins anew
    assert sampler.nfe == 12
    assert sampler.nfe_by_network == {"bk-sdm-base": 4, "model": 8}
    assert all(seconds > 0 for seconds in sampler.seconds_by_network.values())
    assert sampler.seconds_by_network.keys() == {"bk-sdm-base", "model"}
    import copy

    pipe = copy.copy(deep)
    pipe.scheduler = registry.method("dpm++").solver.build(deep.scheduler.config)  # type: ignore[attr-defined]
    pipe.unet = registry.method("bk-sdm-base", weights=deep_weights).network(deep, SETTINGS)  # type: ignore[attr-defined]

    def swap(p: Any, i: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        if i == 1:
            p.unet = deep.unet
        return values

    b = batch()
    with torch.no_grad():
        expected = pipe(
            prompt_embeds=b.prompt_embeds,
            negative_prompt_embeds=b.negative_embeds,
            latents=b.latents,
            num_inference_steps=6,
            guidance_scale=4.0,
            output_type="latent",
            return_dict=False,
            callback_on_step_end=swap,
        )[0]
    assert torch.equal(ours, expected)
    assert not torch.equal(ours, sample("dpm++", deep, deep_weights))


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("switch-s1", "bk-sdm-base@10,model@15"),
        ("switch-s2", "model@15,bk-sdm-base@10"),
        ("switch-s3", "model@10,bk-sdm-base@15"),
    ],
)
def test_the_papers_plans(name: str, plan: str, deep: Any, deep_weights: dict[str, str]):
    settings = SampleSettings(25, 4.0)
    ours = sample(name, deep, deep_weights, settings)
    assert torch.equal(ours, sample(f"switch:{plan}", deep, deep_weights, settings))
    method = registry.method(name, weights=deep_weights)
    assert method.evaluations(settings) == 50
    assert method.content(deep, settings)["plan"] == [
        [n, int(s)] for n, s in (turn.split("@") for turn in plan.split(","))
    ]


def test_a_plan_that_does_not_add_up_is_a_reason(deep: Any, deep_weights: dict[str, str]):
    reason = registry.method("switch-s1", weights=deep_weights).skip(deep, SETTINGS)
    assert reason == "switch-s1: given 10 + 15 = 25 steps, expected 6"
    with pytest.raises(UserError, match="expected 6"):
        sample("switch-s1", deep, deep_weights)


def test_a_network_without_weights_is_a_reason(
    deep: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(zoo, "weights", lambda: tmp_path)
    reason = registry.method("switch:bk-sdm-tiny@6").skip(deep, SETTINGS)
    assert reason is not None
    assert "no weights for the zoo yet" in reason


def test_strength_takes_the_plans_steps(deep: Any, deep_weights: dict[str, str]):
    """Steps are evaluations at every strength, so a plan adds up there too."""
    method = registry.method("switch:bk-sdm-base@2,model@2", weights=deep_weights)
    reason = method.skip(deep, SampleSettings(4, 4.0, "image2image", 0.5))
    assert reason is not None
    assert "StableDiffusionImg2ImgPipeline" in reason  # not the plan
