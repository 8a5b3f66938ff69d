"""Settings of every distilled method's training, by the method."""

from __future__ import annotations

from sunbench.methods.agd.train import AgdTraining
from sunbench.methods.boostdiff.settings import BoostLoraTraining, BoostTraining
from sunbench.methods.dmd2.train import DmdTraining
from sunbench.methods.gits.fit import GitsFit
from sunbench.methods.guided_distill.settings import GuidedTraining
from sunbench.methods.lcm.settings import LcmLoraTraining, LcmTraining
from sunbench.methods.ld3.train import Ld3Training
from sunbench.methods.linear_ag.fit import LinearFit
from sunbench.methods.pcm.train import PcmTraining
from sunbench.methods.tcd.train import TcdTraining
from sunbench.training import LoopSettings
from sunbench.training.settings import TrainingSettings

CLASSES: dict[str, type[TrainingSettings]] = {
    "lcm": LcmTraining,
    "lcm-lora": LcmLoraTraining,
    "guided-distill": GuidedTraining,
    "boostdiff-lora": BoostLoraTraining,
    "boostdiff-bitfit": BoostTraining,
    "tcd-lora": TcdTraining,
    "pcm-lora": PcmTraining,
    "dmd2-lora": DmdTraining,
    "agd": AgdTraining,
}
METHODS = tuple(CLASSES)
#: Four updates with a checkpoint in their middle.
LOOP = LoopSettings(
    steps=4,
    batch=4,
    learning_rate=3e-3,
    warmup=0,
    decay=0.0,
    dtype="float32",
    checkpoint_every=2,
    log_every=1,
    ema=0.5,
)
#: What is fitted, by its settings.
FITTED: dict[str, type[TrainingSettings]] = {
    "gits": GitsFit,
    "ld3": Ld3Training,
    "linear-ag": LinearFit,
}
