"""One recomputed line of the audit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One recomputed line: what the paper prints, what comes out, whether they agree.

    known: whether they were found to agree when the audit was written.
    """

    finding: str
    what: str
    paper: str
    computed: str
    agrees: bool
    known: bool

    @property
    def surprise(self) -> bool:
        """Whether the recomputation says something else than the audit."""
        return self.agrees != self.known
