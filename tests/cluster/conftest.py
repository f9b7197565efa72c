"""A real Slurm on this machine: one controller, two nodes, a private munge; all of it in one temporary folder.

Debian's slurmd can be started several times on one machine (`slurmd -N NODE`), each with a port of its own. The nodes
claim more processors than there are (`config_overrides`), so that jobs never wait for one another. Each process of
pytest that meets a test of this folder starts a cluster of its own, on free ports, which takes about two seconds.

Needs root (slurmd starts the processes of others) and the packages slurm-wlm and munge; else these tests are skipped.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue", "sinfo", "setpriv")
GOING = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")
SECONDS = 900
"""What a job may take; a busy machine is no failure."""

CONFIG = """\
ClusterName=jepa
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire: a job that was put back into the queue waits for so many seconds; two minutes, if nothing is said
AuthInfo=socket={folder}/munge.socket,cred_expire=8
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
JobRequeue=1
KillWait=20
MinJobAge=3600
FirstJobId={first_job}
SlurmdTimeout=120
NodeName=node1 NodeAddr=127.0.0.1 NodeHostname=localhost Port={ports[1]} CPUs=16 RealMemory=4000
NodeName=node2 NodeAddr=127.0.0.1 NodeHostname=localhost Port={ports[2]} CPUs=16 RealMemory=4000
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=60 State=UP
"""


class Cluster:
    """The cluster of this process, and what tests ask of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | own
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons and wait until both nodes are idle."""
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        # Runs choose their port by the number of the job, so the jobs of a cluster beside this one have other numbers.
        config = CONFIG.format(folder=self.folder, ports=_free_ports(3), first_job=100 * (os.getpid() % 10000) + 1)
        (self.folder / "slurm.conf").write_text(config)
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "seed", "log")]
        self._daemon("munged", "--foreground", "--num-threads=2", f"--socket={self.folder}/munge.socket", *files)
        self.until(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "-D")
        self.until(lambda: "UP" in self.run("scontrol", "ping", check=False), "slurmctld")
        for node in ("node1", "node2"):
            self._daemon("slurmd", "-D", "-N", node)
        self.until(lambda: self.run("sinfo", "--noheader", "--format=%D %t") == "2 idle", "two idle nodes")

    def stop(self) -> None:
        """End all jobs, then the daemons: those that start processes before those that they talk to."""
        with contextlib.suppress(AssertionError, subprocess.SubprocessError):
            self.run("scancel", "--signal=KILL", "--full", "--user=root")
            self.run("scancel", "--user=root")
            self.until(lambda: not self.run("squeue", "--noheader"), "jobs to end", 60)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _daemon(self, name: str, *arguments: str) -> None:
        # The system ends it if this process is killed and cannot.
        command = ["setpriv", "--pdeathsig", "KILL", name, *arguments]
        output = (self.folder / "output").open("ab")
        with output:
            self._daemons.append(subprocess.Popen(command, stdout=output, stderr=output, env=self.environ, cwd="/"))

    def run(self, *command: str, check: bool = True) -> str:
        """What a command prints."""
        done = subprocess.run(command, capture_output=True, text=True, env=self.environ, timeout=SECONDS, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def jepa(self, *words: object) -> "subprocess.CompletedProcess[str]":
        """The command line of this checkout, in a process of its own."""
        command = [sys.executable, "-m", "jepa", *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, env=self.environ, cwd=ROOT, timeout=SECONDS, check=False
        )

    def show(self, job: str) -> dict[str, str]:
        """What Slurm says about a job: JobState, Restarts, ExitCode, ..."""
        return dict(re.findall(r"(?:^|\s)([A-Za-z:/]+)=(\S*)", self.run("scontrol", "show", "job", job)))

    def ended(self, job: str) -> dict[str, str]:
        """The same, after waiting for the job's end."""
        self.until(lambda: self.show(job)["JobState"] not in GOING, f"the end of job {job}")
        return self.show(job)

    def meanwhile(self, done: Callable[[], object], job: str, log: Path) -> None:
        """Wait for something that a job does before it ends."""

        def ended() -> bool:
            return self.show(job)["JobState"] not in GOING

        self.until(lambda: done() or ended(), f"job {job}")
        text = log.read_text() if log.exists() else "no log"
        assert done(), f"job {job} has ended before: {text}"

    def until(self, done: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
        """Wait for something."""
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, f"waited {seconds} s for {what}; {self.logs()}"
            time.sleep(0.1)

    def logs(self) -> str:
        """The last lines of all daemons, for a failure."""
        files = sorted([*self.folder.glob("*.log"), self.folder / "output"])
        return "\n".join(f"== {path.name}\n{_tail(path)}" for path in files if path.exists())


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-20:])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def lacking() -> str:
    """Why there can be no cluster here; empty if there can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"a Slurm cluster needs the packages slurm-wlm and munge (no {', '.join(missing)})"
    return (
        ""
        if os.geteuid() == 0
        else "a Slurm cluster can be started by root only (packages slurm-wlm and munge are there)"
    )


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if why := lacking():
        pytest.skip(why)
    # Not in pytest's folder: the path of a socket may have 107 signs.
    folder = Path(tempfile.mkdtemp(prefix="jepa-slurm-"))
    folder.chmod(0o755)
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)
