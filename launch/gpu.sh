#!/usr/bin/env bash
# Trains on the NVIDIA GPUs of this machine, after a check: nvidia-smi lists them, and `lm-jax doctor` finds that
# driver, GPU and installed jax fit; if they do not, it prints the command that installs what fits.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"

usage="usage: launch/gpu.sh [options] -- lm-jax train ...

  --dry_run                  print the commands, and run nothing
  --help                     print this

example:
  launch/gpu.sh -- lm-jax train --config=gpt:small --config.data.path=my.txt --workdir=runs/mine"

parse "$usage" "$@"
need_command
if [[ -z $dry_run ]]; then
  command -v nvidia-smi >/dev/null || stop "no nvidia-smi: install NVIDIA's driver (580 or newer runs every extra)" 1
  command -v lm-jax >/dev/null ||
    stop "no lm-jax on PATH: install it with pip install '.[cuda]' in the clone, and activate its environment" 1
fi
run nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || stop "nvidia-smi finds no GPU" 1
run lm-jax doctor || stop "fix the problems that lm-jax doctor lists above, then run this again" 1
show "${words[@]}"
[[ -n $dry_run ]] || exec "${words[@]}"
