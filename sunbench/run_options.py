"""Choices and defaults of a run that the command line, the Python API and the request share."""

from __future__ import annotations

#: Images per row unless another number is asked for.
IMAGES = 300
TASKS = ("text2image", "image2image", "inpaint", "controlnet")
#: Negative prompts: none, the model card's, or sampled phrases.
NEGATIVES = ("none", "default", "sampled")
DTYPES = ("float32", "float16", "bfloat16")
#: Levels of the timing pass.
TIMINGS = ("none", "short", "full")
