"""The tests, and the run-time type checker that they run the package under."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# An int is also a float, as type hints mean it.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
