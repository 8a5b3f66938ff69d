"""One leaf a method; reached through ``sunbench.registry`` only."""
