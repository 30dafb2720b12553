"""Checks a folder of videos, writes an index of them and, optionally, TFRecord files.

    python -m input_pipeline.prepare VIDEOS OUT               # OUT/index.jsonl
    python -m input_pipeline.prepare VIDEOS OUT --records     # and OUT/train-00000-of-00010, ...

Every video is decoded once, in parallel; broken ones are listed with the reason. Both commands can
be interrupted and continue when they are run again. VIDEOS is not changed.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import platform
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import av
import cv2
from tqdm import tqdm

from input_pipeline.paths import local_path
from input_pipeline.prepare import labels as video_labels
from input_pipeline.prepare import scan as video_scan
from input_pipeline.prepare import worker_processes
from input_pipeline.prepare.scan import Line
from input_pipeline.prepare.worker_processes import Died
from input_pipeline.records import writer as record_writer
from input_pipeline.records.writer import Settings, ShardJob
from input_pipeline.source import Limits
from input_pipeline.texts import escape_unprintable, printable

_MORE = """
OUT may be VIDEOS; otherwise set the index in the section of video_folder, video_list or ssv2:

    config.data = dict(name="video_folder", path="VIDEOS", index="OUT/index.jsonl")

--records writes each video as one SequenceExample with one JPEG per frame, at the frame rate of the
video, in files that TensorFlow, dmvr and scenic can also read. Labels: if VIDEOS (or each of its
folders train, val, ...) contains two or more folders and no videos next to them, these folders are
the classes, in the order of their names, which are written to OUT/classes.txt. Otherwise pass
--list, and write the name of each class, one per line, to OUT/classes.txt yourself. Each file has
an index next to it, so that single frames can be read; OUT/<split>.manifest.json lists the files,
their settings and sources, and the videos that were left out, with the reason. In a recipe:

    config.data = dict(name="video_records", path="OUT")
