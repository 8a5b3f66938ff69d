"""What a run was asked to do, checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from sunbench import registry
from sunbench.errors import UserError
from sunbench.metrics.registry import find_metric
from sunbench.models import ModelCard, find_model
from sunbench.reference_sets import FLOOR_OFFSET
from sunbench.run_options import DTYPES, IMAGES, NEGATIVES, TIMINGS
from sunbench.run_options import TASKS as TASKS

#: At a half, every even split of steps starts at the same time; inpainting starts from pure noise.
STRENGTHS = {"image2image": 0.5, "inpaint": 1.0}
#: Fields that hold one of a few words.
CHOICES = {"negatives": NEGATIVES, "task": TASKS, "dtype": DTYPES, "timing": TIMINGS}
MAX_STEPS = 10_000
MAX_BATCH = 4096
MAX_RESOLUTION = 4096
#: One step of a schedule of 1000.
MIN_STRENGTH = 0.001


@dataclass(frozen=True)
class Request:
    """One `sunbench run`: models x methods x steps on one prompt set."""

    models: tuple[str, ...] = ("emoji-3d",)
    methods: tuple[str, ...] = ("ddim", "dpm++")
    steps: tuple[int, ...] = (4, 8)
    nfe: tuple[int, ...] = ()  # in place of steps: each method takes the steps that cost this much
    images: int = IMAGES
    seeds: tuple[int, ...] = (0,)
    prompts: str | None = None  # None: the model card's
    column: str | None = None
    negatives: str = "none"
    guidance_scale: float | None = None  # None: the model card's
    task: str = "text2image"
    strength: float | None = None  # None: the task's
    mask: str = "center"  # of inpainting: a name or an image
    sources: str | None = None  # folder of source images; None: the model's own
    controlnet: str | None = None  # hub id or folder; None: the zoo's
    metrics: tuple[str, ...] = ()  # empty: the model card's
    resolution: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    batch: int | Literal["auto"] = 64
    keep_images: bool = True
    floor: bool = True
    timing: str = "short"  # the timing pass at the end: none, short or full
    weights: Mapping[str, str] = field(default_factory=dict)  # METHOD[@MODEL] -> path or hub id

    def __post_init__(self) -> None:
        _check_names(self)
        _check_numbers(self)
        _check_task(self)

    @property
    def chosen_strength(self) -> float:
        """The strength asked for, or the task's own; 1 for tasks without one."""
        return STRENGTHS.get(self.task, 1.0) if self.strength is None else self.strength

    @property
    def n_prompts(self) -> int:
        """Prompts behind the images."""
        return self.images // len(self.seeds)

    def to_json(self) -> dict[str, object]:
        """For run.json."""
        return asdict(self)


def _expect(good: bool, actual: str, expected: str) -> None:
    if not good:
        raise UserError(f"given {actual}, expected {expected}")


def _check_names(r: Request) -> None:
    metrics = tuple(find_metric(name).label for name in r.metrics)
    kinds = (("models", r.models), ("methods", r.methods), ("steps", r.steps), ("nfe", r.nfe))
    for kind, names in kinds:
        other = {"steps": r.nfe, "nfe": r.steps}.get(kind)
        _expect(bool(names or other), f"no {kind}", "at least one")
        _expect(len(set(names)) == len(names), f"{kind} {names}", "each once")
    _expect(len(set(metrics)) == len(metrics), f"metrics {metrics}", "each once")
    for name in r.methods:
        registry.method_entry(name)
    registry.check_weights(r.weights, r.methods)
    for kind, allowed in CHOICES.items():
        value = getattr(r, kind)
        _expect(value in allowed, f"{kind} {value!r}", f"one of {', '.join(allowed)}")


def _check_numbers(r: Request) -> None:
    _expect(not (r.steps and r.nfe), f"steps {r.steps} and nfe {r.nfe}", "one of them")
    for n in r.steps:
        _expect(1 <= n <= MAX_STEPS, f"{n} steps", f"1 to {MAX_STEPS}")
    for n in r.nfe:
        _expect(1 <= n <= MAX_STEPS, f"{n} NFE", f"1 to {MAX_STEPS}")
    _expect(bool(r.seeds), "no seeds", "at least one")
    _expect(len(set(r.seeds)) == len(r.seeds), f"seeds {r.seeds}", "each once")
    for seed in r.seeds:
        _expect(
            0 <= seed < FLOOR_OFFSET,
            f"seed {seed}",
            f"0 to {FLOOR_OFFSET - 1} (from {FLOOR_OFFSET} on they are the floor's)",
        )
    _expect(r.images >= 2, f"{r.images} images", "2 or more")
    _expect(
        r.images % len(r.seeds) == 0,
        f"{r.images} images",
        f"a multiple of the {len(r.seeds)} seeds (N prompts x S seeds)",
    )
    _expect(r.n_prompts >= 2, f"{r.n_prompts} prompt", "2 or more")
    good = r.batch == "auto" or (isinstance(r.batch, int) and 1 <= r.batch <= MAX_BATCH)
    _expect(good, f"batch {r.batch}", f"1 to {MAX_BATCH}, or auto")
    if r.guidance_scale is not None:
        _expect(
            0 <= r.guidance_scale <= 100, f"guidance_scale {r.guidance_scale}", "between 0 and 100"
        )
    if r.resolution is not None:
        _expect(
            8 <= r.resolution <= MAX_RESOLUTION and r.resolution % 8 == 0,
            f"resolution {r.resolution}",
            f"a multiple of 8 from 8 to {MAX_RESOLUTION}",
        )


def _check_task(r: Request) -> None:
    if r.strength is not None:
        tasks = ", ".join(STRENGTHS)
        _expect(r.task in STRENGTHS, f"strength for task {r.task}", f"one of {tasks}")
        _expect(
            MIN_STRENGTH <= r.strength <= 1,
            f"strength {r.strength}",
            f"above 0 ({MIN_STRENGTH} or more), at most 1",
        )
    if r.sources is not None:
        _expect(
            r.task != "text2image", "sources for task text2image", "a task that starts from any"
        )
    if r.controlnet is not None:
        _expect(r.task == "controlnet", f"a ControlNet for task {r.task}", "task controlnet")
    if r.task == "inpaint":
        from sunbench.sampling.masks import check_mask

        check_mask(r.mask)
    else:
        _expect(r.mask == "center", f"a mask for task {r.task}", "task inpaint")
        named = [name for name in r.metrics if find_metric(name).metric.compares == "source"]
        _expect(not named, f"metric {', '.join(named)} for task {r.task}", "task inpaint")


def request_cards(request: Request) -> list[ModelCard]:
    """The cards of the request's models; their names head the tables, so no two may be equal."""
    chosen = [find_model(name) for name in request.models]
    names = [card.name for card in chosen]
    registry.check_weights_models(request.weights, names)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"given two models named {name!r}, expected different names")
    return chosen
