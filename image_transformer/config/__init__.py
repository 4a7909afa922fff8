"""The typed configuration of a run: what a recipe sets, flags override and `config.yaml` stores. No torch."""
