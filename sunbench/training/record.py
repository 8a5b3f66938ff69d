"""What a training leaves beside its weights: what it is and what it has cost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.store import write_atomic
from sunbench.store.files import JsonObject, make_folder, parse_json, read_file, to_json
from sunbench.store.tensors import read_header
from sunbench.training.loop import LoopSettings, check_begun

#: Parts of training.json that change while it goes on; the loop checks its own settings.
CHANGING = ("cost", "loop")


@contextmanager
def averaged(module: nn.Module, ema: Mapping[str, Tensor]) -> Iterator[None]:
    """The module with its averaged weights, for a while; its own come back bit-exact."""
    live = {k: v.detach().clone() for k, v in module.state_dict().items()}
    module.load_state_dict(ema)
    try:
        yield
    finally:
        module.load_state_dict(live)


# ------------------------------------------------------------------------------ training.json

_NUMBER = (int, float)
#: Fields of training.json that reports read, and their kinds; null stands for "not said".
_FIELDS: dict[str, tuple[type, ...]] = {
    "method": (str,),
    "base": (str,),
    "data": (str,),
    "resolution": _NUMBER,
    "guidance_scale": (*_NUMBER, type(None)),
    "learned_guidance": (list, type(None)),
    "cost": (dict,),
}


def read_training(path: Path) -> JsonObject:
    """A training.json whose fields are of the kinds that reports expect; UserError otherwise."""
    document = parse_json(read_file(path), str(path))
    check_training(document, str(path))
    return document


def check_training(document: Mapping[str, Any], where: str) -> None:
    """Raise UserError, one line, where a field of a training.json is of another kind."""
    for name, kinds in _FIELDS.items():
        if name in document:
            _expect(isinstance(document[name], kinds), where, name, document[name])
    cost = document.get("cost", {})
    for name in ("steps", "images", "seconds", "parameters"):
        _expect(_is_amount(cost.get(name, 0)), where, f"cost.{name}", cost.get(name))
    guidance = document.get("learned_guidance") or [1, 1]
    ends = len(guidance) == 2 and all(map(_is_amount, guidance))
    _expect(ends, where, "learned_guidance", guidance)


def _is_amount(value: object) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool) and 0 <= value < math.inf


def _expect(good: bool, where: str, name: str, value: object) -> None:
    if not good:
        raise UserError(f"{where}: given {name} = {json.dumps(value)[:60]}, expected another kind")


def settle(folder: Path, asked: Mapping[str, object]) -> None:
    """Write down what a training is, or check that the one begun in this folder is the same."""
    make_folder(folder)
    path, wanted = folder / "training.json", json.loads(json.dumps(asked))
    if not path.is_file():
        write_atomic(path, to_json(wanted))
        return
    check_begun(path, parse_json(read_file(path), str(path)), wanted, CHANGING)


@dataclass(frozen=True)
class Cost:
    """What a training took: steps, images seen, seconds in its steps, parameters trained."""

    steps: int
    images: int
    seconds: float
    parameters: int

    @classmethod
    def of(cls, folder: Path, loop: LoopSettings, parameters: int) -> Cost:
        """By the checkpoint in a folder, so that stops and resumes are counted right."""
        about = read_header(folder / "checkpoint.safetensors").metadata
        steps, seconds = int(about["step"]), float(about.get("seconds", 0))
        return cls(steps, steps * loop.batch * loop.accumulate, round(seconds, 3), parameters)


def record_cost(folder: Path, cost: Cost, loop: LoopSettings, part: str | None = None) -> None:
    """Put a cost into the folder's training.json; part: the stage that it is of.

    With parts, the whole's steps, images and seconds are their sums.
    """
    path = folder / "training.json"
    document = parse_json(read_file(path), str(path))
    total = asdict(cost)
    if part is not None:
        parts = {**document.get("cost", {}).get("parts", {}), part: total}
        names = ("steps", "images", "seconds")
        sums = {name: sum(p[name] for p in parts.values()) for name in names}
        total = {**total, **sums, "parts": parts}
    write_atomic(path, to_json({**document, "loop": asdict(loop), "cost": total}))
