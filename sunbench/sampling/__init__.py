"""Samplers: one interface over every method."""

from sunbench.sampling.batch import ImageId, SampleBatch, image_generator, make_batch, noise_hash
from sunbench.sampling.cell import SHARD_SIZE, VERSION, Cell
from sunbench.sampling.generate import Generated, TextCache, generate
from sunbench.sampling.method import Method, Sampler, SampleSettings
from sunbench.sampling.pipeline import PipelineMethod, PipelineSampler, decode, latent_shape
from sunbench.sampling.solvers import SolverSpec

__all__ = [
    "SHARD_SIZE",
    "VERSION",
    "Cell",
    "Generated",
    "ImageId",
    "Method",
    "PipelineMethod",
    "PipelineSampler",
    "SampleBatch",
    "SampleSettings",
    "Sampler",
    "SolverSpec",
    "TextCache",
    "decode",
    "generate",
    "image_generator",
    "latent_shape",
    "make_batch",
    "noise_hash",
]
