"""Names of everything that can be asked for; imports no torch.

Methods are one explicit table; packages outside join by the entry-point group ``sunbench.methods``,
whose entries are callables without arguments that return a ``sunbench.sampling.Method``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from sunbench.errors import UserError, unknown

if TYPE_CHECKING:
    from sunbench.models import ModelContext
    from sunbench.sampling import Method


@dataclass(frozen=True)
class MethodEntry:
    """A row of the table of methods.

    weights: the name of the trained weights that it takes, which methods may share; "" for none.
    trainer: "module:callable" of its ``sunbench train``; "" where it is not trained here.
    """

    target: str  # "module:callable"
    paper: str
    summary: str
    weights: str = ""
    trainer: str = ""


#: No identifier: known from an anonymous submission.
BOOSTDIFF = "unpublished"

METHODS: dict[str, MethodEntry] = {
    "ddim": MethodEntry(
        "sunbench.methods.ddim:ddim",
        "arXiv 2010.02502",
        "DDIM, trailing timesteps: starts where the noise does (t = 999)",
    ),
    "ddim-leading": MethodEntry(
        "sunbench.methods.ddim:ddim_leading",
        "arXiv 2010.02502",
        "DDIM, leading timesteps: Stable Diffusion's own default",
    ),
    "ddim-unguided": MethodEntry(
        "sunbench.methods.ddim:ddim_unguided",
        "arXiv 2010.02502",
        "DDIM without guidance, one pass per step: what a distilled method must beat",
    ),
    "ddim-low-guidance": MethodEntry(
        "sunbench.methods.ddim:ddim_low_guidance",
        "arXiv 2010.02502",
        "DDIM at guidance 1.5, whatever the reference's",
    ),
    "dpm-solver": MethodEntry(
        "sunbench.methods.dpm_solver:dpm_solver",
        "arXiv 2206.00927",
        "DPM-Solver of order 2, multistep, noise prediction",
    ),
    "dpm++": MethodEntry(
        "sunbench.methods.dpm_solver:dpm_solver_pp",
        "arXiv 2211.01095",
        "DPM-Solver++(2M); at 25 steps the reference",
    ),
    "unipc": MethodEntry(
        "sunbench.methods.unipc:unipc", "arXiv 2302.04867", "UniPC of order 2, bh2"
    ),
    "dpm++-karras": MethodEntry(
        "sunbench.methods.dpm_solver:dpm_solver_pp_karras",
        "arXiv 2211.01095",
        "DPM-Solver++(2M) on Karras' noise levels",
    ),
    "dpm++-sde": MethodEntry(
        "sunbench.methods.dpm_solver:dpm_solver_pp_sde",
        "arXiv 2211.01095",
        "SDE-DPM-Solver++(2M): noise at each step",
    ),
    "deis": MethodEntry(
        "sunbench.methods.deis:deis", "arXiv 2204.13902", "DEIS of order 2, log-rho"
    ),
    "sa-solver": MethodEntry(
        "sunbench.methods.sa_solver:sa_solver",
        "arXiv 2309.05019",
        "SA-Solver: stochastic Adams, predictor and corrector of order 2",
    ),
    "ipndm": MethodEntry(
        "sunbench.methods.ipndm:ipndm",
        "arXiv 2204.13902",
        "iPNDM: DDIM steps on noise extrapolated from four evaluations",
    ),
    "cfg++": MethodEntry(
        "sunbench.methods.cfg_pp:cfg_pp",
        "arXiv 2406.08070",
        "CFG++: DDIM that adds the unguided noise again",
    ),
    "interval-guidance": MethodEntry(
        "sunbench.methods.interval_guidance:interval_guidance",
        "arXiv 2404.07724",
        "DPM-Solver++(2M), guided between two noise levels alone",
    ),
    "interval-guidance-ddim": MethodEntry(
        "sunbench.methods.interval_guidance:interval_guidance_ddim",
        "arXiv 2404.07724",
        "DDIM, guided between two noise levels alone",
    ),
    "adaptive-guidance": MethodEntry(
        "sunbench.methods.adaptive_guidance:adaptive_guidance",
        "arXiv 2312.12487",
        "DPM-Solver++(2M), guided until both predictions agree",
    ),
    "adaptive-guidance-ddim": MethodEntry(
        "sunbench.methods.adaptive_guidance:adaptive_guidance_ddim",
        "arXiv 2312.12487",
        "DDIM, guided until both predictions agree",
    ),
    "linear-ag": MethodEntry(
        "sunbench.methods.linear_ag.method:linear_ag",
        "arXiv 2312.12487",
        "LinearAG: unconditional passes by a linear rule that was fitted on a base",
        "linear-ag",
        "sunbench.methods.linear_ag.fit:train",
    ),
    "ays": MethodEntry(
        "sunbench.methods.ays:ays",
        "arXiv 2404.14507",
        "Align Your Steps: DPM-Solver++(2M) on Stable Diffusion's published timesteps",
    ),
    "gits": MethodEntry(
        "sunbench.methods.gits.method:gits",
        "arXiv 2405.11326",
        "GITS: DPM-Solver++(2M) on timesteps by dynamic programming, fitted on a base",
        "gits",
        "sunbench.methods.gits.fit:train",
    ),
    "ld3": MethodEntry(
        "sunbench.methods.ld3.method:ld3",
        "arXiv 2405.15506",
        "LD3: DPM-Solver++(2M) on timesteps by gradient, learned on a base",
        "ld3",
        "sunbench.methods.ld3.train:train",
    ),
    "deepcache": MethodEntry(
        "sunbench.methods.deepcache:deepcache",
        "arXiv 2312.00858",
        "DeepCache: DPM-Solver++(2M), two of three steps reuse deep features",
    ),
    "tgate": MethodEntry(
        "sunbench.methods.tgate:tgate",
        "arXiv 2404.02747",
        "T-GATE: DPM-Solver++(2M), cross-attention kept and one pass after 40 % of the steps",
    ),
    "sun": MethodEntry(
        "sunbench.methods.sun.method:sun",
        "arXiv 2312.08887",
        "SUN adapter: negative prompts in one pass a step, DDIM trailing",
        "sun",
        "sunbench.methods.sun.train:train",
    ),
    "sun-dpm++": MethodEntry(
        "sunbench.methods.sun.method:sun_dpm_pp",
        "arXiv 2312.08887",
        "SUN adapter with DPM-Solver++(2M), trailing, as in the authors' demo",
        "sun",
    ),
    "lcm": MethodEntry(
        "sunbench.methods.lcm.method:lcm",
        "arXiv 2310.04378",
        "LCM: a student U-Net with guidance as an input (the published one is of Dreamshaper v7)",
        "lcm",
        "sunbench.methods.lcm.train:train_lcm",
    ),
    "lcm-lora": MethodEntry(
        "sunbench.methods.lcm.lora:lcm_lora",
        "arXiv 2311.05556",
        "LCM-LoRA, merged: one pass a step, no negative prompt",
        "lcm-lora",
        "sunbench.methods.lcm.train:train_lcm_lora",
    ),
    "lcm-lora-cfg": MethodEntry(
        "sunbench.methods.lcm.lora:lcm_lora_cfg",
        "arXiv 2311.05556",
        "LCM-LoRA with guidance 1.5 on top: negative prompts, two passes a step",
        "lcm-lora",
    ),
    "tcd-lora": MethodEntry(
        "sunbench.methods.adapters.method:tcd_lora",
        "arXiv 2402.19159",
        "TCD-LoRA: trajectory consistency, TCD's scheduler at eta 0.3",
        "tcd-lora",
        "sunbench.methods.tcd.train:train",
    ),
    "pcm-lora": MethodEntry(
        "sunbench.methods.adapters.method:pcm_lora",
        "arXiv 2405.18407",
        "PCM-LoRA: consistency in phases, DDIM, one pass a step",
        "pcm-lora",
        "sunbench.methods.pcm.train:train",
    ),
    "pcm-lora-cfg": MethodEntry(
        "sunbench.methods.adapters.method:pcm_lora_cfg",
        "arXiv 2405.18407",
        "PCM-LoRA for normal guidance: negative prompts, two passes a step",
        "pcm-lora-cfg",
    ),
    "hyper-sd": MethodEntry(
        "sunbench.methods.adapters.method:hyper_sd",
        "arXiv 2404.13686",
        "Hyper-SD: a published LoRA per number of steps (1, 2, 4, 8), DDIM trailing",
        "hyper-sd",
    ),
    "hyper-sd-cfg": MethodEntry(
        "sunbench.methods.adapters.method:hyper_sd_cfg",
        "arXiv 2404.13686",
        "Hyper-SD's LoRAs that keep guidance (8, 12 steps): negative prompts, two passes a step",
        "hyper-sd-cfg",
    ),
    "flash-sd": MethodEntry(
        "sunbench.methods.adapters.method:flash_sd",
        "arXiv 2406.02347",
        "Flash Diffusion: a published LoRA for 4 steps, LCM's scheduler",
        "flash-sd",
    ),
    "agd": MethodEntry(
        "sunbench.methods.agd.method:agd",
        "arXiv 2503.07274",
        "AGD: guidance in adapters beside the cross-attentions, DPM-Solver++(2M), one pass a step",
        "agd",
        "sunbench.methods.agd.train:train",
    ),
    "guided-distill": MethodEntry(
        "sunbench.methods.guided_distill.method:guided_distill",
        "arXiv 2210.03142",
        "Guided-Distill: a student U-Net per number of steps, guidance as an input, DDIM trailing",
        "guided-distill",
        "sunbench.methods.guided_distill.train:train",
    ),
    "boostdiff-lora": MethodEntry(
        "sunbench.methods.boostdiff.method:boostdiff_lora",
        BOOSTDIFF,
        "BoostDiff: guidance in a LoRA of rank 8, DDIM trailing",
        "boostdiff-lora",
        "sunbench.methods.boostdiff.train:train_lora",
    ),
    "boostdiff-lora-dpm++": MethodEntry(
        "sunbench.methods.boostdiff.method:boostdiff_lora_dpm_pp",
        BOOSTDIFF,
        "BoostDiff: guidance in a LoRA of rank 8, DPM-Solver++(2M)",
        "boostdiff-lora",
    ),
    "boostdiff-bitfit": MethodEntry(
        "sunbench.methods.boostdiff.method:boostdiff_bitfit",
        BOOSTDIFF,
        "BoostDiff: guidance in the biases, DDIM trailing",
        "boostdiff-bitfit",
        "sunbench.methods.boostdiff.train:train_bitfit",
    ),
    "boostdiff-bitfit-dpm++": MethodEntry(
        "sunbench.methods.boostdiff.method:boostdiff_bitfit_dpm_pp",
        BOOSTDIFF,
        "BoostDiff: guidance in the biases, DPM-Solver++(2M)",
        "boostdiff-bitfit",
    ),
}


@dataclass(frozen=True)
class Wrapper:
    """What ``PREFIX:METHOD`` makes of a method: target is called with it."""

    target: str  # "module:callable"
    summary: str


#: ``lora:WEIGHTS@SCHEDULER(settings)`` is a method that its name tells.
LORA, ADAPTER = "lora", "sunbench.methods.adapters.method:named"

WRAPPERS = {
    "compile": Wrapper("sunbench.methods.wrapped:compiled", "its U-Net compiled"),
    "int8": Wrapper("sunbench.methods.wrapped:int8", "its weights in int8 (torchao)"),
}


def methods() -> dict[str, MethodEntry]:
    """All methods by name, those of other packages included."""
    outside = {
        e.name: MethodEntry(e.value, "", f"from {e.dist.name if e.dist else 'elsewhere'}", e.name)
        for e in entry_points(group="sunbench.methods")
    }
    return {**outside, **METHODS}


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """Names of methods; ``all`` stands for every one of the table."""
    return tuple(n for name in names for n in (METHODS if name == "all" else [name]))


def method_entry(name: str) -> MethodEntry:
    """The method's row in the table; ``UserError`` with the nearest match for an unknown name."""
    table, (prefix, colon, inner) = methods(), name.partition(":")
    if colon and prefix in WRAPPERS:
        entry = method_entry(inner)
        return replace(entry, summary=f"{entry.summary}; {WRAPPERS[prefix].summary}", trainer="")
    if prefix == LORA:
        _target("sunbench.methods.adapters.spec:parse")(name)
        return MethodEntry(ADAPTER, "", "a LoRA that its name tells")
    if name not in table:
        known = [f"{p}:{inner}" for p in WRAPPERS] if colon and inner in table else table
        raise unknown("method", name, known)
    return table[name]


