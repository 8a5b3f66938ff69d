"""Which two accelerators can work together: wrappers and pruned networks with every method."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sunbench import registry
from sunbench.models.protocols import Pipeline
from sunbench.report.formats import markdown_table, plain
from sunbench.sampling import SampleSettings

if TYPE_CHECKING:
    from sunbench.models import ModelContext


@dataclass(frozen=True)
class Pairing:
    """A wrapper around a method, or a method on a network.

    reason: why it is refused, None where it runs.
    """

    wrapper: str
    method: str
    reason: str | None

    @property
    def prefix(self) -> str:
        """What a name begins with: ``deepcache:``, ``bk-sdm-base+``."""
        return f"{self.wrapper}{':' if self.wrapper in registry.WRAPPERS else '+'}"


def pairings(
    pipeline: Pipeline,
    settings: SampleSettings,
    *,
    methods: Sequence[str] = (),
    networks: Sequence[str] = (),
    weights: Mapping[str, str] | None = None,
    model: ModelContext | None = None,
) -> list[Pairing]:
    """Every wrapper around every method on a pipeline, and every method on the networks.

    methods: by default all of the table. networks: pruned ones, ``NETWORK+METHOD``.
    """
    out = []
    for name in methods or registry.METHODS:
        for outer in (*registry.WRAPPERS, *networks):
            unknown = Pairing(outer, name, None)
            pair = registry.method(f"{unknown.prefix}{name}", weights=weights, model=model)
            out.append(replace(unknown, reason=pair.skip(pipeline, settings)))
    return out


def page(pairs: Sequence[Pairing], model: str, settings: SampleSettings) -> str:
    """The matrix as Markdown, with the reasons as notes."""
    prefixes = sorted({p.prefix for p in pairs})
    reasons = sorted({_general(p) for p in pairs if p.reason is not None})
    table: dict[str, dict[str, str]] = {}
    for p in pairs:
        mark = "runs" if p.reason is None else f"no ({1 + reasons.index(_general(p))})"
        table.setdefault(p.method, {})[p.prefix] = mark
    lines = [[f"`{name}`", *(row[x] for x in prefixes)] for name, row in table.items()]
    head = ["method", *(f"`{x}`" for x in prefixes)]
    notes = [f"{k}. {plain(reason)}" for k, reason in enumerate(reasons, 1)]
    where = f"{model}, {settings.steps} steps, guidance {settings.guidance_scale:g}"
    return "\n\n".join(
        [
            "# Accelerators together",
            f"What stands before a method's name, on {where}: a wrapper (`deepcache:lcm-lora`) or a"
            " pruned network that the method runs on (`bk-sdm-base+lcm-lora`). Each pair runs, or"
            " is refused for a numbered reason. Other pairs have no name: of two methods that both"
            " choose the guidance, the timesteps or the network, a run takes one. SUN, for example,"
            " has no second pass that `interval-guidance` could leave out.",
            markdown_table(head, lines, left=1),
            "\n".join(notes) if notes else "Nothing is refused.",
            "",
        ]
    )


def _general(pairing: Pairing) -> str:
    """The reason without the pair's own name, so that equal ones are one note."""
    reason = pairing.reason or ""
    for name in (f"{pairing.prefix}{pairing.method}", pairing.method, pairing.wrapper):
        reason = reason.removeprefix(f"{name}: ")
    reason = re.sub(r"--weights [^ =]+=PATH", "--weights METHOD=PATH", reason)
    if reason.startswith(f"{pairing.method} "):
        reason = f" {reason}"
    return reason.replace(f" {pairing.method} ", " the method ").strip()
