"""Pictures in TensorBoard: what they show, when they are drawn, and that they change nothing."""

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

from jepa.data.steps import Steps
from jepa.tokens import Mask, TokenGrid
from jepa.training.config import PretrainConfig
from jepa.training.metrics import MetricsFile
from jepa.training.pictures import Pictures, draw_features, draw_masks, is_due
from jepa.training.trainer import pretrain
from jepa.types import ClipBatch
from jepa.viz.masks import TARGET_RGB

Configure = Callable[..., PretrainConfig]
RUN = {"device": "cpu", "threads": 1, "log_every": 2, "checkpoint_every": 3}


def pictures_of(out: Path) -> dict[str, dict[int, np.ndarray]]:
    """By name and step, as they lie in the event files."""
    events = EventAccumulator(str(out / "tensorboard"), size_guidance={IMAGES: 0}).Reload()
    return {
        name: {one.step: np.asarray(Image.open(io.BytesIO(one.encoded_image_string))) for one in events.Images(name)}
        for name in events.Tags()["images"]
    }


def train(config: PretrainConfig) -> Path:
    pretrain(config)
    return config.out


def test_pictures_change_nothing_that_is_learned(micro: Configure, tmp_path: Path) -> None:
    plain = train(micro(out=f"{tmp_path}/plain", run=RUN | {"pictures_every": 0}))
    drawn = train(micro(out=f"{tmp_path}/drawn", run=RUN | {"pictures_every": 3}))
    assert pictures_of(plain) == {}
    assert {name: list(steps) for name, steps in pictures_of(drawn).items()} == {
        "masks/videos": [1, 3, 6, 8], "features/videos": [1, 3, 6, 8],
    }  # fmt: skip
    before, after = (load_file(out / "model.safetensors") for out in (plain, drawn))
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    losses = [[row["loss"] for row in MetricsFile(out / "metrics.csv").read()] for out in (plain, drawn)]
    assert losses[0] == losses[1]


