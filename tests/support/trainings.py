"""Settings of every distilled method's training, by the method."""

from __future__ import annotations

from sunbench.methods.training.settings import (
    BoostLoraTraining,
    BoostTraining,
    GuidedTraining,
    LcmLoraTraining,
    LcmTraining,
)
from sunbench.training.settings import TrainingSettings

CLASSES: dict[str, type[TrainingSettings]] = {
    "lcm": LcmTraining,
    "lcm-lora": LcmLoraTraining,
    "guided-distill": GuidedTraining,
    "boostdiff-lora": BoostLoraTraining,
    "boostdiff-bitfit": BoostTraining,
}
METHODS = tuple(CLASSES)
