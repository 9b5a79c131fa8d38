#!/usr/bin/env bash
# Trains on a Cloud TPU pod: asks for it as a queued resource, waits, installs lm_jax on every host, mounts a bucket,
# runs the command with --distributed on every host, collects their logs, and deletes the pod or says how.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
# shellcheck source=launch/queued.sh
. "$(dirname "$0")/queued.sh"

usage="usage: launch/tpu_pod.sh --name=NAME --zone=ZONE --accelerator=TYPE [options] -- lm-jax train ...

$queued_options

example:
  launch/tpu_pod.sh --name=mine --zone=us-west4-a --accelerator=v5litepod-16 --spot --bucket=my-bucket -- \\
    lm-jax train --config=gpt:small --config.data.path=/mnt/lm_jax/text.jsonl --workdir=/mnt/lm_jax/runs/mine

--workdir must be on a file system that all hosts share, such as the bucket; the same command resumes a run."

parse "$usage" "$@"
check
verb=tpu-vm hosts=(--worker=all)
create --node-id="$name"
wait_until_active
install_library
mount_bucket
train
