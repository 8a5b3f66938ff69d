"""A tiny pipeline that tests may not change: what they patch, they copy."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _tiny_sd() -> ModuleType:
    path = Path(__file__).parents[1] / "sampling" / "tiny_sd.py"
    if "tests_tiny_sd" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tests_tiny_sd", path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["tests_tiny_sd"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["tests_tiny_sd"]


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    return _tiny_sd()


@pytest.fixture(scope="session")
def pipeline(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.pipeline(tmp_path_factory.mktemp("pipeline"))
