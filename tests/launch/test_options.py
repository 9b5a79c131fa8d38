"""Every launch script explains its options, refuses bad ones in one line, and passes shellcheck."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.launch.stubs import Cluster

POD = ("--name=a", "--zone=z", "--accelerator=v6e-8")
REQUIRED = {
    "tpu_pod": POD,
    "multislice": (*POD, "--slices=2"),
    "gke": ("--cluster=c", "--workload=w", "--project=p", "--zone=z", "--tpu=v6e-8"),
    "slurm_gpu": ("--nodes=2", "--gpus=4"),
    "gpu": (),
    "supervise": ("--workdir=w",),
}
COMMAND = ("--", "lm-jax", "train")


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


@pytest.mark.parametrize("script", REQUIRED)
def test_help_lists_every_option(cluster, script):
    process = cluster.run(script, "--help")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith(f"usage: launch/{script}.sh ")
    options = re.findall(r"^  --(\w+)", process.stdout, re.MULTILINE)
    assert {"help", "dry_run", *(word[2:].partition("=")[0] for word in REQUIRED[script])} <= {*options}


@pytest.mark.parametrize("script", REQUIRED)
def test_a_bad_option_is_one_line_and_exit_code_2(cluster, script):
    words = REQUIRED[script]
    cases = {
        "unknown option --zoen": (*words, "--zoen=x", *COMMAND),
        "is not an option": (*words, "lm-jax", "train"),
        "--dry_run takes no value": (*words, "--dry_run=yes", *COMMAND),
        "no command": words,
    }
    for word in words:
        name = word.partition("=")[0]
        cases[f"{name} has no value"] = (name, *COMMAND)
        if script != "supervise":
            cases[f"{name} is missing"] = (*(other for other in words if other != word), *COMMAND)
    for message, arguments in cases.items():
        process = cluster.run(script, *arguments)
        assert (process.returncode, process.stdout) == (2, ""), arguments
        assert re.fullmatch(rf"{script}\.sh: [^\n]*{re.escape(message)}[^\n]*\n", process.stderr), process.stderr


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("multislice", (*POD, "--slices=1"), "--slices is 1; expected at least 2"),
        ("tpu_pod", (*POD, "--bucket=gs://b"), "--bucket is gs://b; expected the bare name, b"),
        ("tpu_pod", (*POD[:2], "--accelerator=v9-8"), "give --runtime=VERSION"),
        ("tpu_pod", (*POD, "--source=nowhere"), "--source=nowhere is neither"),
        ("gke", (*REQUIRED["gke"], "--spot", "--reservation=r"), "--spot and --reservation exclude each other"),
        ("slurm_gpu", ("--nodes=two", "--gpus=4"), "--nodes is 'two'; expected a whole number from 1"),
        ("supervise", (), "the command has no --workdir"),
    ],
)
def test_a_bad_value_is_one_line_and_exit_code_2(cluster, script, words, message):
    process = cluster.run(script, *words, *COMMAND)
    assert process.returncode == 2
    assert message in process.stderr and process.stderr.count("\n") == 1


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which("shellcheck") or Path(sys.executable).parent / "shellcheck"
    if not Path(shellcheck).is_file():
        pytest.skip("shellcheck is not installed; the extra dev installs it")
    scripts = sorted(path.name for path in (ROOT / "launch").glob("*.sh"))
    process = subprocess.run(
        [shellcheck, "--external-sources", *(f"launch/{name}" for name in scripts)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout
