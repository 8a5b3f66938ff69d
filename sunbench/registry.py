"""Names of everything that can be asked for; imports no torch.

Methods are one explicit table; packages outside join by the entry-point group ``sunbench.methods``,
whose entries are callables without arguments that return a ``sunbench.sampling.Method``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sunbench.errors import UserError, unknown

if TYPE_CHECKING:
    from sunbench.models import ModelContext
    from sunbench.sampling import Method
    from sunbench.training.request import TrainRequest


@dataclass(frozen=True)
class MethodEntry:
    """A row of the table of methods.

    weights: the name of the trained weights that it takes, which methods may share; "" for none.
    trainer: "module:callable" of its ``sunbench train``; "" where it is not trained here.
    network: whether it is a network on which other methods can stand, alone or in turns.
    plan: of what other methods it is composed, and how (``composition``); "" for none.
    caveat: what stands with its numbers wherever they are shown.
    """

    target: str  # "module:callable"
    paper: str
    summary: str
    weights: str = ""
    trainer: str = ""
    network: bool = False
    plan: str = ""
    caveat: str = ""


#: No identifier: known from an anonymous submission.
BOOSTDIFF = "unpublished"

SWITCH_TARGET = "sunbench.methods.switch:switch"

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
        "SUN adapter: negative prompts in one pass per step, DDIM trailing",
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
        "LCM-LoRA, merged: one pass per step, no negative prompt",
        "lcm-lora",
        "sunbench.methods.lcm.train:train_lcm_lora",
    ),
    "lcm-lora-cfg": MethodEntry(
        "sunbench.methods.lcm.lora:lcm_lora_cfg",
        "arXiv 2311.05556",
        "LCM-LoRA with guidance 1.5 on top: negative prompts, two passes per step",
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
        "PCM-LoRA: consistency in phases, DDIM, one pass per step",
        "pcm-lora",
        "sunbench.methods.pcm.train:train",
    ),
    "dmd2-lora": MethodEntry(
        "sunbench.methods.dmd2.method:dmd2_lora",
        "arXiv 2405.14867",
        "DMD2 as a LoRA: distribution matching, LCM's scheduler, one pass per step",
        "dmd2-lora",
        "sunbench.methods.dmd2.train:train",
    ),
    "pcm-lora-cfg": MethodEntry(
        "sunbench.methods.adapters.method:pcm_lora_cfg",
        "arXiv 2405.18407",
        "PCM-LoRA for normal guidance: negative prompts, two passes per step",
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
        "Hyper-SD's LoRAs that keep guidance (8, 12 steps): negative prompts, two passes per step",
        "hyper-sd-cfg",
    ),
    "flash-sd": MethodEntry(
        "sunbench.methods.adapters.method:flash_sd",
        "arXiv 2406.02347",
        "Flash Diffusion: a published LoRA for 4 steps, LCM's scheduler",
        "flash-sd",
    ),
    "perflow": MethodEntry(
        "sunbench.methods.perflow.method:perflow",
        "arXiv 2405.07510",
        "PeRFlow: straight flows in four windows, published deltas of all weights",
        "perflow",
    ),
    "agd": MethodEntry(
        "sunbench.methods.agd.method:agd",
        "arXiv 2503.07274",
        "AGD: guidance in adapters beside cross-attention, DPM-Solver++(2M), one pass per step",
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
    "bk-sdm-base": MethodEntry(
        "sunbench.methods.bk_sdm.method:bk_sdm_base",
        "arXiv 2305.15798",
        "BK-SDM-Base: one layer of every stage pruned, DPM-Solver++(2M)",
        "bk-sdm-base",
        "sunbench.methods.bk_sdm.train:train",
        network=True,
    ),
    "bk-sdm-small": MethodEntry(
        "sunbench.methods.bk_sdm.method:bk_sdm_small",
        "arXiv 2305.15798",
        "BK-SDM-Small: Base without the mid block, DPM-Solver++(2M)",
        "bk-sdm-small",
        "sunbench.methods.bk_sdm.train:train",
        network=True,
    ),
    "bk-sdm-tiny": MethodEntry(
        "sunbench.methods.bk_sdm.method:bk_sdm_tiny",
        "arXiv 2305.15798",
        "BK-SDM-Tiny: Small without the innermost stage, DPM-Solver++(2M)",
        "bk-sdm-tiny",
        "sunbench.methods.bk_sdm.train:train",
        network=True,
    ),
    "small-sd": MethodEntry(
        "sunbench.methods.bk_sdm.method:small_sd",
        "arXiv 2305.15798",
        "Segmind's small-sd: BK-SDM-Base's network, of Realistic Vision 4.0, DPM-Solver++(2M)",
        "small-sd",
        network=True,
    ),
    "tiny-sd": MethodEntry(
        "sunbench.methods.bk_sdm.method:tiny_sd",
        "arXiv 2305.15798",
        "Segmind's tiny-sd: BK-SDM-Tiny's network, of Realistic Vision 4.0, DPM-Solver++(2M)",
        "tiny-sd",
        network=True,
    ),
    "a-sdm-m1": MethodEntry(
        "sunbench.methods.a_sdm.method:a_sdm_m1",
        "arXiv 2312.15516",
        "A-SDM M1: the outermost stage pruned, trained alone, DPM-Solver++(2M)",
        "a-sdm-m1",
        "sunbench.methods.a_sdm.train:train",
        network=True,
    ),
    "a-sdm-m2": MethodEntry(
        "sunbench.methods.a_sdm.method:a_sdm_m2",
        "arXiv 2312.15516",
        "A-SDM M2: the two outermost stages pruned, trained alone, DPM-Solver++(2M)",
        "a-sdm-m2",
        "sunbench.methods.a_sdm.train:train",
        network=True,
    ),
    "a-sdm-m3": MethodEntry(
        "sunbench.methods.a_sdm.method:a_sdm_m3",
        "arXiv 2312.15516",
        "A-SDM M3: the three outermost stages pruned, trained alone, DPM-Solver++(2M)",
        "a-sdm-m3",
        "sunbench.methods.a_sdm.train:train",
        network=True,
    ),
    "a-sdm-m4": MethodEntry(
        "sunbench.methods.a_sdm.method:a_sdm_m4",
        "arXiv 2312.15516",
        "A-SDM M4: the outermost stage pruned, everything trained, DPM-Solver++(2M)",
        "a-sdm-m4",
        "sunbench.methods.a_sdm.train:train",
        network=True,
    ),
    "a-sdm-m5": MethodEntry(
        "sunbench.methods.a_sdm.method:a_sdm_m5",
        "arXiv 2312.15516",
        "A-SDM M5: the two outermost stages pruned, everything trained, DPM-Solver++(2M)",
        "a-sdm-m5",
        "sunbench.methods.a_sdm.train:train",
        network=True,
    ),
    "a-sdm-m6": MethodEntry(
        "sunbench.methods.a_sdm.method:a_sdm_m6",
        "arXiv 2312.15516",
        "A-SDM M6: the three outermost stages pruned, everything trained, DPM-Solver++(2M)",
        "a-sdm-m6",
        "sunbench.methods.a_sdm.train:train",
        network=True,
    ),
    "switch-s1": MethodEntry(
        SWITCH_TARGET,
        "arXiv 2312.15516",
        "A-SDM S1: 10 steps with BK-SDM-Base, 15 with the model's own U-Net",
        plan="bk-sdm-base@10,model@15",
    ),
    "switch-s2": MethodEntry(
        SWITCH_TARGET,
        "arXiv 2312.15516",
        "A-SDM S2: 15 steps with the model's own U-Net, 10 with BK-SDM-Base",
        plan="model@15,bk-sdm-base@10",
    ),
    "switch-s3": MethodEntry(
        SWITCH_TARGET,
        "arXiv 2312.15516",
        "A-SDM S3: 10 steps with the model's own U-Net, 15 with BK-SDM-Base",
        plan="model@10,bk-sdm-base@15",
    ),
    "gri-attention": MethodEntry(
        "sunbench.methods.a_sdm.method:gri_attention",
        "arXiv 2312.15516",
        "GRI attention, a reconstruction: unspecified in the paper; nothing is trained",
        caveat="unspecified in the paper: a reconstruction of ours, out of its tables",
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
    "deepcache": Wrapper("sunbench.methods.deepcache:cached", "deep features reused (DeepCache)"),
    "int8": Wrapper("sunbench.methods.wrapped:int8", "its weights in int8 (torchao)"),
}


def methods() -> dict[str, MethodEntry]:
    """All methods by name, those of other packages included."""
    outside = {
        e.name: MethodEntry(e.value, "", f"from {e.dist.name if e.dist else 'elsewhere'}", e.name)
        for e in entry_points(group="sunbench.methods")
    }
    return {**outside, **METHODS}


def caveats(names: Iterable[str]) -> list[str]:
    """What to know beside the numbers of methods, wrapped ones too; one line each."""
    entries = {n: METHODS.get(_unwrapped(n)) for n in names}
    return [f"{n}: {e.caveat}." for n, e in entries.items() if e is not None and e.caveat]


def _unwrapped(name: str) -> str:
    prefix, colon, inner = name.partition(":")
    return _unwrapped(inner) if colon and prefix in WRAPPERS else name


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """Names of methods; ``all`` stands for every one of the table."""
    return tuple(n for name in names for n in (METHODS if name == "all" else [name]))


def method_entry(name: str) -> MethodEntry:
    """The method's row in the table; ``UserError`` with the nearest match for an unknown name.

    A composed name (``composition``) has a row too.
    """
    table, (prefix, colon, inner) = methods(), name.partition(":")
    if colon and prefix in WRAPPERS:
        entry = method_entry(inner)
        return replace(entry, summary=f"{entry.summary}; {WRAPPERS[prefix].summary}", trainer="")
    if prefix == LORA:
        _target("sunbench.methods.adapters.spec:parse_adapter")(name)
        return MethodEntry(ADAPTER, "", "a LoRA that its name tells")
    if name not in table and colon and inner in table:
        raise unknown("method", name, [f"{p}:{inner}" for p in WRAPPERS])
    if name not in table:
        return _composed(name, table)
    return table[name]


# ------------------------------------------------------------------------------ compositions

#: Begins the name of a method whose networks take turns.
SWITCH = "switch:"
#: The model's own U-Net among them.
MODEL = "model"
_TURN = re.compile(r"([^@,]+)@([0-9]{1,4})")


def switch_steps(plan: str) -> tuple[tuple[str, int], ...]:
    """(network, steps) in order, of a plan ``NET@STEPS,NET@STEPS``; UserError for another form."""
    turns = [_TURN.fullmatch(part.strip()) for part in plan.split(",")]
    if not all(turn and int(turn[2]) for turn in turns):
        raise UserError(
            f"given the plan {plan!r:.80}, expected NET@STEPS,NET@STEPS such as"
            " switch:bk-sdm-base@10,model@15"
        )
    return tuple((turn[1], int(turn[2])) for turn in turns if turn)


def turns(name: str) -> tuple[tuple[str, int], ...]:
    """The networks of a method that switches, with their steps; () for any other, known or not."""
    own = _unwrapped(name)
    plan = own.removeprefix(SWITCH) if own.startswith(SWITCH) else ""
    plan = METHODS[own].plan if own in METHODS else plan
    try:
        return switch_steps(plan) if "@" in plan else ()
    except UserError:  # a name that another version gave, in a report
        return ()


def _composed(name: str, table: Mapping[str, MethodEntry]) -> MethodEntry:
    """A row for ``switch:NET@STEPS,...`` or ``NET+METHOD``; UserError for any other name."""
    networks = [n for n, e in table.items() if e.network]
    paper = "arXiv 2312.15516"
    if name.startswith(SWITCH):
        plan = name.removeprefix(SWITCH)
        for part, _ in switch_steps(plan):
            if part not in (MODEL, *networks):
                raise unknown("network", part, [MODEL, *networks])
        return MethodEntry(SWITCH_TARGET, paper, f"networks in turns: {plan}", plan=plan)
    network, plus, other = name.partition("+")
    if not plus or network not in networks:
        raise unknown("method", name, table)
    if other not in table:
        raise unknown("method", other, table)
    target = "sunbench.methods.combined:combined"
    return MethodEntry(target, table[network].paper, f"{other} on {network}", plan=name)


def composition(name: str) -> tuple[str, ...]:
    """The methods of the table that a name stands for: itself, or those it is composed of."""
    entry = method_entry(name)
    if not entry.plan:
        return (name,)
    if entry.target != SWITCH_TARGET:
        return tuple(entry.plan.split("+", 1))
    return tuple(dict.fromkeys(n for n, _ in switch_steps(entry.plan) if n != MODEL))


def weights_of(name: str) -> frozenset[str]:
    """The names of all trained weights that a method takes."""
    return frozenset(method_entry(part).weights for part in composition(name)) - {""}


# ------------------------------------------------------------------------------ methods


def method(
    name: str,
    *,
    weights: Mapping[str, str] | None = None,
    model: ModelContext | None = None,
) -> Method:
    """The method of that name, for a model.

    name: of the table, ``NET+METHOD``, or ``switch:NET@STEPS,...`` with the table's networks.
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
    if entry.plan:
        parts = {p: method(p, weights=weights, model=model) for p in composition(name)}
        composed: Method = make(name, entry.plan, parts)
        return composed
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
    families = {family for name in used for family in weights_of(name)}
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


#: ``sunbench train METHOD``: trains in the request's folder and returns the weights.
Trainer = Callable[["TrainRequest"], Path]


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
