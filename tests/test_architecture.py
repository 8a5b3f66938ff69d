"""Arrows go one way: no module imports upwards, lazily or not, and packages form no circle.

`cli -> paper, report, studies, regression -> bench -> methods, metrics, reference_sets -> sampling,
training -> models, prompts, store`; the zoo's weights are a leaf, what builds them stands on
training.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "sunbench": "sunbench",
    "methods": "sunbench.methods",
    "reference_sets": "sunbench.reference_sets",
}
#: From below to above; what stands on one line does not depend on one another in a circle.
LAYERS = (
    ("errors", "paths", "run_options"),
    ("store", "zoo"),
    ("models", "prompts"),
    ("sampling", "training"),
    ("registry", "zoo builders"),
    ("methods", "metrics", "reference_sets", "timing"),
    ("bench",),
    ("report", "progress", "doctor"),
    ("regression", "studies", "paper"),
    ("api",),
    ("sunbench",),  # the public names, found lazily; its version may be read from anywhere
    ("cli",),
    ("__main__",),
)
#: Modules of the zoo that anyone may read; all others build it.
ZOO = (
    *("sunbench.zoo", "sunbench.zoo.world"),
    *(f"sunbench.zoo.world.{name}" for name in ("captions", "images", "sprites", "text")),
)
pytestmark = pytest.mark.skipif(
    not (ROOT / "sunbench").is_dir(), reason="the tests stand outside a checkout"
)


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    out = {}
    for folder, prefix in FOLDERS.items():
        for file in (ROOT / folder).rglob("*.py"):
            parts = [prefix, *file.relative_to(ROOT / folder).with_suffix("").parts]
            out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return out


def imports(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a module imports anywhere in it."""
    home = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            up = home[: len(home) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            inner = [f"{base}.{alias.name}" for alias in node.names]
            names = [full if full in known else base for full in inner]
        else:
            continue
        yield from (target for target in names if target in known and target != name)


def arrows() -> list[tuple[str, str]]:
    known = modules()
    pairs = {(a, b) for a, file in known.items() for b in imports(a, file, known)}
    return sorted((a, b) for a, b in pairs if b != "sunbench")


def package(module: str) -> str:
    """The part of the house that a module belongs to."""
    if module.startswith("sunbench.zoo") and module not in ZOO:
        return "zoo builders"
    return module.split(".")[1] if "." in module else module


LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def test_every_package_has_a_layer():
    assert {package(m) for m in modules()} - LEVEL.keys() == set()


def test_no_module_imports_upwards():
    wrong = {(a, b) for a, b in arrows() if LEVEL[package(a)] < LEVEL[package(b)]}
    assert {f"{a} imports {b}" for a, b in wrong} == set()


def test_packages_form_no_circle():
    needs: dict[str, set[str]] = defaultdict(set)
    for a, b in arrows():
        if package(a) != package(b):
            needs[package(a)].add(package(b))
    try:
        list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        pytest.fail(f"circle of packages: {error.args[1]}")


@pytest.mark.parametrize("part", ["sunbench.bench.", "sunbench.sampling."])
def test_modules_form_no_circle(part: str):
    needs: dict[str, set[str]] = defaultdict(set)
    for a, b in arrows():
        if a.startswith(part) and b.startswith(part):
            needs[a].add(b)
    try:
        list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        pytest.fail(f"circle of modules: {error.args[1]}")


def test_only_the_registry_knows_methods_by_name():
    """A method is found by its name in a table; nothing above imports its module."""
    above = [
        f"{a} imports {b}"
        for a, b in arrows()
        if package(b) == "methods" and package(a) in ("bench", "sampling", "models", "store")
    ]
    assert above == []


# ------------------------------------------------------------------------------ the page


def block_below(heading: str) -> list[str]:
    """Lines of the first fenced block below a heading of docs/design.md."""
    page = (ROOT / "docs/design.md").read_text("utf-8")
    return page.split(f"## {heading}\n")[1].split("```")[1].splitlines()[1:]


def test_the_design_page_has_the_layers():
    said = [line.split(", ") for line in block_below("Imports")]
    names = {"zoo builders": "what builds the zoo"}
    layers = [sorted(names.get(n, n) for n in layer) for layer in reversed(LAYERS)]
    left_out = [["__main__"], ["sunbench"]]
    assert [sorted(line) for line in said] == [x for x in layers if x not in left_out]


def test_the_design_page_has_the_packages():
    lines = block_below("Layout")
    said = {line.split("/")[0].strip() for line in lines if line.startswith("  ") and "/ " in line}
    packages = {p.parent.name for p in (ROOT / "sunbench").glob("*/__init__.py")}
    assert said == packages
