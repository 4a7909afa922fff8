"""Lossless compression: images to bytes and back, the same on every machine."""
