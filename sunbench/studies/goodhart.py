"""What becomes of a metric that is trained on: a student that lowers fd[zoo-clip] itself.

The student is the zoo's BoostDiff LoRA. Its training goes on with the Fréchet distance between the
scorer's features of its own few-step images and of the reference's as the loss, through sampler,
autoencoder and scorer. One run has the LoRA as it was, another as it became.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunbench import prompts, registry
from sunbench.bench import Request
from sunbench.bench.run import execute
from sunbench.errors import UserError
from sunbench.methods.boostdiff.method import TARGETS
from sunbench.methods.common.lora import lora_layers
from sunbench.methods.common.trainees import LoraStudent
from sunbench.metrics import clip_extractor
from sunbench.metrics.registry import find_metric
from sunbench.models import find_model, load
from sunbench.models.protocols import Pipeline
from sunbench.prompts import Prompt
from sunbench.report.formats import markdown_table
from sunbench.report.texts import number
from sunbench.sampling import latent_shape
from sunbench.store import ResultRow, RunFolder, make_folder, write_atomic
from sunbench.store.tensors import read_header
from sunbench.studies.sampled import sampled_images
from sunbench.training import LoopSettings, fit
from sunbench.training.diffusion import trajectory
from sunbench.training.encode import encode_texts, schedule_of

METHOD, NETWORK = "boostdiff-lora", "zoo-clip"
TARGET = f"fd[{NETWORK}]"
ADVICE = (
    "A number stops measuring what it is optimized for. Judge a method that was trained, or whose"
    " settings were chosen, on a feature network by metrics of other networks and of pixels, on"
    " prompts that the training did not see; and distrust a method that wins one distance of sets"
    " while its images move farther from the reference's, pair by pair."
)


@dataclass(frozen=True)
class Study:
    """What is trained and measured.

    captions: to train on, those after the images' own in the card's prompts. images: of each run.
    start: the LoRA as it was; None for the zoo's own.
    """

    model: str = "emoji-3d"
    steps: int = 4
    updates: int = 300
    batch: int = 32
    learning_rate: float = 3e-4
    captions: int = 512
    images: int = 1000
    device: str = "cpu"
    start: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "updates", "captions"):
            if getattr(self, name) < 1:
                raise UserError(f"given {name} {getattr(self, name)}, expected 1 or more")
        if self.batch < 2 or self.images < 2:
            raise UserError("given fewer than 2 images, expected more: a distance is of sets")


class FrechetLoss:
    """The Fréchet distance of a batch of few-step images to a reference, differentiable.

    reference: its features (N, d). Covariances are compared along the reference's principal axes,
    as if they commuted: then the distance is |m - m_r|^2 + sum_j (s_j - s_rj)^2.
    """

    def __init__(self, pipeline: Pipeline, network: Any, study: Study, reference: Tensor) -> None:
        self.pipeline, self.network, self.study = pipeline, network, study
        self.mean = reference.mean(0)
        values, axes = torch.linalg.eigh(torch.cov(reference.T.double()))
        self.deviations, self.axes = values.clamp_min(0).sqrt().float(), axes.float()

    def __call__(self, features: Tensor) -> Tensor:
        """features: (B, d)."""
        centered = features - features.mean(0)
        spread = (centered @ self.axes).square().sum(0) / (len(features) - 1)
        gap = (spread + 1e-12).sqrt() - self.deviations
        return (features.mean(0) - self.mean).square().sum() + gap.square().sum()

    def features(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) -> the network's features (B, d), with gradients."""
        vae = self.pipeline.vae
        images = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        side = (self.network.size,) * 2
        if tuple(images.shape[-2:]) != side:
            images = torch.nn.functional.interpolate(images, side, mode="bicubic", antialias=True)
        vision = self.network.model.vision_model(pixel_values=images.clamp(-1, 1))
        result: Tensor = self.network.model.visual_projection(vision.pooler_output)
        return result


def train(study: Study, folder: Path) -> Path:
    """Go on with the zoo's LoRA on the distance itself; the weights, trained or found there."""
    target = folder / f"{METHOD}.safetensors"
    captions = _captions(study)
    loaded = load(find_model(study.model), device=study.device)
    pipeline = loaded.pipeline
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    start = _shipped(loaded) if study.start is None else Path(study.start)
    rank = read_header(start)[lora_layers(start, pipeline.unet)[0].down][0]
    student = LoraStudent(pipeline.unet, TARGETS, rank, start=start)
    network = clip_extractor(NETWORK, study.device)
    guidance = loaded.card.guidance_scale
    images = sampled_images(loaded, [Prompt(c, c) for c in captions], 25, guidance)
    loss = FrechetLoss(pipeline, network, study, network.embed(images))
    loop = LoopSettings(
        steps=study.updates,
        batch=study.batch,
        learning_rate=study.learning_rate,
        warmup=10,
        log_every=10,
    )
    ema = fit(student.module, _update(study, loss, student.unet, captions), loop, folder)
    student.module.load_state_dict(ema)
    student.write(target, read_header(start).metadata, torch.float32)
    return target


