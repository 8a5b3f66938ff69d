"""SUN's pictures for the sheet that its training shows of itself."""

from __future__ import annotations

import copy

from torch import Tensor

from sunbench.methods.common.sheet import STEPS, Sheet
from sunbench.methods.sun.adapter import SunAdapter
from sunbench.methods.sun.pipelines import load_sun, unload_sun
from sunbench.sampling import PipelineSampler, SampleSettings, decode


def sun_pictures(sheet: Sheet, adapter: SunAdapter) -> Tensor:
    """The adapter's pictures at 4 steps: (n, 3, H, W) uint8."""
    own = copy.copy(sheet.pipeline)
    load_sun(own, adapter)
    own.set_progress_bar_config(disable=True)
    try:
        # any scale above 1 makes the sampler pass the negative texts; SUN itself has none
        return decode(own, PipelineSampler(own, SampleSettings(STEPS, 2.0)).sample(sheet.batch()))
    finally:
        unload_sun(own)
