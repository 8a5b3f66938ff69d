"""Junk for documents, files and flags, and the rule that no command may break: one clear line.

SUNBENCH_FUZZ=20 tries twenty times as many examples; without it a short, fixed part runs.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

#: What stands where something else was expected.
JUNK: tuple[Any, ...] = (
    None,
    True,
    "",
    "x",
    "[/b]",
    "\ud800",
    "=1+1",
    "../../x",
    "<script>",
    "n" * 400,
    -1,
    0,
    1,
    3,
    2**53 + 1,
    2**63,
    10**400,
    0.5,
    -1.5,
    1e308,
    float("nan"),
    float("inf"),
    [],
    [0],
    [[]],
    {},
    {"a": 1},
)
FLAG_JUNK = (
    *("", " ", "-", "x", "0", "-1", "1_0", "1e400", "nan", "inf", "\u0664", "2**3", "[/b]", ","),
    *("99999999999999999999", "1,1", "0.5", "/dev/null", "/proc/x", "no/such", "n" * 300, "a\x01b"),
)


def few(examples: int) -> Any:
    """Settings of a fuzz: fixed examples, so many of them."""
    return settings(
        max_examples=examples * int(os.environ.get("SUNBENCH_FUZZ", "1")),
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # shrinking would take minutes
        suppress_health_check=list(HealthCheck),
    )


Path_ = tuple[Any, ...]


def places(document: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Where every value of a JSON document stands."""
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document[:3])
    for name, value in items:
        yield (*at, name)
        yield from places(value, (*at, name))


@st.composite
def edits(draw: st.DrawFn, document: Any) -> Any:
    """A copy of a document with one to three values replaced, removed, doubled or renamed."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        everywhere = list(places(changed))
        if not everywhere:
            return changed
        *way, last = draw(st.sampled_from(everywhere))
        holder = changed
        for name in way:
            holder = holder[name]
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "double", "swap"])):
            case "replace":
                holder[last] = draw(st.sampled_from(JUNK))
            case "remove":
                del holder[last]
            case "double" if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            case "double":
                holder[f"{last}2"] = holder[last]
            case "swap":
                other = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else [last]))
                holder[last], holder[other] = holder[other], holder[last]
    return changed


def said(args: list[str]) -> tuple[int, str, str]:
    """Exit code, output and messages of a command, run as from a shell."""
    from sunbench.cli import main

    output, messages = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sunbench", *args])
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(messages),
            pytest.raises(SystemExit) as caught,
        ):
            main()
    return int(caught.value.code or 0), output.getvalue(), messages.getvalue()


def check(args: list[str]) -> int:
    """The exit code of a command; the catch-all at the top, a traceback or silence are bugs."""
    code, output, messages = said(args)
    assert "unexpected, so please report it" not in messages, f"{args}: {messages}"
    assert "Traceback" not in messages + output, (args, messages)
    assert code in (0, 1, 2), (args, code)
    assert code != 2 or "sunbench:" in messages or output, (args, "exit code 2 without a word")
    return code


def expect_user_errors(work: Callable[[], object]) -> None:
    """Some work that either ends or says in one line what is wrong."""
    from sunbench.errors import UserError

    message = "no error"
    try:
        work()
    except UserError as error:
        message = str(error)
    assert message, "an error without a word"
    assert "\n" not in message, message
