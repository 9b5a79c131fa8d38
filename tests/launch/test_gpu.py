"""gpu.sh trains only if the driver is there and `lm-jax doctor` finds no problem."""

import pytest

from tests.launch.stubs import Cluster

TRAIN = ("--", "lm-jax", "train", "--config=gpt:tiny", "--workdir=a b")


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path, "nvidia-smi", "lm-jax")


def test_the_calls_are_those_of_the_dry_run(cluster):
    planned = cluster.planned("gpu", *TRAIN)
    process = cluster.run("gpu", *TRAIN)
    assert process.returncode == 0, process.stderr
    assert cluster.calls() == planned
    assert [call[0] for call in planned] == ["nvidia-smi", "lm-jax", "lm-jax"]
    assert planned[1:] == [["lm-jax", "doctor"], [*TRAIN[1:]]]


def test_the_exit_code_is_that_of_the_training(cluster):
    cluster.stub("lm-jax", '[ "$1" = doctor ] || exit 75')
    assert cluster.run("gpu", *TRAIN).returncode == 75


def test_a_problem_that_doctor_finds_ends_the_script(cluster):
    cluster.stub("lm-jax", "echo \"problem: pip install 'jax[cuda12]'\"; exit 1")
    process = cluster.run("gpu", *TRAIN)
    assert process.returncode == 1
    assert "pip install 'jax[cuda12]'" in process.stdout
    assert process.stderr.endswith("gpu.sh: fix the problems that lm-jax doctor lists above, then run this again\n")
    assert len(cluster.calls()) == 2


@pytest.mark.parametrize(("missing", "message"), [("nvidia-smi", "install NVIDIA's driver"), ("lm-jax", "pip install")])
def test_a_missing_program_is_one_line_that_says_what_to_install(cluster, missing, message):
    (cluster.bin / missing).unlink()
    process = cluster.run("gpu", *TRAIN)
    assert process.returncode == 1
    assert message in process.stderr and process.stderr.count("\n") == 1
    assert cluster.calls() == []
