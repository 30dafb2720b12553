"""Names processes that keep the others waiting."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_TIMES_MEDIAN, _MIN_SHARE, _STEPS = 1.5, 0.1, 100


class SlowHosts:
    """Which process has been slow for a hundred steps.

    The devices run in step, so a slow host does not show in the time of a step; it shows in how
    long it waits for its own input while the others wait for it.
    """

    def __init__(self) -> None:
        """Nobody is slow yet."""
        self._slow_steps: dict[int, int] = {}

    def look(
        self, waited_s: Float[np.ndarray, " processes"], interval_s: float, steps: int
    ) -> list[str]:
        """One sentence for each process that has just become slow.

        Args:
          waited_s: seconds that each process waited for its own input.
          interval_s: length of the interval, seconds.
          steps: updates in it.
        """
        bound = max(_TIMES_MEDIAN * float(np.median(waited_s)), _MIN_SHARE * interval_s)
        sentences = []
        for process, waited in enumerate(waited_s):
            before = self._slow_steps.get(process, 0)
            now = before + steps if waited > bound else 0
            self._slow_steps[process] = now
            if before < _STEPS <= now:
                sentences.append(
                    f"warning: process {process} has kept the others waiting for {now} steps: its "
                    f"input takes {100 * waited / interval_s:.0f} % of the time"
                )
        return sentences
