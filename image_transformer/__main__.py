"""`python -m image_transformer`: the command without its installed name."""

from image_transformer.cli.main import run

run()
