"""The interface that every method implements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from sunbench.models.protocols import Pipeline
from sunbench.sampling.batch import SampleBatch
from sunbench.sampling.task import asked_steps


@dataclass(frozen=True)
class SampleSettings:
    """How to sample: diffusers' words and meanings.

    ``guidance_scale`` g is that of e_n + g (e_p - e_n): 1 means one conditional pass. ``steps``
    are U-Net passes (two rows each under guidance) at every ``strength``.
    """

    steps: int
    guidance_scale: float
    task: str = "text2image"
    strength: float = 1.0

    @property
    def asked(self) -> int:
        """Steps that diffusers' pipeline is asked for: it drops 1 - strength of them."""
        return asked_steps(self.steps, self.strength)


class Sampler(Protocol):
    """A method made ready for one pipeline and one setting."""

    def sample(self, batch: SampleBatch) -> Tensor:
        """Denoise a batch: (B, channels, h, w) scaled latents, as the VAE's decoder side wants."""
        ...

    @property
    def nfe(self) -> float:
        """U-Net evaluations per image of the last batch, counted."""
        ...


@runtime_checkable
class Method(Protocol):
    """A network patch, a guidance rule and a solver, by name."""

    @property
    def name(self) -> str:
        """The name in the registry."""
        ...

    def content(self, pipeline: Pipeline, settings: SampleSettings) -> dict[str, object]:
        """Everything of the method that shapes these images, JSON-able, for the cell's key.

        Trained weights by their hash, those that sampling this pipeline uses and no others.
        """
        ...

    def skip(self, pipeline: Pipeline, settings: SampleSettings) -> str | None:
        """Why this method cannot run here; None when it can."""
        ...

    def evaluations(self, settings: SampleSettings) -> int:
        """U-Net evaluations that one image is expected to take; for plans, never for tables."""
        ...

    def prepare(self, pipeline: Pipeline, settings: SampleSettings) -> Sampler:
        """Make it ready; may patch the pipeline, which ``release`` undoes."""
        ...

    def release(self, pipeline: Pipeline) -> None:
        """Leave the pipeline as it was before ``prepare``."""
        ...
