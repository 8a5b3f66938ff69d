"""How pruned students are trained: BK-SDM's values by default, the zoo's in recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sunbench.errors import UserError
from sunbench.methods.bk_sdm.student import ATTENTIONS, EXPERT_INITS, Layout
from sunbench.methods.common.deltas import LEVELS, check_levels
from sunbench.methods.common.settings import ADAM, FORMS, Guidance
from sunbench.training import LoopSettings
from sunbench.training.settings import TrainingSettings, one_of, within

#: Weights of the loss's terms.
TERMS = ("task", "output", "feature", "mid", "semantic")
#: A frozen network that compares images, and what of a latent it is shown.
SEMANTIC_NETWORKS = ("vgg16", "zoo-reader")
VIEWS = ("projected", "decoded")


#: The paper's, of 256 images per update.
LOOP = LoopSettings(
    steps=50_000,
    batch=64,
    accumulate=4,
    learning_rate=5e-5,
    warmup=0,
    decay=0.0,
    betas=ADAM,
    ema=0.9999,
)


@dataclass(frozen=True)
class PrunedTraining(TrainingSettings):
    """BK-SDM: 50,000 updates of batch 256 at 5e-5, three losses of weight 1.

    task, output, feature: weights of the noise's error, of the error against the teacher, and of
    the stages' errors (arXiv 2305.15798, Eq. 1 to 3). mid, semantic: A-SDM's semantic-aware
    supervision (arXiv 2312.15516, section 2.5), whose weights the paper leaves out.
    semantic_network: torchvision's VGG16, or the zoo's reader; semantic_file: its weights, by
    default torchvision's or those that come with the zoo; semantic_view: what it sees.
    experts, expert_init, attention: see ``student.Layout``.
    empty_captions: the share of captions that are left out; the paper's is 0.
    """

    task: float = 1.0
    output: float = 1.0
    feature: float = 1.0
    mid: float = 0.0
    semantic: float = 0.0
    semantic_network: str = "vgg16"
    semantic_file: str = ""
    semantic_view: str = "projected"
    experts: int = 0
    expert_init: str = "sibling"
    attention: str = "plain"
    empty_captions: float = 0.0
    form: str = "whole"
    levels: int = LEVELS
    loop: LoopSettings = LOOP

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in TERMS:
            within(name, getattr(self, name), 0, 1e6)
        if not any(getattr(self, name) for name in TERMS):
            raise UserError(f"given no loss, expected a weight above 0 of {', '.join(TERMS)}")
        one_of("semantic_network", self.semantic_network, SEMANTIC_NETWORKS)
        one_of("semantic_view", self.semantic_view, VIEWS)
        one_of("expert_init", self.expert_init, EXPERT_INITS)
        one_of("attention", self.attention, ATTENTIONS)
        one_of("form", self.form, FORMS)
        within("experts", self.experts, 0, 64)
        within("empty_captions", self.empty_captions, 0, 1)
        check_levels(self.levels)

    def guidance(self, card_scale: float) -> Guidance | None:
        """None: the student is guided as its teacher is."""
        return None

    def layout(self, cut: str) -> Layout:
        """The student of a cut."""
        seed = self.loop.seed
        return Layout(cut, self.experts, self.expert_init, self.attention, seed)

    def content(self) -> dict[str, Any]:
        """All that shapes the weights; a file by its name alone."""
        own = super().content()
        return {**own, "semantic_file": str(own["semantic_file"]).rpartition("/")[2]}
