"""Environments: recording them, dreaming them, and planning in the dream."""
