"""The batch script of a run, from the template `pretrain.sbatch`.

The template is a shell script with @{names}; the parts that depend on the options are written here, each value quoted
where it stands. `#SBATCH` lines are comments to the shell and have quoting rules of their own; the options are
therefore given to sbatch on its command line too, where they also win over variables like SBATCH_PARTITION.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template

from jepa.errors import ConfigError
from jepa.slurm.job import JobConfig
from jepa.slurm.places import folders
from jepa.training.config import PretrainConfig

TEMPLATE = Path(__file__).parent / "pretrain.sbatch"
SECONDS_FOR_OTHERS = 60
"""After the first process has ended, until srun ends the others: a save may still be going on."""


class _Template(Template):
    """`@{name}`: the dollar belongs to the shell."""

    delimiter = "@"


@dataclass(frozen=True)
class Script:
    """The script of one submission."""

    job: JobConfig
    run: PretrainConfig
    """With absolute paths."""
    folder: Path
    """Of this submission, absolute: script, configuration, code and logs."""
    code: Path | None
    """Folder that holds the package as it was submitted; none to use the installed one."""

    @property
    def path(self) -> Path:
        return self.folder / "job.sbatch"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.folder / "config.yaml"

    @property
    def name(self) -> str:
        """Of the job."""
        return self.job.name or "".join(sign if sign.isalnum() else "-" for sign in self.run.out.name) or "jepa"

    def log(self, number: str) -> Path:
        """Where the job with this number writes; %A_%a, %j or of one task."""
        return self.folder / f"slurm-{number}.out"

    def options(self) -> list[str]:
        """Options of sbatch."""
        job = self.job
        # A % of the folder's name must not be taken for a number of the job.
        folder = str(self.folder).replace("%", "%%")
        found = {
            "job-name": self.name,
            "output": f"{folder}/{self.log('%A_%a' if job.array else '%j').name}",
            "open-mode": "append",
            "chdir": str(self.folder),
            "nodes": str(job.nodes),
            "ntasks-per-node": str(job.tasks),
            "cpus-per-task": str(self.cpus),
            "gpus-per-node": str(job.gpus_per_node) if job.gpus_per_node else None,
            "mem": job.memory,
            "time": job.time,
            "partition": job.partition,
            "account": job.account,
            "qos": job.qos,
            "constraint": job.constraint,
            "signal": job.signal,
            "array": job.array,
        }
        requeue = "--requeue" if job.requeue else "--no-requeue"
        given = [f"--{name}={value}" for name, value in found.items() if value is not None]
        return [*given, requeue, *job.sbatch]

    @property
    def cpus(self) -> int:
        """CPU cores of each process."""
        return self.job.cpus_per_task or self.run.loader.workers + 1

    def text(self) -> str:
        """The script."""
        again = '\n  scontrol requeue incomplete "$SLURM_JOB_ID"'  # incomplete: never a job that was cancelled
        return _Template(TEMPLATE.read_text("utf-8")).substitute(
            title=f"{self.name}: {self.job.nodes} x {self.job.tasks} processes",
            path=shlex.quote(str(self.path)),
            out=self.run.out,
            directives="\n".join(f"#SBATCH {_directive(option)}" for option in self.options()),
            environment="\n".join(self._environment()),
            command=" \\\n  ".join(self._command()),
            again=again if self.job.requeue else "",
        )

    def _environment(self) -> list[str]:
        """Shell lines that prepare the environment; they stop the job with 2 if they fail."""
        job, lines = self.job, []
        if job.container.image is not None:
            lines += [
                "# There may be no scontrol in the container; before Slurm 23.02 nothing else tells when the job ends.",
                'end=$(scontrol show job "$SLURM_JOB_ID" --oneliner | sed -n "s/.* EndTime=\\([0-9T:-]*\\).*/\\1/p")',
                'if [ -n "$end" ]; then export SLURM_JOB_END_TIME=$(date -d "$end" +%s); fi',
            ]
        if job.modules:
            lines += [
                "type module > /dev/null 2>&1 || source /etc/profile",
                f"module load {shlex.join(job.modules)} || exit 2",
            ]
        if job.setup is not None:
            lines.append(f"source {shlex.quote(str(job.setup.absolute()))} || exit 2")
        lines += [f"export {name}={shlex.quote(value)}" for name, value in job.variables.items()]
        if self.code and job.container.image is None:
            lines.append(f'export PYTHONPATH={shlex.quote(str(self.code))}"${{PYTHONPATH:+:$PYTHONPATH}}"')
        return lines

    def _command(self) -> list[str]:
        """Lines of the command."""
        srun = f"srun --kill-on-bad-exit=0 --wait={SECONDS_FOR_OTHERS} --cpus-per-task={self.cpus}"
        python = self.job.python or ("python3" if self.job.container.image else sys.executable)
        words = ["env", f"PYTHONPATH={self.code}"] if self.code and self.job.container.image else []
        # -P: nothing is imported from the working folder.
        words += [python, "-P", "-m", "jepa", "pretrain", "--config", str(self.config), "--resume"]
        lines = [srun, *self._container(), shlex.join(words)]
        if self.job.array is not None:
            lines.append(
                f'--seed "$SLURM_ARRAY_TASK_ID" --out {shlex.quote(str(self.run.out))}/seed-"$SLURM_ARRAY_TASK_ID"'
            )
        return lines

    def _container(self) -> list[str]:
        """Words that put the processes into a container."""
        container = self.job.container
        if container.image is None:
            return []
        mounts = [mount if ":" in mount else f"{mount}:{mount}" for mount in (*container.mounts, *self._seen())]
        if container.runtime == "pyxis":
            return [shlex.join([f"--container-image={container.image}", f"--container-mounts={','.join(mounts)}"])]
        gpus = ["--nv"] if self.job.gpus_per_node else []
        return [shlex.join(["apptainer", "exec", *gpus, "--bind", ",".join(mounts), container.image])]

    def _seen(self) -> list[str]:
        """Folders that the run needs and that are of this machine."""
        found = [str(place) for place in folders(self.run)]
        for place in found:
            if {",", ":"} & set(place):
                raise ConfigError(f"{place} cannot be mounted in a container: its name has a comma or a colon")
        return found


def _directive(option: str) -> str:
    """An option as a #SBATCH line has it."""
    name, equals, value = option.partition("=")
    if not any(sign in value for sign in " \"'\\#"):
        return option
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}{equals}"{quoted}"'
