"""Views: which frames, and which window of them, become a clip."""
