"""On a real Slurm with two nodes."""

from pathlib import Path


def test_a_job_runs_on_two_nodes(cluster, tmp_path: Path) -> None:
    """The harness itself."""
    script = tmp_path / "job"
    script.write_text("#!/bin/bash\nsrun bash -c 'echo $SLURM_PROCID $SLURMD_NODENAME'\n")
    options = ["--nodes=2", "--ntasks-per-node=1", "--time=1", f"--output={tmp_path}/out"]
    job = cluster.run("sbatch", "--parsable", *options, str(script))
    assert cluster.ended(job)["JobState"] == "COMPLETED"
    assert sorted((tmp_path / "out").read_text().splitlines()) == ["0 node1", "1 node2"]
