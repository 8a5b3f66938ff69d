"""The name ``lora:WEIGHTS@SCHEDULER(key=value, ...)`` and what may stand in it; imports no torch.

WEIGHTS is a local .safetensors file or ``owner/name[@revision]:FILE``. Beside a scheduler's own
settings, ``guidance`` says whether classifier-free guidance acts on top ("none", or "cfg" for the
run's guidance scale), and ``alpha = "rank"`` is the scale of a file that names none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from sunbench.errors import UserError, unknown

FORM = "lora:WEIGHTS@SCHEDULER(key=value, ...)"
_NAME = re.compile(r"lora:(?P<where>.+)@(?P<scheduler>[^@/:()]+)(\((?P<settings>[^()]*)\))?")
Value = bool | int | float | str


@dataclass(frozen=True)
class Scheduler:
    """A scheduler of diffusers for a distilled network.

    fixed: settings that are always these; free: those that a name may set, with their defaults.
    grid: the most steps, where the distillation's timesteps bound them.
    """

    kind: str
    fixed: dict[str, Value]
    free: dict[str, Value] = field(default_factory=dict)
    grid: int | None = None


_CLEAN = {"clip_sample": False, "thresholding": False, "rescale_betas_zero_snr": False}
#: eta is the pipeline's argument, not the scheduler's.
SCHEDULERS: dict[str, Scheduler] = {
    "ddim": Scheduler(
        "DDIMScheduler",
        {**_CLEAN, "set_alpha_to_one": False, "steps_offset": 1},
        {"timestep_spacing": "trailing", "eta": 0.0},
    ),
    "tcd": Scheduler(
        "TCDScheduler",
        {**_CLEAN, "set_alpha_to_one": False, "original_inference_steps": 50},
        {"eta": 0.3},
        50,
    ),
    "lcm": Scheduler(
        "LCMScheduler",
        {
            **_CLEAN,
            "original_inference_steps": 50,
            "timestep_scaling": 10.0,
            "set_alpha_to_one": True,
        },
        {},
        50,
    ),
    "dpm++": Scheduler(
        "DPMSolverMultistepScheduler",
        {
            "solver_order": 2,
            "solver_type": "midpoint",
            "algorithm_type": "dpmsolver++",
            "lower_order_final": True,
            "euler_at_final": False,
            "steps_offset": 1,
            "thresholding": False,
            "final_sigmas_type": "zero",
        },
        {"timestep_spacing": "trailing", "use_karras_sigmas": False},
    ),
    "euler": Scheduler(
        "EulerDiscreteScheduler",
        {"interpolation_type": "linear", "steps_offset": 1, "final_sigmas_type": "zero"},
        {"timestep_spacing": "trailing", "use_karras_sigmas": False},
    ),
}
#: What a name may say beside its scheduler's settings, and the words that it may say.
COMMON: dict[str, tuple[str, tuple[str, ...]]] = {
    "guidance": ("none", ("none", "cfg")),
    "alpha": ("file", ("file", "rank")),
}
SPACINGS = ("trailing", "leading", "linspace")


@dataclass(frozen=True)
class AdapterSpec:
    """A LoRA, its scheduler, and what was set; settings: scheduler's own and common ones."""

    where: str
    scheduler: str
    settings: dict[str, Value]

    @property
    def kind(self) -> Scheduler:
        """The row of the table of schedulers."""
        return SCHEDULERS[self.scheduler]

    def scheduler_settings(self) -> dict[str, Value]:
        """For diffusers' class; eta and the common settings left out."""
        left = {"eta", *COMMON}
        return {**self.kind.fixed, **{k: v for k, v in self.settings.items() if k not in left}}


def parse_adapter(name: str) -> AdapterSpec:
    """Read ``lora:...``; UserError, one line, for another form, scheduler or setting."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"given method {name!r}, expected {FORM}")
    return adapter_spec(match["where"], match["scheduler"], _settings(match["settings"] or ""))


def adapter_spec(where: str, scheduler: str, settings: dict[str, Value]) -> AdapterSpec:
    """A LoRA under a scheduler; its defaults stand where nothing is set."""
    if scheduler not in SCHEDULERS:
        raise unknown("scheduler", scheduler, SCHEDULERS)
    defaults = {**SCHEDULERS[scheduler].free, **{k: v for k, (v, _) in COMMON.items()}}
    for key, value in settings.items():
        if key not in defaults:
            raise unknown(f"setting of {scheduler}", key, defaults)
        _check(key, value, defaults[key])
    return AdapterSpec(where, scheduler, {**defaults, **settings})


def _settings(text: str) -> dict[str, Value]:
    out: dict[str, Value] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = (x.strip() for x in part.partition("="))
        if not (key and equals and value):
            raise UserError(f"given scheduler settings {text!r}, expected key=value, ...")
        out[key] = _value(value)
    return out


def _value(text: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    except ValueError:
        return text


def _check(key: str, value: Value, default: Any) -> None:
    words = COMMON[key][1] if key in COMMON else SPACINGS if key == "timestep_spacing" else None
    if words is not None:
        if value not in words:
            raise unknown(key, str(value), words)
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"given {key} = {value}, expected true or false")
    elif isinstance(value, bool | str) or not 0 <= value <= 1:
        raise UserError(f"given {key} = {value}, expected a number from 0 to 1")
