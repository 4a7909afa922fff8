"""Experiments that can be repeated: what is compared (`studies.yaml`), how it is run, the page that comes of it."""
