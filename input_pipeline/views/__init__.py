"""Views: selection of frames, crops and augmentation, from an example to a clip."""
