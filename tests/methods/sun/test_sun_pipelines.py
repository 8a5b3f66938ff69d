"""Every pipeline with SUN: one pass per step, the negative prompt used, and no trace afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from peft import LoraConfig
from PIL import Image

from sunbench.errors import UserError
from sunbench.methods.common.attentions import cross_attentions
from sunbench.methods.sun import SunAdapter, load_sun, unload_sun, write_adapter

Randomly = Callable[..., SunAdapter]
PIXELS = Image.effect_noise((16, 16), 90).convert("RGB")
MASK = Image.new("L", (16, 16), 0)
MASK.paste(255, (0, 0, 8, 16))

IMAGE = {"image": PIXELS, "strength": 1.0}
PAINT = {"image": PIXELS, "mask_image": MASK, "strength": 1.0, "height": 16, "width": 16}
#: name -> class, channels of the U-Net, with a ControlNet, arguments
MATRIX: dict[str, tuple[str, int, bool, dict[str, Any]]] = {
    "text": ("StableDiffusionPipeline", 4, False, {}),
    "image": ("StableDiffusionImg2ImgPipeline", 4, False, IMAGE),
    "inpaint4": ("StableDiffusionInpaintPipeline", 4, False, PAINT),
    "inpaint9": ("StableDiffusionInpaintPipeline", 9, False, PAINT),
    "control": ("StableDiffusionControlNetPipeline", 4, True, {"image": PIXELS}),
    "control-image": (
        "StableDiffusionControlNetImg2ImgPipeline",
        4,
        True,
        {**IMAGE, "control_image": PIXELS},
    ),
    "control-inpaint": (
        "StableDiffusionControlNetInpaintPipeline",
        4,
        True,
        {**PAINT, "control_image": PIXELS},
    ),
}


def control_net(unet: Any) -> Any:
    """A ControlNet whose last layers are not zero, so that what it reads shows."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        net = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
        for block in [*net.controlnet_down_blocks, net.controlnet_mid_block]:
            torch.nn.init.normal_(block.weight, std=0.1)
    return net.eval().requires_grad_(False)


def build(kind: str, tiny: ModuleType, folder: Path) -> tuple[Any, dict[str, Any]]:
    name, channels, controlled, arguments = MATRIX[kind]
    base = tiny.pipeline(folder / "words", in_channels=channels)
    parts = dict(base.components)
    if controlled:
        parts["controlnet"] = control_net(base.unet)
    sd_pipe = getattr(diffusers, name)(**parts, requires_safety_checker=False)
    sd_pipe.set_progress_bar_config(disable=True)
    return sd_pipe, arguments


def run(pipe: Any, arguments: dict[str, Any], **more: Any) -> torch.Tensor:
    call = {
        "prompt": "a red apple",
        "negative_prompt": "a boat",
        "num_inference_steps": 2,
        "guidance_scale": 8.0,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(0),
        **arguments,
        **more,
    }
    return pipe(**call).images


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sun.safetensors"


@pytest.mark.parametrize("kind", MATRIX)
def test_every_pipeline(
    kind: str, tiny: ModuleType, tmp_path: Path, file: Path, randomly: Randomly
):
    pipe, arguments = build(kind, tiny, tmp_path)
    write_adapter(randomly(pipe.unet, add_pos=True), file)
    before, scheduler, config = run(pipe, arguments), pipe.scheduler, dict(pipe.config)
    kind_, state = type(pipe), set(vars(pipe))

    load_sun(pipe, file)
    rows, read = [], []
    pipe.unet.register_forward_hook(lambda m, a, out: rows.append(len(out[0])))
    if hasattr(pipe, "controlnet"):
        pipe.controlnet.register_forward_pre_hook(
            lambda m, a, k: read.append(k["encoder_hidden_states"]), with_kwargs=True
        )
    first = run(pipe, arguments)
    assert rows == [1, 1]
    assert type(pipe.scheduler).__name__ == "DDIMScheduler"
    assert pipe.scheduler.config.timestep_spacing == "trailing"
    assert bool(torch.isfinite(first).all())
    assert torch.equal(run(pipe, arguments), first)
    assert torch.equal(run(pipe, arguments, guidance_scale=0.0), first)
    assert not torch.equal(run(pipe, arguments, negative_prompt="a teal drum"), first)
    positive, _ = kind_.encode_prompt(pipe, "a red apple", "cpu", 1, False)
    assert len(read) == (4 * 2 if MATRIX[kind][2] else 0)
    assert all(torch.equal(states, positive) for states in read)

    unload_sun(pipe)
    assert type(pipe) is kind_
    assert set(vars(pipe)) == state
    assert pipe.scheduler is scheduler
    assert dict(pipe.config) == config
    assert torch.equal(run(pipe, arguments), before)


