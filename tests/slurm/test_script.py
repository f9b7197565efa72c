"""The batch script: bash understands it, and what a user wrote arrives as it was written."""

import dataclasses
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa.checkpoints.source import shipped
from jepa.errors import ConfigError
from jepa.slurm.job import ContainerConfig, JobConfig
from jepa.slurm.places import folders, inputs
from jepa.slurm.script import Script

Configure = Callable[..., Any]
WORDS = "; touch broken; $(touch broken) `touch broken` \"'\\ #"
"""What a shell would do something with."""


@pytest.fixture
def script(micro: Configure, tmp_path: Path) -> Callable[..., Script]:
    def made(*, out: str = "run", **options: Any) -> Script:
        run = micro(out=str(tmp_path / out), run={"requeue": options.get("requeue", True)})
        folder = tmp_path / out / "submit" / "now"
        return Script(JobConfig(**{"gpus_per_node": 0, **options}), run, folder, folder / "code")

    return made


def run_script(script: Script, tmp_path: Path, *, code: int = 0, task: str | None = None) -> dict[str, Any]:
    """What bash does with a script where `srun` and `scontrol` only write down how they were called."""
    fake = tmp_path / "fake"
    fake.mkdir(exist_ok=True)
    (fake / "srun").write_text(
        f'#!/bin/bash\nprintf "%s\\0" "$@" > {fake}/words\nprintenv -0 > {fake}/environ\nexit {code}\n'
    )
    (fake / "scontrol").write_text(
        f'#!/bin/bash\necho "$*" >> {fake}/asked\n'
        'case "$2" in hostnames) printf "n7\\nn8\\n";;\n'
        '  node) echo "NodeName=$3 NodeAddr=10.0.0.7 NodeHostName=x";; esac\n'
    )
    for name in ("srun", "scontrol"):
        (fake / name).chmod(0o755)
    for name in ("words", "environ", "asked"):
        (fake / name).unlink(missing_ok=True)
    environ = {
        "PATH": f"{fake}:/usr/bin:/bin", "SLURM_JOB_ID": "40123", "SLURM_JOB_NODELIST": "n[7-8]", "RANK": "3",
        "MASTER_PORT": "29999",
        "PYTHONPATH": "/theirs", "SLURM_ARRAY_TASK_ID": task or "",
    }  # fmt: skip
    text = script.text()
    done = subprocess.run(
        ["bash"], input=text, capture_output=True, text=True, env=environ, cwd=tmp_path, check=False, timeout=30
    )
    seen = (fake / "environ").read_text().split("\0")[:-1] if (fake / "environ").exists() else []
    return {
        "code": done.returncode,
        "stderr": done.stderr,
        "words": (fake / "words").read_text().split("\0")[:-1] if seen else [],
        "environ": dict(line.split("=", 1) for line in seen),
        "asked": (fake / "asked").read_text().splitlines(),
    }


def directives(text: str) -> dict[str, str]:
    """The options in the #SBATCH lines."""
    lines = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_the_command_and_its_surroundings(script: Callable[..., Script], tmp_path: Path) -> None:
    made = script(nodes=2, cpus_per_task=3, python="/opt/python")
    seen = run_script(made, tmp_path)
    assert (seen["code"], seen["stderr"]) == (0, "")
    own = ["/opt/python", "-P", "-m", "jepa", "pretrain", "--config", str(made.config), "--resume"]
    assert seen["words"] == ["--kill-on-bad-exit=0", "--wait=60", "--cpus-per-task=3", *own]
    environ = seen["environ"]
    assert environ["MASTER_ADDR"] == "10.0.0.7"  # of the first node, as Slurm reaches it
    assert "MASTER_PORT" not in environ, "of another launcher; what srun says tells the port"
    assert environ["PYTHONPATH"] == f"{made.code}:/theirs"
    assert "RANK" not in environ  # of another launcher


def test_options_become_those_of_sbatch(script: Callable[..., Script]) -> None:
    made = script(
        nodes=4, gpus_per_node=8, time="1-00", partition="gpu,long", account="vision", qos="high", memory="200G",
        constraint="[a100|h100]", signal="USR1@300", array="0-4%2", name="mine",
        sbatch=("--reservation=r1", "--exclusive"),
    )  # fmt: skip
    found = directives(made.text())
    expected = {
        "nodes": "4", "ntasks-per-node": "8", "gpus-per-node": "8", "cpus-per-task": "1", "time": "1-00", "qos": "high",
        "partition": "gpu,long", "account": "vision", "mem": "200G", "constraint": "[a100|h100]", "signal": "USR1@300",
        "array": "0-4%2", "job-name": "mine", "reservation": "r1", "exclusive": "", "requeue": "",
        "open-mode": "append", "output": f"{made.folder}/slurm-%A_%a.out", "chdir": str(made.folder),
    }  # fmt: skip
    assert found == expected
    # sbatch gets them on its command line too.
    assert {option.removeprefix("--").partition("=")[0] for option in made.options()} == set(expected)


