"""What counts as out of reach, and what does not."""

import pytest

from sunbench.metrics.networks.availability import NotAvailable, fetching


def hidden() -> None:
    try:
        raise ConnectionError("no route")
    except OSError as error:
        raise RuntimeError("Failed to download weights") from error


def test_a_failed_fetch_becomes_one_line():
    line = r"weights not available offline: X \(OSError\)"
    with pytest.raises(NotAvailable, match=line), fetching("X"):
        raise OSError("gone")


def test_a_fetch_hidden_behind_another_error_is_found():
    with pytest.raises(NotAvailable, match=r"X \(ConnectionError\)"), fetching("X"):
        hidden()


def test_every_other_error_passes():
    with pytest.raises(RuntimeError, match="wrong shape"), fetching("X"):
        raise RuntimeError("wrong shape")
