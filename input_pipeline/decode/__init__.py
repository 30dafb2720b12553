"""Decoding of image and video files."""
