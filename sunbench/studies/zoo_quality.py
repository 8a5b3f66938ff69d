"""Does the zoo behave like Stable Diffusion where the suite asks? Measurements per model.

What is wanted of each stands in the recipe under ``checks``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from sunbench.errors import UserError
from sunbench.metrics import clip_extractor, fd, load_network
from sunbench.metrics.networks.network import LayerNetwork
from sunbench.metrics.perceptual import layer_distance
from sunbench.models import find_model, load
from sunbench.prompts import Prompt
from sunbench.reference_sets import FLOOR_OFFSET
from sunbench.studies.sampled import sampled_images
from sunbench.zoo import READER, REAL, names, weights
from sunbench.zoo.world import checks
from sunbench.zoo.world.captions import (
    PATTERNS,
    colors,
    held_out_prompts,
    recipe,
    style_indices,
    style_words,
)
from sunbench.zoo.world.captions import HeldOutPrompt as WorldPrompt
from sunbench.zoo.world.reader import ATTRIBUTES, Reader
from sunbench.zoo.world.real import RealFeatures

if TYPE_CHECKING:
    from sunbench.models import LoadedModel

STEPS = 25
LONG_STEPS = 200
SOLVERS = ("ddim", "dpm++", "unipc")
SPREAD_PROMPTS, SPREAD_SEEDS = 4, 64


@dataclass(frozen=True)
class Check:
    """One measurement: value, what is wanted (low, high; None: only reported), number of images."""

    name: str
    value: float
    low: float | None
    high: float | None
    images: int

    @property
    def passed(self) -> bool | None:
        """Whether the value is within what is wanted; None where nothing is."""
        if self.low is None and self.high is None:
            return None
        above = self.low is None or self.value >= self.low
        return above and (self.high is None or self.value <= self.high)

    @property
    def wanted(self) -> str:
        """In words."""
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"at least {self.low:g}"
        return "" if self.high is None else f"at most {self.high:g}"

    def line(self) -> str:
        """As a row of a Markdown table."""
        verdict = {True: "yes", False: "**no**", None: ""}[self.passed]
        return f"| {self.name} | {self.value:.3f} | {self.wanted} | {verdict} | {self.images} |"


def load_reader() -> Reader:
    """The shipped network that names what an image shows."""
    reader = Reader()
    state = load_file(weights() / READER / "model.safetensors")
    reader.load_state_dict({k: v.float() for k, v in state.items()})
    return reader.eval()


def read(reader: Reader, images: Tensor) -> Tensor:
    """Attributes (N, 6) of images (N, 3, 64, 64) uint8."""
    return reader.read(images.float() / 127.5 - 1)


def column(readings: Tensor, attribute: str) -> Tensor:
    """One attribute of readings (N, 6)."""
    return readings[:, ATTRIBUTES.index(attribute)]


def distances(a: Tensor, b: Tensor) -> Tensor:
    """perceptual[zoo-clip] between images (N, 3, H, W) uint8, in pairs: (N,)."""
    network = load_network("zoo-clip")
    assert isinstance(network, LayerNetwork)
    parts = zip(a.split(128), b.split(128), strict=True)
    return torch.cat([layer_distance(network.layers(x), network.layers(y)) for x, y in parts])


def as_row(prompt: WorldPrompt, negative: str = "") -> Prompt:
    """A held-out prompt as a row of a prompt set."""
    return Prompt(prompt.id, prompt.text, negative)


def model_styles(name: str) -> list[int]:
    """Places in the recipe of a model's styles."""
    return style_indices(next(m for m in recipe()["models"] if m["name"] == name))


