#!/bin/bash
# All that only a GPU can measure, the most telling first:
#
#     TFDS_DATA_DIR=... bash launch/gpu_campaign.sh OUTPUT_DIR
#
# checks, the benchmarks beside PyTorch (where it is installed), golden results,
# MNIST's half of Table 1, imitation networks of their authors' size, and
# ResNet-18 on CIFAR-10 with and without BEAN. It needs no network and writes
# below OUTPUT_DIR alone.
#
# Each step takes CAMPAIGN_SECONDS (460) at most and then keeps what it has. The
# same command goes on: with what is not finished, in the same order. After
# every step OUTPUT_DIR has its results in STEP.tar.gz, and campaign.log: seven
# files. OUTPUT_DIR/work has the rest (caches, networks); without it a campaign
# goes on from the archives, cell by cell.
#
# CAMPAIGN_TINY=1 makes everything tiny: it tests the script, on a CPU too.

set -euo pipefail

if [[ $# -ne 1 || $1 == -* ]]; then
  echo "usage: $0 OUTPUT_DIR" >&2
  exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$out/work
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${CAMPAIGN_SECONDS:-460}
tiny=${CAMPAIGN_TINY:-}

# Whatever a tool would write elsewhere.
mkdir -p "$work"/{cache,home,tmp}
export BEAN_JAX_CACHE=$work/cache/bean_jax CUDA_CACHE_PATH=$work/cache/cuda
export HOME=$work/home MPLCONFIGDIR=$work/cache/matplotlib
export PYTHONDONTWRITEBYTECODE=1 TMPDIR=$work/tmp XDG_CACHE_HOME=$work/cache

# step NAME COMMAND...: runs a part of a step, once it has ended never again.
# Parts of a step are archived together.
failed=0
step() {
  local name=$1 folder=$work/$1 status=0 mark
  shift
  if [[ ! -d $folder && -f $out/$name.tar.gz ]]; then
    tar -xzf "$out/$name.tar.gz" -C "$work"
  fi
  mkdir -p "$folder"
  # Wherever OUTPUT_DIR lies.
  mark=$folder/$(printf '%s' "${*//$work/}" | sha256sum | cut -c1-16).done
  [[ -f $mark ]] && return
  echo "==> [$(date -u +%T)] $name: $*" | tee -a "$out/campaign.log"
  timeout --kill-after=60 "$seconds" "$@" >> "$folder/output.txt" 2>&1 ||
    status=$?
  tail -n 40 "$folder/output.txt" >> "$out/campaign.log"
  case $status in
    0) touch "$mark" ;;
    124) echo "    not finished: the same command goes on" |
      tee -a "$out/campaign.log" ;;
    *) failed=1
      echo "    failed with status $status; see campaign.log" |
        tee -a "$out/campaign.log" ;;
  esac
  # Networks are too large to be brought along.
  tar -czf "$work/tmp/$name.tar.gz" -C "$work" --exclude=checkpoints \
    --exclude=partial "$name"
  mv "$work/tmp/$name.tar.gz" "$out/$name.tar.gz"
}

torch=--torch
python -c 'import torch' 2> /dev/null || torch=--notorch
cases=(members_batch1 members_batch100 penalty_4096 evaluation penalty_memory
  epoch_lenet5 penalty_8192 penalty_16384 epoch_resnet18)
benchmark=("$torch")
table1=(--datasets=mnist --first_pseudo=62 --last_pseudo=500 --order=cost)
imitation=(--datasets=mnist --shots=1 --methods=vanilla,imitation)
resnet=(--dataset=cifar10 --model=resnet18 --crop --seeds=1)
if [[ -n $tiny ]]; then
  cases=(members_batch1)
  benchmark+=(--quick)
  few=(--datasets=digits --shots=1 --epochs=2 --seeds=2
    --selection_seeds=100-101 --validate_every=1)
  table1=("${few[@]}" --methods=vanilla)
  imitation=("${few[@]}" --methods=vanilla,imitation --first_pseudo=10
    --last_pseudo=20 --pseudo_periods=2 --pseudo_epochs=2)
  resnet=(--dataset=digits --model=mlp500 --epochs=1 --seeds=1)
fi

step checks python -m bean_jax.check
for case in "${cases[@]}"; do
  step benchmarks python -m benchmarks.run --suite=gpu --only="$case" \
    "${benchmark[@]}" --output_dir="$work/benchmarks"
done
step golden python -m tests.golden.make "$work/golden"
step table1 python -m experiments.table1 "${table1[@]}" \
  --output_dir="$work/table1"
step imitation python -m experiments.table1 "${imitation[@]}" \
  --output_dir="$work/imitation"
step resnet18 python -m experiments.full_data "${resnet[@]}" \
  --methods=vanilla,bean1,bean2 --alphas="bean1:3 bean2:100" \
  --output_dir="$work/resnet18"
exit "$failed"
