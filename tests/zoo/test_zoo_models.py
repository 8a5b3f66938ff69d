"""The shipped zoo: it opens in plain diffusers, fits its budget, and can tell methods apart."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from trainings import CLASSES

from sunbench.errors import UserError
from sunbench.methods.common.settings import settings_for
from sunbench.methods.sun.settings import SunTraining
from sunbench.metrics import clip_extractor, fd
from sunbench.models import find, load
from sunbench.models.hashes import file_hash
from sunbench.studies.sampled import sampled_images
from sunbench.studies.zoo_control import agreement, follow
from sunbench.studies.zoo_quality import (
    MODELS,
    ground_colours,
    held_out_scenes,
    retrieval,
)
from sunbench.training.settings import TrainingSettings
from sunbench.zoo import folder, names, weights

pytestmark = pytest.mark.skipif(
    not weights().is_dir(), reason="the zoo's weights are not here: `sunbench zoo build`"
)

BUDGET = 80_000_000  # bytes
RECIPES = Path(__file__).parents[2] / "methods" / "recipes"


def test_the_zoo_has_its_four_models_and_a_scorer():
    assert set(names()) == set(MODELS)
    assert (folder("scorer") / "config.json").is_file()


def test_weights_are_float16_safetensors_within_budget():
    files = list(weights().rglob("*.safetensors"))
    assert sum(f.stat().st_size for f in files) <= BUDGET
    for file in files:
        with safe_open(file, "pt") as f:
            names = [k for k in f.keys() if not k.endswith(".alpha")]  # noqa: SIM118
            kinds = {f.get_slice(k).get_dtype() for k in names}
            about = f.metadata() or {}
        packed = {"I16"} if about.get("form") == "difference" else set()
        biases = {"F32"} if file.stem == "boostdiff-bitfit" else set()  # few, and exact
        assert kinds <= {"F16", "I64"} | packed | biases, file.name
    others = {f.suffix for f in weights().rglob("*") if f.is_file()}
    assert others <= {".safetensors", ".json", ".txt"}


def test_methods_weights_are_of_the_zoo_and_say_what_they_cost():
    """What was trained on a model of today's zoo, by what, at which cost."""
    unets = {file_hash(f): f.parent.name for f in weights().glob("unet-*/*.safetensors")}
    found = {}
    for side in sorted(weights().rglob("*.json")):
        document = json.loads(side.read_text())
        if "cost" not in document:
            continue
        where = side.parent.name if side.parent.parent.name == "own" else "emoji"
        assert unets[document["base_sha256"]["unet"]] == f"unet-{where}"
        assert document["method"] == side.stem
        assert min(document["cost"][k] for k in ("images", "seconds", "parameters")) > 0
        found[where, side.stem] = document["cost"]["images"]
        several = sorted((side.parent / side.stem).glob("*.safetensors"))
        for file in several or [side.with_suffix(".safetensors")]:
            with safe_open(file, "pt") as f:
                told = json.loads(f.metadata()["base_sha256"])
            assert told == document["base_sha256"], file.name
    single = {"sun", "lcm", "lcm-lora", "guided-distill", "boostdiff-lora", "boostdiff-bitfit"}
    assert found.keys() == {("emoji", m) for m in single} | {
        (name, "guided-distill") for name in MODELS if name != "emoji"
    }


@pytest.mark.parametrize(("method", "cls"), [("sun", SunTraining), *CLASSES.items()])
def test_methods_weights_are_of_the_committed_recipes(method: str, cls: type[TrainingSettings]):
    """A recipe that moves on without its weights, or weights without it, fail here."""
    unsaid = {"file_dtype"} if method == "guided-distill" else set()  # differences have no dtype
    for side in weights().rglob(f"{method}.json"):
        again = RECIPES / f"{method}-finetune.toml" if "own" in side.parts else None
        made = settings_for(method, cls, again, zoo=True)
        asked = json.loads(json.dumps({**made.content(), "loop": asdict(made.loop)}))
        told = json.loads(side.read_text())
        same = {k: told.get(k) for k, v in asked.items() if v is not None and k not in unsaid}
        assert same == {k: asked[k] for k in same}, side.name


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(UserError, match="emoji-line"):
        folder("emoji-lines")


@pytest.mark.parametrize("name", MODELS)
def test_each_opens_in_plain_diffusers_with_the_block_layout_of_stable_diffusion(name):
    pipe = StableDiffusionPipeline.from_pretrained(folder(name), safety_checker=None)
    unet = pipe.unet.config
    assert all(b == "CrossAttnDownBlock2D" for b in unet.down_block_types)
    assert all(b == "CrossAttnUpBlock2D" for b in unet.up_block_types)
    assert unet.mid_block_type == "UNetMidBlock2DCrossAttn"
    assert (pipe.scheduler.config.beta_schedule, pipe.scheduler.config.prediction_type) == (
        "scaled_linear",
        "epsilon",
    )
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a large snowman on a teal background", num_inference_steps=2).images[0]
    assert image.size == (64, 64)


def drawn(name: str, n: int, **asked):
    """Images of n held-out captions, as asked: label -> (steps, guidance, method)."""
    loaded, scorer = load(find(name)), clip_extractor("zoo-clip")
    scenes = held_out_scenes(n)
    captions = [s.caption for s in scenes]
    shown = {k: sampled_images(loaded, captions, *how) for k, how in asked.items()}
    made = {k: (x, scorer.embed(x)) for k, x in shown.items()}
    return scenes, scorer.embed_text(captions), made


@pytest.fixture(scope="module")
def judged():
    scale = find("emoji-flat").guidance_scale
    asked = {"best": (25, scale), "near": (20, scale), "few": (4, scale, "ddim")}
    return drawn("emoji-flat", 48, **asked)


def test_pictures_show_their_caption(judged):
    scenes, text, shown = judged
    images, features = shown["best"]
    assert retrieval(features, text, len(text)) >= 0.8
    truth = torch.tensor([s.colour for s in scenes])
    assert (ground_colours(images) == truth).float().mean() >= 0.9


def test_guidance_helps_where_captions_leave_a_choice():
    """The base draws three styles; a fine-tune's caption says nearly all, with or without it."""
    scale = find("emoji").guidance_scale
    _, text, shown = drawn("emoji", 96, guided=(25, scale), plain=(25, 1.0))
    score = {k: torch.cosine_similarity(f, text) for k, (_, f) in shown.items()}
    gain = score["guided"] - score["plain"]
    assert gain.mean() > 2 * gain.std() / len(gain) ** 0.5
    assert gain.mean() > 0.01


def test_few_steps_hurt_visibly(judged):
    _, _, shown = judged
    f = {k: np.asarray(v) for k, (_, v) in shown.items()}
    near, far = (fd(f["best"], f[k]) for k in ("near", "few"))
    assert far > 3 * near


@pytest.mark.parametrize("name", ["emoji", "emoji-3d"])
def test_pictures_follow_edges_where_captions_leave_them_open(name):
    """The ControlNet was trained on the base alone."""
    found = follow(name, 24)
    alone, steered = found.agreements()
    assert steered > alone + 0.2
    assert (found.alone != found.steered).any()


def test_agreement_of_edges():
    lines = torch.zeros(1, 3, 16, 16)
    lines[:, :, 4] = 1
    moved, far = lines.roll(1, 2), lines.roll(6, 2)
    assert agreement(lines, lines).item() == pytest.approx(1)
    assert agreement(moved, lines).item() == pytest.approx(1)
    assert agreement(far, lines).item() == pytest.approx(0, abs=1e-5)
    assert 0.6 < agreement((lines + far).clamp(max=1), lines).item() < 0.7
