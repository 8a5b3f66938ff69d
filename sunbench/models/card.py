"""Model cards: everything that names a model, in one small TOML file."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sunbench.errors import UserError, unknown

from .rules import Rule, is_number, one_of, optional

SOURCES = ("zoo", "hub", "folder", "file")
ARCHITECTURES = ("sd1", "sd2", "zoo", "auto")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
OWN_VAE = "own"


@dataclass(frozen=True)
class ModelCard:
    """One model of the Stable Diffusion family and the settings it is measured with.

    id: zoo name, `owner/name` or `owner/name:file.safetensors`, a folder, or a file.
    vae: a hub id, a folder or a file; "own" keeps the checkpoint's; None follows the policy.
    unet_into: the model whose text encoder, tokenizer and VAE stay while only this U-Net is used.
    loras: (place, scale) pairs, merged into the weights in this order.
    tokenizer: a tokenizer folder, for single files.
    prediction_type: overrides the scheduler file's; None keeps it.
    """

    name: str
    source: str
    id: str
    revision: str | None = None
    variant: str | None = None
    vae: str | None = None
    unet_into: str | None = None
    loras: tuple[tuple[str, float], ...] = ()
    tokenizer: str | None = None
    prediction_type: str | None = None
    guidance_scale: float = 8.0
    resolution: int = 512
    prompts: str = "general"
    extractor: str = "inception"
    scorer: str = "open-clip/ViT-g-14/laion2b_s34b_b88k"
    default_negative: str = ""
    architecture: str = "auto"
    license: str = "unknown"
    notes: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(self, field.name)

    @property
    def pinned(self) -> bool:
        """Whether the name stands for the same weights another day, as far as the hub is asked."""
        revision = self.revision or self.id.partition("@")[2].partition(":")[0]
        return self.source != "hub" or bool(re.fullmatch("[0-9a-f]{40}", revision))

    @property
    def content(self) -> dict[str, object]:
        """The fields as plain JSON values, for content keys."""
        return asdict(self) | {"loras": [list(lora) for lora in self.loras]}


#: Of a card's file; whole cards have a few hundred bytes.
MOST_BYTES = 1_000_000


def _is_string(value: object) -> bool:
    """Text that has bytes: lone surrogates have none."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and _is_string(value) and bool(value.strip())


def _is_lora(value: object) -> bool:
    return (
        isinstance(value, tuple) and len(value) == 2 and _is_text(value[0]) and is_number(value[1])
    )


TEXT = Rule(_is_text, "a non-empty string")
ANY_TEXT = Rule(_is_string, "a string")
WORD = Rule(
    lambda value: isinstance(value, str) and bool(re.fullmatch(r"[\w./-]+", value, re.ASCII)),
    "letters, digits and . / _ -",
)
RULES: dict[str, Rule] = {
    "name": TEXT,
    "source": one_of(SOURCES),
    "id": TEXT,
    "revision": optional(WORD),
    "variant": optional(WORD),
    "vae": optional(TEXT),
    "unet_into": optional(TEXT),
    "loras": Rule(
        lambda value: isinstance(value, tuple) and all(_is_lora(lora) for lora in value),
        "a list of [place, scale] pairs",
    ),
    "tokenizer": optional(TEXT),
    "prediction_type": optional(one_of(PREDICTIONS)),
    "guidance_scale": Rule(lambda value: is_number(value) and value >= 0, "a number >= 0"),
    "resolution": Rule(
        lambda value: (
            is_number(value) and isinstance(value, int) and 8 <= value <= 4096 and value % 8 == 0
        ),
        "a multiple of 8 from 8 to 4096",
    ),
    "prompts": TEXT,
    "extractor": TEXT,
    "scorer": TEXT,
    "default_negative": ANY_TEXT,
    "architecture": one_of(ARCHITECTURES),
    "license": ANY_TEXT,
    "notes": ANY_TEXT,
}


def _check(card: ModelCard, field: str) -> None:
    rule, value = RULES[field], getattr(card, field)
    if not rule.test(value):
        raise UserError(
            f"model card {card.name!r:.80}: given {field} = {value!r:.80}, expected {rule.expected}"
        )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def from_mapping(values: Mapping[str, Any], where: str) -> ModelCard:
    """Build a card from a parsed TOML table; `where` names it in errors."""
    for field in values:
        if field not in RULES:
            raise UserError(f"{where}: {unknown('model card field', field, RULES)}")
    missing = [field for field in ("name", "source", "id") if field not in values]
    if missing:
        raise UserError(f"{where}: model card has no {' and no '.join(missing)}")
    return ModelCard(**{field: _tuples(value) for field, value in values.items()})


def read_card(path: Path) -> ModelCard:
    """Read one card from a TOML file; UserError, one line, for anything else."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"given model card {str(path)!r}, expected a TOML file")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: not a TOML model card (over {MOST_BYTES:,} bytes)")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"given model card {str(path)!r}, cannot be read: {error.strerror}"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: not a TOML model card (nested too deeply)") from None
    except UserError:
        raise
    except ValueError as error:  # bad TOML, bytes that are no UTF-8, numbers of 5,000 digits
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise UserError(f"{path}: not a TOML model card ({reason})") from None
    return from_mapping(values, str(path))


def toml_value(value: object) -> str:
    """A text, number, flag or list as TOML."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")


def to_toml(card: ModelCard) -> str:
    """Write a card as TOML; `read_card` gives the same card back."""
    rows = {field: value for field, value in card.content.items() if value is not None}
    return "".join(f"{field} = {toml_value(value)}\n" for field, value in rows.items())
