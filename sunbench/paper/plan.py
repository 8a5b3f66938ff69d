"""From a table and options to runs: which models, how many images, which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from sunbench import zoo
from sunbench.bench import Request
from sunbench.bench.planner import default_metrics
from sunbench.errors import UserError
from sunbench.models import ModelCard, cards, find_model
from sunbench.paper.catalogue import Entry, PaperModel, Part
from sunbench.paper.numbers import printed
from sunbench.registry import check_weights, check_weights_models, method_entry, weights_of

#: Images per row with zoo models: the paper's 10K prompts x 3 seeds in small.
SMALL_IMAGES = 900
#: Prompts of an image sheet.
SHEET_PROMPTS = 4
#: Images per batch.
SMALL_BATCH, PAPER_BATCH = 64, 8


@dataclass(frozen=True)
class Options:
    """The user's choices; None leaves the table's own protocol."""

    models: tuple[str, ...] = ()
    images: int | None = None
    seeds: tuple[int, ...] | None = None
    prompts: str | None = None
    negatives: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    batch: int | None = None
    ablations: Path | None = None
    weights: Mapping[str, str] = field(default_factory=dict)  # as for a run


@dataclass(frozen=True)
class ModelMap:
    """The paper's models with the cards that stand in for them, and how each was named."""

    paper_models: tuple[PaperModel, ...]
    specs: tuple[str, ...]
    cards: tuple[ModelCard, ...]

    @property
    def small(self) -> bool:
        """Whether the models are of the zoo's kind, so that the protocol is scaled down."""
        return self.cards[0].architecture == "zoo"

    def card(self, model: str) -> ModelCard | None:
        """The card that stands in for a model of the paper, if the table has one."""
        pairs = zip(self.paper_models, self.cards, strict=True)
        return {paper.name: card for paper, card in pairs}.get(model)


@dataclass(frozen=True)
class Job:
    """One part of a table as a run: its folder and request, or why it cannot be.

    lacking: methods of the part that are not in the request, and why.
    """

    part: Part
    folder: Path
    request: Request
    absent: str | None = None
    lacking: Mapping[str, str] = field(default_factory=dict)


# ------------------------------------------------------------------------------ models


def _in_cache(card: ModelCard) -> bool:
    repo = card.id.partition(":")[0]
    return isinstance(try_to_load_from_cache(repo, "model_index.json", revision=card.revision), str)


def default_models(entry: Entry, device: str) -> tuple[str, ...]:
    """The paper's own models where a GPU and all of them are available, else the zoo's."""
    own = [r.card for r in entry.models]
    if device.startswith("cuda") and all(_in_cache(cards()[name]) for name in own):
        return tuple(own)
    return tuple(r.zoo for r in entry.models)


def map_models(entry: Entry, names: Sequence[str], device: str = "cpu") -> ModelMap:
    """Cards for the paper's models: known ones stand for their own, others for the rest in order.

    ``paper`` stands for the paper's models, ``zoo`` for the zoo's. UserError for too many, and for
    zoo and other models in one table.
    """
    named = {"paper": [r.card for r in entry.models], "zoo": [r.zoo for r in entry.models]}
    specs = [s for name in names for s in named.get(name, [name])] or list(
        default_models(entry, device)
    )
    if len(specs) > len(entry.models):
        raise UserError(
            f"given {len(specs)} models, expected at most {len(entry.models)} for {entry.name}: "
            + ", ".join(r.name for r in entry.models)
        )
    chosen = _assigned(entry, specs)
    stand_ins = tuple(find_model(spec) for spec in chosen.values())
    if len({c.architecture == "zoo" for c in stand_ins}) > 1:
        raise UserError(f"given zoo and other models for {entry.name}, expected one kind per table")
    return ModelMap(tuple(chosen), tuple(chosen.values()), stand_ins)


def _assigned(entry: Entry, specs: Sequence[str]) -> dict[PaperModel, str]:
    """Each of the paper's models that is used with the spec of its card, in the paper's order."""
    assigned: dict[PaperModel, str] = {}
    for spec in specs:
        own = (m for m in entry.models if spec in (m.card, m.zoo) and m not in assigned)
        if (paper_model := next(own, None)) is not None:
            assigned[paper_model] = spec
    for spec in (s for s in specs if s not in assigned.values()):
        assigned[next(m for m in entry.models if m not in assigned)] = spec
    return {m: assigned[m] for m in entry.models if m in assigned}


# ------------------------------------------------------------------------------ requests


def steps_of(entry: Entry) -> tuple[int, ...]:
    """The numbers of steps in the paper's table, or on the figure's sheet."""
    return entry.steps or tuple(sorted({p.steps for p in printed(entry.name)}))


