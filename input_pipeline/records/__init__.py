"""TFRecord files of videos."""
