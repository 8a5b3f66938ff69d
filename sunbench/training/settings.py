"""Settings of a training: dataclasses whose fields stand in a TOML file, the loop's in [loop]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from sunbench.errors import UserError, unknown
from sunbench.store.files import JsonObject, read_toml
from sunbench.training.loop import LoopSettings
from sunbench.training.loop import within as within
from sunbench.training.trackers import check_tracker

Table = Mapping[str, Any]
DTYPES = ("float32", "bfloat16", "float16")
#: Of autocast: in float16 gradients underflow without a scaler, which the loop does not have.
LOOP_DTYPES = ("float32", "bfloat16")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise UserError with the nearest match unless the value is known."""
    if value not in known:
        raise unknown(name, value, known)


@dataclass(frozen=True)
class TrainingSettings:
    """What every training can be told; the loop's settings stand in ``[loop]``."""

    sheet: int = 8  # images of the sample sheet
    file_dtype: str = "float32"  # of the weights' file
    gradient_checkpointing: bool = False
    track: str = ""  # tensorboard, wandb or another of accelerate's trackers, beside loss.csv
    loop: LoopSettings = field(default=LoopSettings(steps=1000))

    def __post_init__(self) -> None:
        within("sheet", self.sheet, 0, 64)
        one_of("file_dtype", self.file_dtype, DTYPES)
        if self.track:
            check_tracker(self.track)

    def content(self) -> dict[str, object]:
        """All that shapes the weights but the loop's settings, JSON-able."""
        left = ("loop", "sheet", "gradient_checkpointing", "track")
        return {k: v for k, v in asdict(self).items() if k not in left}


def _is_kind(value: object, kind: str) -> bool:
    """TOML's kinds are Python's; a whole number may stand for a float."""
    if kind.startswith("tuple["):
        inner = kind[6:-1].split(",")[0]
        return isinstance(value, list | tuple) and all(_is_kind(v, inner) for v in value)
    name = type(value).__name__
    return name == kind or (name, kind) == ("int", "float")


def _checked(key: str, value: Any, kind: str) -> Any:
    if not _is_kind(value, kind):
        raise UserError(f"given {key} = {value!r:.80}, expected {kind}")
    return tuple(value) if isinstance(value, list) else value


def _kinds(cls: Any) -> dict[str, str]:
    return {f.name: str(f.type).removesuffix(" | None") for f in fields(cls)}


def _loop(default: LoopSettings, table: object) -> LoopSettings:
    if not isinstance(table, dict):
        raise UserError(f"given loop = {table!r}, expected a table [loop]")
    kinds = _kinds(LoopSettings)
    known = {k: _checked(k, v, kinds[k]) if k in kinds else v for k, v in table.items()}
    loop = LoopSettings.from_table(asdict(default) | known)
    one_of("dtype", loop.dtype, LOOP_DTYPES)
    return loop


def from_table(cls: Any, table: Table, what: str) -> Any:
    """A settings dataclass from a TOML table; an unknown key or another kind is an error.

    cls: a dataclass with a field ``loop`` of LoopSettings; what: the words for one of its settings.
    """
    kinds = _kinds(cls)
    default: Any = next(f.default for f in fields(cls) if f.name == "loop")
    values = {}
    for key, value in table.items():
        if key not in kinds:
            raise unknown(what, key, kinds)
        if key != "loop":
            values[key] = _checked(key, value, kinds[key])
    return cls(**values, loop=_loop(default, table.get("loop", {})))


def over(table: Table, upper: Table) -> JsonObject:
    """One table over another; their ``[loop]`` tables are merged too."""
    loops = [t["loop"] for t in (table, upper) if isinstance(t.get("loop"), dict)]
    loop = {k: v for part in loops for k, v in part.items()}
    return {**table, **upper} | ({"loop": loop} if len(loops) == 2 else {})


def zoo_recipe(method: str) -> JsonObject:
    """The zoo's settings of a method: what differs from its paper's."""
    place = files("sunbench.methods").joinpath("recipes", f"{method}.toml")
    return read_toml(Path(str(place)))


def asked(method: str, config: Path | None, *, zoo: bool) -> JsonObject:
    """A file's settings over the recipe for a model of the zoo, over the paper's for any other."""
    table = zoo_recipe(method) if zoo else {}
    return table if config is None else over(table, read_toml(config))