"""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; see `--help`.

    Raises:
      SystemExit: wrong arguments or input (code 2); written files differ from the videos, the disk
        is full, a folder cannot be read, a process ended, or interrupted (code 1).
    """
    escape_unprintable()
    parser = _parser()
    args = parser.parse_args(arguments)
    source, out = args.videos, args.out
    if not source.is_dir():
        parser.error(f"{source} is not a folder; give the folder of the videos")
    if out.exists() and not out.is_dir():
        parser.error(f"{out} is a file; give a folder to write to")
    if not args.records and (args.list or args.split or args.shards or args.beam is not None):
        parser.error("--list, --split, --shards and --beam need --records")
    videos, left_out = video_scan.find_videos(source)
    if not videos:
        others = left_out or "it holds no other files either"
        parser.error(f"{source} holds no videos, at any depth; {others}")
    if left_out:
        print(f"{printable(str(source))}: {left_out}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        index = out / "index.jsonl"
        limits = Limits(args.max_pixels, args.max_frames, args.timeout_seconds)
        lines = video_scan.scan(
            source, videos, index, decode=args.decode == "all", workers=args.workers, limits=limits
        )
        print(_summary(lines, index))
        if args.records:
            splits = video_labels.splits(source, lines, args.list, args.split)
            video_labels.write_classes(out / "classes.txt", splits)
            for split in splits:
                _write_records(args, limits, source, out, split)
    except ValueError as error:
        parser.error(str(error))
    except (OSError, RuntimeError) as error:
        sys.exit(f"stopped: {error}\nrun the same command again to continue")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; run the same command again to continue")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    limits, defaults = parser.add_argument_group("limits"), video_scan.LIMITS
    limits.add_argument(
        "--max-pixels",
        type=_whole_number(1),
        default=defaults.frame_pixels,
        metavar="N",
        help="pixels of a frame, at most (default %(default)s), as `view.max_pixels` in a recipe",
    )
    limits.add_argument(
        "--max-frames",
        type=_whole_number(1),
        default=defaults.max_frames,
        metavar="N",
        help="frames of a video, at most (default %(default)s), as `view.max_frames` in a recipe",
    )
    limits.add_argument(
        "--timeout-seconds",
        type=_whole_number(1),
        default=int(defaults.timeout_seconds),
        metavar="S",
        help="longest time for opening a video, and for decoding 512 frames (default %(default)s)",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.prepare",
        description=__doc__,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", type=local_path, metavar="VIDEOS", help="folder of videos")
    parser.add_argument("out", type=local_path, metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--decode",
        choices=("all", "none"),
        default="all",
        help="all: decode every frame (default); none: only count frames, about 50 times faster, "
        "but damaged frames are not detected",
    )
    parser.add_argument(
        "--workers",
        type=_whole_number(0),
        default=os.cpu_count(),
        metavar="N",
        help="worker processes (default: one per core; 0: run in this process, for debugging)",
    )
    _add_limits(parser)
    records = parser.add_argument_group("records")
    records.add_argument("--records", action="store_true", help="write TFRecord files")
    records.add_argument(
        "--short-side",
        type=_whole_number(16),
        default=256,
        metavar="PIXELS",
        help="shorter side of the stored frames (default 256); smaller videos keep their size",
    )
    records.add_argument(
        "--quality",
        type=_whole_number(1, 100),
        default=95,
        metavar="Q",
        help="JPEG quality, 1 to 100 (default 95)",
    )
    records.add_argument(
        "--list",
        type=local_path,
        metavar="FILE",
        help="text file of lines `path label`, as for video_list, with paths relative to VIDEOS; "
        "only these videos are written",
    )
    records.add_argument(
        "--split",
        metavar="NAME",
        help="subfolder of VIDEOS to write, or the name of the split with --list (default: all of "
        "train, val, ... in VIDEOS, else train)",
    )
    records.add_argument(
        "--shards",
        type=_whole_number(1),
        metavar="N",
        help="number of files of a split (default: files of about 150 MB)",
    )
    records.add_argument(
        "--verify",
        type=_whole_number(0),
        default=2,
        metavar="K",
        help="number of records of each file to compare with their videos afterwards (default 2)",
    )
    records.add_argument(
        "--beam",
        nargs="?",
        const="",
        metavar="OPTIONS",
        help="write the files with Apache Beam, such as --beam='--runner=SparkRunner'; its workers "
        "need this package, and VIDEOS and OUT at the same paths",
    )
    return parser


def _whole_number(least: int, most: int | None = None):
    def parse(text: str) -> int:
        if not text.isdigit() or int(text) < least or (most is not None and int(text) > most):
            limits = f"from {least} to {most}" if most is not None else f"from {least}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
        return int(text)

    return parse


def _summary(lines: list[Line], index: Path) -> str:
    """A table of counts by status, and the first few bad files."""
    rows = [f"{'status':<14}{'videos':>10}{'frames':>14}{'hours':>10}"]
    counts = collections.Counter(line["status"] for line in lines)
    for status, count in sorted(counts.items(), key=lambda item: (item[0] != "ok", item[0])):
        usable = [line for line in lines if line["status"] == status and line["num_frames"]]
        frames = sum(line["num_frames"] for line in usable)
        hours = sum(line["num_frames"] / line["fps"] for line in usable) / 3600
        numbers = f"{frames:>14,}{hours:>10,.2f}" if usable else ""
        rows.append(f"{status:<14}{count:>10,}{numbers}")
    bad = [line for line in lines if line["status"] != "ok"]
    rows += [f"  {printable(line['path'])}: {printable(line['reason'])}" for line in bad[:3]]
    if len(bad) > 3:
        rows.append(f"  and {len(bad) - 3:,} more")
    return "\n".join([*rows, f"listed in {index}"])


def _write_records(
    args: argparse.Namespace, limits: Limits, source: Path, out: Path, split: video_labels.Split
) -> None:
    settings = Settings(args.short_side, args.quality)
    jobs = record_writer.plan(
        source, out, split.name, split.examples, settings, args.shards, limits
    )
    names = {job.shard.name for job in jobs}
    others = [p.name for p in out.glob(f"{split.name}-?????-of-?????") if p.name not in names]
    if others:
        raise ValueError(
            f"{out} holds {sorted(others)[0]} of another conversion; this one writes {len(names)} "
            "files. Remove the old files or choose another OUT"
        )
    manifest = out / f"{split.name}.manifest.json"
    earlier = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    reports = {report["shard"]: report for report in earlier.get("shards", [])}
    todo = [job for job in jobs if record_writer.finished(job, reports) is None]
    if args.beam is not None:
        _on_beam(todo, args.beam)
    else:
        _in_processes(todo, len(jobs), split.name, args.workers)
    made = [record_writer.finished(job, reports) for job in jobs]
    done = [report for report in made if report is not None]
    if len(done) < len(jobs):
        raise RuntimeError(f"{len(jobs) - len(done)} files of {out} were not written")
    if any(job.report.exists() for job in jobs):  # written since the last check
        _check(jobs, args.verify, args.workers)
    text = json.dumps(_manifest(args, split, settings, done), indent=1)
    video_scan.write_atomically(manifest, text)
    for job in jobs:
        job.report.unlink(missing_ok=True)
    if (out / "progress").is_dir() and not any((out / "progress").iterdir()):
        shutil.rmtree(out / "progress")
    videos, frames, size = (
        sum(report[key] for report in done) for key in ("num_examples", "num_frames", "bytes")
    )
    left_out = len(split.skipped) + sum(len(report["skipped"]) for report in done)
    print(
        f"{split.name}: {videos:,} videos, {frames:,} frames, {size / 1e9:.2f} GB in {len(done)} "
        f"files; {left_out:,} videos left out, see {manifest}"
    )


def _in_processes(todo: list[ShardJob], total: int, name: str, workers: int) -> None:
    written = worker_processes.results(record_writer.write_shard, todo, min(workers, len(todo)))
    done = total - len(todo)
    try:
        for job, outcome in tqdm(written, f"writing {name}", total, initial=done, unit=" files"):
            if isinstance(outcome, Died):
                raise RuntimeError(
                    f"the process that wrote {job.shard} ended with code {outcome.exit_code}, "
                    "possibly for lack of memory; try fewer --workers"
                )
    finally:
        written.close()
        for job in todo:
            job.partial.unlink(missing_ok=True)  # of a terminated process


def _on_beam(todo: list[ShardJob], options: str) -> None:
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise ValueError("--beam needs Apache Beam: pip install apache-beam") from None
    with beam.Pipeline(options=PipelineOptions(shlex.split(options))) as pipeline:
        _ = (
            pipeline
            | beam.Create(todo)
            | beam.Reshuffle()  # so that each file is its own bundle
            | beam.Map(record_writer.write_shard)
        )


def _check(jobs: list[ShardJob], records: int, workers: int) -> None:
    check = functools.partial(record_writer.check_shard, records=records)
    found = worker_processes.results(check, jobs if records else [], min(workers, len(jobs)))
    problems: list[str] = []
    for job, outcome in tqdm(found, "checking", len(jobs), unit=" files", disable=not records):
        problems += [f"{job.shard}: crashed"] if isinstance(outcome, Died) else outcome
    if problems:
        sys.exit("\n".join([*problems[:20], f"{len(problems)} differences; check the disk"]))


def _manifest(
    args: argparse.Namespace,
    split: video_labels.Split,
    settings: Settings,
    shards: list[dict[str, Any]],
) -> dict[str, Any]:
    labels: collections.Counter[str] = collections.Counter()
    for shard in shards:
        labels.update(shard["class_counts"])
    skipped = split.skipped + [video for shard in shards for video in shard["skipped"]]
    return dict(
        format=1,
        split=split.name,
        num_examples=sum(shard["num_examples"] for shard in shards),
        num_frames=sum(shard["num_frames"] for shard in shards),
        class_names=split.class_names,
        class_counts=dict(sorted(labels.items(), key=lambda item: int(item[0]))),
        settings={**settings._asdict(), "frames_per_second": "as in the video"},
        source=str(args.videos),
        versions=dict(
            python=platform.python_version(),
            av=av.__version__,
            ffmpeg=av.ffmpeg_version_info,
            opencv=cv2.__version__,
        ),
        skipped=skipped,
        shards=shards,
    )


if __name__ == "__main__":
    main()