def test_what_is_not_asked_for_is_not_said(script: Callable[..., Script]) -> None:
    found = directives(script(signal=None).text())
    assert not {"time", "partition", "account", "gpus-per-node", "mem", "signal", "array"} & set(found)


def test_a_core_for_each_worker_and_one_for_the_process(micro: Configure, tmp_path: Path) -> None:
    made = Script(JobConfig(), micro(loader={"workers": 5}), tmp_path, None)
    assert directives(made.text())["cpus-per-task"] == "6"
    assert "PYTHONPATH" not in made.text()  # an installed package


def test_signs_of_the_shell_stay_where_they_are(script: Callable[..., Script], tmp_path: Path) -> None:
    """In the names of folders and files, in variables, in the image of a container."""
    (tmp_path / WORDS).mkdir()
    (tmp_path / WORDS / "setup").write_text("export SOURCED=yes\n")
    made = script(out=f"{WORDS}/run", env=(f"MINE={WORDS}",), setup=tmp_path / WORDS / "setup", python=f"/opt/{WORDS}")
    seen = run_script(made, tmp_path)
    assert (seen["code"], seen["stderr"]) == (0, "")
    assert seen["environ"]["MINE"] == WORDS
    assert seen["environ"]["SOURCED"] == "yes"
    assert seen["words"][3] == f"/opt/{WORDS}"
    assert seen["words"][-2] == str(made.config)
    held = script(container=ContainerConfig(image=WORDS, mounts=(f"/a:{WORDS}",)))
    assert f"--container-image={WORDS}" in run_script(held, tmp_path)["words"]
    assert not list(tmp_path.rglob("broken"))
    subprocess.run(["bash", "-n"], input=made.text(), text=True, check=True)


@pytest.mark.parametrize(("code", "requeue", "again"), [(75, True, 1), (75, False, 0), (0, True, 0), (4, True, 0)])
def test_the_job_goes_back_into_the_queue_when_it_is_to_be_continued(
    script: Callable[..., Script], tmp_path: Path, code: int, requeue: bool, again: int
) -> None:
    """Where the processes could not: there is no scontrol in their container."""
    seen = run_script(script(requeue=requeue), tmp_path, code=code)
    assert seen["code"] == code
    assert seen["asked"].count("requeue incomplete 40123") == again


def test_a_task_of_an_array_has_its_seed_and_its_folder(script: Callable[..., Script], tmp_path: Path) -> None:
    made = script(array="0-4", out="a b")
    words = run_script(made, tmp_path, task="3")["words"]
    assert words[-4:] == ["--seed", "3", "--out", f"{tmp_path}/a b/seed-3"]


def test_containers(script: Callable[..., Script], tmp_path: Path) -> None:
    data = str(script().run.data)
    made = script(container=ContainerConfig(image="/images/a.sqsh", mounts=("/scratch", "/x:/y:ro")), gpus_per_node=2)
    mounts = f"/scratch:/scratch,/x:/y:ro,{tmp_path}/run:{tmp_path}/run,{data}:{data}"
    words = run_script(made, tmp_path)["words"]
    assert words[3:5] == ["--container-image=/images/a.sqsh", f"--container-mounts={mounts}"]
    assert words[5:9] == ["env", f"PYTHONPATH={made.code}", "python3", "-P"]
    other = script(container=ContainerConfig(image="/images/a.sif", runtime="apptainer"), gpus_per_node=2)
    words = run_script(other, tmp_path)["words"]
    own = f"{tmp_path}/run:{tmp_path}/run,{data}:{data}"
    assert words[3:8] == ["apptainer", "exec", "--nv", "--bind", own]
    assert words[8:10] == ["/images/a.sif", "env"]


def test_everything_that_the_run_reads_is_seen_in_the_container(micro: Configure, tmp_path: Path) -> None:
    """Also what only a phase reads; weights with what describes them, and nothing twice."""
    own = {"data": "/phase/data", "objective": {"teacher": "/phase/model.safetensors"}}
    run = micro(
        data="s3://bucket/data",
        init="/other/1-first/checkpoints/last.ckpt",
        online={"data": "/online"},
        objective={"target": "teacher", "teacher": "/weights/vitl.pt"},
        loader={"cache": "/cache"},
        phases=[{"name": "long"}, {"name": "short", "changes": own}],
    )
    made = Script(JobConfig(container=ContainerConfig(image="a.sqsh")), run, tmp_path / "run" / "submit", None)
    words = run_script(made, tmp_path)["words"]
    (mounts,) = (word.partition("=")[2] for word in words if word.startswith("--container-mounts="))
    places = [str(tmp_path / "run"), "/online", "/weights/vitl.pt", "/phase", "/phase/data"]
    expected = {*places, "/other/1-first", "/cache"}
    found = mounts.split(",")
    assert sorted(found) == sorted(f"{place}:{place}" for place in expected)


