"""sunbench: how much time does an accelerator gain, and how far do the pictures move?"""

__version__ = "0.1.0"
