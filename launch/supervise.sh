#!/usr/bin/env bash
# Runs a training command, and starts it again when it fails: it resumes from its last checkpoint. Gives up after
# failures without progress. SIGTERM and SIGINT end it: SIGTERM, then SIGKILL. The exit code is that of the last run.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
max_failures=3 backoff_s=10 grace_s=60 workdir='' child='' pause='' stopping='' interrupted='' killed='' code=0

usage="usage: launch/supervise.sh [options] -- lm-jax train ... --workdir=DIR

  --max_failures=N           give up after N failures in a row at the same last checkpoint [3]
  --backoff_s=SECONDS        pause after the first failure; each further one without progress doubles it, up to 600 [10]
  --grace_s=SECONDS          time between SIGTERM and SIGKILL [60]
  --workdir=DIR              the run's directory [--workdir of the command]
  --dry_run                  print the command, and run nothing
  --help                     print this

Exit codes that are final: 0 done, 2 invalid input, 3 non-finite loss. 75 (preempted) restarts at once: such a run saved
its state. Every other code is a failure."

# last_step: prints the newest finished step in the run's directory; nothing before the first.
last_step() {
  local entry step newest=''
  for entry in "$workdir"/checkpoints/*/manifest.json; do
    step=$(basename "$(dirname "$entry")")
    [[ ! $step =~ ^[0-9]+$ || ! -f $entry ]] || ((10#$step <= ${newest:--1})) || newest=$step
  done
  printf %s "$newest"
}

# terminate: ends the child: SIGTERM, and SIGKILL after the grace period; a second signal sends SIGTERM again.
# shellcheck disable=SC2317 # Called by the trap.
terminate() {
  local tenths=$((grace_s * 10)) again=$stopping
  stopping=1 interrupted=1
  [[ -z $pause ]] || kill "$pause" 2>/dev/null || :
  [[ -n $child ]] || return 0
  kill -TERM "$child" 2>/dev/null || return 0
  [[ -z $again ]] || return 0
  while kill -0 "$child" 2>/dev/null; do
    if ((tenths-- <= 0)); then
      # The whole group, so that no worker of the run keeps a device busy.
      kill -KILL -- "-$child" 2>/dev/null && killed=1
      break
    fi
    sleep 0.1
  done
}

# attempt: runs the command once and sets `code`. A signal interrupts `wait`, which then has to be repeated.
attempt() {
  local again
  code=0 interrupted=''
  # With job control a child has a process group of its own. A signal to our group, by Ctrl-C or a scheduler, then
  # reaches it once, from `terminate`: a second SIGTERM would end it before it has saved.
  set -m
  "${words[@]}" &
  child=$!
  set +m
  [[ -z $stopping ]] || terminate
  wait "$child" || code=$?
  while [[ -n $interrupted ]]; do
    interrupted='' again=0
    wait "$child" 2>/dev/null || again=$?
    ((again == 127)) || code=$again
  done
  # With job control, bash may have forgotten a job that it has reported as killed.
  [[ -z $killed ]] || code=137
  child=''
}

parse "$usage" "$@"
need_command
need_number 1 max_failures
need_number 0 backoff_s grace_s
for ((i = 0; i < ${#words[@]}; i++)); do
  case ${words[i]} in
    --workdir=*) workdir=${workdir:-${words[i]#--workdir=}} ;;
    --workdir) workdir=${workdir:-${words[i + 1]:-}} ;;
  esac
done
[[ -n $workdir ]] || stop "the command has no --workdir, whose checkpoints show progress; give --workdir=DIR before --"
show "${words[@]}"
[[ -z $dry_run ]] || exit 0
command -v "${words[0]}" >/dev/null || stop "${words[0]} is not a command"

trap terminate TERM INT
failures=0
while :; do
  before=$(last_step)
  attempt
  after=$(last_step)
  [[ -z $stopping ]] || exit "$code"
  case $code in
    0 | 2 | 3) exit "$code" ;;
    75) note "preempted after step ${after:-0}; starting again" && failures=0 && continue ;;
  esac
  [[ $before == "$after" ]] || failures=0
  failures=$((failures + 1))
  if ((failures >= max_failures)); then
    stop "exit code $code, and no progress beyond step ${after:-0} in $failures runs; giving up" "$code"
  fi
  seconds=$((backoff_s << (failures < 7 ? failures - 1 : 6)))
  seconds=$((seconds < 600 ? seconds : 600))
  note "exit code $code at step ${after:-0}, failure $failures of $max_failures; starting again in $seconds s"
  sleep "$seconds" &
  pause=$!
  wait "$pause" || :
  pause=''
  [[ -z $stopping ]] || exit "$code"
done
