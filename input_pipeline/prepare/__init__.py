"""Preparation of videos, once before training: `python -m input_pipeline.prepare`."""
