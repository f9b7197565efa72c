"""Who is who, from the environments that torchrun and srun make, and from those that nobody should have."""

import pytest

from jepa.errors import ConfigError
from jepa.training.launch import Ranks, find_ranks, first_host

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "gpu07",
    "MASTER_PORT": "29400",
}
SRUN = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "7",
    "SLURM_PROCID": "6",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]",
}


def without(environ: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key != name}


def test_a_single_process() -> None:
    assert find_ranks({}) == Ranks()
    assert not find_ranks({}).several
    assert find_ranks({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"}) == Ranks(), "sbatch with one task"
    assert find_ranks({"MASTER_ADDR": "x", "MASTER_PORT": "1", "LOCAL_RANK": "0"}) == Ranks(), "left by something else"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "x"}, "lacks RANK, WORLD_SIZE"),
        ({"TORCHELASTIC_RUN_ID": "a", "LOCAL_RANK": "0"}, "lacks RANK, WORLD_SIZE"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, r"one of 4 processes \(OMPI_COMM_WORLD_SIZE\).*start by srun or torchrun"),
        ({"PMI_SIZE": "2"}, "one of 2 processes"),
        ({"SLURM_PROCID": "1"}, "lacks SLURM_STEP_NUM_TASKS"),
        ({"SLURM_JOB_ID": "3", "SLURM_NNODES": "2"}, r"job 3 has 2 machines \(SLURM_NNODES\), .* not started by srun"),
        (TORCHRUN | {"MASTER_PORT": "0"}, "MASTER_PORT is 0"),
        (TORCHRUN | {"MASTER_PORT": "99999"}, "MASTER_PORT is 99999"),
        (TORCHRUN | {"RANK": "1" * 5000}, "expected a number"),
        (
            TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
            | {"SLURM_STEP_NUM_TASKS": "2"},
            "WORLD_SIZE is 1, but srun has started 2 tasks",
        ),
    ],
)  # fmt: skip
def test_half_of_a_launcher_is_no_single_process(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_ranks(environ)


@pytest.mark.parametrize(
    ("ranks", "command"),
    [
        (Ranks(), "jepa pretrain"),
        (Ranks(1, 2, 1, 2, "torchrun"), "torchrun --nproc-per-node 2 -m jepa pretrain"),
        (Ranks(1, 8, 1, 4, "torchrun"), "torchrun --nnodes 2 --nproc-per-node 4 -m jepa pretrain"),
        (Ranks(1, 8, 1, 4, "srun"), "srun --ntasks 8 python -m jepa pretrain"),
    ],
)
def test_the_command_for_as_many_processes(ranks: Ranks, command: str) -> None:
    assert ranks.command("pretrain") == command


def test_torchrun() -> None:
    ranks = find_ranks(TORCHRUN)
    assert ranks == Ranks(5, 8, 1, 4, "torchrun", "gpu07", 29400)
    assert ranks.several
    assert find_ranks(TORCHRUN | SRUN) == ranks, "within a step of srun, too: each of its tasks is an agent"
    one = TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    assert not find_ranks(one).several


@pytest.mark.parametrize("name", TORCHRUN)
def test_torchrun_with_a_part_missing(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"looks like that of torchrun .*lacks {name}\b"):
        find_ranks(without(TORCHRUN, name))
    with pytest.raises(ConfigError, match=rf"lacks {name}\b"):
        find_ranks(TORCHRUN | {name: ""})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"RANK": "8"}, "RANK is 8, but WORLD_SIZE 8"),
        ({"LOCAL_RANK": "4"}, "LOCAL_RANK is 4, but LOCAL_WORLD_SIZE 4"),
        ({"LOCAL_WORLD_SIZE": "9"}, "LOCAL_WORLD_SIZE is 9, but WORLD_SIZE 8"),
        ({"RANK": "-1"}, "RANK is '-1', expected a number"),
        ({"WORLD_SIZE": "eight"}, "WORLD_SIZE is 'eight', expected a number"),
        ({"MASTER_PORT": "29400 "}, "MASTER_PORT is '29400 ', expected a number"),
    ],
)
def test_torchrun_that_contradicts_itself(changes: dict[str, str], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        find_ranks(TORCHRUN | changes)


def test_srun() -> None:
    ranks = find_ranks(SRUN)
    assert (ranks.rank, ranks.world_size, ranks.local_rank, ranks.local_world_size) == (6, 7, 0, 1)
    assert (ranks.launcher, ranks.address) == ("srun", "gpu07")
    third = find_ranks(SRUN | {"SLURM_PROCID": "3", "SLURM_NODEID": "1", "SLURM_LOCALID": "1"})
    assert (third.rank, third.local_rank, third.local_world_size) == (3, 1, 2)
    assert (third.address, third.port) == (ranks.address, ranks.port), "all meet at the same place"


def test_the_port_of_srun() -> None:
    jobs = [find_ranks(SRUN | {"SLURM_JOB_ID": str(number)}).port for number in range(100, 200)]
    steps = [find_ranks(SRUN | {"SLURM_STEP_ID": str(number)}).port for number in range(5)]
    assert len(set(jobs)) == 100, "jobs that lie side by side do not meet each other"
    assert len(set(steps)) == 5
    assert all(1024 < port < 32768 for port in jobs + steps), "no port that a connection going out may have taken"
    chosen = find_ranks(SRUN | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"})
    assert (chosen.address, chosen.port) == ("10.0.0.1", 1234)


def test_one_task_of_srun() -> None:
    """`srun --ntasks 1` within a job of several tasks."""
    one = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "1"}
    assert find_ranks(SRUN | one) == Ranks(launcher="srun")


@pytest.mark.parametrize("name", ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE"])
def test_srun_with_a_part_missing(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"looks like that of srun .*lacks {name}\b"):
        find_ranks(without(SRUN, name))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"SLURM_PROCID": "7"}, "SLURM_PROCID is 7, but SLURM_STEP_NUM_TASKS 7"),
        ({"SLURM_LOCALID": "1"}, "SLURM_LOCALID is 1, but tasks of this node 1"),
        ({"SLURM_NODEID": "4"}, r"SLURM_STEP_TASKS_PER_NODE is 2\(x3\),1 \(node 4\)"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, "SLURM_STEP_NUM_TASKS 7: start the processes by one srun"),
        ({"SLURM_STEP_TASKS_PER_NODE": "two"}, "is 'two', expected numbers like"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x3),"}, "expected numbers like"),
        ({"SLURM_STEP_NODELIST": ""}, "names no host: set MASTER_ADDR"),
        ({"SLURM_JOB_ID": ""}, "SLURM_JOB_ID is '', expected a number"),
    ],
)
def test_srun_that_contradicts_itself(changes: dict[str, str], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        find_ranks(SRUN | changes)


def test_a_job_of_several_tasks_without_srun() -> None:
    """What sbatch and salloc run on their first machine sees the job, but is no task of it."""
    job = {"SLURM_JOB_ID": "4242", "SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_NODEID": "0"}
    with pytest.raises(ConfigError, match=r"job 4242 has 16 tasks .* would train alone: put `srun` before"):
        find_ranks(job)
    assert find_ranks(job | TORCHRUN).launcher == "torchrun"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu07,gpu09", "gpu07"),
        ("gpu[07-09,12]", "gpu07"),
        ("gpu[7,9]", "gpu7"),
        ("rack1-gpu[001-064].cluster.example,login", "rack1-gpu001.cluster.example"),
        ("10.0.0.1", "10.0.0.1"),
        ("r[1-2]n[01-16]", "r1n01"),
    ],
)
def test_first_host(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize("nodes", ["", ",gpu1", "[1-2]"])
def test_no_host(nodes: str) -> None:
    with pytest.raises(ConfigError, match="names no host"):
        first_host(nodes)
