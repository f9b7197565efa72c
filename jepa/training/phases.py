"""Phases: pretraining and cool-down (longer clips, larger crops, a falling learning rate) as one run.

    RUN/1-pretrain/      a run folder like any other, whose config.yaml says all that it is
    RUN/2-cooldown/      starts from RUN/1-pretrain/checkpoints/last.ckpt
    RUN/config.yaml      of the whole; `jepa pretrain --config RUN/config.yaml --resume` continues, in whichever phase
    RUN/model.safetensors, config.json      the result of the last phase; at the end

A phase starts only when the one before has ended, and takes over all of its training state: both encoders and the
predictor, each from its own weights, and the moments of the optimizer (`start.py`). Steps, schedules and the order of
the clips begin anew. So which phase to continue is seen from the folders alone: the last one that has a checkpoint or
a model or, if that one has ended, the next. Nothing else is kept, and a kill between any two instructions costs
nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from jepa import config as configuration
from jepa.checkpoints.io import put_beside
from jepa.config_values import show
from jepa.data.plan import make_plan
from jepa.devices import choose_device
from jepa.errors import ConfigError, DataError, InterruptedRun
from jepa.logs import get_logger
from jepa.training.config import PretrainConfig
from jepa.training.data import open_data
from jepa.training.preemption import exit_code
from jepa.training.run_folder import RunFolder, record_start, require_same_run
from jepa.training.session import Session
from jepa.training.start import build_model, difference

log = get_logger(__name__)

Train = Callable[[PretrainConfig], object]
"""Trains one phase, in its own folder, to its end."""


class Phases:
    """The phases of a run, and how far they are."""

    def __init__(self, config: PretrainConfig, session: Session) -> None:
        self.config = config
        self.session = session
        self.folder = RunFolder(config.out.absolute())
        """Of the whole run."""
        self.runs = tuple(config.phase_run(number) for number in range(len(config.phases)))
        self.folders = tuple(RunFolder(run.out.absolute(), self.folder.path) for run in self.runs)

    def run(self, train: Train) -> None:
        """Train what is still to be trained, and put the result of the last phase into the folder of the run.

        Raises:
            ConfigError: the folder holds another run, or phases differ in their parameters, or one does not fit its
                data; all before anything is written.
            DataError: data that cannot be used, of any phase; or the checkpoint that the next one starts from is gone.
            InterruptedRun: a signal asked the run to stop; what is done is saved.
        """
        team, stop = self.session.team, self.session.stop
        first = team.alone(self._require_startable)
        if first == len(self.runs) and team.alone(self._is_published):
            names = ", ".join(phase.name for phase in self.config.phases)
            log.info("%s is finished: %d steps in the phases %s", self.config.out, self.steps_done(), names)
            return
        team.together(lambda: self._require_usable(first))
        self.session.claim(self.folder.path)
        team.alone(lambda: record_start(self.folder, self.config, self.steps_done(), team.ranks.world_size))
        for number in range(first, len(self.runs)):
            self._announce(number)
            train(replace(self.runs[number], resume=team.alone(self.folders[number].holds_run)))
            wish = next(filter(None, team.gather(stop.wish)), None)
            if wish and number + 1 < len(self.runs):
                # It came in the last step, after which there was nothing of this phase to stop.
                raise InterruptedRun(
                    f"stopped by {wish} after the phase {self._name(number)}; continue with: "
                    f"{self.folder.resume_command(team.ranks)}",
                    exit_code(wish),
                )
        team.together(lambda: self._publish() if team.leads else None)

    def _publish(self) -> None:
        put_beside(self.folders[-1].model, self.folder.model)
        put_beside(self.folders[-1].model_facts, self.folder.model_facts)  # last: it tells that both are there

    def steps_done(self) -> int:
        """Optimizer steps done and saved, over all phases."""
        return sum(max(folder.model_step() or 0, folder.saved_step()) for folder in self.folders)

    def _require_startable(self) -> int:
        """The phase to start or continue, as many as there are if all have ended. Raises as `run`."""
        file, out = self.folder.config, self.config.out
        before = configuration.load(PretrainConfig, file) if file.exists() else None
        phased = before is not None and bool(before.phases)
        if self.folder.holds_run() and not phased:
            raise ConfigError(f"{out} holds a run without phases, this configuration has some: choose another --out")
        own = any(folder.holds_run() for folder in (self.folder, *self.folders))
        if not own and not (phased and self.folder.phases()):
            return 0
        if not self.config.resume:
            raise ConfigError(f"{out} already holds a run: pass --resume to continue it, or another --out")
        if before is not None:
            self._require_same(before)
        first = max((number for number, folder in enumerate(self.folders) if _has_begun(folder)), default=0)
        self._require_unmoved(first)
        return first + 1 if self._is_finished(first) else first

    def _require_same(self, before: PretrainConfig) -> None:
        """Raise ConfigError if the run in the folder was configured otherwise."""
        file = self.folder.config
        names, now = ([phase.name for phase in config.phases] for config in (before, self.config))
        if names != now:
            raise ConfigError(
                f"cannot resume with other phases than {file}: were {', '.join(names)}, now {', '.join(now)}; "
                "use another --out"
            )
        before = replace(before, out=self.config.out)  # it may have been moved
        for number, run in enumerate(self.runs):
            require_same_run(before.phase_run(number), run, f"{file}, phase {now[number]}")

    def _require_unmoved(self, first: int) -> None:
        """Raise if a phase before this one would now be longer, or the start of the next one is gone."""
        for number, (run, folder) in enumerate(zip(self.runs[:first], self.folders, strict=False)):
            done = folder.model_step()
            if done is not None and done < run.last_step:
                raise ConfigError(
                    f"cannot go on in {self.config.out}: the phase {self._name(number)} ended after {done} steps and "
                    "the next started from it, so a longer one would change what that began with; keep --max-steps, or "
                    "choose another --out"
                )
        if first + 1 < len(self.runs) and self.folders[first].model.exists() and not self.folders[first].has_start():
            raise DataError(
                f"the phase {self._name(first)} has ended, but {self.folders[first].checkpoint}, from which the next "
                "starts, is gone: restore it, or choose another --out"
            )

    def _is_finished(self, number: int) -> bool:
        return self.folders[number].is_finished(self.runs[number])

    def _is_published(self) -> bool:
        mine, last = self.folder, self.folders[-1]
        return (
            mine.model.exists()
            and mine.model_facts.exists()
            and mine.model_facts.read_bytes() == last.model_facts.read_bytes()
        )

    def _require_usable(self, first: int) -> None:
        """Raise now what a later phase would raise only after days: it has other parameters, or no data to fit."""
        with torch.device("meta"):
            models = [build_model(run) for run in self.runs]
        for number, model in enumerate(models):
            if other := difference(model, models[0]):
                raise ConfigError(
                    f"phase {self._name(number)} has another model than {self._name(0)} and cannot start from its "
                    f"weights: {other}; undo what changes it"
                )
        for number in range(first, len(self.runs)):
            with self._named(number):
                _require_clips(self.runs[number])

    @contextmanager
    def _named(self, number: int) -> Iterator[None]:
        """Errors inside the block name the phase."""
        try:
            yield
        except (ConfigError, DataError) as error:
            raise type(error)(f"phase {self._name(number)}: {error}") from error

    def _announce(self, number: int) -> None:
        changes = self.config.phases[number].changes
        shown = ", ".join(f"{key} {show(value)}" for key, value in changes.items())
        log.info("phase %d of %d, %s: %s", number + 1, len(self.runs), self._name(number), shown or "as the run")

    def _name(self, number: int) -> str:
        return self.config.phases[number].name


def _has_begun(folder: RunFolder) -> bool:
    """Whether a phase has saved something, or has ended; its checkpoints may be gone by then."""
    return bool(folder.saved_step() or folder.model_step())


def _require_clips(config: PretrainConfig) -> None:
    """Raise if the device or the data is not there, or if its first clips cannot be cut from it; decodes nothing."""
    choose_device(config.run.device, "run.device")
    videos, images = open_data(config)
    mixed = None if images is None else (images, config.steps)
    make_plan(videos, config.clip.window, config.loader, config.seed, rank=0, world_size=1, images=mixed)(0)
