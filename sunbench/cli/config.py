"""Settings of a command in a TOML file: every flag has a key of its name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from sunbench.errors import UserError, unknown
from sunbench.models.card import toml_value
from sunbench.store.files import JsonObject, read_file

#: Options that are no settings.
NO_KEY = ("config", "dry_run", "help", "show_plan")


def key_of(param: Any) -> str:
    """The key of a parameter: its long flag without dashes."""
    return next(flag for flag in param.opts if flag.startswith("--")).removeprefix("--")


def read_config(file: Path) -> JsonObject:
    """The table of a TOML file; UserError in one line for anything that is none."""
    try:
        return tomllib.loads(read_file(file).decode("utf-8"))
    except UserError as error:
        raise UserError(f"given --config {file}, expected a TOML file: {error}") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, numbers of 5,000 digits
        raise UserError(f"{file}: expected TOML: {error!s:.200}") from None


def as_option(value: Any, repeatable: bool) -> Any:
    """A TOML value as the command line would hold it: lists joined by commas, tables as k=v."""
    if isinstance(value, Mapping):
        return [f"{k}={v}" for k, v in value.items()]
    if repeatable:
        return [str(v) for v in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        return ",".join(str(v) for v in value)
    return value if isinstance(value, bool) else str(value)


def load_config(context: typer.Context, file: Path | None) -> Path | None:
    """Callback of ``--config``: the file's values become the defaults of the other options."""
    if file is None:
        return None
    params = {key_of(p): p for p in context.command.params if p.name not in NO_KEY}
    defaults: dict[str, Any] = {}
    for key, value in read_config(file).items():
        param = params.get(key.replace("_", "-"))
        if param is None:
            raise unknown(f"key of {file}", key, params)
        defaults[str(param.name)] = as_option(value, param.multiple)
    context.default_map = {**(context.default_map or {}), **defaults}
    return file


def config_text(context: typer.Context) -> str:
    """The settings of the running command as a TOML file that asks for the same."""
    lines = []
    for param in context.command.params:
        value = context.params.get(str(param.name))
        if param.name in NO_KEY or value in (None, "", [], ()):
            continue
        lines.append(f"{key_of(param)} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):  # of METHOD=PATH
        pairs = (str(v).partition("=") for v in value)
        return (
            "{ "
            + ", ".join(f"{toml_value(name)} = {toml_value(path)}" for name, _, path in pairs)
            + " }"
        )
    return toml_value(value if isinstance(value, bool | int | float) else str(value))