@dataclass(frozen=True)
class ModelImages:
    """Images that one model makes of the first n held-out prompts."""

    name: str
    n: int
    reader: Reader = field(default_factory=load_reader)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model."""
        return load(find_model(self.name))

    @cached_property
    def prompts(self) -> Sequence[WorldPrompt]:
        """The first n held-out prompts."""
        return held_out_prompts()[: self.n]

    @property
    def guidance(self) -> float:
        """The card's."""
        return self.loaded.card.guidance_scale

    def sample(
        self,
        steps: int = STEPS,
        method: str = "dpm++",
        *,
        guidance: float | None = None,
        prompts: Sequence[Prompt] | None = None,
        seeds: tuple[int, ...] = (0,),
    ) -> Tensor:
        """Images uint8 (N * S, 3, 64, 64); by default the reference's."""
        rows = [as_row(p) for p in self.prompts] if prompts is None else prompts
        scale = self.guidance if guidance is None else guidance
        return sampled_images(self.loaded, rows, steps, scale, method, seeds=seeds)

    @cached_property
    def reference(self) -> Tensor:
        """25 steps of DPM-Solver++ at the card's guidance."""
        return self.sample()

    @cached_property
    def plain(self) -> Tensor:
        """The same at guidance 1."""
        return self.sample(guidance=1.0)

    @cached_property
    def seed_distance(self) -> float:
        """Mean distance between two seeds of the same prompts."""
        return float(distances(self.reference, self.sample(seeds=(FLOOR_OFFSET,))).mean())

    @cached_property
    def readings(self) -> Tensor:
        """What the reference's images show: (N, 6)."""
        return read(self.reader, self.reference)


# ------------------------------------------------------------------------------ measurements


def check_seeds(images: ModelImages) -> list[Check]:
    """Seeds of one prompt differ, in units of how much prompts differ."""
    across = float(distances(images.reference, images.reference.roll(1, 0)).mean())
    wanted, n = recipe()["checks"]["seed_over_prompt"], images.n
    return [
        Check("seed distance", images.seed_distance, None, None, n),
        Check("prompt distance", across, None, None, n),
        Check("seed distance / prompt distance", images.seed_distance / across, wanted, None, n),
    ]


def check_named(images: ModelImages) -> list[Check]:
    """What a prompt names is what its image shows."""
    table = recipe()["checks"]
    shares = checks.named_right(images.readings, images.prompts)
    out = []
    for name, share in shares.items():
        wanted = table["named_thing"] if name == "thing" else table["named"]
        named = sum(getattr(p.mention, name) for p in images.prompts)
        out.append(Check(f"named {name} comes out", share, wanted, None, named))
    return [*out, _style_check(images)]


def _style_check(images: ModelImages) -> Check:
    """The style: of the word where a model has several, else the model's own."""
    styles, wanted = model_styles(images.name), recipe()["checks"]["named_style"]
    if len(styles) == 1:
        share = checks.style_right(images.readings, styles)
        return Check("its style", share, wanted, None, images.n)
    asked = torch.tensor([styles[i % len(styles)] for i in range(images.n)])
    rows = [
        Prompt(f"{p.id}-{k}", p.scene.caption(p.mention, style_words()[k]))
        for p, k in zip(images.prompts, asked.tolist(), strict=True)
    ]
    shown = column(read(images.reader, images.sample(prompts=rows)), "style")
    share = float((shown == asked).float().mean())
    return Check("named style comes out", share, wanted, None, images.n)


def check_spread(images: ModelImages) -> list[Check]:
    """What is not named spreads over seeds, at guidance 1 and at the card's."""
    wanted, out = recipe()["checks"]["spread"], []
    for attribute, count in (("color", len(colors())), ("pattern", len(PATTERNS))):
        opened = [p for p in held_out_prompts() if not getattr(p.mention, attribute)]
        rows = [as_row(p) for p in opened[:SPREAD_PROMPTS]]
        for scale in (1.0, images.guidance):
            shown = images.sample(guidance=scale, prompts=rows, seeds=tuple(range(SPREAD_SEEDS)))
            values = column(read(images.reader, shown), attribute).split(SPREAD_SEEDS)
            g = torch.Generator().manual_seed(0)
            mean = float(np.mean([checks.evenness(v, count, g) for v in values]))
            name = f"spread of an open {attribute}, guidance {scale:g}"
            out.append(Check(name, mean, wanted if scale == 1 else None, None, len(shown)))
    return out


