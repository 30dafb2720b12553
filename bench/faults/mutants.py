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
import pkgutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from bench.faults import hangs, kills, numbers, oracles, refusals, results, signals
from bench.faults.campaign import Job, tried
from bench.faults.oracles import Problems, Verdict
from bench.faults.runner import Case

Scenario = Callable[[Case, Case], Problems]
Plant = Callable[[], None]


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


def asked_to_stop(case: Case, unbroken: Case, fault: str = "step:term@31") -> Problems:
    """SIGTERM in the middle, then to the end."""
    ended = case.run(fault)
    damage, late, _ = signals.stop(case, ended, fault, 0)
    return damage + late or oracles.stopped(case.run(), 0) or oracles.same_run(case, unbroken)


def stopped_in_evaluation(case: Case, unbroken: Case) -> Problems:
    """SIGTERM between the batches of an evaluation."""
    return asked_to_stop(case, unbroken, "evaluate.batch:term@3")


def recipe_changes(case: Case, _: Case) -> Problems:
    """SIGTERM, then another learning rate."""
    assert case.run("step:term@10").code == 75
    return oracles.stopped(case.run(words=["--config.optim.lr=0.02"]), 78, "optim.lr: 0.03 -> 0.02")


def _found_by(do: Callable[..., Any], **words: Any) -> Scenario:
    """What a job of a campaign finds; it gives a verdict, or that first."""

    def scenario(case: Case, unbroken: Case) -> Problems:
        found = do(case, unbroken, **words)
        verdict = found if isinstance(found, Verdict) else found[0]
        return [verdict.why] if verdict.outcome not in results.GOOD else []

    scenario.__name__ = do.__name__
    return scenario


poisoned = _found_by(numbers.once, number=0)
poisoned_parameters = _found_by(numbers.parameters, number=0)
poisoned_for_ever = _found_by(numbers.always, number=0)
used_twice = _found_by(refusals.two_runs)
disk_fails = _found_by(refusals.failed_write)
hangs_in_step = _found_by(hangs.hang, fault="step:sleep@20", wait_s=60)


class Mutant(NamedTuple):
    """A bug, and where it should show."""

    plant: Plant
    scenario: Scenario
    recipe: str = "pretrain"


LOOP, MANIFEST = "maskfeat_jax.training.loop", "maskfeat_jax.checkpoints.manifest"
CHECKPOINTS = "maskfeat_jax.checkpoints.checkpointer:Checkpoints"
STORAGE = "maskfeat_jax.checkpoints.storage:Storage"
AGREEMENT = "maskfeat_jax.distributed.collectives:Agreement"
LOADER = "input_pipeline:Loader"


def _swapped(where: str, name: str, new: Callable[..., Any]) -> Plant:
    """Another function in the place of a sound one, which it gets before its arguments.

    Args:
      where: `module` or `module:Class`.
      name: of the function. One that is not there any more would not be a bug.
      new: the bug.
    """

    def plant() -> None:
        owner = pkgutil.resolve_name(where)
        sound = getattr(owner, name)

        def planted(*words: Any, **named: Any) -> Any:
            return new(sound, *words, **named)

        setattr(owner, name, planted)

    return plant


def _all(*plants: Plant) -> Plant:
    def plant() -> None:
        for one in plants:
            one()

    return plant


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _after_restore(change: Callable[[Any, dict], tuple[Any, dict]]) -> Plant:
    """A bug in what is restored."""
    return _swapped(CHECKPOINTS, "restore", lambda restore, *words: change(*restore(*words)))


def _of_optimiser(which: Callable[[Any], bool]) -> Plant:
    """Zeros in some arrays of the optimiser."""

    def lose(state: Any, facts: dict) -> tuple[Any, dict]:
        zeros = jax.tree.map(lambda x: x * 0 if which(x) else x, state.opt_state)
        return state.replace(opt_state=zeros), facts

    return _after_restore(lose)


def _params_through_bf16(state: Any, facts: dict) -> tuple[Any, dict]:
    rounded = jax.tree.map(lambda x: x.astype("bfloat16").astype(x.dtype), state.params)
    return state.replace(params=rounded), facts


