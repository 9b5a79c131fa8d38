# shellcheck shell=bash
# Cloud TPU queued resources: create, wait, install, mount, train, delete. Shared by tpu_pod.sh and multislice.sh, which
# set `verb` and `hosts`: how gcloud reaches every host of one slice, or of several. Sourced, not run.
name='' zone='' project='' accelerator='' runtime='' bucket='' source='' setup='' logs='' poll_s=30 verb=''
spot='' reuse='' hosts=() place=()

# shellcheck disable=SC2034 # The scripts that source this read it.
queued_options="  --name=NAME                name of the queued resource; letters, digits and dashes
  --zone=ZONE                a zone with quota for the accelerator, such as us-west4-a
  --accelerator=TYPE         type of one slice, such as v5litepod-16
  --project=PROJECT          [gcloud's default]
  --runtime=VERSION          TPU software version [by the accelerator]
  --bucket=BUCKET            mount this Cloud Storage bucket on every host as /mnt/lm_jax, with gcsfuse
  --source=DIR|FILE          clone of the library, or its wheel, to install on every host [the clone of this script]
  --setup=COMMAND            run this on every host before the training, for instance to mount a file system
  --logs=DIR                 local folder of the hosts' logs [logs/NAME]
  --poll_s=SECONDS           time between two looks at the state of the request [30]
  --spot                     ask for preemptible capacity
  --reuse                    do not create: the resource exists and is active, or will be
  --delete                   delete the resource at the end, also after a failure
  --dry_run                  print the commands, and run nothing
  --help                     print this"

# check: refuses bad options, and fills in those that were not given.
check() {
  need name zone accelerator
  need_command
  need_number 0 poll_s
  [[ $bucket != gs://* ]] || stop "--bucket is $bucket; expected the bare name, ${bucket#gs://}"
  if [[ -z $runtime ]]; then
    case $accelerator in
      v6e-*) runtime=v2-alpha-tpuv6e ;;
      v5p-*) runtime=v2-alpha-tpuv5 ;;
      v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
      v[234]-*) runtime=tpu-ubuntu2204-base ;;
      *) stop "no TPU software version is known for --accelerator=$accelerator; give --runtime=VERSION" ;;
    esac
  fi
  local clone
  clone=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  if [[ -z $source ]]; then
    [[ -f $clone/setup.cfg ]] || stop "this script is not in a clone of lm_jax; give --source=DIR (a clone) or a wheel"
    source=$clone
  fi
  [[ -f $source || -f $source/setup.cfg ]] || stop "--source=$source is neither a clone of lm_jax nor a file"
  logs=${logs:-logs/$name}
  place=(--zone="$zone")
  [[ -z $project ]] || place+=(--project="$project")
  distribute
}

# create NODES...: asks for the slices; from here on, `finish` runs whatever happens.
create() {
  if [[ -z $reuse ]]; then
    [[ -z $spot ]] || set -- "$@" --spot
    run gcloud compute tpus queued-resources create "$name" "${place[@]}" "$@" \
      --accelerator-type="$accelerator" --runtime-version="$runtime"
  fi
  trap finish EXIT
}

# wait_until_active: waits for the capacity, which may take minutes or days.
wait_until_active() {
  local state look=(gcloud compute tpus queued-resources describe "$name" "${place[@]}" '--format=value(state.state)')
  note "every $poll_s s until it prints ACTIVE:"
  show "${look[@]}"
  while [[ -z $dry_run ]]; do
    state=$("${look[@]}")
    case $state in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING) stop "$name is $state; delete it and create it again" 1 ;;
    esac
    note "$name is ${state:-unknown}"
    sleep "$poll_s"
  done
}

# on_hosts COMMAND: runs a shell command on every host at once.
on_hosts() {
  run gcloud compute tpus "$verb" ssh "$name" "${place[@]}" "${hosts[@]}" --command="$1"
}

# install_library: copies the library to every host and installs it into ~/lm_jax_env. The Python of a TPU image may be
# older than 3.11, so uv brings its own.
install_library() {
  local file=$source
  run mkdir -p "$logs"
  if [[ -d $source ]]; then
    file=$logs/lm_jax.tar.gz
    run tar -czf "$file" -C "$source" --exclude=__pycache__ \
      lm_jax configs launch setup.cfg pyproject.toml README.md LICENSE
  fi
  run gcloud compute tpus "$verb" scp "$file" "$name:" "${place[@]}" "${hosts[@]}"
  # shellcheck disable=SC2016 # The hosts expand these variables.
  on_hosts 'set -e; uv=$HOME/.local/bin/uv; [ -x $uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh; '\
'$uv venv --quiet --allow-existing --python=3.12 $HOME/lm_jax_env; $uv pip install --quiet '\
'--python=$HOME/lm_jax_env/bin/python --reinstall-package=lm_jax "lm_jax[tpu] @ file://$HOME/'"${file##*/}"'"'
}

# mount_bucket: mounts the bucket on every host. Without a cache of metadata, a host sees at once what others wrote.
mount_bucket() {
  [[ -n $bucket ]] || return 0
  # shellcheck disable=SC2016 # The hosts expand these variables.
  on_hosts 'set -e; mountpoint -q /mnt/lm_jax && exit 0; if ! command -v gcsfuse >/dev/null; then '\
'apt=https://packages.cloud.google.com/apt; key=/usr/share/keyrings/cloud.google.asc; '\
'curl -fsSL $apt/doc/apt-key.gpg | sudo tee $key >/dev/null; '\
'echo "deb [signed-by=$key] $apt gcsfuse-$(lsb_release -cs) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list; '\
'sudo apt-get update -q; sudo apt-get install -qy gcsfuse; fi; sudo install -d -o $(id -u) /mnt/lm_jax; '\
"gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 $(quoted "$bucket") /mnt/lm_jax"
}

# train: runs the command on every host. A host starts its lines with its name, by which awk sorts them into files.
train() {
  [[ -z $setup ]] || on_hosts "$setup"
  local remote sort
  # shellcheck disable=SC2016,SC2154 # The hosts and awk expand these variables; common.sh assigns `words`.
  remote='set -o pipefail; export PATH=$HOME/lm_jax_env/bin:$PATH; '"$(quoted "${words[@]}")"\
' 2>&1 | sed -u "s/^/[$(hostname)] /"'
  # shellcheck disable=SC2016 # awk's own variables.
  sort='{ print; fflush() }
    /^\[[^]]+\] / {
      file = logs "/" substr($1, 2, length($1) - 2) ".log"
      print substr($0, length($1) + 2) >> file
      fflush(file)
    }'
  note "each host's output: $logs/HOST.log"
  if [[ -n $dry_run ]]; then
    on_hosts "$remote"
  else
    on_hosts "$remote" 2>&1 | awk -v "logs=$logs" "$sort"
  fi
}

# finish: deletes the resource, or says how; the exit code stays that of the script.
finish() { settle "$name" gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet; }
