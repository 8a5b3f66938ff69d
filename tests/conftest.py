"""What tests of several packages are given."""

from __future__ import annotations

from types import ModuleType

import pytest
import tiny_sd


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module of the small world of random weights."""
    return tiny_sd