def _ema_from_params(state: Any, facts: dict) -> tuple[Any, dict]:
    return state.replace(ema=jax.tree.map(lambda x: x.copy(), state.params)), facts


def _masks_anew(state: Any, facts: dict) -> tuple[Any, dict]:
    _swapped("maskfeat_jax.steps", "step_keys", lambda keys, seed, step: keys(seed + 1, step))()
    return state, facts


def _without(key: str, empty: Any) -> Plant:
    def lose(state: Any, facts: dict) -> tuple[Any, dict]:
        return state, {**facts, "unfinished": {**facts["unfinished"], key: empty}}

    return _after_restore(lose)


def _batches(change: Callable[[int, Any], Iterator[dict]]) -> Plant:
    """A bug in the batches of training; it gets the step they begin with and the loader's."""

    def changed(original: Any, loader: Any, start_step: int = 0) -> Iterator[dict]:
        yield from change(start_step, lambda step: original(loader, step))

    return _swapped(LOADER, "train_batches", changed)


def _rows_at(step: int, rows: list[int]) -> Plant:
    """Other rows in one batch of the run."""

    def change(start: int, batches: Any) -> Iterator[dict]:
        for number, batch in enumerate(batches(start), start):
            order = [*rows, *range(len(rows), len(batch["index"]))]
            yield {k: v[order] for k, v in batch.items()} if number == step else batch

    return _batches(change)


def _crops_anew(batches: Any, loader: Any, start_step: int = 0) -> Iterator[dict]:
    loader.seed += start_step  # the order is already bound to the seed it had
    return batches(loader, start_step)


def _lengths_only(verify: Any, directory: Any, step: Any, level: str = "") -> Any:
    return verify(directory, step, "length")


def _manifest_trusted(_: Any, directory: pathlib.Path) -> dict:
    from maskfeat_jax.checkpoints import manifest

    try:
        return json.loads((directory / manifest.FILE).read_text())["body"]
    except OSError as error:
        raise manifest.Damaged("missing") from error


def _applies_anything(_: Any, condition: Any, change: Any, state: Any) -> Any:
    return change(state)


def _no_evidence(*_: Any, **__: Any) -> str:
    return "again not finite"


def _no_status(write: Any, path: pathlib.Path, state: Any, **facts: Any) -> None:
    if state == "finished":
        write(path, state, **facts)


def _code_one(code: Any, error: BaseException) -> int:
    return 1 if code(error) == 75 else code(error)


def _not_asked(*_: Any) -> Any:
    from maskfeat_jax.distributed.collectives import Asked

    return Asked()


def _stops_without_saving(*_: Any) -> None:
    from maskfeat_jax.training import loop

    raise loop.Stopped("at once")


def _deletes_first(make_room: Any, storage: Any, step: int, size: int) -> int:
    for old in storage.steps():
        storage._delete(old)
    return make_room(storage, step, size)


def _final_name(_: Any, storage: Any, step: int, number: int) -> pathlib.Path:
    return storage.directory / str(step)


def _no_rename(_: Any, storage: Any, step: int, temporary: pathlib.Path, body: dict) -> None:
    from maskfeat_jax.checkpoints import manifest
    from maskfeat_jax.faults import fault_point

    fault_point("save.before_manifest")
    manifest.write(temporary, body)


