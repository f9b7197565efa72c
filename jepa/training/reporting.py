"""What others want to know of a run while it goes on: that it lives, how far it is, what happened to it.

After every step the clock of hanging processes is wound up (`stall.py`), and now and then status.json is written
(`status.py`); what is out of the ordinary becomes an event (`events.py`) and a warning: steps that were not applied,
ranks that the others wait for, blocks that were compiled again.
"""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from jepa.logs import get_logger
from jepa.models.compilation import compilations
from jepa.training.callbacks import MetricsLog
from jepa.training.checkpointing import Checkpointing
from jepa.training.collapse import CollapseWatch
from jepa.training.events import EventsFile
from jepa.training.health import Verdict
from jepa.training.module import Pretraining
from jepa.training.stall import StallDump
from jepa.training.status import StatusFile
from jepa.training.timings import StragglerWatch

log = get_logger(__name__)

_WARM_UP = 10
"""Steps in which every shape has been seen: both mask configurations, videos, images."""


class Reporting(Callback):
    """Tells how the run stands."""

    def __init__(
        self,
        events: EventsFile,
        status: StatusFile,
        stall: StallDump,
        metrics: MetricsLog,
        checkpointing: Checkpointing,
        collapse: CollapseWatch,
        watchers: Sequence[Callback] = (),
    ) -> None:
        """
        Args:
            events: history of the run.
            status: how it stands.
            stall: clock of this process.
            metrics: whose rows are looked at.
            checkpointing: whose checkpoints are told, and which is told of alarms that end the run.
            collapse: judges the rows.
            watchers: callbacks that may have `columns` of their own, as the online probe has.
        """
        self.collapse, self.watchers = collapse, watchers
        self.events, self.status, self.stall = events, status, stall
        self.metrics, self.checkpointing = metrics, checkpointing
        self._stragglers = StragglerWatch()
        self._graphs = 0
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, Pretraining)
        self._first_step = module.step
        self.stall.start(module.step)
        self._tell(module, force=True, state="running")

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, Pretraining)
        waited = self.stall.beat(module.step)
        if not module.team.leads:
            return
        if waited is not None:
            self.events.write("stall", module.step, seconds=round(waited, 1))
        self._tell_verdict(module)
        if self.metrics.row is not None:
            self._tell_stragglers(module.step)
        self._tell_alarms(module)
        if module.config.run.compile:
            self._tell_compilations(module.step)
        self._tell(module)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.stall.stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self.stall.stop()

    def _tell(self, module: Pretraining, *, force: bool = False, **facts: Any) -> None:
        if not module.team.leads:
            return
        row = self.metrics.row
        if row is not None:
            facts |= {"loss": row["loss"], "clips_per_second": row["clips_per_second"]}
        self.status.update(
            force=force,
            step=module.step,
            of=module.config.last_step,
            ranks=module.team.ranks.world_size,
            alarms=list(self.collapse.active),
            checkpoint=self.checkpointing.shown,
            **facts,
        )

    def _tell_verdict(self, module: Pretraining) -> None:
        if module.verdict is Verdict.APPLY:
            if module.health.reason:
                log.warning("step %d: %s", module.step, module.health.reason)
            return
        log.warning("step %d is not applied: %s", module.step, module.health.reason)
        self.events.write("skip", module.step, reason=module.health.reason)

    def _tell_alarms(self, module: Pretraining) -> None:
        found: dict[str, float] = dict(self.metrics.row or {})
        for watcher in self.watchers:
            found |= getattr(watcher, "columns", {})
        if not found:
            return
        for alarm in self.collapse.feed({"step": float(module.step)} | found):
            log.warning("%s", alarm.message)
            self.events.write("alarm", module.step, name=alarm.name, value=alarm.value, message=alarm.message)
            if module.config.health.stop_on_alarm:
                self.checkpointing.alarm = alarm.message

    def _tell_stragglers(self, step: int) -> None:
        for slow in self._stragglers.see(self.metrics.timings):
            log.warning(
                "rank %d is slow: the others wait for its %s, which costs %.0f %% of the time", slow.rank, slow.part,
                100 * slow.share,
            )  # fmt: skip
            self.events.write("straggler", step, rank=slow.rank, part=slow.part, share=round(slow.share, 3))

    def _tell_compilations(self, step: int) -> None:
        graphs, done = compilations(), step - self._first_step
        if done == _WARM_UP:
            log.info("%d graphs compiled in the first %d steps", graphs, done)
        elif done > _WARM_UP and graphs > self._graphs:
            log.warning("step %d: %d graphs were compiled again; something has changed its shape", step, graphs)
            self.events.write("recompile", step, graphs=graphs - self._graphs)
        self._graphs = graphs
