"""Files that are damaged, odd or hostile, opened by this code: refused by name, or read right.

    python -m bench.faults.files --format=mp4 --n=1000
    python -m bench.faults.files --format=videos --n=2000 --seed=7 --record

A format says which files there are, how they are opened, and what may come of it. Each file is
opened in another process, so that a crash or a hang is seen; an audit hook and the folder before
and after show what else was written, made or run.
"""
