"""Networks: image in, parameters of each position's distribution out. `base.py` is what a model asks of one."""
