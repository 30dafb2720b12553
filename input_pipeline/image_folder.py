"""Images in a folder tree."""

from __future__ import annotations

from input_pipeline.example import Example
from input_pipeline.file_tree import FileTree


class ImageFolder(FileTree):
    """Images (.jpg, .jpeg, .png, .webp) in a tree; folders are classes, or there are no labels."""

    EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
    NOUN = "images"

    def read(self, index: int) -> Example:
        """The bytes of the file; raises OSError if it cannot be read."""
        with open(self.name_of(index), "rb") as file:
            data = file.read()
        return Example(data, self.label_of(index))
