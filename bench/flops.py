"""Floating-point operations of a training step, and peak performance of devices."""

from __future__ import annotations

from maskfeat_jax.flops import training_flops

__all__ = ["PEAKS", "peak_flops", "training_flops"]

# Dense bf16 products, operations per second, from the vendors' data sheets (NVIDIA: half of the
# number "with sparsity"; Google Cloud: "peak compute per chip").
PEAKS = {
    "NVIDIA H200": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v6 lite": 918e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Peak operations per second of a device; None if unknown."""
    return next((peak for name, peak in PEAKS.items() if device_kind.startswith(name)), None)
