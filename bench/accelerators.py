"""Compiles recipes for accelerators that are not there, and writes the tables of their memory.

    make aot                              # all cases: hours on two cores
    python -m bench.accelerators h100     # cases that match a regular expression
    python -m bench.accelerators --render # the tables of docs/accelerators.jsonl again

Each case is compiled in a process of its own, as `main.py estimate --target` does. Its result
replaces that of an earlier run in docs/accelerators.jsonl; docs/accelerators.md has the tables.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from maskfeat_jax.flops import peak_flops

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "accelerators.jsonl"
# Of the recipes that do not say so themselves.
ALWAYS = {"model.dtype": "bfloat16"}
HOSTS = ("v5e:2x4", "v6e:2x4", "v5p:2x2x2", "h100:8")
DATA, SHARED, MIXED = (1, 1), (8, 1), (4, 2)  # mesh.parameters, mesh.tensor


class Case(NamedTuple):
    """A step to compile.

    Attributes:
      recipe: name and size.
      target: see `hardware.hardware`.
      clips: per device.
      mesh: `mesh.parameters` and `mesh.tensor`.
      changes: of the recipe, in addition to `ALWAYS`.
      search: whether the largest batch is searched for.
    """

    recipe: str
    target: str
    clips: int
    mesh: tuple[int, int] = DATA
    changes: Mapping[str, Any] = {}
    search: bool = False

    @property
    def key(self) -> str:
        """Identifies it in the results and on the command line."""
        parts = [f"{k}={v}" for k, v in self.changes.items()]
        mesh = "p{}t{}".format(*self.mesh)
        return " ".join([self.recipe, self.target, mesh, str(self.clips), *parts])


# Clips per device on v5e, v6e, v5p and H100.
FAMILIES: dict[str, tuple[int, int, int, int]] = {
    "maskfeat_vit_in1k:b16": (64, 128, 256, 256),
    "maskfeat_vit_in1k:l16": (16, 32, 128, 64),
    "maskfeat_mvit_kinetics:s": (4, 8, 24, 16),
    "maskfeat_mvit_kinetics:l": (4, 8, 32, 16),
    "mae_vit_in1k:b16": (64, 128, 512, 256),
    "mae_vit_kinetics:b16": (16, 32, 64, 64),
    "mae_vit_kinetics:l16": (8, 16, 64, 32),
    "finetune_vit_in1k:b16": (64, 128, 256, 256),
    "finetune_mvit_kinetics:s": (4, 8, 24, 16),
    "finetune_mae_vit_kinetics:l16": (8, 16, 64, 32),
    "finetune_mae_vit_ava:l16": (8, 16, 16, 16),
    "linear_mae_vit_in1k:l16": (256, 512, 1024, 512),
}
# Where the state of the optimiser needs more than one device.
SHARED_FAMILIES: dict[str, tuple[int, int, int, int]] = {
    "mae_vit_kinetics:h16": (4, 16, 64, 32),
    "finetune_mae_vit_kinetics:h16": (8, 16, 64, 32),
}
# Clips of 40 frames, on v5p and on H100; of these no more fit.
LARGE_CLIPS: dict[str, tuple[int, int]] = {
    "finetune_mvit_kinetics_40x3:312": (8, 10),
    "finetune_mvit_kinetics_40x3:352": (8, 8),
    "finetune_mvit_ssv2_40x3": (8, 10),
    "finetune_mvit_ava:l312": (8, 10),
}
EVALUATED = {"finetune_mae_vit_kinetics:l16": (8, 16, 32, 16)}
# Changes of the recipe of MaskFeat with ViT-B: frozen networks that compute its targets.
TEACHERS: tuple[dict[str, Any], ...] = (
    {"target.name": "features", "target.model.encoder": "vit_b16"},
    {"target.name": "dvae"},
)
# Clips per device; of v5e and H100.
MESHES = {
    "mae_vit_kinetics:h16": (4, 8),
    "maskfeat_mvit_kinetics:l": (4, 16),
    "mae_vit_kinetics:l16": (8, 32),
}
PODS = {
    "mae_vit_kinetics:l16": (8, DATA),
    "mae_vit_kinetics:h16": (4, SHARED),
    "maskfeat_mvit_kinetics:l": (4, DATA),
    "mae_vit_in1k:h14": (16, SHARED),
}
# Where the search starts, with attention written out and as it is chosen.
ONE_DEVICE = {
    ("mae_vit_kinetics:l16", "v5e:1x1"): (6, 10),
    ("mae_vit_kinetics:l16", "h100:1"): (40, 56),
    ("maskfeat_mvit_kinetics:s", "v5e:1x1"): (6, 8),
    ("maskfeat_mvit_kinetics:s", "h100:1"): (40, 48),
}


def cases() -> dict[str, list[Case]]:
    """The cases of each table; one may belong to several."""
    host, mesh, pod, largest = [], [], [], []
    for families, axes, changes in (
        (FAMILIES, DATA, {}),
        (SHARED_FAMILIES, SHARED, {}),
        (EVALUATED, DATA, {"task": "evaluate"}),
    ):
        for recipe, clips in families.items():
            targets = zip(HOSTS, clips, strict=True)
            host += [Case(recipe, target, n, axes, changes) for target, n in targets]
    for recipe, clips in LARGE_CLIPS.items():
        targets = zip(HOSTS[2:], clips, strict=True)
        host += [Case(recipe, target, n, SHARED) for target, n in targets]
    for changes in TEACHERS:
        recipe, (v5e, *_, h100) = "maskfeat_vit_in1k:b16", FAMILIES["maskfeat_vit_in1k:b16"]
        host += [Case(recipe, "v5e:2x4", v5e, DATA, changes)]
        host += [Case(recipe, "h100:8", h100, DATA, changes)]
    for recipe, clips in MESHES.items():
        for target, n in zip(("v5e:2x4", "h100:8"), clips, strict=True):
            mesh += [Case(recipe, target, n, axes) for axes in (DATA, SHARED, MIXED)]
    for recipe, (n, axes) in PODS.items():
        pod += [Case(recipe, target, n, axes) for target in ("v5e:8x8", "v5e:16x16")]
    for (recipe, target), clips in ONE_DEVICE.items():
        for kernel, n in zip(("xla", "auto"), clips, strict=True):
            changes = {"model.attention": kernel}
            largest.append(Case(recipe, target, n, DATA, changes, search=True))
    return {"host": host, "mesh": mesh, "pod": pod, "largest": largest}


def all_cases() -> dict[str, Case]:
    """Each case once, by its key."""
    return {case.key: case for some in cases().values() for case in some}


def compile_case(case: Case) -> dict[str, Any]:
    """The estimate of a case; must be the first use of JAX in the process."""
    from maskfeat_jax import recipes
    from maskfeat_jax.commands.estimate import estimate
    from maskfeat_jax.commands.hardware import hardware
    from maskfeat_jax.training.build import build_computation

    target = hardware(case.target)
    (parameters, tensor), devices = case.mesh, len(target.devices)
    settings = {
        "mesh.parameters": parameters,
        "mesh.tensor": tensor,
        "run.batch_size": case.clips * devices,
    }
    config = recipes.override(recipes.load(case.recipe), {**ALWAYS, **case.changes, **settings})
    found = estimate(
        build_computation(config.to_dict(), target.devices),
        memory_bytes=target.memory_bytes if case.search else None,
        compiler_options=target.compiler_options,
    )
    return {**json.loads(found.json()), "memory_bytes": target.memory_bytes}


def run(chosen: Iterable[Case]) -> int:
    """Compiles cases, one at a time, and stores each result; returns how many failed."""
    failed = 0
    for case in chosen:
        command = [sys.executable, "-m", "bench.accelerators", "--child", case.key]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            failed += 1
            print(f"{case.key}: {done.stderr[-2000:]}", file=sys.stderr, flush=True)
            continue
        results = {**stored(), case.key: json.loads(done.stdout.splitlines()[-1])}
        kept = [key for key in all_cases() if key in results]
        lines = [json.dumps({"case": key, **results[key]}) for key in kept]
        RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(*step(case, results[case.key]), sep=" | ", flush=True)
    return failed


def stored() -> dict[str, dict[str, Any]]:
    """The results so far, by the key of the case."""
    if not RESULTS.exists():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    return {each.pop("case"): each for each in rows}


def table(name: str) -> str:
    """One of the tables of docs/accelerators.md and docs/scaling.md."""
    head, cells = TABLES[name]
    results = stored()
    chosen = [case for case in cases()[name] if case.key in results]
    rows = [cells(case, results[case.key]) for case in chosen]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def step(case: Case, found: Mapping[str, Any]) -> list[Any]:
    """Memory, operations and bytes of a step, of one device."""
    moved = found["bytes_accessed"]
    return [
        *which(case, found),
        gib(_state(found)),
        gib(found["temporary_bytes"]),
        f"{gib(found['peak_bytes'])} of {gib(found['memory_bytes'])}",
        f"{_products(found) / 1e12:.1f}" if found["flops_per_step"] else "",
        "" if moved is None else f"{moved / 1e9:.0f}",
        f"{found['compile_seconds']:.0f}",
    ]


def communication(case: Case, found: Mapping[str, Any]) -> list[Any]:
    """Memory and collectives of a step, of one device."""
    kinds = {kind: gib(each["bytes"]) for kind, each in found["collectives"].items()}
    if not _fits(found):
        return [*which(case, found), gib(_state(found)), "does not fit", *[""] * (len(KINDS) + 1)]
    return [
        *which(case, found),
        gib(_state(found)),
        gib(found["temporary_bytes"]),
        *(kinds.get(kind, "0") for kind in KINDS),
        gib(sum(each["bytes"] for kind, each in found["collectives"].items() if kind not in KINDS)),
    ]


def scaling(case: Case, found: Mapping[str, Any]) -> list[Any]:
    """Time of products at the peak against that of collectives at the speed of the links."""
    if not _fits(found):
        return [*which(case, found), "does not fit", *[""] * 4]
    peak = peak_flops(found["devices"].partition(" of ")[2])
    assert peak is not None
    products = _products(found) / peak
    # What a device receives; an all-reduce is a reduce-scatter and an all-gather.
    received = sum(
        each["bytes"] * (2 if kind == "all-reduce" else 1)
        for kind, each in found["collectives"].items()
    )
    links = received / LINKS[case.target.partition(":")[0]]
    return [
        *which(case, found),
        f"{gib(found['peak_bytes'])} of {gib(found['memory_bytes'])}",
        f"{1000 * products:.0f}",
        gib(received),
        f"{1000 * links:.0f}",
        f"{100 * products / (products + links):.0f} %",
    ]


def largest(case: Case, found: Mapping[str, Any]) -> list[Any]:
    """The largest batch on one device."""
    return [
        f"`{case.recipe}`",
        case.target,
        case.changes["model.attention"],
        found["largest_batch"],
    ]


def which(case: Case, found: Mapping[str, Any]) -> list[Any]:
    """Recipe, target, mesh and clips per device."""
    more = "".join(f", {key} {value}" for key, value in case.changes.items())
    mesh = " x ".join(str(size) for size in found["mesh"].values())
    return [f"`{case.recipe}`{more}", case.target, mesh, case.clips]


def gib(size: float) -> str:
    """GiB with two digits after the point."""
    return f"{size / 2**30:.2f}"


def _state(found: Mapping[str, Any]) -> int:
    """Bytes of parameters, optimiser, moving average and teacher on a device."""
    of = ("parameter", "optimizer", "average", "teacher")
    return sum(found.get(f"{name}_bytes", 0) for name in of)


def _fits(found: Mapping[str, Any]) -> bool:
    return found["peak_bytes"] <= found["memory_bytes"]


def _products(found: Mapping[str, Any]) -> float:
    """Operations of matrix products of a device and step."""
    return found["flops_per_step"] / math.prod(found["mesh"].values())


# Bytes per second that the links of a device receive, half of their bidirectional bandwidth:
# https://docs.cloud.google.com/tpu/docs/v5e (and v5p, v6e).
LINKS = {"v5e": 200e9, "v5p": 600e9, "v6e": 400e9}
KINDS = ("all-reduce", "reduce-scatter", "all-gather")
_WHICH = ["recipe", "target", "data x parameters x tensor", "clips per device"]
TABLES: dict[str, tuple[list[str], Callable[[Case, Mapping[str, Any]], list[Any]]]] = {
    "host": (
        [*_WHICH, "state", "temporary", "peak, GiB", "TFLOP", "GB moved", "compiled in, s"],
        step,
    ),
    "mesh": ([*_WHICH, "state", "temporary, GiB", *KINDS, "others, GiB"], communication),
    "pod": (
        [*_WHICH, "peak, GiB", "products, ms", "received, GiB", "links, ms", "without overlap"],
        scaling,
    ),
    "largest": (["recipe", "target", "`model.attention`", "largest batch"], largest),
}
DOCUMENTS = {"docs/accelerators.md": ("host", "mesh", "largest"), "docs/scaling.md": ("pod",)}


def render() -> None:
    """Writes the tables into the documents, between the comments that name them."""
    for path, names in DOCUMENTS.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        for name in names:
            begin, end = f"<!-- table: {name} -->\n", f"<!-- end: {name} -->"
            before, _, rest = text.partition(begin)
            after = rest.partition(end)[2]
            text = f"{before}{begin}{table(name)}\n{end}{after}"
        (ROOT / path).write_text(text, encoding="utf-8")


def main(argv: Sequence[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="", help="of the keys of cases")
    parser.add_argument("--render", action="store_true", help="only write the tables again")
    parser.add_argument("--child", metavar="KEY", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        print(json.dumps(compile_case(all_cases()[args.child])))
        return
    failed = 0
    if not args.render:
        failed = run([case for key, case in all_cases().items() if re.search(args.pattern, key)])
    render()
    sys.exit(failed > 0)


if __name__ == "__main__":
    main(sys.argv[1:])