def request_of(
    entry: Entry,
    part: Part,
    models: ModelMap,
    options: Options,
    *,
    prompts: str | None = None,
    task: str = "text2image",
    adapter: Path | None = None,
) -> Request:
    """One part as a request: the paper's protocol, in small with zoo models.

    prompts: a file in place of the protocol's set, with negative prompts of its own.
    adapter: SUN's, in place of every other.
    """
    p, sheet = entry.protocol, entry.kind == "figure"
    seeds = options.seeds or tuple(range(1 if sheet else p.seeds))
    usual = SHEET_PROMPTS * len(seeds) if sheet else SMALL_IMAGES if models.small else p.images
    guidance = part.guidance if part.guidance is not None or models.small else p.guidance
    methods = entry.methods(part.name) or entry.methods("")
    return Request(
        models=models.specs,
        methods=methods,
        steps=steps_of(entry),
        images=options.images or usual,
        seeds=seeds,
        prompts=prompts or options.prompts or (None if models.small else p.prompts),
        negatives="default" if prompts else options.negatives or "none",
        guidance_scale=guidance,
        task=task,
        metrics=paper_metrics(entry, models),
        resolution=None if models.small else p.resolution,
        dtype=options.dtype or "float32",
        device=options.device,
        batch=options.batch or (SMALL_BATCH if models.small else PAPER_BATCH),
        floor=not sheet and not part.against,
        timing="short" if entry.kind == "cost" else "none",
        weights=_weights(methods, options, adapter),
    )


def label_of(card: ModelCard, metric: str) -> str:
    """What stands for the paper's ``fid``, ``clip`` or ``inception_score`` on this model."""
    if metric == "inception_score":
        return "zero_shot_inception_score" if card.extractor == "zoo-clip" else metric
    stems = {"fid": ("fid", "fd["), "clip": ("clip_score",)}[metric]
    return next(name for name in default_metrics(card) if name.startswith(stems))


def paper_metrics(entry: Entry, models: ModelMap) -> tuple[str, ...]:
    """Paired ones for a figure; the models' own for a table, and what else the paper has."""
    if entry.kind == "figure":
        return ("perceptual[zoo-clip]" if models.small else "lpips[alex]", "ssim")
    if entry.kind == "cost" or all(p["metric"] != "inception_score" for p in printed(entry.name)):
        return ()
    card = models.cards[0]
    return (*default_metrics(card), label_of(card, "inception_score"))


def _weights(methods: Sequence[str], options: Options, adapter: Path | None) -> dict[str, str]:
    """The explicit weights that these methods take; a part's own adapter before the user's."""
    families = {family for name in methods for family in weights_of(name)}
    own = {k: v for k, v in options.weights.items() if _family(k) in families}
    if adapter is None or "sun" not in families:
        return own
    return {**{k: v for k, v in own.items() if _family(k) != "sun"}, "sun": str(adapter)}


def _family(key: str) -> str:
    return method_entry(key.partition("@")[0]).weights


def adapter_of(part: Part, folder: Path | None) -> tuple[Path | None, str | None]:
    """The file of a part's own SUN adapter, or why there is none; (None, None) needs no own.

    A folder's ``sun.safetensors`` stands for the default settings: trained as long as the others,
    it is what they are to be compared with.
    """
    if not part.adapter:
        default = folder / "sun.safetensors" if folder is not None else None
        return (default if default is not None and default.is_file() else None), None
    file = (folder or zoo.weights()) / f"{part.adapter}.safetensors"
    if file.is_file():
        return file, None
    how = f"`sunbench train sun` with {part.train}; --ablations names the folder of {file.name}"
    return None, f"no SUN adapter trained with {part.train} yet: {how}"


def ablated(
    part: Part, methods: Sequence[str], folder: Path | None
) -> tuple[dict[str, str], dict[str, str]]:
    """The part's own weights, ``METHOD-SUFFIX.safetensors``, and by method why it has none.

    A method with none is left out: its row must not show the default ones by mistake.
    """
    own: dict[str, str] = {}
    lacking: dict[str, str] = {}
    for name in methods:
        files = {
            f: (folder or zoo.weights()) / f"{f}-{part.suffix}.safetensors"
            for f in sorted(weights_of(name))
        }
        absent = next((f for f, file in files.items() if not file.is_file()), None)
        if absent is None:
            own |= {f: str(file) for f, file in files.items()}
        else:
            lacking[name] = (
                f"no {absent} trained with {part.train} yet: `sunbench train {absent}` with"
                f" {part.train}; --ablations names the folder of {files[absent].name}"
            )
    return own, lacking


def with_ablation(job: Job, folder: Path | None) -> Job:
    """A part whose methods have weights of their own, with those that there are."""
    request = job.request
    own, lacking = ablated(job.part, request.methods, folder)
    left = tuple(m for m in request.methods if m not in lacking)
    if not left:
        return replace(job, absent=next(iter(lacking.values())), lacking=lacking)
    others = {f for name in left for f in weights_of(name)} - own.keys()
    users = {k: v for k, v in request.weights.items() if _family(k) in others}
    request = replace(request, methods=left, weights={**users, **own})
    return replace(job, request=request, lacking=lacking)


def jobs(entry: Entry, models: ModelMap, options: Options, run: Path) -> list[Job]:
    """Every part of a table or figure as a run of its own folder."""
    named = [m for p in entry.parts for m in entry.methods(p.name) or entry.methods("")]
    check_weights(options.weights, named)
    check_weights_models(options.weights, [card.name for card in models.cards])
    out = []
    for part in entry.parts:
        adapter, absent = adapter_of(part, options.ablations)
        request = request_of(entry, part, models, options, adapter=adapter)
        job = Job(part, run / part.name, request, absent)
        out.append(with_ablation(job, options.ablations) if part.suffix else job)
    return out
