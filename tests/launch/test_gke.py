"""gke.sh calls xpk as --dry_run says."""

import pytest

from tests.launch.stubs import Cluster

PLACE = ("--cluster=mine", "--project=p", "--zone=us-west4-a")
WORDS = (*PLACE, "--workload=run-1", "--tpu=v5litepod-16", "--slices=2")
TRAIN = ("--", "lm-jax", "train", "--config=gpt:tiny", "--workdir=/mnt/lm_jax/a b")


@pytest.mark.parametrize("options", [("--bucket=b", "--spot", "--delete"), ("--reuse", "--restarts=3")])
def test_the_calls_are_those_of_the_dry_run(tmp_path, options):
    cluster = Cluster(tmp_path, "xpk")
    planned = cluster.planned("gke", *WORDS, *options, *TRAIN)
    process = cluster.run("gke", *WORDS, *options, *TRAIN)
    assert process.returncode == 0, process.stderr
    assert cluster.calls() == planned
    verbs = [call[1:3] for call in planned]
    assert ["workload", "create"] in verbs
    assert (["cluster", "create"] in verbs) == (["cluster", "delete"] in verbs) == ("--reuse" not in options)
    assert all({*PLACE} <= {*call} for call in planned)
    workload = planned[verbs.index(["workload", "create"])]
    assert workload[-1].endswith("&& lm-jax train --config=gpt:tiny '--workdir=/mnt/lm_jax/a b' --distributed")
    assert {"--num-slices=2", "--restart-on-exit-codes=4,75"} <= {*workload}


def test_a_failed_workload_ends_with_the_message_of_xpk_and_the_cluster_is_deleted(tmp_path):
    cluster = Cluster(tmp_path)
    cluster.stub("xpk", 'case "$*" in workload*) echo "[XPK] no such TPU" >&2; exit 4 ;; esac')
    process = cluster.run("gke", *WORDS, "--delete", *TRAIN)
    assert process.returncode == 4
    assert "[XPK] no such TPU\n" in process.stderr
    assert cluster.calls()[-1][1:3] == ["cluster", "delete"]
