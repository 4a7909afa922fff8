"""Where positions lie, who may see whom, what is generated when: NumPy, pure. All else is derived from it."""