def _shipped(loaded: Any) -> Path:
    """The zoo's own weights of the method."""
    method: Any = registry.method(METHOD, model=loaded.context)
    path: Path = method.weights.find(loaded.pipeline.unet)
    return path


def _captions(study: Study) -> list[str]:
    """Captions that no image of the runs shows."""
    rows = prompts.load(find_model(study.model).prompts).rows
    rest = [row.text for row in rows[study.images :]][: study.captions]
    if len(rest) < study.batch:
        raise UserError(
            f"given {len(rows)} prompts of {study.model}, {study.images} of them to measure on;"
            f" expected at least {study.batch} more to train on"
        )
    return rest


def _update(study: Study, loss: FrechetLoss, unet: Any, captions: Sequence[str]) -> Any:
    """The loss of micro-batch k: few-step DDIM from fresh noise, decoded and embedded."""
    pipeline, schedule = loss.pipeline, schedule_of(loss.pipeline)
    shape = latent_shape(pipeline, find_model(study.model).resolution)

    def update(k: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(k)
        chosen = torch.randint(len(captions), (study.batch,), generator=g).tolist()
        texts = encode_texts(pipeline, [captions[i] for i in chosen])
        x = torch.randn((study.batch, *shape), generator=g).to(texts.device)
        times = torch.linspace(1, 0, study.steps + 1, device=x.device)[:, None]

        def predict(x_t: Tensor, index: Tensor) -> Tensor:
            out: Tensor = unet(x_t, index, encoder_hidden_states=texts, return_dict=False)[0]
            return out.float()

        times = times.expand(-1, study.batch)
        return {"loss": loss(loss.features(trajectory(x, times, schedule, predict)))}

    return update


# ------------------------------------------------------------------------------ the report


def goodhart(study: Study, folder: Path, page: Path) -> dict[str, str]:
    """Train, measure before and after, write the page; metric -> who is better on it."""
    make_folder(page.parent)
    target = train(study, folder / "training")
    shipped = {} if study.start is None else {METHOD: study.start}
    before = _rows(study, folder / "before", shipped)
    after = _rows(study, folder / "after", {METHOD: str(target)})
    verdicts = {name: _better(before[name], after[name]) for name in before if name in after}
    write_atomic(page, _page(study, before, after, verdicts).encode())
    return verdicts


def _rows(study: Study, out: Path, weights: Mapping[str, str]) -> dict[str, ResultRow]:
    request = Request(
        models=(study.model,),
        methods=(METHOD,),
        steps=(study.steps,),
        images=study.images,
        device=study.device,
        timing="none",
        weights=dict(weights),
    )
    execute(request, out)
    rows = RunFolder(out).read_results()
    own = [r for r in rows if r.role == "candidate"]
    for row in own:
        if row.value is None:
            raise UserError(f"{row.name}: {row.reason}")
    return {r.metric: r for r in own}


def _better(before: ResultRow, after: ResultRow) -> str:
    """Who is better: "before" or "after" where the intervals are apart, else the order by value."""
    assert before.value is not None
    assert after.value is not None
    lower = find_metric(before.metric).metric.better == "lower"
    winner = "after" if (after.value < before.value) == lower else "before"
    return winner if _apart(before, after) else f"intervals overlap ({winner} by value)"


def _apart(a: ResultRow, b: ResultRow) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.high < b.low or b.high < a.low


def _page(
    study: Study,
    before: Mapping[str, ResultRow],
    after: Mapping[str, ResultRow],
    verdicts: Mapping[str, str],
) -> str:
    lines = [[m, _text(before[m]), _text(after[m]), verdict] for m, verdict in verdicts.items()]
    won = verdicts.get(TARGET) == "after"
    lost = [m for m, v in verdicts.items() if v == "before"]
    finding = (f"The student wins {TARGET}" if won else f"The student does not win {TARGET}") + (
        f" and loses {', '.join(lost)}." if lost else ", and loses nothing clearly."
    )
    return (
        "\n\n".join(
            [
                "# A metric that is trained on",
                f"`sunbench zoo goodhart`: {METHOD} on {study.model} at {study.steps} steps,"
                f" trained on for {study.updates} updates of {study.batch} images with {TARGET}"
                f" itself as the loss, on {study.captions} captions that no image below shows;"
                f" {study.images} images per row against the 25-step reference, 95 % intervals.",
                markdown_table(
                    ["metric", "as shipped", f"trained on {TARGET}", "better"], lines, 1
                ),
                finding,
                ADVICE,
            ]
        )
        + "\n"
    )


def _text(row: ResultRow) -> str:
    assert row.value is not None
    if row.low is None or row.high is None:
        return number(row.value)
    return f"{number(row.value)} [{number(row.low)}, {number(row.high)}]"
