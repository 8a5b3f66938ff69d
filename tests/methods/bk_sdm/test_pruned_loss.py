"""The distillation's terms against values by hand, and which stages are compared."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sunbench.errors import UserError
from sunbench.methods.bk_sdm.loss import PrunedLoss, outputs, stage_pairs
from sunbench.methods.bk_sdm.settings import TERMS, PrunedTraining
from sunbench.methods.bk_sdm.student import Layout, PrunedStudent
from sunbench.methods.common.losses import Drawn
from sunbench.training.diffusion import Schedule


class Stage(nn.Module):
    """Adds a number; gives a tuple, as a stage on the way down does."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x + self.value, "skips"


class Net(nn.Module):
    """Two stages and a mid block, each of which adds a number."""

    def __init__(self, down: float, mid: float, up: float) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList([Stage(down)])
        self.mid_block: Any = Stage(mid)
        self.up_blocks = nn.ModuleList([Stage(up)])

    def forward(
        self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool
    ) -> Any:
        for stage in (self.down_blocks[0], self.mid_block, self.up_blocks[0]):
            x = stage(x)[0]
        return (x,)


def loss(**weights: float) -> PrunedLoss:
    """Teacher + 1 + 2 + 3, student + 2 + 4 + 6; x_0 of 1, noise of 2, at t of alpha 0.6, sigma 0.8."""
    ones = torch.ones(2, 4, 3, 3)
    drawn = Drawn(ones, 2 * ones, torch.zeros(2, 5, 7), torch.ones(2), torch.Generator())
    schedule = Schedule(torch.tensor([0.6]), torch.tensor([0.8]))
    return PrunedLoss(
        SimpleNamespace(draw=lambda k: drawn),  # type: ignore[arg-type]
        schedule,
        Net(1, 2, 3),
        Net(2, 4, 6),
        (("down_blocks.0",) * 2, ("up_blocks.0",) * 2),
        dict.fromkeys(TERMS, 0.0) | weights,
        torch.zeros(1, 5, 7),
    )


def test_every_term_by_hand():
    """x = 0.6 + 1.6 = 2.2: the teacher says 8.2, the student 14.2; stages are 1 and 6 apart."""
    terms = loss(task=1, output=1, feature=1, mid=1)(0)
    expected = {"task": 12.2**2, "output": 36, "feature": 1 + 36, "mid": 9}
    assert {k: float(v.detach()) for k, v in terms.items() if k != "loss"} == pytest.approx(
        expected
    )
    assert float(terms["loss"].detach()) == pytest.approx(sum(expected.values()))


def test_weights_are_each_terms_own():
    terms = loss(task=0.5, feature=2, mid=0.25)(0)
    assert float(terms["loss"].detach()) == pytest.approx(0.5 * 12.2**2 + 2 * 37 + 0.25 * 9)
    assert "mid" not in loss(task=1)(0)
    assert "feature" not in loss(task=1)(0)


def test_gradients_reach_the_student_alone():
    one = loss(feature=1, output=1)
    one(0)["loss"].backward()
    assert float(one.student.down_blocks[0].value.grad) == pytest.approx(2 * 1 + 2 * 6 + 2 * 6)
    assert one.teacher.down_blocks[0].value.grad is None


def test_the_semantic_term_has_both_predictions():
    seen = []

    def semantic(x: Tensor, index: Tensor, aim: Tensor, out: Tensor) -> Tensor:
        seen.append((float(x[0, 0, 0, 0]), float(aim.mean()), float(out.detach().mean())))
        return out.mean()

    terms = replace(loss(semantic=3.0), semantic=semantic)(0)
    assert seen[0] == pytest.approx((2.2, 8.2, 14.2))
    assert float(terms["loss"].detach()) == pytest.approx(3 * 14.2, rel=1e-5)


def test_a_share_of_the_captions_is_empty():
    one = replace(loss(task=1), empty_share=0.5, empty=torch.full((1, 5, 7), 9.0))
    d = one.feed.draw(0)._replace(
        texts=torch.zeros(400, 5, 7), generator=torch.Generator().manual_seed(0)
    )
    empty = one.captions(d).flatten(1).mean(1)
    assert set(empty.tolist()) == {0.0, 9.0}
    assert 150 < int((empty == 9).sum()) < 250


def test_a_cut_without_a_mid_block_has_no_mid_term():
    one = loss(task=1)
    one.student.mid_block = None
    with pytest.raises(UserError, match="this cut has no mid block"):
        replace(one, weights={**one.weights, "mid": 1.0})


# ------------------------------------------------------------------------------ pairs


def test_the_published_pairs():
    same = [f"{way}_blocks.{i}" for way in ("down", "up") for i in range(4)]
    for cut in ("base", "small", "m1", "m2", "m3"):
        assert stage_pairs(cut, 4) == [(name, name) for name in same]
    assert stage_pairs("tiny", 4) == [
        ("down_blocks.0", "down_blocks.0"),
        ("down_blocks.1", "down_blocks.1"),
        ("down_blocks.2.attentions.1.proj_out", "down_blocks.2.attentions.0.proj_out"),
        ("up_blocks.1", "up_blocks.0"),
        ("up_blocks.2", "up_blocks.1"),
        ("up_blocks.3", "up_blocks.2"),
    ]


@pytest.mark.parametrize("cut", ["base", "small", "tiny", "m1", "m2", "m3"])
def test_compared_outputs_have_one_shape(cut: str, deep: Any):
    student, pairs = PrunedStudent(deep.unet, Layout(cut)).unet, stage_pairs(cut, 4)
    x, t, c = torch.randn(1, 4, 8, 8), torch.tensor([3]), torch.randn(1, 5, 32)
    with (
        torch.no_grad(),
        outputs(deep.unet, [a for a, _ in pairs]) as theirs,
        outputs(student, [b for _, b in pairs]) as ours,
    ):
        deep.unet(x, t, c)
        student(x, t, c)
    assert all(theirs[a].shape == ours[b].shape for a, b in pairs)
    assert not any(m._forward_hooks for m in deep.unet.modules())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": 0.0, "output": 0.0, "feature": 0.0}, "given no loss"),
        ({"feature": -1.0}, "given feature = -1"),
        ({"semantic_network": "vgg"}, "vgg16"),
        ({"expert_init": "siblings"}, "sibling"),
        ({"empty_captions": 2.0}, "empty_captions = 2"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        PrunedTraining(**change)
