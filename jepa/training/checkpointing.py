"""When the state of a run is saved, and what follows from it: going on, stopping, or going back.

All of it happens between two steps, and all processes do the same, because they decide by what they have agreed on in
the step before. A save that fails on one process is known to the others after the next step, and ends the run: what is
on the disk then is the checkpoint before, and no more than one interval is lost. Going on without saving could lose
everything since.
"""

import contextlib
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from jepa.checkpoints.background import BackgroundSaver
from jepa.checkpoints.store import CheckpointStore, Saved
from jepa.errors import DivergedError, InterruptedRun, JepaError
from jepa.logs import get_logger
from jepa.training.agreement import ALARM, FAILED_SAVE
from jepa.training.events import EventsFile
from jepa.training.health import Verdict
from jepa.training.module import Pretraining
from jepa.training.preemption import ENDS, StopRequest, exit_code
from jepa.training.run_folder import RunFolder
from jepa.training.state import Memory, capture, facts, is_sharded, restore
from jepa.training.team import OthersTell

log = get_logger(__name__)


class Checkpointing(Callback):
    """Saves at step boundaries, ends the run there if that was asked for, and brings an earlier state back."""

    def __init__(
        self,
        folder: RunFolder,
        store: CheckpointStore,
        stop: StopRequest,
        events: EventsFile,
        memories: Mapping[str, Memory],
        resume: Saved | None = None,
    ) -> None:
        """
        Args:
            folder: of the run.
            store: its checkpoints.
            stop: what asks this process to stop.
            events: history of the run.
            memories: companions whose state is part of a checkpoint.
            resume: where to go on, none for a run that starts.
        """
        self.folder, self.store, self.stop, self.events, self.memories = folder, store, stop, events, memories
        self.resume = resume
        self.last: Saved | None = resume
        """The newest checkpoint."""
        self.alarm = ""
        """An alarm of collapse for which the run is to stop, if there is one."""
        self._saver: BackgroundSaver | None = None

    @property
    def shown(self) -> dict[str, int] | None:
        """The newest checkpoint, for status.json."""
        return None if self.last is None else {"step": self.last.step, "bytes": self.last.bytes}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, Pretraining)
        if self.resume is not None:
            saved = self.resume
            # Together: a file may be unreadable from one machine only, and the others must not wait for it.
            module.team.together(lambda: restore(module, self.store, saved, self.memories))
        if module.config.run.save_in_background:
            self._saver = BackgroundSaver(self.store)
        module.wish = self._wish
        # Not earlier: while data is being prepared there is nothing to save, and Ctrl-C ends the process at once.
        self.stop.listen(ENDS)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.stop.release(ENDS)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self.stop.release(ENDS)
        with contextlib.suppress(JepaError, RuntimeError):  # the run ends by the error that it has
            self._finish()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        assert module.agreed is not None
        config, step, wish = module.config, module.step, module.agreed.wish
        if wish == FAILED_SAVE:
            module.team.together(self._finish)
        if module.verdict is Verdict.ROLL_BACK:
            self._roll_back(module)
        self._tell_written(module)
        done = step >= config.last_step
        if done or wish or step % config.run.checkpoint_every == 0:
            self._save(module, wait=bool(done or wish))
        if wish and not done:
            raise self._interrupted(module, wish)

    def _wish(self) -> str | None:
        if self._saver is not None and self._saver.failed:
            return FAILED_SAVE
        return ALARM if self.alarm else self.stop.wish

    def _save(self, module: Pretraining, *, wait: bool) -> None:
        """Save this step; all processes together, also where one of them writes for all."""
        begun = time.perf_counter()
        saved = module.team.together(lambda: self._write(module, wait))
        if self._saver is not None:
            self._tell_written(module)
        elif module.team.leads and saved is not None:
            self._tell(saved, stall=time.perf_counter() - begun)

    def _tell_written(self, module: Pretraining) -> None:
        """Tell what has been written in the background since the last time."""
        if module.team.leads and self._saver is not None:
            for written in self._saver.poll():
                self._tell(written.saved, stall=written.stall, seconds=round(written.seconds, 3))

    def _tell(self, saved: Saved, stall: float, **facts: float) -> None:
        self.last = saved
        self.events.write("checkpoint", saved.step, stall=round(stall, 3), bytes=saved.bytes, **facts)

    def _write(self, module: Pretraining, wait: bool) -> Saved | None:
        sharded = is_sharded(module)
        if not (sharded or module.team.leads):
            return None
        state = capture(module, self.memories)
        if self._saver is None:
            save = self.store.save_sharded if sharded else self.store.save
            return save(module.step, state, facts(module))
        self._saver.submit(module.step, state, facts(module), sharded=sharded)
        return self._saver.wait() if wait else None

    def _finish(self) -> None:
        """Wait for what is being written. Raises as `CheckpointStore.save`."""
        if self._saver is not None:
            self._saver.wait()

    def _roll_back(self, module: Pretraining) -> None:
        """Weights, moments and target encoder of the newest checkpoint; step and data go on."""
        team, step = module.team, module.step
        team.together(self._finish)
        saved = team.alone(self.store.newest)
        if saved is None:
            if team.leads:
                log.warning("step %d: nothing to go back to yet, skipped as well", step)
            return
        team.together(lambda: restore(module, self.store, saved))
        if team.leads:
            log.warning("step %d: back to the weights of step %d, the data goes on", step, saved.step)
            self.events.write("rollback", step, to=saved.step)

    def _interrupted(self, module: Pretraining, wish: str) -> BaseException:
        text = f"after step {module.step} of {module.config.last_step}, state saved"
        if wish == ALARM:
            if not module.team.leads:
                return OthersTell(DivergedError.exit_code)
            return DivergedError(f"stopped by an alarm {text}: {self.alarm}; see docs/troubleshooting.md")
        return InterruptedRun(
            f"stopped by {wish} {text}; continue with: {self.folder.resume_command(module.team.ranks)}", exit_code(wish)
        )
