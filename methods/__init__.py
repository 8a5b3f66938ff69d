"""A module or folder per method; reached through ``sunbench.registry``, or by ``load``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sunbench.models.protocols import Pipeline

if TYPE_CHECKING:
    from sunbench.sampling.loaded import LoadedMethod


def load(name: str, pipeline: Pipeline, weights: str | None = None) -> LoadedMethod:
    """A method of the registry on a loaded Stable Diffusion pipeline of diffusers.

    weights: path or hub id of its trained weights, in place of the published ones.
    The result is called with prompts and makes images, as the pipeline does.

    Errors: UserError for an unknown method, or weights for one that takes none.
    """
    from sunbench import registry
    from sunbench.sampling.loaded import LoadedMethod

    table = {} if weights is None else {name: weights}
    registry.check_weights(table, [name])
    return LoadedMethod(registry.method(name, weights=table), pipeline)