def test_embeddings_batches_and_several_images_per_prompt(pipe: Any, randomly: Randomly):
    load_sun(pipe, randomly(pipe.unet))
    words, against = ["a red apple", "a boat"], ["a cat", "an egg"]
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    call = {"num_images_per_prompt": 2, "latents": noise, "generator": None}
    whole = run(pipe, {}, prompt=words, negative_prompt=against, **call)
    assert whole.shape == (4, 4, 8, 8)
    positive, negative = pipe.encode_prompt(words, "cpu", 1, False, against)
    embeds = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    from_embeds = run(pipe, {}, prompt=None, negative_prompt=None, **embeds, **call)
    assert torch.equal(from_embeds, whole)
    single = run(pipe, {}, prompt=words[1], negative_prompt=against[1], latents=noise[3:])
    torch.testing.assert_close(single[0], whole[3], atol=1e-4, rtol=0)


def test_a_list_of_generators_makes_each_image_its_own(pipe: Any, randomly: Randomly):
    load_sun(pipe, randomly(pipe.unet))

    def of(*seeds: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        words = ["a cat"] * len(seeds)
        return run(
            pipe, {}, prompt=words, negative_prompt=["an egg"] * len(seeds), generator=generators
        )

    torch.testing.assert_close(of(1, 2, 3)[1:2], of(2), atol=1e-4, rtol=0)


def test_no_negative_prompt_is_the_empty_one(pipe: Any, randomly: Randomly):
    load_sun(pipe, randomly(pipe.unet))
    empty = run(pipe, {}, negative_prompt="")
    assert torch.equal(run(pipe, {}, negative_prompt=None), empty)


@pytest.mark.parametrize("steps", [1, 3])
def test_keys_and_values_of_the_texts_are_computed_once(steps: int, pipe: Any, randomly: Randomly):
    adapter = load_sun(pipe, randomly(pipe.unet, add_pos=True))
    calls: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        return lambda *a: calls.update({name: calls.get(name, 0) + 1})

    for name, attn in cross_attentions(pipe.unet).items():
        layer = adapter.get_submodule(name)
        watched = {"k": attn.to_k, "v": attn.to_v, "q": attn.to_q, **dict(layer.named_children())}
        for part, module in watched.items():
            module.register_forward_hook(count(f"{name} {part}"))
    run(pipe, {}, num_inference_steps=steps)
    assert len(calls) == 7 * len(adapter.names)
    assert {n for name, n in calls.items() if not name.endswith(" q")} == {1}
    assert {n for name, n in calls.items() if name.endswith(" q")} == {steps}
    run(pipe, {}, num_inference_steps=steps)  # the next call's texts are its own
    assert {n for name, n in calls.items() if not name.endswith(" q")} == {2}


@pytest.mark.parametrize("late", [False, True])
def test_loras_count_before_and_after(
    late: bool, tiny: ModuleType, tmp_path: Path, randomly: Randomly
):
    """The same as with the LoRA merged into the base, whose K and V are remembered too."""

    def with_lora(pipe: Any) -> Any:
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        with torch.random.fork_rng():
            torch.manual_seed(3)
            pipe.unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
        return pipe

    pipes = [tiny.pipeline(tmp_path / str(i)) for i in range(3)]
    adapter = randomly(pipes[0].unet)
    load_sun(pipes[0], adapter)
    alone = run(pipes[0], {})
    if not late:
        with_lora(pipes[1])
    load_sun(pipes[1], adapter)
    beside = run(pipes[1] if not late else with_lora(pipes[1]), {})
    with_lora(pipes[2]).unet.fuse_lora()
    load_sun(pipes[2], adapter)
    torch.testing.assert_close(beside, run(pipes[2], {}), atol=1e-3, rtol=1e-4)
    assert float((beside - alone).abs().max()) > 0.05
    half = run(pipes[1], {}, cross_attention_kwargs={"scale": 0.5})
    assert float((half - beside).abs().max()) > 0.01


@pytest.mark.parametrize("solver", ["dpm++", None])
def test_solvers(solver: str | None, pipe: Any, randomly: Randomly):
    own = pipe.scheduler
    load_sun(pipe, randomly(pipe.unet), solver=solver)
    if solver is None:
        assert pipe.scheduler is own
    else:
        pipe.scheduler.set_timesteps(4)
        assert type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
        assert pipe.scheduler.timesteps.tolist() == [999, 749, 499, 249]
    assert bool(torch.isfinite(run(pipe, {}, num_inference_steps=5)).all())


def test_two_pipelines_share_a_unet(pipe: Any, randomly: Randomly):
    """A pipeline without SUN on the same U-Net goes on as it was."""
    plain = diffusers.StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    plain.set_progress_bar_config(disable=True)
    before = run(plain, {})
    adapter = load_sun(pipe, randomly(pipe.unet))
    fast = run(pipe, {})
    assert torch.equal(run(plain, {}), before)
    load_sun(plain, adapter)
    assert torch.equal(run(plain, {}), fast)
    unload_sun(pipe)
    assert torch.equal(run(plain, {}), fast)
    unload_sun(plain)
    assert torch.equal(run(plain, {}), before)


def test_a_pipeline_with_sun_can_be_saved(pipe: Any, randomly: Randomly, tmp_path: Path):
    load_sun(pipe, randomly(pipe.unet))
    pipe.save_pretrained(tmp_path / "saved")
    again = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert again.unet.state_dict().keys() == pipe.unet.state_dict().keys()


def test_the_signature_stays(pipe: Any, randomly: Randomly):
    before = inspect.signature(pipe.encode_prompt).parameters.keys()
    load_sun(pipe, randomly(pipe.unet))
    assert inspect.signature(pipe.encode_prompt).parameters.keys() == before


def ip_processors(unet: Any) -> None:
    cross = cross_attentions(unet)
    processors = dict(unet.attn_processors)
    for name, attn in cross.items():
        processors[f"{name}.processor"] = IPAdapterAttnProcessor2_0(
            attn.inner_dim, 32, num_tokens=(4,)
        )
    unet.set_attn_processor(processors)


def test_ip_adapter_before_is_refused(pipe: Any, randomly: Randomly):
    adapter = randomly(pipe.unet)
    ip_processors(pipe.unet)
    with pytest.raises(UserError, match=r"IPAdapterAttnProcessor2_0.*IP-Adapter") as caught:
        load_sun(pipe, adapter)
    assert "\n" not in str(caught.value)
    assert type(pipe) is diffusers.StableDiffusionPipeline


@pytest.mark.parametrize("change", [ip_processors, lambda unet: unet.set_attention_slice("max")])
def test_other_processors_afterwards_are_noticed(
    change: Callable[[Any], None], pipe: Any, randomly: Randomly
):
    load_sun(pipe, randomly(pipe.unet))
    change(pipe.unet)
    with pytest.raises(UserError, match="only after unload_sun"):
        run(pipe, {})


def test_pag_and_strange_pipelines_are_refused(pipe: Any, randomly: Randomly):
    kind = diffusers.StableDiffusionPAGPipeline
    other = kind(**pipe.components, requires_safety_checker=False)
    with pytest.raises(UserError, match="given a StableDiffusionPAGPipeline, expected one of"):
        load_sun(other, randomly(pipe.unet))


def test_misuse(pipe: Any, randomly: Randomly, tmp_path: Path):
    with pytest.raises(UserError, match="without a SUN adapter"):
        unload_sun(pipe)
    with pytest.raises(UserError, match="given norm 'batch' for an adapter made with 'sample'"):
        load_sun(pipe, randomly(pipe.unet), norm="batch")
    with pytest.raises(UserError, match="unknown solver"):
        load_sun(pipe, randomly(pipe.unet), solver="euler")
    with pytest.raises(UserError, match="expected an existing folder or"):
        load_sun(pipe, tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="a folder, expected a"):
        load_sun(pipe, tmp_path)
    load_sun(pipe, randomly(pipe.unet))
    with pytest.raises(UserError, match="with a SUN adapter"):
        load_sun(pipe, randomly(pipe.unet))


def test_widths_that_differ(pipe: Any, randomly: Randomly):
    load_sun(pipe, randomly(pipe.unet))
    embeds = {
        "prompt_embeds": torch.zeros(1, 24, 32),
        "negative_prompt_embeds": torch.zeros(1, 24, 16),
    }
    with pytest.raises(ValueError, match="must have the same shape"):
        run(pipe, {}, prompt=None, negative_prompt=None, **embeds)


def test_guidance_as_an_input_is_refused(tiny: ModuleType, tmp_path: Path, randomly: Randomly):
    guided_pipe = tiny.pipeline(tmp_path, time_cond_proj_dim=8)
    with pytest.raises(UserError, match="guidance as an input"):
        load_sun(guided_pipe, randomly(guided_pipe.unet))
