"""How much time does an accelerator gain, and how far do the images move?

``run`` measures methods on models, ``load`` opens a finished run, ``score`` compares any two sets
of images, ``methods.load`` puts a method on a diffusers pipeline. Importing the package imports
none of torch, diffusers and pandas; the first use of a name does.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sunbench.errors import UserError

if TYPE_CHECKING:
    from sunbench import methods
    from sunbench.api.runs import Run, load, run
    from sunbench.api.scores import Score, Scores, score

__version__ = "0.1.0"
__all__ = [
    "Run",
    "Score",
    "Scores",
    "UserError",
    "__version__",
    "load",
    "methods",
    "run",
    "score",
]

# In a checkout, methods/ and reference_sets/ stand beside this folder: `import sunbench` from
# there finds them without an installation.
_checkout = Path(__file__).parents[1]
if all((_checkout / name / "__init__.py").is_file() for name in ("methods", "reference_sets")):
    __path__.append(str(_checkout))

_LAZY = {
    "Run": "sunbench.api.runs",
    "load": "sunbench.api.runs",
    "run": "sunbench.api.runs",
    "Score": "sunbench.api.scores",
    "Scores": "sunbench.api.scores",
    "score": "sunbench.api.scores",
}


def __getattr__(name: str) -> Any:
    if name == "methods":
        return import_module("sunbench.methods")
    if name not in _LAZY:
        raise AttributeError(f"module 'sunbench' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
