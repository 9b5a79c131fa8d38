#!/usr/bin/env bash
# Trains a decoder, an encoder and an encoder-decoder on the documentation of the installed Python, then generates from
# each: a few minutes on two cores, without downloads. `make quickstart` runs it; the argument is the runs' directory.
set -euo pipefail
out=${1:-runs/quickstart}
started=$SECONDS

for recipe in gpt bert t5; do
  printf '\n== %s: training\n' "$recipe"
  lm-jax train --config="quickstart:$recipe" --workdir="$out/$recipe"
done

printf '\n== the decoder continues a prompt\n'
lm-jax generate --workdir="$out/gpt" --prompt='Return a new string' --max_tokens=60 --temperature=0.7 --top_p=0.9
printf '\n== the encoder fills masks\n'
lm-jax generate --workdir="$out/bert" --prompt='If the argument is not given, it [MASK] to None.'
printf '\n== the encoder-decoder restores a span\n'
lm-jax generate --workdir="$out/t5" --temperature=0 --max_tokens=24 \
  --prompt='Return True if the object <extra_id_0> of the class, and raise an error if it is not.'
printf '\n== loss curves\n'
lm-jax inspect "$out/gpt" "$out/bert" "$out/t5" --output="$out/loss.png"
printf '\nquickstart took %d s; runs and loss.png are in %s\n' "$((SECONDS - started))" "$out"