def method(
    name: str,
    *,
    weights: Mapping[str, str] | None = None,
    model: ModelContext | None = None,
) -> Method:
    """The method of that name, for a model.

    weights: explicit weights, METHOD or METHOD@MODEL -> path or hub id, in place of every other;
    those of methods that share their weights count too, the most specific first.
    model: what it will run on, to find the weights that were trained on just this model.
    """
    entry, (prefix, colon, inner) = method_entry(name), name.partition(":")
    if colon and prefix in WRAPPERS:
        wrapped: Method = _target(WRAPPERS[prefix].target)(
            method(inner, weights=weights, model=model)
        )
        return wrapped
    make = _target(entry.target)
    ready: Method = make(name) if prefix == LORA else make()
    take = getattr(ready, "with_weights", None)  # methods from outside need not have it
    if take is not None:
        chosen = _explicit(name, entry, weights or {}, "" if model is None else model.name)
        ready = take(chosen, None if model is None else model.unet_sha256)
    return ready


def _explicit(name: str, entry: MethodEntry, weights: Mapping[str, str], model: str) -> str | None:
    keys = (f"{name}@{model}", f"{entry.weights}@{model}", name, entry.weights)
    return next((weights[key] for key in keys if key in weights), None)


def check_weights(weights: Mapping[str, str], used: Iterable[str]) -> None:
    """Raise ``UserError`` unless explicit weights are for methods that are used and take some.

    weights: METHOD or METHOD@MODEL -> path or hub id; used: names of methods.
    """
    families = {method_entry(name).weights for name in used} - {""}
    for key in weights:
        name = key.partition("@")[0]
        family = method_entry(name).weights
        if not family:
            takers = sorted({e.weights for e in methods().values()} - {""})
            raise UserError(
                f"given weights for {name}, which takes none; expected one of {', '.join(takers)}"
            )
        if family not in families:
            raise UserError(f"given weights for {name}, expected it among the methods of the run")


def check_weights_models(weights: Mapping[str, str], models: Iterable[str]) -> None:
    """Raise ``UserError`` unless every METHOD@MODEL of explicit weights names one of the models."""
    names = list(models)
    for key in weights:
        _, at, model = key.partition("@")
        if at and model not in names:
            raise unknown("model in weights", model, names)


class Trainer(Protocol):
    """``sunbench train METHOD``."""

    def __call__(
        self,
        base: str,
        out: Path,
        config: Path | None,
        data: str | None,
        device: str,
        start: str | None = None,
    ) -> Path:
        """Train on a base (a card's name, ...), in ``out``; returns the weights.

        config: TOML over the settings; data: a spec of images; start: weights to begin with.
        """
        ...


def trained_methods() -> list[str]:
    """Names of the methods that can be trained here."""
    return [name for name, entry in METHODS.items() if entry.trainer]


def trainer(name: str) -> Trainer:
    """The training of that name; ``UserError`` with the nearest match for an unknown one."""
    if name not in trained_methods():
        raise unknown("training", name, trained_methods())
    return cast(Trainer, _target(METHODS[name].trainer))


def _target(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
