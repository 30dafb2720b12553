#!/bin/bash
# Trains on all hosts of a Cloud TPU pod slice, run from your own machine. Restarts the run after
# exit codes that mean "run again".
#
#     docs/launch/tpu_pod.sh NAME ZONE CONFIG WORKDIR [more arguments of main.py]
#     docs/launch/tpu_pod.sh pod1 us-central2-b configs/mae_vit_kinetics.py:l16 /shared/runs/m \
#         --config.data.path=/shared/k400
#
# Install the project and its packages on every host before, once:
#
#     gcloud compute tpus tpu-vm ssh pod1 --zone=us-central2-b --worker=all --command='
#         git clone URL maskfeat_jax && cd maskfeat_jax && make setup &&
#         .venv/bin/pip install "jax[tpu]"'
#
# WORKDIR and the data must be on a file system that all hosts mount (Filestore, NFS), not gs://.

set -u

if [ "$#" -lt 4 ]; then
  echo "usage: $0 NAME ZONE CONFIG WORKDIR [more arguments of main.py]" >&2
  exit 64
fi
name=$1
zone=$2
config=$3
workdir=$4
shift 4

# The same command on every host: JAX reads the processes from the metadata of the pod. Process 0
# listens on port 8482, which is open within the network of a pod.
words=(.venv/bin/python main.py "--config=$config" "--workdir=$workdir" --distributed "$@")
command="cd maskfeat_jax &&$(printf ' %q' "${words[@]}")"

restarts=50 # limit for a run that always fails
hung=0      # times in a row
for ((n = 0; n <= restarts; n++)); do
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command"
  code=$?
  # A preempted pod has to be created again first.
  case $code in
    75 | 134 | 137 | 143) hung=0 ;; # stopped, lost another host, ended by a signal
    1) hung=$((hung + 1)) ;;        # a hang (stacks_*.txt in WORKDIR), or a crash of Python
    *) exit "$code" ;;
  esac
  if [ "$hung" -gt 3 ]; then
    exit "$code"
  fi
  echo "exit code $code; starting again in 30 s" >&2
  sleep 30
done
exit "$code"
