# shellcheck shell=bash
# Shared by the launch scripts: options, errors, and commands that are run, or with --dry_run only printed.
# Sourced, not run. A script lists its options in a usage text, two spaces before each: `  --NAME=VALUE` or `  --NAME `.
program=${0##*/}
dry_run=
delete=
words=()

# stop MESSAGE [CODE]: ends the script with one line on stderr; exit code 2, invalid input, unless another is given.
stop() {
  printf '%s: %s\n' "$program" "$1" >&2
  exit "${2:-2}"
}

# parse USAGE "$@": sets a variable for each option, and `words` to the command after `--`.
parse() {
  # No option has one of these names, which would hide its variable.
  local _usage=$1 _option
  shift
  while (($#)); do
    _option=${1#--}
    _option=${_option%%=*}
    case $1 in
      --help) printf '%s\n' "$_usage" && exit 0 ;;
      --) shift && words=("$@") && return ;;
      --*) ;;
      *) stop "'$1' is not an option; the command to run follows --, as in $program ... -- lm-jax train ..." ;;
    esac
    case $_usage in
      *$'\n'"  --$_option="*)
        [[ $1 == --*=?* ]] || stop "--$_option has no value; write --$_option=VALUE"
        printf -v "$_option" %s "${1#*=}"
        ;;
      *$'\n'"  --$_option "*)
        [[ $1 != *=* ]] || stop "--$_option takes no value"
        printf -v "$_option" 1
        ;;
      *) stop "unknown option --$_option; $program --help lists the options" ;;
    esac
    shift
  done
}

# need OPTION...: refuses to go on without these options.
need() {
  local _option
  for _option; do
    [[ -n ${!_option:-} ]] || stop "--$_option is missing; write --$_option=VALUE ($program --help)"
  done
}

# need_command: refuses to go on without a command after `--`.
need_command() {
  ((${#words[@]})) || stop "no command; write it after --, as in $program ... -- lm-jax train --config=gpt:tiny ..."
}

# need_number LEAST OPTION...: refuses options that are not whole numbers of at least LEAST.
need_number() {
  local _option _least=$1
  shift
  for _option; do
    if [[ ! ${!_option} =~ ^(0|[1-9][0-9]*)$ ]] || ((${!_option} < _least)); then
      stop "--$_option is '${!_option}'; expected a whole number from $_least"
    fi
  done
}

# quoted WORD...: prints the words so that a shell reads the same words back.
quoted() {
  local word escaped separator='' LC_ALL=C quote="'\\''"
  for word; do
    escaped=${word//\'/$quote}
    case $word in
      '' | *[!A-Za-z0-9_./:=@%+,-]*) printf "%s'%s'" "$separator" "$escaped" ;;
      *) printf '%s%s' "$separator" "$word" ;;
    esac
    separator=' '
  done
}

# show WORD...: prints a command; to stderr if it is also run, because its output may be read by a program.
show() {
  if [[ -n $dry_run ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    printf '+ %s\n' "$(quoted "$@")" >&2
  fi
}

# run WORD...: prints a command and, without --dry_run, runs it. A failure ends the script, as `set -e` says.
run() {
  show "$@"
  [[ -n $dry_run ]] || "$@"
}

# note TEXT: prints a comment.
note() {
  printf '# %s\n' "$1"
}

# distribute: adds --distributed to the command, so that its processes join one run.
distribute() {
  local word
  for word in "${words[@]}"; do
    [[ $word != --distributed ]] || return 0
  done
  words+=(--distributed)
}

# settle NAME COMMAND...: at a script's end, deletes with --delete what costs money, or says how; keeps the exit code.
settle() {
  local code=$? _name=$1
  shift
  trap - EXIT
  if [[ -n $delete ]]; then
    run "$@" || note "NOT DELETED, and it costs money: $(quoted "$@")"
  else
    note "$_name costs money until you delete it: $(quoted "$@")"
  fi
  exit "$code"
}
