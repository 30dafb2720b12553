"""Bugs planted into training processes, to see that the oracles find each of them.

    python -m bench.faults.mutants            # all
    python -m bench.faults.mutants --only "the moments of Adam are lost"

A mutant is code that changes the process it runs in, and a scenario: what is done to a run that has
it. The scenarios pass without a mutant (`--only ""`).
"""

from __future__ import annotations

import argparse
import json
import pathlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bench.faults import hangs, kills, numbers, oracles, refusals, results, signals
from bench.faults.oracles import Problems
from bench.faults.runner import Case, Forks, side_by_side

Scenario = Callable[[Case, Case], Problems]


def killed(case: Case, unbroken: Case, at: str = "step:kill@31") -> Problems:
    """SIGKILL in the middle, then to the end."""
    found = kills.chain(case, unbroken, [at])
    return found.rubbish + [found.verdict.why] * bool(found.verdict.why)


def killed_in_save(case: Case, unbroken: Case) -> Problems:
    """SIGKILL when the arrays of the third step are written and its manifest is not."""
    return killed(case, unbroken, "save.before_manifest:kill@3")


def damaged(case: Case, unbroken: Case) -> Problems:
    """SIGKILL, then a bit of the newest arrays flips."""
    return _hurt(case, unbroken, _flip)


def forged(case: Case, unbroken: Case) -> Problems:
    """SIGKILL, then a digit of the newest manifest changes, in what was not reported yet."""
    return _hurt(case, unbroken, _forge)


def _hurt(case: Case, unbroken: Case, hurt: Callable[[pathlib.Path], None]) -> Problems:
    ended = case.run("step:kill@31")
    assert ended.code == -signal.SIGKILL, ended.output
    newest = oracles.good_steps(case.workdir)[-1]
    hurt(case.workdir / "checkpoints" / str(newest))
    return oracles.stopped(case.run(), 0) or oracles.same_run(case, unbroken)


def _flip(step: pathlib.Path) -> None:
    files = [path for path in step.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)


def _forge(step: pathlib.Path) -> None:
    path = step / "manifest.json"
    document = json.loads(path.read_text())
    window = document["body"]["facts"]["unfinished"]["window"]
    old = window["loss"][0]
    new = f"{float(old) * 1.01:.6f}"
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))


def told_to_stop(case: Case, unbroken: Case, fault: str = "step:term@31") -> Problems:
    """SIGTERM in the middle, then to the end."""
    ended = case.run(fault)
    damage, late, _ = signals.stop(case, ended, fault, 0)
    return damage + late or oracles.stopped(case.run(), 0) or oracles.same_run(case, unbroken)


def stopped_in_evaluation(case: Case, unbroken: Case) -> Problems:
    """SIGTERM between the batches of an evaluation."""
    return told_to_stop(case, unbroken, "evaluate.batch:term@3")


def poisoned(case: Case, _: Case) -> Problems:
    """NaN in single updates."""
    return _why(numbers.once(case, 0)[0])


def poisoned_parameters(case: Case, _: Case) -> Problems:
    """NaN in the parameters."""
    return _why(numbers.parameters(case, 0)[0])


def poisoned_for_ever(case: Case, _: Case) -> Problems:
    """NaN from an update on."""
    return _why(numbers.always(case, 0)[0])


def used_twice(case: Case, unbroken: Case) -> Problems:
    """Two runs in one directory."""
    return _why(refusals.two_runs(case, unbroken))


def disk_fails(case: Case, unbroken: Case) -> Problems:
    """The thread that writes fails twice."""
    return _why(refusals.failed_write(case, unbroken))


def recipe_changes(case: Case, _: Case) -> Problems:
    """SIGTERM, then another learning rate."""
    assert case.run("step:term@10").code == 75
    return oracles.stopped(case.run(words=["--config.optim.lr=0.02"]), 78, "optim.lr: 0.03 -> 0.02")


def hangs_in_step(case: Case, unbroken: Case) -> Problems:
    """A step that never ends."""
    return _why(hangs.hang(case, unbroken, "step:sleep@20", wait_s=60)[0])


def _why(verdict: oracles.Verdict) -> Problems:
    return [verdict.why] if verdict.outcome not in results.GOOD else []


