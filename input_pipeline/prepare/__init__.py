"""Once, before training: `python -m input_pipeline.prepare`."""
