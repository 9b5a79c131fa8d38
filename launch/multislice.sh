#!/usr/bin/env bash
# Trains on several Cloud TPU slices as one run, like tpu_pod.sh on one: the queued resource connects the slices
# (MEGASCALE_* variables), --distributed joins their hosts, and the data axis of the mesh spans the slices.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=launch/queued.sh
. "$(dirname "$0")/queued.sh"
slices=''

usage="usage: launch/multislice.sh --name=NAME --zone=ZONE --accelerator=TYPE --slices=N [options] -- lm-jax train ...

  --slices=N                 number of slices, at least 2
$queued_options

example:
  launch/multislice.sh --name=mine --zone=us-west4-a --accelerator=v5litepod-16 --slices=2 --bucket=my-bucket -- \\
    lm-jax train --config=gpt:small --config.mesh.data=2 --config.mesh.fsdp=-1 \\
    --config.data.path=/mnt/lm_jax/text.jsonl --workdir=/mnt/lm_jax/runs/mine

config.mesh.data must be a multiple of N, or -1: only the data axis spans slices, while fsdp and tensor stay inside one.
--workdir must be on a file system that all hosts share, such as the bucket; the same command resumes a run."

parse "$usage" "$@"
need slices
need_number 1 slices
((slices > 1)) || stop "--slices is $slices; expected at least 2 (tpu_pod.sh takes one slice)"
check
verb=queued-resources hosts=(--worker=all --node=all)
create --node-count="$slices"
wait_until_active
install_library
mount_bucket
train
