"""Weight files whose header or bytes were changed at random: a sampler, or a reason in one line."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from fuzzing import edits, expect_user_errors, few
from hypothesis import given
from hypothesis import strategies as st

from sunbench import registry
from sunbench.sampling import SampleSettings
from sunbench.store.tensors import load_weights

SETTINGS = SampleSettings(4, 4.0)
FILE = "diffusion_pytorch_model.safetensors"
METHODS = ("sun", "lcm", "lcm-lora", "guided-distill", "boostdiff-lora", "boostdiff-bitfit")


def copied(source: Path, folder: Path) -> tuple[Path, Path]:
    """A copy of a method's weights, and the file in it that is read at 4 steps."""
    target = folder / f"w{source.suffix}"
    if source.is_file():
        shutil.copy(source, target)
        return target, target
    shutil.copytree(source, target)
    return target, next(f for f in (target / "4" / FILE, target / FILE) if f.exists())


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode("ascii")
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize("method", METHODS)
def test_headers(weights: dict[str, str], pipeline: Any, tmp_path: Path, method: str):
    place, file = copied(Path(weights[method]), tmp_path)
    header, body = split(file.read_bytes())
    some = dict(list(header.items())[:6])  # edits meet the few, not thousands of names
    rest = {k: v for k, v in header.items() if k not in some}

    @few(6)
    @given(edits(some), st.binary(max_size=2))
    def fuzz(odd: dict[str, Any], more: bytes) -> None:
        file.write_bytes(joined(odd | rest, body + more))

        def work() -> None:
            ours = registry.method(method, weights={method: str(place)})
            if ours.skip(pipeline, SETTINGS) is None:
                ours.prepare(pipeline, SETTINGS)
                ours.release(pipeline)

        expect_user_errors(work)

    fuzz()


def test_bytes(weights: dict[str, str], tmp_path: Path):
    file = tmp_path / "w.safetensors"
    whole = Path(weights["boostdiff-bitfit"]).read_bytes()

    @few(150)
    @given(st.integers(0, 400), st.binary(max_size=12), st.booleans())
    def fuzz(at: int, junk: bytes, cut: bool) -> None:
        file.write_bytes(whole[:at] + junk + (b"" if cut else whole[at + len(junk) :]))
        expect_user_errors(lambda: load_weights(file))

    fuzz()
