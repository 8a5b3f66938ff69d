"""Prompt sets: named, from files, from the hub; with stable ids and sampled negative prompts."""

from sunbench.prompts.load import NEGATIVES, load, names, pinned
from sunbench.prompts.negatives import phrases
from sunbench.prompts.rows import Prompt, PromptSet

__all__ = ["NEGATIVES", "Prompt", "PromptSet", "load", "names", "phrases", "pinned"]