class Mutant(NamedTuple):
    """A bug, and where it should show."""

    plant: Callable[[], None]
    scenario: Scenario
    recipe: str = "pretrain"


def _replace(where: Any, name: str, new: Any) -> None:
    """Plants; what is not there any more would not be a bug."""
    assert hasattr(where, name), f"{where} has no {name}: the mutant is out of date"
    setattr(where, name, new)


def _after_restore(change: Callable[[Any, dict], tuple[Any, dict]]) -> Callable[[], None]:
    """A bug in what is restored."""

    def plant() -> None:
        from maskfeat_jax.checkpoints.checkpointer import Checkpoints

        restore = Checkpoints.restore

        def restored(self: Any, step: int, like: Any) -> tuple[Any, dict]:
            return change(*restore(self, step, like))

        _replace(Checkpoints, "restore", restored)

    return plant


def _of_optimiser(which: Callable[[Any], bool]) -> Callable[[], None]:
    """Zeros in some arrays of the optimiser."""

    def lose(state: Any, facts: dict) -> tuple[Any, dict]:
        import jax

        zeros = jax.tree.map(lambda x: x * 0 if which(x) else x, state.opt_state)
        return state.replace(opt_state=zeros), facts

    return _after_restore(lose)


def _params_through_bf16(state: Any, facts: dict) -> tuple[Any, dict]:
    import jax

    rounded = jax.tree.map(lambda x: x.astype("bfloat16").astype(x.dtype), state.params)
    return state.replace(params=rounded), facts


def _ema_from_params(state: Any, facts: dict) -> tuple[Any, dict]:
    import jax

    return state.replace(ema=jax.tree.map(lambda x: x.copy(), state.params)), facts


def _without(key: str, empty: Any) -> Callable[[], None]:
    def lose(state: Any, facts: dict) -> tuple[Any, dict]:
        return state, {**facts, "unfinished": {**facts["unfinished"], key: empty}}

    return _after_restore(lose)


def _batches(change: Callable[[int, Iterator[dict]], Iterator[dict]]) -> Callable[[], None]:
    """A bug in the batches of training; it gets the step they begin with and the loader's."""

    def plant() -> None:
        from input_pipeline import Loader

        original = Loader.train_batches

        def changed(self: Any, start_step: int = 0) -> Iterator[dict]:
            yield from change(start_step, lambda step: original(self, step))

        _replace(Loader, "train_batches", changed)

    return plant


def _rows_at(step: int, rows: list[int]) -> Callable[[], None]:
    """Other rows in one batch of the run."""

    def change(start: int, batches: Any) -> Iterator[dict]:
        for number, batch in enumerate(batches(start), start):
            order = [*rows, *range(len(rows), len(batch["index"]))]
            yield {k: v[order] for k, v in batch.items()} if number == step else batch

    return _batches(change)


def _crops_anew() -> None:
    from input_pipeline import Loader

    original = Loader.train_batches

    def changed(self: Any, start_step: int = 0) -> Iterator[dict]:
        self.seed += start_step  # the order is already bound to the seed it had
        return original(self, start_step)

    _replace(Loader, "train_batches", changed)


def _masks_anew() -> None:
    from maskfeat_jax import steps

    keys = steps.step_keys

    def plant_in(state: Any, facts: dict) -> tuple[Any, dict]:
        _replace(steps, "step_keys", lambda seed, step: keys(seed + 1, step))
        return state, facts

    _after_restore(plant_in)()


def _lengths_only() -> None:
    from maskfeat_jax.checkpoints import manifest

    verify = manifest.verify
    _replace(
        manifest, "verify", lambda directory, step, level="": verify(directory, step, "length")
    )


def _manifest_trusted() -> None:
    from maskfeat_jax.checkpoints import manifest

    def read(directory: pathlib.Path) -> dict:
        try:
            return json.loads((directory / manifest.FILE).read_text())["body"]
        except OSError as error:
            raise manifest.Damaged("missing") from error

    _replace(manifest, "_read", read)


def _saves_anything() -> None:
    from maskfeat_jax.train import loop

    _replace(loop, "_all_finite", lambda tree: True)


