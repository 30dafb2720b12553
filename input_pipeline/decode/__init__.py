"""Decoding: files to pixels."""
