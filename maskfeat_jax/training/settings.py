"""The sections `run` and `input` of a recipe."""

from __future__ import annotations

import dataclasses

VERIFY = ("auto", "full", "length")


@dataclasses.dataclass(frozen=True)
class Run:
    """The section `run`: batch size, length, intervals, limits.

    Attributes:
      batch_size: clips per update, over all devices.
      epochs: length of the whole run.
      accumulate: number of equal slices of a batch that are computed one after the other, with
        accumulated gradients.
      log_every_steps: steps between two lines of the log.
      checkpoint_every_epochs: 0 saves at the end only.
      evaluate_every_epochs: 0 evaluates at the end only.
      pictures_every_epochs: 0 draws at the end only.
      keep_checkpoints: number of newest checkpoints to keep.
      verify_checkpoints: what is verified before a checkpoint is loaded: "full", the SHA-256 of
        each file; "length", their sizes; "auto", "length" only above 5 GB.
      allow_fresh_start: start from step 0 if there are checkpoints, but none passes verification.
      max_nonfinite: end the run after this many consecutive steps whose loss or gradient is not
        finite.
      max_nonfinite_fraction: largest fraction of such steps in the run.
      grace_seconds: time from the first signal to stop until the process ends in any case.
      hang_seconds: a step that takes longer, and longer than ten times the median, is a hang: the
        stacks of all threads are saved and the process ends with code 1.
      hang_start_seconds: the same for the first step, evaluations and saves.
      profile: number of the first step, from 0, and how many, of which a trace for XProf is written
        to `profile/` in the work directory; None for none.
    """

    batch_size: int
    epochs: float = 1.0
    accumulate: int = 1
    log_every_steps: int = 50
    checkpoint_every_epochs: float = 1.0
    evaluate_every_epochs: float = 1.0
    pictures_every_epochs: float = 1.0
    keep_checkpoints: int = 3
    verify_checkpoints: str = "auto"
    allow_fresh_start: bool = False
    max_nonfinite: int = 5
    max_nonfinite_fraction: float = 0.001
    grace_seconds: float = 25.0
    hang_seconds: float = 300.0
    hang_start_seconds: float = 1800.0
    profile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        counts = ("epochs", "batch_size", "accumulate", "log_every_steps", "keep_checkpoints")
        for name in (*counts, "grace_seconds", "hang_seconds", "hang_start_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} must be positive")
        for name in ("checkpoint", "evaluate", "pictures"):
            if not getattr(self, f"{name}_every_epochs") >= 0:
                raise ValueError(f"{name}_every_epochs must not be negative")
        if self.max_nonfinite < 1:
            raise ValueError(f"max_nonfinite={self.max_nonfinite} must be 1 or more")
        if not 0 <= self.max_nonfinite_fraction <= 1:
            raise ValueError(
                f"max_nonfinite_fraction={self.max_nonfinite_fraction} is not in [0, 1]"
            )
        if self.profile is not None and not (self.profile[0] >= 0 and self.profile[1] > 0):
            raise ValueError(f"profile={self.profile}: expected a first step and how many")
        if self.verify_checkpoints not in VERIFY:
            raise ValueError(f"verify_checkpoints must be one of {', '.join(VERIFY)}")


@dataclasses.dataclass(frozen=True)
class Input:
    """The section `input`: reading on the host.

    Attributes:
      workers: number of decoding threads; 0 for one per core.
      on_bad_in_evaluation: "fail" stops at an unreadable file; "skip" leaves it out, and the
        metrics `used` and `expected` tell how many were used.
    """

    workers: int = 0
    on_bad_in_evaluation: str = "fail"

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers={self.workers} must not be negative")
        if self.on_bad_in_evaluation not in ("fail", "skip"):
            raise ValueError("on_bad_in_evaluation must be 'fail' or 'skip'")
