"""Runs: from a request to a folder of results."""

from sunbench.bench.request import Request

__all__ = ["Request"]
