"""SUN, SpeedUpNet (Chai et al. 2023, arXiv 2312.08887): negative prompts without a second pass.

An adapter beside each cross-attention of a frozen U-Net learns what classifier-free guidance adds,
so that one evaluation per step does for two, on every fine-tune of the same base.
"""

from sunbench.methods.sun.adapter import Binding, SunAdapter, bound
from sunbench.methods.sun.attention import NORMS, NegativeText, SunLayer
from sunbench.methods.sun.files import LAYOUTS, read_adapter, write_adapter
from sunbench.methods.sun.pipelines import OFFICIAL, load_sun, unload_sun

__all__ = [
    "LAYOUTS",
    "NORMS",
    "OFFICIAL",
    "Binding",
    "NegativeText",
    "SunAdapter",
    "SunLayer",
    "bound",
    "load_sun",
    "read_adapter",
    "unload_sun",
    "write_adapter",
]
