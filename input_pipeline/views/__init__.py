"""Views: which frames and which part of them become a clip."""