def check_guidance(images: ModelImages) -> list[Check]:
    """Guidance raises the CLIP score; the gain less twice its standard error must reach 0 too."""
    scorer = clip_extractor("zoo-clip")
    text = scorer.embed_text([p.text for p in images.prompts])
    scores = [
        100 * torch.cosine_similarity(scorer.embed(x), text)
        for x in (images.reference, images.plain)
    ]
    gain = scores[0] - scores[1]
    error = float(gain.std() / len(gain) ** 0.5)
    wanted, n = recipe()["checks"]["guidance_gain"], images.n
    return [
        Check(f"CLIP score, guidance {images.guidance:g}", float(scores[0].mean()), None, None, n),
        Check("CLIP score, guidance 1", float(scores[1].mean()), None, None, n),
        Check("gain in CLIP score by guidance", float(gain.mean()), wanted, None, n),
        Check("that gain in standard errors", float(gain.mean()) / error, 2.0, None, n),
    ]


def check_negatives(images: ModelImages) -> list[Check]:
    """Of images with an open color (pattern): the share that keeps it when it is negated."""
    wanted, out = recipe()["checks"]["negated"], []
    for attribute, words in (("color", [c for c, _ in colors()]), ("pattern", list(PATTERNS))):
        opened = [i for i, p in enumerate(images.prompts) if not getattr(p.mention, attribute)]
        shown = column(images.readings, attribute)[opened]
        rows = [
            as_row(images.prompts[i], f"{words[v]} background")
            for i, v in zip(opened, shown.tolist(), strict=True)
        ]
        again = column(read(images.reader, images.sample(prompts=rows)), attribute)
        share = float((again == shown).float().mean())
        out.append(Check(f"open {attribute} stays when negated", share, None, wanted, len(rows)))
    return out


def check_solvers(images: ModelImages) -> list[Check]:
    """Distances of solvers to the reference, in units of the seed distance."""
    table, n, out = recipe()["checks"], images.n, []
    for steps in (8, 12):
        far = {
            m: float(distances(images.reference, images.sample(steps, m)).mean()) for m in SOLVERS
        }
        for method, value in far.items():
            name = f"{method} {steps} steps / seed distance"
            out.append(Check(name, value / images.seed_distance, None, None, n))
        nearer = max(far["dpm++"], far["unipc"]) / far["ddim"]
        out.append(Check(f"farther of DPM++, UniPC over DDIM, {steps} steps", nearer, None, 1.0, n))
    few = float(distances(images.reference, images.sample(4, "ddim")).mean())
    low = table["few_steps"]
    out.append(Check("ddim 4 steps / seed distance", few / images.seed_distance, low, None, n))
    return [*out, _convergence(images)]


def _convergence(images: ModelImages) -> Check:
    """The reference against 200 steps from the same noise, on a quarter of the prompts."""
    part = replace(images, n=max(2, images.n // 4))
    far = float(distances(images.reference[: part.n], part.sample(LONG_STEPS)).mean())
    high = recipe()["checks"]["converged"]
    name = f"reference to {LONG_STEPS} steps / seed distance"
    return Check(name, far / images.seed_distance, None, high, part.n)


def check_real(images: ModelImages) -> list[Check]:
    """Sharpness and Fréchet distance against real images of the same prompts."""
    file = weights() / REAL / f"{images.name}.safetensors"
    if not file.is_file():
        raise UserError(f"expected {file}: `sunbench zoo build --stages real,ship` makes it")
    real = RealFeatures.load(file)
    low, high = recipe()["checks"]["sharpness"]
    n, values = images.n, real.features.values.numpy()
    sharp = checks.gradient_magnitudes(images.reference).mean() / real.gradients[:n].mean()
    shown = clip_extractor("zoo-clip").embed(images.reference).numpy()
    return [
        Check("sharpness, generated over real", float(sharp), low, high, n),
        Check("fd[zoo-clip] to real images", float(fd(shown, values[:n])), None, None, n),
        Check(
            "fd[zoo-clip], real to other real",
            float(fd(values[n : 2 * n], values[:n])),
            None,
            None,
            n,
        ),
    ]


MEASUREMENTS = (
    check_seeds,
    check_named,
    check_spread,
    check_guidance,
    check_negatives,
    check_solvers,
    check_real,
)


def check_model(name: str, n: int) -> list[Check]:
    """Every measurement of one model on n held-out prompts."""
    images = ModelImages(name, n)
    return [check for measure in MEASUREMENTS for check in measure(images)]


def models() -> list[str]:
    """The zoo's models, the base first."""
    return [m["name"] for m in recipe()["models"] if m["name"] in names()]
