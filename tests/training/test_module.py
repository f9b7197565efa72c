"""One optimizer step: what changes, what does not, and in which order."""

import math
from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from jepa.data.source import open_source
from jepa.errors import DivergedError
from jepa.models.jepa import JEPA
from jepa.optim.schedules import learning_rate, weight_decay
from jepa.training.config import PretrainConfig
from jepa.training.datamodule import Clips
from jepa.training.module import Pretraining
from jepa.training.trainer import build_module, quiet_lightning
from jepa.types import ClipBatch, StepOutput

Configure = Callable[..., PretrainConfig]


def steps(module: Pretraining, count: int) -> None:
    """`count` optimizer steps, with nothing of ours around Lightning."""
    source = open_source(module.config.data, "train")
    with quiet_lightning():
        trainer = Trainer(
            accelerator="cpu",
            max_steps=count,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, datamodule=Clips(source, module.config, first_step=0))


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def build(config: PretrainConfig) -> Pretraining:
    return build_module(config, open_source(config.data, "train"))


def test_one_step_is_adamw_and_then_the_moving_average(micro: Configure) -> None:
    config = micro(optim={"clip": None, "steps": 8, "start_learning_rate": 1e-3})
    module = build(config)
    before, target_before = weights(module.jepa.encoder), weights(module.jepa.target_encoder)
    steps(module, 1)
    after, target_after = weights(module.jepa.encoder), weights(module.jepa.target_encoder)
    # Closed form: in its first step Adam moves every weight by the learning rate against the sign of the gradient.
    rate, decay = learning_rate(config.optim, 0), weight_decay(config.optim, 0)
    gradients = [parameter.grad for parameter in module.jepa.encoder.parameters()]
    for old, new, gradient in zip(before, after, gradients, strict=True):
        assert gradient is not None
        shrink = decay if gradient.numel() > max(gradient.shape) else 0.0
        expected = old * (1 - rate * shrink) - rate * gradient / (gradient.abs() + config.optim.eps)
        torch.testing.assert_close(new, expected, rtol=1e-4, atol=2e-6)
    for old, new, source in zip(target_before, target_after, after, strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * source)


def test_the_moving_average_follows_its_schedule(micro: Configure) -> None:
    rates = {"learning_rate": 1e-2, "start_learning_rate": 1e-2}
    module = build(micro(optim={"steps": 8, "momentum": 0.9, "final_momentum": 0.5, **rates}))
    optimizer, students = module.configure_optimizers(), []
    optimizer.register_step_post_hook(lambda *_: students.append(weights(module.jepa.encoder)))
    module.configure_optimizers = lambda: optimizer  # type: ignore[method-assign]
    expected = weights(module.jepa.target_encoder)
    steps(module, 3)
    # From 0.9 to 0.5 in 8 steps, 0.05 less at each.
    for momentum, student in zip((0.9, 0.85, 0.8), students, strict=True):
        expected = [momentum * old + (1 - momentum) * new for old, new in zip(expected, student, strict=True)]
    for target, closed in zip(weights(module.jepa.target_encoder), expected, strict=True):
        torch.testing.assert_close(target, closed)


def test_rates_follow_the_schedules(micro: Configure) -> None:
    module = build(micro())
    seen: list[tuple[float, set[float]]] = []
    optimizer = module.configure_optimizers()
    optimizer.register_step_pre_hook(
        lambda this, *_: seen.append(
            (this.param_groups[0]["lr"], {group["weight_decay"] for group in this.param_groups if not group["decays"]})
        )
    )
    module.configure_optimizers = lambda: optimizer  # type: ignore[method-assign]
    steps(module, 5)
    assert [rate for rate, _ in seen] == [learning_rate(module.config.optim, step) for step in range(5)]
    assert all(free == {0.0} for _, free in seen)


def test_the_gradient_is_clipped(micro: Configure) -> None:
    module = build(micro(optim={"clip": 1e-3}))
    steps(module, 1)
    gradients = [parameter.grad for parameter in module.jepa.parameters() if parameter.grad is not None]
    assert float(torch.nn.utils.get_total_norm(gradients)) == pytest.approx(1e-3, rel=1e-3)
    assert module.grad_norm > 1e-2


class Broken:
    """Fine for two steps, then a loss that is not finite, or one whose gradient is not."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.calls = 0

    def __call__(self, jepa: JEPA, batch: ClipBatch, *, diagnose: bool = False) -> StepOutput:
        self.calls += 1
        loss = jepa.encode_context(batch.clips, batch.masks[0].context).square().mean()
        if self.calls > 2:
            # The derivative of sqrt at 0 is infinite although its value is not.
            loss = loss * math.nan if self.what == "loss" else loss + (loss - loss).sqrt()
        return StepOutput.of(loss=loss)


@pytest.mark.parametrize(("what", "message"), [("loss", "loss is nan"), ("gradient", "gradient norm is nan")])
def test_a_step_that_is_not_finite_changes_nothing(micro: Configure, what: str, message: str) -> None:
    module = build(micro())
    module.objective = Broken(what)
    healthy = build(micro())
    healthy.objective = Broken(what)
    steps(healthy, 2)
    # The first such step and the second are passed over, in the hope that it is their clips; the third ends the run.
    with pytest.raises(DivergedError, match=rf"{message} at step 5 \(clips \w+.*in 3 steps in a row") as caught:
        steps(module, 6)
    assert caught.value.exit_code == 4
    for old, new in zip(weights(healthy.jepa), weights(module.jepa), strict=True):
        assert torch.equal(old, new)


def test_dropout_is_a_function_of_seed_and_step(micro: Configure) -> None:
    config = micro(model={"size": "nano", "patch": 8, "predictor_depth": 1, "drop_path": 0.5})
    runs = []
    for disturbance in (1, 2):
        module = build(config)
        torch.manual_seed(disturbance)  # what happened before the run must not matter
        steps(module, 2)
        runs.append(weights(module.jepa))
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_the_seed_decides_the_initial_weights(micro: Configure) -> None:
    torch.manual_seed(1)
    first = weights(build(micro(seed=3)).jepa)
    torch.manual_seed(2)
    assert all(map(torch.equal, first, weights(build(micro(seed=3)).jepa)))
    assert not all(map(torch.equal, first, weights(build(micro(seed=4)).jepa)))


def test_targets_are_made_without_dropout(micro: Configure) -> None:
    jepa = build(micro()).jepa
    assert jepa.encoder.training
    assert not any(part.training for part in jepa.target_encoder.modules())


def test_building_a_model_leaves_the_global_generator_alone(micro: Configure) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build(micro())
    assert torch.equal(before, torch.get_rng_state())
