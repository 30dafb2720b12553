"""Bugs planted into the source, each of which its tests must notice.

    python -m bench.faults.planted                      # all, one after the other
    python -m bench.faults.planted --check              # only whether they still fit the source
    python -m bench.faults.planted --only masking/cube

The tree is copied to a temporary folder; the checkout is not touched. First all tests run without
a bug, then those of each bug must fail. See mutants.py for bugs of training processes.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from bench.faults.results import ROOT

SECONDS = 900.0  # for the tests of one bug


class Bug(NamedTuple):
    """Text of a file that is replaced; it must occur once. `tests` is a word list for pytest."""

    file: str
    old: str
    new: str
    tests: str


STEPS = "tests/steps_test.py"
LOADER = "tests/input_pipeline/loader_test.py"
CHECKPOINTS = "tests/checkpoints/checkpointer_test.py"
RESUME = "tests/main_test.py::test_killed_and_resumed_equals_uninterrupted_to_the_bit"

BUGS = [
    # Masks.
    Bug("masking/random.py", "rank < count", "rank <= count", "tests/masking/random_test.py"),
    Bug(
        "masking/random.py",
        "jnp.broadcast_to(super().__call__(key, batch, (1, *grid[1:])), (batch, *grid))",
        "super().__call__(key, batch, grid)",
        "tests/masking/random_test.py",
    ),
    Bug("masking/block.py", "& (new <= missing)", "", "tests/masking/block_test.py"),
    Bug(
        "masking/cube.py", "(new <= missing)", "(new <= 2 * missing)", "tests/masking/cube_test.py"
    ),
    # Targets.
    Bug(
        "targets/hog.py",
        "clips[:, :: self.tubelet[0]]",
        "clips[:, self.tubelet[0] - 1 :: self.tubelet[0]]",
        "tests/targets/hog_test.py",
    ),
    Bug("targets/hog.py", "(c k y x)", "(k c y x)", "tests/targets/hog_test.py"),
    Bug(
        "targets/pixels.py",
        "tokens.var(-1, keepdims=True, ddof=1)",
        "tokens.var(-1, keepdims=True)",
        "tests/targets/pixels_test.py",
    ),
    Bug(
        "targets/pixels.py",
        "jnp.sqrt(variance + 1e-6)",
        "jnp.sqrt(variance)",
        "tests/faults/one_colour_test.py",
    ),
    Bug("ops/hog.py", "2 * across[", "across[", "tests/ops/hog_test.py"),
    Bug("ops/hog.py", "turn[:, r] >= low)", "turn[:, r] > low)", "tests/ops/hog_test.py"),
    # What happens to a batch on the device.
    Bug("augment.py", "clips[:, :, :, ::-1]", "clips[:, :, ::-1]", "tests/augment_test.py"),
    # Losses.
    Bug("losses.py", "2 - 2 * jnp.sum(", "1 - 2 * jnp.sum(", "tests/losses_test.py"),
    Bug("losses.py", "~(logits <= own)", "logits > own", "tests/losses_test.py"),
    # Steps.
    Bug(
        "tasks/pretrain.py",
        'counted = mask & batch["valid"][:, None, None, None]',
        "counted = mask",
        f"{STEPS} -k invalid_rows",
    ),
    Bug(
        "steps.py",
        "jax.random.fold_in(jax.random.key(seed), step)",
        "jax.random.key(seed)",
        f"{STEPS} -k draws_anew",
    ),
    Bug("steps.py", "state.skipped + ~take", "state.skipped", f"{STEPS} -k not_finite_changes"),
    Bug("steps.py", "1 - optimizer.ema_decay", "optimizer.ema_decay", f"{STEPS} -k moving_average"),
    Bug(
        "tasks/classify.py",
        'jnp.asarray(batch["valid"]).reshape(-1, views).all(1)',
        'jnp.asarray(batch["valid"]).reshape(-1, views).any(1)',
        f"{STEPS} -k views_of_an_example",
    ),
    # Optimisers.
    Bug("optim.py", "scale = batch_size / self.lr_batch", "scale = 1.0", "tests/optim_test.py"),
    Bug(
        "optim.py",
        "optax.scale_by_adam(self.b1, self.b2, eps=1e-8), decay",
        "decay, optax.scale_by_adam(self.b1, self.b2, eps=1e-8)",
        "tests/optim_test.py",
    ),
    Bug("optim.py", "return axes > 1 and", "return axes > 0 and", "tests/optim_test.py"),
    Bug(
        "optim.py",
        "return layer_decay ** (depth - first)",
        "return layer_decay ** (depth - 1 - first)",
        "tests/optim_test.py",
    ),
    # Devices.
    Bug(
        "sharding.py",
        "(start // size, len(holders) // size)",
        "(0, len(holders) // size)",
        "tests/sharding_test.py -k shares_of_processes",
    ),
    # Checkpoints.
    Bug(
        "checkpoints/manifest.py",
        'if step is not None and body["step"] != step:',
        "if False:",
        f"{CHECKPOINTS} -k another_step",
    ),
    Bug(
        "checkpoints/manifest.py",
        "if next(found) != expected:",
        'if next(found)["bytes"] != expected["bytes"]:',
        f"{CHECKPOINTS} -k flipped_bit",
    ),
    Bug(
        "checkpoints/storage.py",
        "kept = good < self._keep_last",
        "kept = good <= self._keep_last",
        f"{CHECKPOINTS} -k keep_rule",
    ),
    Bug(
        "checkpoints/storage.py",
        "if len(good) < 2:",
        "if len(good) < 1:",
        "tests/checkpoints/saving_test.py -k full_disk",
    ),
    Bug(
        "checkpoints/checkpointer.py",
        "if lines := differences(of_each_block(stored), of_each_block(described)):",
        "if lines := []:",
        f"{CHECKPOINTS} -k another_model",
    ),
    # Order and content of batches.
    Bug(
        "loader.py",
        "pass_index, step = divmod(step, self._steps_per_pass)",
        "pass_index, step = 0, step % self._steps_per_pass",
        LOADER,
    ),
    Bug("loader.py", "self.process_index * self._local_reads + row", "row", LOADER),
    Bug(
        "loader.py",
        "example_generator(self.seed, pass_index, index), read)",
        "example_generator(self.seed, 0, index), read)",
        LOADER,
    ),
    Bug(
        "loader.py",
        "example if example < self.source.num_examples else -1",
        "min(example, self.source.num_examples - 1)",
        LOADER,
    ),
    # Bad input.
    Bug(
        "loader.py",
        "example >= 0 and (problem is None or problem.kind == usable)",
        "example >= 0",
        LOADER,
    ),
    Bug(
        "bad_inputs.py",
        "            self._consecutive = 0\n",
        "            pass\n",
        "tests/input_pipeline/bad_inputs_test.py",
    ),
    Bug(
        "bad_inputs.py",
        "while self._recent and",
        "while False and",
        "tests/input_pipeline/bad_inputs_test.py",
    ),
    # Conversion, and parameters of another run.
    Bug(
        "convert/rules.py",
        "else np.concatenate(tensors)",
        "else np.concatenate(tensors[::-1])",
        "tests/convert/round_trip_test.py",
    ),
    Bug(
        "convert/rules.py",
        "if array.ndim == 2 else (2, 3, 4, 1, 0))",
        "if array.ndim == 2 else (2, 4, 3, 1, 0))",
        "tests/convert/round_trip_test.py",
    ),
    Bug(
        "transfer.py",
        "{part: fresh[part] for part in parts}))",
        "fresh))",
        "tests/transfer_test.py",
    ),
    # Metrics, and resuming.
    Bug(
        "training/metrics.py",
        'finite = [row for row in rows if not row["nonfinite"]] or rows',
        "finite = rows",
        "tests/training/metrics_test.py",
    ),
    Bug(
        "training/loop.py",
        '"window": self._metrics.rows(),',
        '"window": {},',
        "tests/faults/harness_test.py -k killed_at_random",
    ),
    Bug(
        "training/experiment.py",
        "self.training.train_batches(int(state.step))",
        "self.training.train_batches(0)",
        RESUME,
    ),
]


def path_of(bug: Bug, root: pathlib.Path) -> pathlib.Path:
    """The file, which is in one of the two packages."""
    path = root / "maskfeat_jax" / bug.file
    return path if path.exists() else root / "input_pipeline" / bug.file


def stale(bugs: list[Bug]) -> list[str]:
    """Bugs that no longer fit the source."""
    found = []
    for bug in bugs:
        path = path_of(bug, ROOT)
        count = path.read_text().count(bug.old) if path.exists() else 0
        if count != 1:
            found.append(f"{bug.file}: {bug.old!r} occurs {count} times")
    return found


def run(root: pathlib.Path, tests: str) -> tuple[int, str]:
    """Exit code and last line of pytest: 0 passed, 1 failed."""
    words = [word if ".py" not in word else str(root / word) for word in tests.split()]
    # Without byte code: a file that changes twice within a second would go unnoticed.
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-m", "not original", *words]  # slow ones too
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"no end after {SECONDS:g} s"
    return done.returncode, (done.stdout.strip().splitlines() or [""])[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of a file's name")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    bugs = [bug for bug in BUGS if args.only in bug.file]
    if wrong := stale(bugs):
        sys.exit("out of date: " + "; ".join(wrong))
    if args.check:
        return
    missed, begun = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        root = pathlib.Path(folder) / "tree"
        hidden = shutil.ignore_patterns(".*", "__pycache__", "runs")
        shutil.copytree(ROOT, root, ignore=hidden)
        for tests in sorted({bug.tests for bug in bugs}):
            code, last = run(root, tests)
            if code:
                sys.exit(f"{tests} fails without a bug: {last}")
        for bug in bugs:
            path = path_of(bug, root)
            sound = path.read_text()
            path.write_text(sound.replace(bug.old, bug.new))
            code, last = run(root, bug.tests)
            path.write_text(sound)
            found = {0: "NOT FOUND", 1: "found"}.get(code, f"pytest ended with {code}")
            missed += [bug.old] * (found != "found")
            print(f"{found:<10} {bug.file:<28} {bug.old!r:.60} by {bug.tests}: {last}", flush=True)
    minutes = (time.monotonic() - begun) / 60
    print(f"{len(bugs) - len(missed)} of {len(bugs)} found in {minutes:.1f} min; not: {missed}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
