#!/bin/bash
# Trains on several GPUs of this machine, one process for each:
#
#     bash launch/local_gpus.sh 4 few_shot --dataset=mnist --output_dir=...
#
# The number of GPUs comes first, the name of a script in experiments/ next,
# then its flags. One process takes all GPUs too, without this: several are
# faster where steps are so small that the host is what they wait for.
#
# Ctrl-C ends all at once. SIGTERM to this script is passed on: the run keeps
# what it has and ends. The same command goes on from there, and so does one
# with another number of GPUs.
#
# Without GPUs (CUDA_VISIBLE_DEVICES=), each process takes all cores, unless
# LAUNCH_CORES=1 pins it to one of its own.

set -euo pipefail

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 GPUS few_shot|table1|full_data|study [flags]" >&2
  exit 2
fi
number=$1
script=$2
shift 2

# The GPUs that may be used: those of the environment, else the first ones.
if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
  IFS=, read -ra gpus <<< "$CUDA_VISIBLE_DEVICES"
else
  mapfile -t gpus < <(seq 0 $((number - 1)))
fi

port=$(python -c "
import socket
with socket.socket() as free:
  free.bind(('localhost', 0))
  print(free.getsockname()[1])
")

processes=()
trapped=0
trap 'trapped=1; kill -TERM "${processes[@]}" 2> /dev/null || true' TERM
# What bash starts in the background does not hear Ctrl-C.
trap 'kill -KILL "${processes[@]}" 2> /dev/null || true; exit 130' INT
for ((id = 0; id < number; id++)); do
  pin=()
  if [[ ${LAUNCH_CORES:-} == 1 ]]; then
    pin=(taskset -c "$id")
  fi
  CUDA_VISIBLE_DEVICES=${gpus[id]:-} "${pin[@]}" \
    python -u -m "experiments.$script" \
    --coordinator_address="localhost:$port" \
    --num_processes="$number" --process_id="$id" "$@" &
  processes+=($!)
done

# The first bad exit status is that of all.
status=0
for process in "${processes[@]}"; do
  while true; do
    ended=0
    wait "$process" || ended=$?
    # A signal ends `wait` early.
    [[ $trapped == 1 ]] || break
    trapped=0
  done
  if [[ $status == 0 ]]; then
    status=$ended
  fi
done
exit "$status"
