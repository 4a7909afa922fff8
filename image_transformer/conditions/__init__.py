"""What a model can be told of an image: one file for each kind, and what they have in common in `base.py`. No torch."""
