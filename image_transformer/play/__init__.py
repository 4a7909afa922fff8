"""Environments, and recording them."""
