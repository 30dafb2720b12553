"""Images in a folder tree."""

from __future__ import annotations

from input_pipeline.datasets.file_tree import FileTree
from input_pipeline.decode.regular_files import read_regular
from input_pipeline.source import Example


class ImageFolder(FileTree):
    """Images (.jpg, .jpeg, .png, .webp) in a tree; folders are classes, or there are no labels."""

    EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
    NOUN = "images"

    def read(self, index: int) -> Example:
        """The bytes of the file; raises OSError if it cannot be read, BadMedia if it is no file."""
        return Example(read_regular(self.name_of(index)), self.label_of(index))
