#!/bin/bash
# Trains on all GPUs of some nodes, one process for each GPU:
#
#     sbatch --nodes=2 launch/slurm.sh few_shot --dataset=mnist --output_dir=...
#
# The name of a script in experiments/ comes first, then its flags. --output_dir
# has to be on a file system that all nodes share.
#
# Slurm sends SIGTERM five minutes before the time limit, and when it takes the
# nodes back: the run keeps what it has and ends. The same sbatch command goes
# on from there. Several of them, submitted together, run one after the other,
# and those that find nothing to do end at once.
#
# Without GPUs, use --gpus-per-node=0 and --cpus-per-task: each process takes
# the cores that Slurm gives it.

#SBATCH --job-name=bean
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@300
#SBATCH --dependency=singleton
#SBATCH --requeue
#SBATCH --output=%x-%j.log

set -euo pipefail

if [[ $# -lt 1 ]]; then
  echo "usage: sbatch [options of sbatch] $0 few_shot|table1|full_data|study [flags]" >&2
  exit 2
fi
script=$1
shift

# srun does not take the cores of a task from sbatch.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

# --kill-on-bad-exit: when a process dies the others end, with what they kept.
srun --kill-on-bad-exit=1 \
  python -u -m "experiments.$script" --distributed "$@"