def _applies_anything() -> None:
    from maskfeat_jax import steps

    _replace(steps, "_only_if", lambda condition, change, state: change(state))


def _no_evidence() -> None:
    from maskfeat_jax.train import setup as training

    _replace(training, "keep_evidence", lambda *_, **__: "not finite either")


def _never_gives_up() -> None:
    from maskfeat_jax.train.metrics import MetricBuffer

    _replace(MetricBuffer, "_check", lambda self: None)


def _no_status() -> None:
    from maskfeat_jax.commands import train

    write = train.write_status

    def written(path: pathlib.Path, state: Any, **facts: Any) -> None:
        if state == "finished":
            write(path, state, **facts)

    _replace(train, "write_status", written)


def _code_one() -> None:
    from maskfeat_jax.commands import program, train

    code = program.exit_code_of
    for module in (program, train):
        _replace(module, "exit_code_of", lambda error: 1 if code(error) == 75 else code(error))


def _deaf() -> None:
    from maskfeat_jax.distributed.collectives import Agreement, Asked

    _replace(Agreement, "asked", lambda self: Asked())
    _replace(Agreement, "alone", lambda self: False)


def _stops_without_saving() -> None:
    from maskfeat_jax.train import loop

    def stop(self: Any) -> None:
        raise loop.Stopped("at once")

    _replace(loop.Training, "_stop", stop)


def _deletes_first() -> None:
    from maskfeat_jax.checkpoints.storage import Storage

    make_room = Storage.make_room

    def deleting(self: Any, step: int, size: int) -> int:
        for old in self.steps():
            self._delete(old)
        return make_room(self, step, size)

    _replace(Storage, "make_room", deleting)


def _not_atomic() -> None:
    from maskfeat_jax.checkpoints import manifest
    from maskfeat_jax.checkpoints.storage import Storage
    from maskfeat_jax.faults import fault_point

    def commit(self: Any, step: int, temporary: pathlib.Path, body: dict) -> None:
        fault_point("save.before_manifest")
        manifest.write(temporary, body)

    _replace(Storage, "temporary", lambda self, step, number: self.directory / str(step))
    _replace(Storage, "commit", commit)


def _failure_forgotten() -> None:
    from maskfeat_jax.checkpoints.checkpointer import Checkpoints

    def finish(self: Any) -> None:
        if self._pending is not None:
            self._pending.wait()
        self._pending, self.written_s = None, 1.0

    _replace(Checkpoints, "finish", finish)


def _no_lock() -> None:
    from maskfeat_jax.workdir import lock as run_lock

    _replace(run_lock, "take", lambda directory: None)


def _any_recipe() -> None:
    from maskfeat_jax.train import build
    from maskfeat_jax.workdir import workdir

    def anything(*_: object) -> None:
        """Nothing is checked."""

    _replace(workdir, "check_workdir", anything)
    _replace(build, "check_workdir", anything)
    _replace(build, "identity_of", lambda recipe: "")


def _never_hangs() -> None:
    from maskfeat_jax.distributed.watchdog import Watchdog

    _replace(Watchdog, "_begin", lambda self, doing, seconds: None)


def _leaves_a_process() -> None:
    subprocess.Popen(["sleep", "300"], stdin=subprocess.DEVNULL)


