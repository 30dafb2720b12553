"""A process with transformers 4: verifies files of ours, writes files of its own.

Prints the largest difference and the largest number for each folder below `ours`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.originals import make_importable
from maskfeat_jax import convert
from maskfeat_jax.convert.verify import ORIGINALS, verify
from tests.original.checkpoints import randomise, save_as_original


def main(folder: Path) -> None:
    make_importable("transformers")
    import transformers

    assert transformers.__version__.startswith("4."), transformers.__version__
    found = {}
    for path in sorted((folder / "ours").iterdir()):
        trained = convert.load_torch(path)
        verified = verify(trained, path)
        found[path.name] = verified.difference, verified.largest
        theirs = ORIGINALS["hf"].build(trained, frozenset())
        randomise(theirs)
        save_as_original("hf", theirs, folder / "theirs" / path.name, trained)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
