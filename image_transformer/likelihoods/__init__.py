"""Likelihoods: what a position's parameters say about its 8-bit values. Here only their names; no torch."""

from typing import Literal

Name = Literal["categorical", "dmol", "chained"]  # each is the name of the file beside this one that holds it
