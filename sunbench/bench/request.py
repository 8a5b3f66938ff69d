"""What a run was asked to do, checked before anything starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sunbench import registry
from sunbench.errors import UserError
from sunbench.metrics.registry import find

NEGATIVES = ("none", "default", "sampled")
TASKS = ("text2image",)
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Request:
    """One `sunbench run`: models x methods x steps on one prompt set."""

    models: tuple[str, ...] = ("emoji-3d",)
    methods: tuple[str, ...] = ("ddim", "dpm++")
    steps: tuple[int, ...] = (4, 8)
    images: int = 1000
    seeds: tuple[int, ...] = (0,)
    prompts: str | None = None  # None: the model card's
    column: str | None = None
    negatives: str = "none"
    guidance_scale: float | None = None  # None: the model card's
    task: str = "text2image"
    metrics: tuple[str, ...] = ()  # empty: the model card's
    resolution: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    batch: int = 64
    keep_images: bool = True
    floor: bool = True

    def __post_init__(self) -> None:
        _check_names(self)
        _check_numbers(self)

    @property
    def n_prompts(self) -> int:
        """Prompts behind the images."""
        return self.images // len(self.seeds)

    def to_json(self) -> dict[str, Any]:
        """For run.json."""
        return asdict(self)


def _expect(good: bool, given: str, expected: str) -> None:
    if not good:
        raise UserError(f"given {given}, expected {expected}")


def _check_names(r: Request) -> None:
    metrics = tuple(find(name).label for name in r.metrics)
    for kind, names in (("models", r.models), ("methods", r.methods), ("steps", r.steps)):
        _expect(bool(names), f"no {kind}", "at least one")
        _expect(len(set(names)) == len(names), f"{kind} {names}", "each once")
    _expect(len(set(metrics)) == len(metrics), f"metrics {metrics}", "each once")
    for name in r.methods:
        registry.method_entry(name)
    _expect(r.negatives in NEGATIVES, f"negatives {r.negatives!r}", f"one of {NEGATIVES}")
    _expect(r.task in TASKS, f"task {r.task!r}", f"one of {TASKS}")
    _expect(r.dtype in DTYPES, f"dtype {r.dtype!r}", f"one of {DTYPES}")


def _check_numbers(r: Request) -> None:
    for n in r.steps:
        _expect(n >= 1, f"{n} steps", "1 or more")
    _expect(bool(r.seeds), "no seeds", "at least one")
    _expect(len(set(r.seeds)) == len(r.seeds), f"seeds {r.seeds}", "each once")
    _expect(min(r.seeds) >= 0, f"seed {min(r.seeds)}", "0 or more")
    _expect(r.images >= 2, f"{r.images} images", "2 or more")
    _expect(
        r.images % len(r.seeds) == 0,
        f"{r.images} images",
        f"a multiple of the {len(r.seeds)} seeds (N prompts x S seeds)",
    )
    _expect(r.n_prompts >= 2, f"{r.n_prompts} prompt", "2 or more")
    _expect(r.batch >= 1, f"batch {r.batch}", "1 or more")
    if r.guidance_scale is not None:
        _expect(
            0 <= r.guidance_scale <= 100, f"guidance_scale {r.guidance_scale}", "between 0 and 100"
        )
    if r.resolution is not None:
        _expect(
            r.resolution >= 8 and r.resolution % 8 == 0,
            f"resolution {r.resolution}",
            "a positive multiple of 8",
        )