def _failure_forgotten(_: Any, checkpoints: Any) -> None:
    if checkpoints._pending is not None:
        checkpoints._pending.wait()
    checkpoints._pending, checkpoints.written_s = None, 1.0


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
    "other crops after resuming": Mutant(_swapped(LOADER, "train_batches", _crops_anew), killed),
    "other masks after resuming": Mutant(_after_restore(_masks_anew), killed),
    "the moments of Adam are lost": Mutant(_of_optimiser(lambda x: x.ndim > 0), killed),
    "the count of Adam is lost": Mutant(_of_optimiser(lambda x: x.dtype == "int32"), killed),
    "parameters pass through bfloat16": Mutant(_after_restore(_params_through_bf16), killed),
    "the moving average starts anew": Mutant(_after_restore(_ema_from_params), killed, "finetune"),
    "metrics since the last line are lost": Mutant(_without("window", {}), killed),
    "an evaluation is lost": Mutant(_without("evaluation", False), stopped_in_evaluation),
    "lengths are verified, contents not": Mutant(
        _swapped(MANIFEST, "verify", _lengths_only), damaged
    ),
    "the manifest's own hash is not checked": Mutant(
        _swapped(MANIFEST, "_read", _manifest_trusted), forged
    ),
    "old steps are deleted before the new one": Mutant(
        _swapped(STORAGE, "make_room", _deletes_first), killed_in_save
    ),
    "a step has its name before it is whole": Mutant(
        _all(_swapped(STORAGE, "temporary", _final_name), _swapped(STORAGE, "commit", _no_rename)),
        killed_in_save,
    ),
    "a failed save is forgotten": Mutant(
        _swapped(CHECKPOINTS, "finish", _failure_forgotten), disk_fails
    ),
    "parameters that are not finite are saved": Mutant(
        _swapped(LOOP, "_all_finite", lambda *_: True), poisoned_parameters
    ),
    "updates that are not finite are made": Mutant(
        _swapped("maskfeat_jax.steps", "_only_if", _applies_anything), poisoned
    ),
    "updates without end that are not finite": Mutant(
        _swapped("maskfeat_jax.training.metrics:MetricBuffer", "_check", _nothing),
        poisoned_for_ever,
    ),
    "no evidence of what was not finite": Mutant(
        _swapped("maskfeat_jax.training.run", "keep_evidence", _no_evidence), poisoned_for_ever
    ),
    "STATUS.json is not written": Mutant(
        _swapped("maskfeat_jax.commands.train", "write_status", _no_status), asked_to_stop
    ),
    "another exit code": Mutant(
        _all(
            _swapped("maskfeat_jax.commands.program", "exit_code_of", _code_one),
            _swapped("maskfeat_jax.commands.train", "exit_code_of", _code_one),
        ),
        asked_to_stop,
    ),
    "signals are ignored": Mutant(
        _all(
            _swapped(AGREEMENT, "asked", _not_asked), _swapped(AGREEMENT, "alone", lambda *_: False)
        ),
        asked_to_stop,
    ),
    "stops without saving": Mutant(
        _swapped(f"{LOOP}:Training", "_stop", _stops_without_saving), asked_to_stop
    ),
    "no lock": Mutant(_swapped("maskfeat_jax.workdir.lock", "take", _nothing), used_twice),
    "any recipe goes on": Mutant(
        _all(
            _swapped("maskfeat_jax.workdir.workdir", "check_workdir", _nothing),
            _swapped("maskfeat_jax.training.build", "fixed_recipe", lambda *_: {}),
        ),
        recipe_changes,
    ),
    "hangs are not noticed": Mutant(
        _swapped("maskfeat_jax.distributed.watchdog:Watchdog", "_begin", _nothing), hangs_in_step
    ),
    "a process is left behind": Mutant(_leaves_a_process, killed),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one of them; empty: the scenarios without a mutant")
    args = parser.parse_args()
    names = list(MUTANTS) if args.only is None else [args.only] * bool(args.only)
    scenarios = [] if args.only else list(dict.fromkeys(m.scenario for m in MUTANTS.values()))
    begun = time.time()
    jobs = [
        Job(name, MUTANTS[name].scenario, MUTANTS[name].recipe, {"mutant": name}) for name in names
    ]
    jobs += [Job(f"no mutant, {scenario.__name__}", scenario) for scenario in scenarios]
    found = tried(jobs)
    survivors = [n for n, problems in zip(names, found, strict=False) if not problems]
    alarms = [
        s.__name__ for s, problems in zip(scenarios, found[len(names) :], strict=True) if problems
    ]
    print(f"{len(names) - len(survivors)} of {len(names)} mutants found; survivors: {survivors}")
    print(f"false alarms: {alarms}; {time.time() - begun:.0f} s")
    if args.only is None:
        outcomes = {"recovered": len(names) - len(survivors), "wrong in silence": len(survivors)}
        results.record(
            "Z1",
            "bugs planted into the code that is tested",
            {outcome: n for outcome, n in outcomes.items() if n},
            note="found by the oracles, which are silent where the same is done without a bug",
            mutants=names,
            survivors=survivors,
            false_alarms=alarms,
        )


if __name__ == "__main__":
    main()