MUTANTS = {
    "data one batch ahead after resuming": Mutant(
        _batches(lambda start, batches: batches(start + bool(start))), killed
    ),
    "data from the beginning after resuming": Mutant(
        _batches(lambda start, batches: batches(0)), killed
    ),
    "an example is dropped, another seen twice": Mutant(_rows_at(20, [1]), killed),
    "two examples change places": Mutant(_rows_at(20, [1, 0]), killed),
    "other crops after resuming": Mutant(_crops_anew, killed),
    "other masks after resuming": Mutant(_masks_anew, killed),
    "the moments of Adam are lost": Mutant(_of_optimiser(lambda x: x.ndim > 0), killed),
    "the count of Adam is lost": Mutant(_of_optimiser(lambda x: x.dtype == "int32"), killed),
    "parameters pass through bfloat16": Mutant(_after_restore(_params_through_bf16), killed),
    "the moving average starts anew": Mutant(_after_restore(_ema_from_params), killed, "finetune"),
    "metrics since the last line are lost": Mutant(_without("window", {}), killed),
    "an evaluation is lost": Mutant(_without("evaluation", False), stopped_in_evaluation),
    "lengths are verified, contents not": Mutant(_lengths_only, damaged),
    "the manifest's own hash is not checked": Mutant(_manifest_trusted, forged),
    "old steps are deleted before the new one": Mutant(_deletes_first, killed_in_save),
    "a step has its name before it is whole": Mutant(_not_atomic, killed_in_save),
    "a failed save is forgotten": Mutant(_failure_forgotten, disk_fails),
    "parameters that are not finite are saved": Mutant(_saves_anything, poisoned_parameters),
    "updates that are not finite are made": Mutant(_applies_anything, poisoned),
    "updates without end that are not finite": Mutant(_never_gives_up, poisoned_for_ever),
    "no evidence of what was not finite": Mutant(_no_evidence, poisoned_for_ever),
    "STATUS.json is not written": Mutant(_no_status, told_to_stop),
    "another exit code": Mutant(_code_one, told_to_stop),
    "signals are ignored": Mutant(_deaf, told_to_stop),
    "stops without saving": Mutant(_stops_without_saving, told_to_stop),
    "no lock": Mutant(_no_lock, used_twice),
    "any recipe goes on": Mutant(_any_recipe, recipe_changes),
    "hangs are not noticed": Mutant(_never_hangs, hangs_in_step),
    "a process is left behind": Mutant(_leaves_a_process, killed),
}


def survivors(names: list[str], folder: pathlib.Path, forks: Forks) -> list[str]:
    """Mutants that no oracle finds."""
    recipes = {MUTANTS[name].recipe for name in names}
    unbroken = {recipe: kills.reference(folder, forks, recipe) for recipe in recipes}

    def finds(numbered: tuple[int, str]) -> Problems:
        number, name = numbered
        mutant = MUTANTS[name]
        case = Case(folder / f"{number}", mutant.recipe, spec={"mutant": name}, forks=forks)
        found = mutant.scenario(case, unbroken[mutant.recipe])
        print(f"{name}: {'; '.join(found)[:300] or 'NOT FOUND'}", flush=True)
        return found

    found = side_by_side(finds, enumerate(names))
    return [name for name, problems in zip(names, found, strict=True) if not problems]


def false_alarms(folder: pathlib.Path, forks: Forks) -> list[str]:
    """Scenarios in which the oracles find something without a mutant."""
    unbroken = kills.reference(folder, forks)
    scenarios = sorted({mutant.scenario for mutant in MUTANTS.values()}, key=lambda s: s.__name__)

    def finds(scenario: Scenario) -> Problems:
        case = Case(folder / f"sound-{scenario.__name__}", forks=forks)
        found = scenario(case, unbroken)
        print(f"no mutant, {scenario.__name__}: {'; '.join(found) or 'nothing'}", flush=True)
        return found

    found = side_by_side(finds, scenarios)
    return [s.__name__ for s, problems in zip(scenarios, found, strict=True) if problems]


def main() -> None:
    """Plants them and says which are not found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one of them; empty: the scenarios without a mutant")
    args = parser.parse_args()
    names = list(MUTANTS) if args.only is None else [args.only] * bool(args.only)
    begun = time.time()
    with tempfile.TemporaryDirectory(prefix="faults-") as name, Forks() as forks:
        folder = pathlib.Path(name)
        left = survivors(names, folder, forks)
        alarms = false_alarms(folder, forks) if not args.only else []
    print(f"{len(names) - len(left)} of {len(names)} mutants found; survivors: {left}")
    print(f"false alarms: {alarms}; {time.time() - begun:.0f} s")
    if args.only is None:
        found = {"recovered": len(names) - len(left), "wrong in silence": len(left)}
        results.record(
            "Z1",
            "bugs planted into the code that is tested",
            {outcome: n for outcome, n in found.items() if n},
            command="python -m bench.faults.mutants",
            note="found by the oracles, which are silent where the same is done without a bug",
            mutants=names,
            survivors=left,
            false_alarms=alarms,
        )


if __name__ == "__main__":
    main()
