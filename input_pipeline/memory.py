"""How the C library treats memory that is freed."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_MOST_MMAP = 32 << 20  # bytes; glibc takes no more


def keep_freed_memory() -> bool:
    """Lets glibc keep what is freed instead of handing it back to the kernel; elsewhere, nothing.

    Clips are megabytes that come and go. Handed back, each page is cleared and mapped anew, which
    costs more than cropping and resizing. The process keeps the most memory that it ever used.

    Returns:
      Whether glibc took the setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MOST_MMAP) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))
