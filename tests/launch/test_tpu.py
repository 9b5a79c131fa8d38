"""tpu_pod.sh and multislice.sh call gcloud as --dry_run says, wait, collect logs, and delete what costs money."""

import subprocess

import pytest

from tests.launch.stubs import Cluster

TRAIN = ("lm-jax", "train", "--config=gpt:tiny", "--workdir=/mnt/lm_jax/it's mine")
STATES = """
case "$*" in *describe*)
  seen=$(cat seen 2>/dev/null)x; echo "$seen" > seen
  if [ "$seen" = x ]; then echo WAITING_FOR_RESOURCES; else echo "${STATE:-ACTIVE}"; fi ;;
esac
"""
SCRIPTS = {"tpu_pod": (), "multislice": ("--slices=2",)}


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "lm_jax-1-py3-none-any.whl").touch()
    cluster = Cluster(tmp_path)
    cluster.stub("gcloud", STATES)
    return cluster


def words(script, *options):
    place = ("--name=mine", "--zone=us-west4-a", "--accelerator=v5litepod-16", "--poll_s=0")
    return script, *place, "--source=lm_jax-1-py3-none-any.whl", *SCRIPTS[script], *options, "--", *TRAIN


def without_repeats(calls):
    return [call for index, call in enumerate(calls) if index == 0 or call != calls[index - 1]]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_calls_are_those_of_the_dry_run(cluster, script):
    arguments = words(script, "--project=p", "--bucket=b", "--setup=true", "--spot", "--delete")
    planned = cluster.planned(*arguments)
    process = cluster.run(*arguments)
    assert process.returncode == 0, process.stderr
    assert "mine is WAITING_FOR_RESOURCES" in process.stdout
    assert len(planned) == 8
    assert without_repeats(cluster.calls()) == planned
    assert [call[4] for call in planned] == ["create", "describe", "scp", "ssh", "ssh", "ssh", "ssh", "delete"]
    assert all({"--zone=us-west4-a", "--project=p"} <= {*call} for call in planned)
    create = {"tpu_pod": "--node-id=mine", "multislice": "--node-count=2"}[script]
    assert {create, "--spot", "--runtime-version=v2-alpha-tpuv5-lite"} <= {*planned[0]}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_host_gets_the_words_of_the_command(cluster, script):
    train = cluster.planned(*words(script))[-1]
    assert train[3:5] == [{"tpu_pod": "tpu-vm", "multislice": "queued-resources"}[script], "ssh"]
    assert ("--node=all" in train) == (script == "multislice") and "--worker=all" in train
    remote = train[-1].removeprefix("--command=").partition("lm-jax ")[2].partition(" 2>&1")[0]
    printed = subprocess.run(["sh", "-c", f"printf '%s\\n' {remote}"], capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines() == [*TRAIN[1:], "--distributed"]


def test_a_clone_is_packed_and_copied(cluster):
    clone = cluster.folder / "clone"
    for name in ("lm_jax", "configs", "launch"):
        (clone / name).mkdir(parents=True)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (clone / name).touch()
    script, *options = words("tpu_pod")
    process = cluster.run(script, *(word.replace("lm_jax-1-py3-none-any.whl", "clone") for word in options))
    assert process.returncode == 0, process.stderr
    assert (cluster.folder / "logs" / "mine" / "lm_jax.tar.gz").stat().st_size
    assert "logs/mine/lm_jax.tar.gz" in cluster.calls()[3]


def test_the_output_of_each_host_gets_a_file(cluster):
    cluster.stub("gcloud", STATES + 'case "$*" in *lm-jax*) echo "[w-0] step 1"; echo "[w-1] step  2" ;; esac')
    process = cluster.run(*words("tpu_pod", "--logs=kept"))
    assert "[w-0] step 1\n" in process.stdout
    assert (cluster.folder / "kept" / "w-0.log").read_text() == "step 1\n"
    assert (cluster.folder / "kept" / "w-1.log").read_text() == "step  2\n"


@pytest.mark.parametrize("delete", [(), ("--delete",)])
def test_a_failed_training_ends_with_its_code_and_the_pod_is_deleted_or_named(cluster, delete):
    cluster.stub("gcloud", STATES + 'case "$*" in *lm-jax*) echo "the loss is nan" >&2; exit 3 ;; esac')
    process = cluster.run(*words("tpu_pod", *delete))
    assert process.returncode == 3
    assert "the loss is nan" in process.stdout
    assert (cluster.calls()[-1][4] == "delete") == bool(delete)
    assert ("mine costs money until you delete it: gcloud" in process.stdout) == (not delete)


def test_a_refused_request_ends_with_the_message_of_gcloud(cluster):
    cluster.stub("gcloud", 'echo "ERROR: no quota" >&2; exit 1')
    process = cluster.run(*words("tpu_pod", "--delete"))
    assert process.returncode == 1
    assert process.stderr.endswith("ERROR: no quota\n")
    assert len(cluster.calls()) == 1


def test_a_suspended_request_ends_the_script(cluster):
    cluster.stub("gcloud", STATES.replace("ACTIVE", "SUSPENDED"))
    process = cluster.run(*words("tpu_pod", "--reuse"))
    assert process.returncode == 1
    assert "tpu_pod.sh: mine is SUSPENDED; delete it and create it again\n" in process.stderr
    assert {call[4] for call in cluster.calls()} == {"describe"}