def test_names_of_weights_are_no_folders(micro: Configure) -> None:
    name = shipped()[0]
    run = micro(init=name, objective={"target": "teacher", "teacher": name})
    assert not [place for place in (*inputs(run), *folders(run)) if place.name == name]


def test_folders_that_a_list_of_mounts_cannot_name_are_refused(script: Callable[..., Script]) -> None:
    held = ContainerConfig(image="a.sqsh")
    for out in ("a,b", "a:b"):
        with pytest.raises(ConfigError, match="cannot be mounted"):
            script(out=out, container=held).text()
        assert script(out=out).text()


def test_a_percent_sign_of_a_folder_is_none_of_slurm(script: Callable[..., Script]) -> None:
    made = script(out='100%j "x"')
    assert f'--output={made.folder.parents[2]}/100%%j "x"/submit/now/slurm-%j.out' in made.options()
    line = directives(made.text())["output"]
    assert line.startswith('"')
    assert line.endswith('"')
    assert '\\"x\\"' in line


def test_modules_are_loaded_and_a_failure_ends_the_job(script: Callable[..., Script], tmp_path: Path) -> None:
    made = script(modules=("cuda/12.4", "gcc"))
    assert "module load cuda/12.4 gcc || exit 2" in made.text().splitlines()
    seen = run_script(script(setup=tmp_path / "none"), tmp_path)
    assert seen["code"] == 2
    assert seen["words"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "nodes is 0"),
        ({"gpus_per_node": -1}, "gpus_per_node is -1"),
        ({"gpus_per_node": 4, "tasks_per_node": 8}, "one process drives one GPU"),
        ({"time": "1 day"}, "time is '1 day'"),
        ({"time": "2", "signal": "USR1@120"}, "would be stopped as soon as it starts"),
        ({"signal": "B:USR1@60"}, "signal is"),
        ({"array": "x"}, "array is"),
        ({"partition": "a b"}, "partition is"),
        ({"account": "a\n#SBATCH --uid=0"}, "account is"),
        ({"qos": "$x"}, "qos is"),
        ({"name": "a;b"}, "name is"),
        ({"constraint": "a b"}, "constraint is"),
        ({"memory": "lots"}, "memory is"),
        ({"modules": ("a; b",)}, "modules is"),
        ({"env": ("A",)}, "'A' is no NAME=VALUE"),
        ({"env": ("A B=1",)}, "no NAME=VALUE"),
        ({"env": ("A;b=1",)}, "no NAME=VALUE"),
        ({"sbatch": ("exclusive",)}, "is no option of sbatch"),
        ({"sbatch": ("--output=x",)}, "--output follows from the options"),
        ({"sbatch": ("--outp=x",)}, "--outp follows from the options"),
        ({"sbatch": ("--tasks-per-node=2",)}, "--tasks-per-node follows from the options"),
        ({"sbatch": ("--wait",)}, "does not submit the job and come back"),
        ({"sbatch": ("--help",)}, "does not submit the job and come back"),
        ({"sbatch": ("--comment=a b",)}, "--comment is"),
        ({"sbatch": ("--exclusive\nreboot",)}, "is no option of sbatch"),
        ({"setup": Path("a\nb")}, "setup is"),
        ({"python": "a\nb"}, "python is"),
    ],
)
def test_options_that_cannot_be_right_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        JobConfig(**options)


def test_options_that_begin_like_ours_and_are_others() -> None:
    JobConfig(sbatch=("--gpus=4", "--gres=gpu:4", "--wait-all-nodes=1", "--hold", "--mem-per-cpu=2G"))


@pytest.mark.parametrize(("options", "message"), [({"image": "a\nb"}, "image"), ({"mounts": ("a:b:c:d",)}, "FROM:TO")])
def test_containers_that_cannot_be_right_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ContainerConfig(**options)


def test_every_option_is_used() -> None:
    """A field of the job that no part of the script reads would be a promise that is not kept."""
    folder = Path(__file__).parents[2] / "slurm"
    source = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "job.py")
    source += (folder / "job.py").read_text().split("def tasks")[1]
    for field in dataclasses.fields(JobConfig):
        assert re.search(rf"(job|self)\.{field.name}\b", source), field.name
