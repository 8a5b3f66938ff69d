"""A tiny pipeline that tests may not change: what they patch, they copy."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def pipeline(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.pipeline(tmp_path_factory.mktemp("pipeline"))
