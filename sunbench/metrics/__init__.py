"""Named metrics, each a number with its interval; networks load from `extractors`.

This module imports no torch.
"""

from sunbench.metrics.availability import NotAvailable
from sunbench.metrics.clip_score import clip_score, cosine
from sunbench.metrics.estimate import Estimate, closer_share, mean_estimate
from sunbench.metrics.extractors import clip_extractor, extractor, perceptual
from sunbench.metrics.frechet import Moments, ReferenceFactor, fd, fd_estimate, frechet
from sunbench.metrics.inception_score import inception_score, inception_score_estimate
from sunbench.metrics.kid import kid, kid_estimate, kid_subsets
from sunbench.metrics.registry import METRICS, NETS, Metric, MetricChoice, find

__all__ = [
    "METRICS",
    "NETS",
    "Estimate",
    "Metric",
    "MetricChoice",
    "Moments",
    "NotAvailable",
    "ReferenceFactor",
    "clip_extractor",
    "clip_score",
    "closer_share",
    "cosine",
    "extractor",
    "fd",
    "fd_estimate",
    "find",
    "frechet",
    "inception_score",
    "inception_score_estimate",
    "kid",
    "kid_estimate",
    "kid_subsets",
    "mean_estimate",
    "perceptual",
]
