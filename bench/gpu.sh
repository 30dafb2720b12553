#!/usr/bin/env bash
# One run on an NVIDIA GPU, twelve minutes at most, in the root of the checkout:
#   bash bench/gpu.sh RESULTS [STAGE ...] [options of bench.gpu]
# SLOWFAST_DIR and MAE_ST_DIR name checkouts of the originals; without them ours is timed alone.
set -eu
export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false
# Stages that compile the same program share it.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${TMPDIR:-/tmp}/maskfeat_jax_bench}
exec "${PYTHON:-python3}" -m bench.gpu "$@"
