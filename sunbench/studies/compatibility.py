"""Which two accelerators can work together: every wrapper around every method, and why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sunbench import registry
from sunbench.models.protocols import Pipeline
from sunbench.report.formats import markdown_table, plain
from sunbench.sampling import SampleSettings

if TYPE_CHECKING:
    from sunbench.models import ModelContext


@dataclass(frozen=True)
class Pairing:
    """A wrapper around a method; reason: why it is refused, None where it runs."""

    wrapper: str
    method: str
    reason: str | None


def pairings(
    pipeline: Pipeline,
    settings: SampleSettings,
    *,
    methods: Sequence[str] = (),
    weights: Mapping[str, str] | None = None,
    model: ModelContext | None = None,
) -> list[Pairing]:
    """Every wrapper around every method on a pipeline; by default all methods of the table."""
    out = []
    for name in methods or registry.METHODS:
        for wrapper in registry.WRAPPERS:
            pair = registry.method(f"{wrapper}:{name}", weights=weights, model=model)
            out.append(Pairing(wrapper, name, pair.skip(pipeline, settings)))
    return out


def page(pairs: Sequence[Pairing], model: str, settings: SampleSettings) -> str:
    """The matrix as Markdown, with the reasons as notes."""
    wrappers = sorted({p.wrapper for p in pairs})
    reasons = sorted({_general(p) for p in pairs if p.reason is not None})
    table: dict[str, dict[str, str]] = {}
    for p in pairs:
        mark = "runs" if p.reason is None else f"no ({1 + reasons.index(_general(p))})"
        table.setdefault(p.method, {})[p.wrapper] = mark
    lines = [[f"`{name}`", *(row[w] for w in wrappers)] for name, row in table.items()]
    head = ["method", *(f"`{w}:`" for w in wrappers)]
    notes = [f"{k}. {plain(reason)}" for k, reason in enumerate(reasons, 1)]
    where = f"{model}, {settings.steps} steps, guidance {settings.guidance_scale:g}"
    return "\n\n".join(
        [
            "# Accelerators together",
            f"A wrapper around a method on {where}: it runs, or is refused for a numbered reason."
            " Two methods that both choose the guidance, the schedule or the network are one or"
            " the other; what can be combined has a wrapper.",
            markdown_table(head, lines, left=1),
            "\n".join(notes) if notes else "Nothing is refused.",
            "",
        ]
    )


def _general(pairing: Pairing) -> str:
    """The reason without the pair's own name, so that equal ones are one note."""
    reason = pairing.reason or ""
    for name in (f"{pairing.wrapper}:{pairing.method}", pairing.method):
        reason = reason.removeprefix(f"{name}: ")
    return reason.replace(f" {pairing.method} ", " the method ")
