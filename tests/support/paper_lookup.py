"""Single numbers of the papers, and the names of the tables that hold them."""

from __future__ import annotations

from importlib import resources

from sunbench.paper.numbers import printed


def shipped() -> list[str]:
    """Names of the tables that come along."""
    folder = resources.files("sunbench.paper").joinpath("tables")
    return sorted(f.name.removesuffix(".csv") for f in folder.iterdir() if f.name.endswith(".csv"))


def lookup(name: str, **labels: str) -> float:
    """The one number with these labels; KeyError when there is none or more than one."""
    matches = [p for p in printed(name) if all(p[k] == v for k, v in labels.items())]
    if len(matches) != 1:
        raise KeyError(f"{name}: {len(matches)} numbers at {labels}")
    return matches[0].value
