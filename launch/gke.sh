#!/usr/bin/env bash
# Trains on TPU slices of Google Kubernetes Engine with xpk: creates a cluster, attaches a bucket, starts the command
# with --distributed on every host, waits for its end, and deletes the cluster or says how.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
cluster='' workload='' zone='' project='' tpu='' slices=1 bucket='' source='' image=python:3.12 restarts=0
spot='' reservation='' reuse=''

usage="usage: launch/gke.sh --cluster=NAME --workload=NAME --project=PROJECT --zone=ZONE --tpu=TYPE [options] -- \\
  lm-jax train ...

  --cluster=NAME             name of the cluster
  --workload=NAME            name of this run; lower-case letters, digits and dashes
  --project=PROJECT          the project that pays
  --zone=ZONE                a zone with quota for the TPU, such as us-west4-a
  --tpu=TYPE                 type of one slice, in xpk's names, such as v5litepod-16
  --slices=N                 number of slices; config.mesh.data must be a multiple of it, or -1 [1]
  --bucket=BUCKET            mount this Cloud Storage bucket on every host as /mnt/lm_jax
  --source=DIR               clone of the library, which xpk adds to the image [the clone of this script]
  --image=IMAGE              image with Python 3.11 or newer, in which the library is installed [python:3.12]
  --restarts=N               restarts after a preemption (exit code 75) or a hang (4) [0]
  --spot                     ask for preemptible capacity
  --reservation=NAME         use this reservation
  --reuse                    do not create the cluster, nor attach the bucket: both exist
  --delete                   delete the cluster at the end, also after a failure
  --dry_run                  print the commands, and run nothing
  --help                     print this

example:
  launch/gke.sh --cluster=mine --workload=run-1 --project=my-project --zone=us-west4-a --tpu=v5litepod-16 --spot \\
    --bucket=my-bucket -- \\
    lm-jax train --config=gpt:small --config.data.path=/mnt/lm_jax/text.jsonl --workdir=/mnt/lm_jax/runs/run-1

xpk must be installed (pip install xpk), with the tools that it needs: gcloud, kubectl and docker or crane. --workdir
must be on a file system that all hosts share, such as the bucket; the same command with --reuse and another --workload
resumes a run."

parse "$usage" "$@"
need cluster workload project zone tpu
need_command
need_number 1 slices
need_number 0 restarts
[[ -z $spot || -z $reservation ]] || stop "--spot and --reservation exclude each other"
[[ $bucket != gs://* ]] || stop "--bucket is $bucket; expected the bare name, ${bucket#gs://}"
clone=$(cd "$(dirname "$0")/.." && pwd)
source=${source:-$clone}
[[ -f $source/setup.cfg ]] || stop "--source=$source is not a clone of lm_jax"
distribute
place=(--cluster="$cluster" --project="$project" --zone="$zone")
capacity=--on-demand
[[ -z $spot ]] || capacity=--spot
[[ -z $reservation ]] || capacity=--reservation=$reservation

finish() { settle "$cluster" xpk cluster delete "${place[@]}" --force; }

if [[ -z $reuse ]]; then
  # Not create-pathways: its one client drives all hosts, whereas lm_jax runs a process on each.
  options=(--tpu-type="$tpu" --num-slices="$slices" "$capacity")
  [[ -z $bucket ]] || options+=(--enable-workload-identity --enable-gcsfuse-csi-driver)
  run xpk cluster create "${place[@]}" "${options[@]}"
  trap finish EXIT
  # Without a cache of metadata, a host sees at once what another has written.
  [[ -z $bucket ]] || run xpk storage attach lm-jax "${place[@]}" --type=gcsfuse --bucket="$bucket" --size=1 \
    --mount-point=/mnt/lm_jax --mount-options=implicit-dirs,metadata-cache:ttl-secs:0 --readonly=false --auto-mount=true
fi
trap finish EXIT
run xpk workload create "${place[@]}" --workload="$workload" --tpu-type="$tpu" --num-slices="$slices" \
  --base-docker-image="$image" --script-dir="$source" --max-restarts="$restarts" --restart-on-exit-codes=4,75 \
  --command="pip install --quiet '.[tpu]' && $(quoted "${words[@]}")"
note "the hosts' output: kubectl logs --prefix --all-containers --selector=jobset.sigs.k8s.io/jobset-name=$workload"
run xpk workload list "${place[@]}" --wait-for-job-completion="$workload"
