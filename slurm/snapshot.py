"""What is kept of a submission: the code and the configuration as they were when it was made.

    RUN/submit/20261122-174129/job.sbatch      the script
                               config.yaml     the resolved configuration of the run
                               code/jepa/      the package, of a checkout; with code/COMMIT
                               slurm-1234.out  what the job prints, over all its starts

A job starts hours after it was submitted, and again after every preemption. It must not run what the checkout has
become meanwhile, and least of all a half-edited file. An installed package does not change under a job; of it, the
version in environment.json is enough.
"""

import contextlib
import shutil
import time
from pathlib import Path

import jepa
from jepa import config as configuration
from jepa.errors import ConfigError
from jepa.slurm.script import Script
from jepa.training.config import PretrainConfig
from jepa.training.environment import COMMIT, git_commit

PACKAGE = Path(jepa.__file__).resolve().parent
SUBMISSIONS = "submit"
"""Folder of a run folder that holds its submissions."""


def is_installed(package: Path = PACKAGE) -> bool:
    """Whether a package was installed by pip, and not run from a checkout or a snapshot."""
    return not {"site-packages", "dist-packages"}.isdisjoint(package.parts)


def new_folder(out: Path, *, make: bool = True) -> Path:
    """A folder for a submission of the run in `out` that was not there.

    Args:
        out: run folder.
        make: make it, so that it is nobody else's; else only name it.

    Raises:
        ConfigError: it cannot be made.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for name in (stamp, *(f"{stamp}-{number}" for number in range(2, 1000))):
        folder = out.absolute() / SUBMISSIONS / name
        try:
            if make:
                folder.parent.mkdir(parents=True, exist_ok=True)
                folder.mkdir()
            elif folder.exists():
                continue
        except FileExistsError:
            if folder.parent.is_dir():
                continue  # of another submission in the same second
            raise ConfigError(f"cannot write {folder}: part of the path is a file") from None
        except OSError as error:
            raise ConfigError(f"cannot write {error.filename or folder}: {error.strerror or error}") from error
        return folder
    raise ConfigError(f"{out / SUBMISSIONS} holds hundreds of submissions of this second: wait for the next one")


def keep(script: Script, package: Path = PACKAGE) -> None:
    """Write what the job needs into its folder, which `new_folder` has made; it is removed if that fails.

    Raises:
        ConfigError: the folder cannot be written, or the script not be made.
    """
    try:
        if script.code is not None:
            _copy(package, script.code)
        title = f"# jepa pretrain --config {script.config} --resume\n"
        script.config.write_text(title + configuration.to_yaml(_said_anew(script.run)), "utf-8")
        script.path.write_text(script.text(), "utf-8")
    except ConfigError:
        discard(script)
        raise
    except OSError as error:
        discard(script)
        raise ConfigError(f"cannot write {error.filename or script.folder}: {error.strerror or error}") from error


def discard(script: Script) -> None:
    """Remove the folder of a submission, which this process has made, and folders that are empty then."""
    shutil.rmtree(script.folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # it is not empty
        script.folder.parent.rmdir()
        script.folder.parent.parent.rmdir()


def _said_anew(run: PretrainConfig) -> PretrainConfig:
    """`resume` and `json` are said by each start."""
    return configuration.changed(run, {"resume": False, "json": False})


def _copy(package: Path, code: Path) -> None:
    """The package, with the folders that are links in a checkout (data, eval, ...) as folders."""
    shutil.copytree(package, code / package.name, ignore=shutil.ignore_patterns("__pycache__", "*.py[co]"))
    if commit := git_commit(package):
        (code / COMMIT).write_text(f"{commit}\n")
