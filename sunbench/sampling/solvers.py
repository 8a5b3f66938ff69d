"""diffusers' schedulers with every setting explicit.

``from_config`` carries only the keys that are present: a DDIM scheduler made from a config without
``clip_sample`` silently clips latents. So betas and prediction type come from the model, the rest
from here.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import diffusers

#: What a model decides about its noise schedule; all else belongs to the solver.
MODEL_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
)


@dataclass(frozen=True)
class SolverSpec:
    """A scheduler class and its settings.

    own: the class where diffusers has none of that name.
    """

    scheduler: str
    settings: tuple[tuple[str, Any], ...] = field(default=())
    own: type | None = None

    @classmethod
    def of(cls, scheduler: str | type, settings: dict[str, Any]) -> SolverSpec:
        """From a plain dictionary; scheduler: a name in diffusers, or a class of its kind."""
        name = scheduler if isinstance(scheduler, str) else scheduler.__name__
        own = None if isinstance(scheduler, str) else scheduler
        return cls(name, tuple(sorted(settings.items())), own)

    def build(self, model_config: Any) -> Any:
        """The scheduler for a model whose scheduler has ``model_config``."""
        shared = {k: model_config[k] for k in MODEL_KEYS if model_config.get(k) is not None}
        with warnings.catch_warnings():  # the original DPM-Solver is deprecated there, not here
            warnings.filterwarnings("ignore", ".*dpmsolver.*", FutureWarning)
            kind = self.own or getattr(diffusers, self.scheduler)
            return kind(**shared, **dict(self.settings))

    def content(self) -> dict[str, object]:
        """All that shapes the method's images, for the cell's key."""
        return {"scheduler": self.scheduler, **dict(self.settings)}
