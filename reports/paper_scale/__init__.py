"""The stages of ``reports/paper_scale.py``, a file each, and what they share."""
