"""Operations of a compiled program and bytes that it moves, by XLA's model, loops included."""

from __future__ import annotations

import re
from typing import NamedTuple

import jax
import numpy as np

from maskfeat_jax.commands.hlo import loops, parse

try:
    from jax._src.lib import _jax  # private: JAX's own `cost_analysis` calls the same
    from jax._src.lib import hlo as _hlo
except ImportError:
    _hlo = _jax = None  # type: ignore[assignment]


class Costs(NamedTuple):
    """Of one run of a program on one device.

    Attributes:
      flops: a multiply-add counts as two; None for GPUs, where libraries compute the products.
      bytes: read and written by its operations, which XLA has fused.
    """

    flops: float | None
    bytes: float


def costs(hlo: str) -> Costs | None:
    """Costs of a program; None if this JAX cannot say.

    XLA's own figure, `compiled.cost_analysis()`, is the same but counts what is in a loop once, and
    there is none for GPUs. Of a kernel that is not XLA's (Pallas, cuDNN) the operands and results
    count as moved, but not what it computes.

    Args:
      hlo: `compiled.as_text()` for CPUs, GPUs or TPUs.
    """
    try:
        client = jax.devices("cpu")[0].client
    except RuntimeError:  # JAX_PLATFORMS is that of the accelerator alone
        return None
    if _hlo is None:
        return None
    program, entry = parse(hlo)
    once: dict[str, np.ndarray] = {}

    def counted_once(name: str) -> np.ndarray:
        if name not in once:
            module = _hlo.hlo_module_from_text(_run(hlo, name))
            found = _jax.hlo_module_cost_analysis(client, module)
            once[name] = np.array([found.get("flops", 0.0), found.get("bytes accessed", 0.0)])
        return once[name]

    def all_of(name: str) -> np.ndarray:
        total = counted_once(name)
        for loop in loops(program, name):
            total = total + loop.times * all_of(loop.body) - counted_once(loop.body)
        return total

    flops, moved = all_of(entry).tolist()
    return Costs(None if "__cublas" in hlo else flops, moved)


def _run(hlo: str, name: str) -> str:
    """The program that runs one of its computations."""
    header, rest = hlo.split("\n", 1)  # with what is true of the whole program only
    text = header.partition(",")[0] + "\n" + re.sub(r"^ENTRY ", "", rest, flags=re.MULTILINE)
    return re.sub(rf"^(?=%{re.escape(name)} \()", "ENTRY ", text, flags=re.MULTILINE)
