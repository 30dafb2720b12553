#!/bin/bash
# Trains on several nodes under Slurm, with one process for each GPU. The job requeues itself after
# the time limit, a preemption, or the loss of a node.
#
#     sbatch docs/launch/slurm.sh configs/maskfeat_vit_in1k.py:b16 runs/a \
#         --config.data.path=/data/imagenet
#
# On nodes without GPUs: --ntasks-per-node=1, no --gpus-per-node.

#SBATCH --job-name=maskfeat
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
# SIGTERM to all processes (not to this script) five minutes before the limit: they save and end.
#SBATCH --signal=TERM@300
# Slurm itself requeues the job when a node fails.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out

set -u

if [ "$#" -lt 2 ]; then
  echo "usage: sbatch $0 CONFIG WORKDIR [more arguments of main.py]" >&2
  exit 64
fi
config=$1
workdir=$2 # on a file system that all nodes share
shift 2

restarts=50 # limit for a job that always fails

# The processes connect to each other directly; with a proxy in between they hang at start.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

# Cache of compiled programs, so that the next start takes seconds.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/maskfeat_xla}

# --distributed: JAX reads the processes from Slurm; process 0 is on the first node, its port is
# 61440 + (job id mod 4096). --start_seconds: how long to wait for the slowest node.
srun .venv/bin/python main.py --config="$config" --workdir="$workdir" \
  --distributed --start_seconds=600 --config.run.grace_seconds=240 "$@"
code=$?

# 75: stopped after saving, or lost another process. Above 128: ended by a signal, such as 134 by
# JAX when another process is lost, 137 by SIGKILL, 143 by SIGTERM. 1: a hang (stacks_*.txt in the
# work directory) or a crash of Python, restarted at most three times in a row. All continue from the
# last checkpoint. Any other code is an error to be fixed: see STATUS.json.
hung=slurm-$SLURM_JOB_ID.hung # one line for each time in a row
if [ "$code" -eq 1 ]; then date >>"$hung"; else rm -f "$hung"; fi
if [ "$code" -eq 75 ] || [ "$code" -gt 128 ] ||
  { [ "$code" -eq 1 ] && [ "$(wc -l <"$hung")" -le 3 ]; }; then
  if [ "${SLURM_RESTART_COUNT:-0}" -lt "$restarts" ]; then
    echo "exit code $code; starting again" >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
  fi
  echo "exit code $code after $restarts restarts; giving up" >&2
fi
exit "$code"
