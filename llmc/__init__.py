"""Quantize video-generation models, judge them by the videos they make, export what was judged."""

__version__ = "0.1.0"