def test_what_a_step_has_computed_is_what_is_shown(micro: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features are those of the target encoder on the batch's first clips, before the step."""
    from jepa.training import pictures
    from jepa.training.module import Pretraining

    seen: list[tuple[np.ndarray, np.ndarray]] = []
    expected: list[np.ndarray] = []
    forward, draw = Pretraining.training_step, pictures.draw_features

    def first(self: Pretraining, batch: ClipBatch, number: int) -> None:
        clips = (batch.clips.float() - self._mean) / self._std
        hooks = dict(self.jepa.target_encoder.norm._forward_hooks)
        self.jepa.target_encoder.norm._forward_hooks.clear()
        with torch.no_grad():
            expected.append(self.jepa.target_encoder(clips).numpy())
        self.jepa.target_encoder.norm._forward_hooks.update(hooks)
        forward(self, batch, number)

    def keep(batch: ClipBatch, tokens: np.ndarray) -> np.ndarray:
        seen.append((batch.clips.numpy(), tokens))
        return draw(batch, tokens)

    monkeypatch.setattr(Pretraining, "training_step", first)
    monkeypatch.setattr(pictures, "draw_features", keep)
    train(micro(max_steps=2, run=RUN | {"pictures_every": 1, "device_batch": 2}))
    assert len(seen) == len(expected) == 2
    for (_, tokens), whole in zip(seen, expected, strict=True):
        assert tokens.shape == (2, 32, 96), "of the clips that are computed at once"
        assert np.allclose(tokens, whole[:2], atol=1e-5)


def test_without_tensorboard_there_are_none(micro: Configure) -> None:
    out = train(micro(max_steps=2, run=RUN | {"loggers": []}))
    assert not (out / "tensorboard").exists()


@pytest.mark.parametrize("target", ["ema", "pixels"])
def test_an_objective_without_a_target_encoder_has_masks_alone(micro: Configure, target: str) -> None:
    run = RUN | {"pictures_every": 3, "log_every": 100}
    drawn = pictures_of(train(micro(objective={"target": target}, max_steps=4, run=run)))
    assert list(drawn["masks/videos"]) == [1, 3, 4]
    assert list(drawn.get("features/videos", {})) == ([1, 3, 4] if target == "ema" else [1, 4])  # it is diagnosed


def test_with_images_both_kinds_are_shown(micro: Configure, tiny_shards: Path) -> None:
    images = {"data": str(tiny_shards / "test"), "share": 0.5, "batch_size": 3, "size": 24}
    drawn = pictures_of(train(micro(images=images, run=RUN | {"pictures_every": 4})))
    kinds = {name: set(steps) for name, steps in drawn.items()}
    assert kinds.keys() == {f"{what}/{kind}" for what in ("masks", "features") for kind in ("images", "videos")}
    assert kinds["masks/images"] | kinds["masks/videos"] == {1, 2, 4, 5, 8}
    assert kinds["masks/images"] == kinds["features/images"]


@pytest.mark.parametrize("share", [Fraction(0), Fraction(1, 2), Fraction(1, 5), Fraction(5, 7)])
@pytest.mark.parametrize("every", [1, 4, 10])
def test_when_they_are_due_by_a_naive_count(share: Fraction, every: int) -> None:
    """After step 1, each multiple and the last step; each kind in its first step from there on."""
    steps, last, waiting = Steps(4, 3, share), 47, set[bool]()
    for step in range(1, last + 1):
        if step == 1 or step % every == 0:
            waiting = {True, False}
        kind = steps.at(step - 1)[0]
        expected = kind in waiting or step == last
        waiting -= {kind}
        assert is_due(step, steps, every, last) == expected, step
    assert not any(is_due(step, steps, 0, last) for step in range(1, last + 1))


def batch_of(clips: torch.Tensor, grid: TokenGrid, context: list[int], target: list[int]) -> ClipBatch:
    count = len(clips)
    mask = Mask(torch.tensor([context] * count), torch.tensor([target] * count))
    return ClipBatch(clips, (mask,), grid, torch.arange(count))


def test_masks_lie_where_the_tokens_are() -> None:
    """Grey frames of 32 pixels, 2 steps of 2x2 tokens; of the second step the upper right is predicted."""
    clips = torch.full((1, 3, 4, 32, 32), 100, dtype=torch.uint8)
    picture = draw_masks(batch_of(clips, TokenGrid(2, 2, 2), [0, 1, 2, 3, 4, 6, 7], [5]))
    gap = 2
    side = (picture.shape[0] - gap) // 2
    assert side == 96
    assert picture.shape == (2 * side + gap, 2 * side + gap, 4), "frames above, the mask below; a frame of each step"
    assert (picture[:side, :side, :3] == 100).all()
    below = picture[side + gap :, :, :3].astype(int)
    assert (below[:, :side] == 100).all(), "nothing is predicted in the first step"
    second = below[:, side + gap :]
    blue = np.abs(second - (100 * 0.18 + TARGET_RGB * 0.82)).max(-1) < 2
    assert blue[6 : side // 2 - 6, side // 2 + 6 :].all()
    assert not blue[side // 2 :].any()
    assert not blue[:, : side // 2].any()


def test_equal_features_have_equal_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (4, 3, 4, 32, 32), generator=generator, dtype=torch.uint8)
    batch = batch_of(clips, TokenGrid(2, 2, 2), [0], [1])
    tokens = np.zeros((4, 8, 16), np.float32)
    tokens[:, ::2] = torch.randn(16, generator=generator).numpy()  # every other column of tokens is the same vector
    picture = draw_features(batch, tokens)
    side, gap = 96, 2
    assert picture.shape == (6 * side + 5 * gap, 2 * side + gap, 4), "of three clips, frames and colours"
    frame = picture[:side, :side]
    assert np.array_equal(frame[::3, ::3, :3], clips[0, :, 1].permute(1, 2, 0).numpy()), "enlarged by three"
    colours = picture[side + gap : 2 * side + gap, :side, :3]
    left, right = colours[:, : side // 2].reshape(-1, 3), colours[:, side // 2 :].reshape(-1, 3)
    assert len(np.unique(left, axis=0)) == len(np.unique(right, axis=0)) == 1
    assert not np.array_equal(left[0], right[0])


def test_features_that_are_not_finite_are_not_shown(micro: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pictures, "_keep", lambda self, module, given, output: setattr(self, "_features", output / 0))
    drawn = pictures_of(train(micro(max_steps=1)))
    assert drawn.keys() == {"masks/videos"}
