"""One training loop for everything that sunbench trains."""

from sunbench.training.loop import LoopSettings, fit

__all__ = ["LoopSettings", "fit"]
