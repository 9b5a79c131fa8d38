#!/usr/bin/env bash
# Trains on GPUs under Slurm: submits a job with one process per GPU, which is what jax detects under Slurm. A job that
# ends with exit code 75 (preempted, or out of time) goes back into the queue and resumes.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
nodes='' gpus='' cpus=8 partition='' account='' time='' name=lm_jax logs=logs setup=''

usage="usage: launch/slurm_gpu.sh --nodes=N --gpus=N [options] -- lm-jax train ...

  --nodes=N                  number of nodes
  --gpus=N                   GPUs of each node, all used
  --cpus=N                   CPU cores of each process [8]
  --partition=NAME           [the cluster's default]
  --account=NAME             [yours]
  --time=LIMIT               time limit, such as 12:00:00 [the partition's]
  --name=NAME                name of the job [lm_jax]
  --logs=DIR                 folder of the logs, one file for each process, on a file system that the nodes share [logs]
  --setup=COMMAND            run this in the job first, such as 'source .venv/bin/activate'
  --dry_run                  print the commands, and run nothing
  --help                     print this

example:
  launch/slurm_gpu.sh --nodes=2 --gpus=8 --time=12:00:00 --setup='source .venv/bin/activate' -- \\
    lm-jax train --config=gpt:small --config.mesh.data=2 --config.mesh.fsdp=-1 --workdir=/shared/runs/mine

--workdir and the library must be on a file system that all nodes share; the same command resumes a run."

parse "$usage" "$@"
need nodes gpus
need_command
need_number 1 nodes gpus cpus
distribute
# Every process must see all GPUs of its node: jax gives it the one with its local index. 120 s before the time limit
# the processes get SIGTERM, save and exit with 75. --wait ends a step that hangs because a process of it has died.
step=(srun --kill-on-bad-exit=0 --wait=120 --gpu-bind=none --output="$logs/%j_%t.log" --open-mode=append)
# shellcheck disable=SC2016 # The job expands these variables.
script="${setup:+$setup && }$(quoted "${step[@]}" "${words[@]}")"\
'; code=$?; if [ $code -eq 75 ]; then scontrol requeue $SLURM_JOB_ID; fi; exit $code'
options=(--job-name="$name" --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus" --cpus-per-task="$cpus")
[[ -z $partition ]] || options+=(--partition="$partition")
[[ -z $account ]] || options+=(--account="$account")
[[ -z $time ]] || options+=(--time="$time")
run mkdir -p "$logs"
run sbatch "${options[@]}" --signal=TERM@120 --requeue --open-mode=append --output="$logs/%j.log" --wrap="$script"
note "watch: squeue --me; logs: $logs; stop: scancel --signal=TERM JOB (saves first), then scancel JOB"
