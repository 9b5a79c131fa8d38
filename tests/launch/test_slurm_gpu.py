"""slurm_gpu.sh submits one process per GPU, and the job puts itself back into the queue when it was preempted."""

import subprocess

import pytest

from tests.launch.stubs import Cluster

WORDS = ("--nodes=2", "--gpus=4", "--time=1:00:00", "--partition=gpu", "--account=me", "--setup=setup")
TRAIN = ("--", "lm-jax", "train", "--config=gpt:tiny", "--workdir=/shared/a b")


def test_the_call_is_that_of_the_dry_run(tmp_path):
    cluster = Cluster(tmp_path, "sbatch")
    planned = cluster.planned("slurm_gpu", *WORDS, *TRAIN)
    process = cluster.run("slurm_gpu", *WORDS, *TRAIN)
    assert process.returncode == 0, process.stderr
    assert cluster.calls() == planned and len(planned) == 1
    options = {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--time=1:00:00", "--signal=TERM@120"}
    assert options <= {*planned[0]}
    assert (tmp_path / "logs").is_dir()


def test_a_failed_submission_ends_with_the_message_of_sbatch(tmp_path):
    cluster = Cluster(tmp_path)
    cluster.stub("sbatch", 'echo "sbatch: error: invalid partition" >&2; exit 1')
    process = cluster.run("slurm_gpu", *WORDS, *TRAIN)
    assert process.returncode == 1
    assert process.stderr.endswith("sbatch: error: invalid partition\n")


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (75, True)])
def test_a_preempted_job_returns_to_the_queue(tmp_path, code, requeued):
    cluster = Cluster(tmp_path, "setup", "scontrol")
    cluster.stub("srun", f"exit {code}")
    script = cluster.planned("slurm_gpu", *WORDS, *TRAIN)[0][-1].removeprefix("--wrap=")
    job = subprocess.run(["sh", "-c", script], env={**cluster.environment(), "SLURM_JOB_ID": "17"})
    assert job.returncode == code
    calls = cluster.calls()
    assert calls[0] == ["setup"]
    assert calls[1][0] == "srun" and calls[1][-5:] == [*TRAIN[1:], "--distributed"]
    assert calls[2:] == ([["scontrol", "requeue", "17"]] if requeued else [])
