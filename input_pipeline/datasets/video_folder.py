"""Videos in a folder tree."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from input_pipeline.datasets.file_tree import FileTree
from input_pipeline.datasets.video_index import VideoIndex
from input_pipeline.decode.video import EXTENSIONS
from input_pipeline.source import Example


class VideoFolder(FileTree):
    """Videos in a tree; folders are classes, or there are no labels. See `FileTree` for the rules.

    Files end in .mp4, .mov, .mkv, .webm or .avi, in any case.
    """

    EXTENSIONS = EXTENSIONS
    NOUN = "videos"

    def __init__(
        self,
        split: str = "train",
        *,
        path: str,
        labels: Literal["auto", "folders", "none"] = "auto",
        index: str | None = None,
    ):
        """Lists the files.

        Args:
          split: the folder of `path` to read, as in `FileTree`.
          path: the tree.
          labels: as in `FileTree`.
          index: JSON lines that `input_pipeline.prepare` made of `path`; None means
            path/index.jsonl, if it is there.

        Raises:
          ValueError: as in `FileTree`, or the index is none.
          OSError: a folder or the index cannot be read.
        """
        super().__init__(split, path=path, labels=labels)
        root = Path(path).expanduser()
        self._below = self._root.relative_to(root)  # of the index
        self._index = VideoIndex(str(root), index)

    def read(self, index: int) -> Example:
        """A video, not opened yet; raises BadMedia if the index calls it bad."""
        return Example(
            self._index.video(str(self._below / self._files[index])), self.label_of(index)
        )
