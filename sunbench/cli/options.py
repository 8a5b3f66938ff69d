"""What several commands share of their options, and how text becomes values."""

from __future__ import annotations

from sunbench.errors import UserError


def names(text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(t.strip() for t in text.split(",") if t.strip())


def numbers(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers between commas; what: their name in the error."""
    try:
        return tuple(int(t) for t in names(text))
    except ValueError:
        raise UserError(f"given {what} {text!r}, expected whole numbers like 4,8") from None


def seed_list(text: str) -> tuple[int, ...]:
    """``3`` means seeds 0, 1, 2; ``0,7`` means those two."""
    given = numbers(text, "seeds")
    return given if "," in text else tuple(range(given[0])) if given else ()


def best_device() -> str:
    """cuda, else mps, else cpu."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
