"""``python -m sunbench``, which launchers of several processes need."""

from sunbench.cli import main

main()
