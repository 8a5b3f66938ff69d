"""Samplers: one interface over every method."""

from sunbench.sampling.batch import (
    ImageId,
    SampleBatch,
    TaskInputs,
    image_generator,
    make_batch,
    noise_hash,
)
from sunbench.sampling.cell import SHARD_SIZE, VERSION, Cell
from sunbench.sampling.edges import edges
from sunbench.sampling.generate import Generated, generate, sample_images
from sunbench.sampling.method import Method, Sampler, SampleSettings
from sunbench.sampling.pipeline import (
    PipelineMethod,
    PipelineSampler,
    decode_latents,
    latent_shape,
    too_many,
)
from sunbench.sampling.solvers import SolverSpec
from sunbench.sampling.task import TASKS, text_pipeline
from sunbench.sampling.texts import TextCache

__all__ = [
    "SHARD_SIZE",
    "TASKS",
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
    "TaskInputs",
    "TextCache",
    "decode_latents",
    "edges",
    "generate",
    "image_generator",
    "latent_shape",
    "make_batch",
    "noise_hash",
    "sample_images",
    "text_pipeline",
    "too_many",
]
