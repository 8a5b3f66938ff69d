"""The public Python API; reached as ``sunbench.run``, ``sunbench.load`` and ``sunbench.score``."""
