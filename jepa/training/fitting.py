"""The loop of a run: Lightning's trainer with our callbacks around the module, and what ends it."""

import contextlib
from collections.abc import Iterator, Sequence

from lightning.pytorch import Callback, Trainer

from jepa.checkpoints.store import CheckpointStore, Saved
from jepa.errors import InterruptedRun, JepaError, WorkerLost
from jepa.logs import get_logger
from jepa.training.callbacks import MetricsLog, RecordOrder, ShowProgress
from jepa.training.checkpointing import Checkpointing
from jepa.training.collapse import CollapseWatch
from jepa.training.datamodule import Clips
from jepa.training.events import EventsFile
from jepa.training.loggers import make_loggers
from jepa.training.metrics import MetricsFile
from jepa.training.module import Pretraining
from jepa.training.order_file import OrderFile
from jepa.training.pictures import Pictures
from jepa.training.preemption import exit_code
from jepa.training.reporting import Reporting
from jepa.training.run_folder import RunFolder
from jepa.training.session import Session
from jepa.training.stall import StallDump
from jepa.training.state import Memory
from jepa.training.status import State, StatusFile
from jepa.training.strategy import trainer_options
from jepa.training.team import has_lost_another

log = get_logger(__name__)


def fit(
    module: Pretraining,
    clips: Clips,
    folder: RunFolder,
    store: CheckpointStore,
    saved: Saved | None,
    session: Session,
    watchers: Sequence[Callback] = (),
) -> None:
    """Run the loop from the saved step, or the first, to the last step.

    Raises:
        DivergedError: loss or gradient is no longer finite.
        InterruptedRun: a signal or a time limit asked the run to stop; its state is saved.
        JepaError: a checkpoint could not be written; another process is gone.
    """
    config, team, step = module.config, session.team, saved.step if saved else 0
    metrics, order = MetricsFile(folder.metrics), OrderFile(folder.order)
    if team.leads:
        metrics.start(step)
        if config.run.record_order:
            order.start(step)
    events, status = EventsFile(folder.events), StatusFile(folder.status)
    rows = MetricsLog(metrics, clips)
    watch = CollapseWatch(config.health, module.jepa.encoder.config.width)
    memories: dict[str, Memory] = {"metrics": rows, "health": module.health, "collapse": watch}
    saving = Checkpointing(folder, store, session.stop, events, memories, saved)
    stall = StallDump(folder.stacks, team.ranks.rank, config.run.stall_after)
    reporting = Reporting(events, status, stall, rows, saving, watch, watchers)
    name = folder.path.name if folder.whole is None else f"{folder.whole.name}/{folder.path.name}"
    loggers = team.together(lambda: make_loggers(config, folder.path, step, name) if team.leads else [])
    module.team, module.step = team, step
    trainer = Trainer(
        **trainer_options(config, team.ranks, session.device),
        max_steps=-1,
        max_epochs=1,  # the clips end with the last step
        callbacks=[
            rows,
            *([RecordOrder(order)] if config.run.record_order else []),
            ShowProgress(config.last_step),
            Pictures(),
            *watchers,
            reporting,
            saving,
        ],
        logger=loggers or False,
        default_root_dir=folder.path,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_autolog_hparams=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    with _told(events if team.leads else None, status, module, saving), _exit_codes(session, folder):
        trainer.fit(module, datamodule=clips)


@contextlib.contextmanager
def _told(events: EventsFile | None, status: StatusFile, module: Pretraining, saving: Checkpointing) -> Iterator[None]:
    """How the run ends goes into its history."""

    def tell(state: State, reason: str = "") -> None:
        if events is not None:
            facts = {"reason": reason} if reason else {}
            events.write("finish" if state == "finished" else "stop", module.step, **facts)
            status.update(force=True, state=state, step=module.step, checkpoint=saving.shown, **facts)

    if events is not None:
        events.write("start", module.step, ranks=module.team.ranks.world_size)
    try:
        yield
    except InterruptedRun as stopped:
        tell("stopped", str(stopped).split(",")[0])
        raise
    except BaseException as error:
        tell("failed", f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        raise
    tell("finished")


@contextlib.contextmanager
def _exit_codes(session: Session, folder: RunFolder) -> Iterator[None]:
    """Undo what Lightning makes of an interrupt, and say what lost processes mean."""
    try:
        yield
    except SystemExit as error:
        # Lightning turns KeyboardInterrupt into sys.exit(1), which would read as a failure.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except WorkerLost as error:
        # Workers ignore what a scheduler sends to every process of a job, but not before they have started, and not
        # SIGKILL; then the state is that of the last checkpoint.
        if wish := session.stop.wish:
            log.warning("%s: continue with %s", error, folder.resume_command())
            raise SystemExit(exit_code(wish)) from None
        raise
    except RuntimeError as error:
        if session.team.ranks.several and has_lost_another(error):
            raise JepaError(
                f"another process is gone, or did not answer for {session.run.timeout:g} s (run.timeout): its own "
                f"message, or its file in {folder.stacks}, tells more; continue with: {folder.resume_command()}"
            ) from error
        raise
