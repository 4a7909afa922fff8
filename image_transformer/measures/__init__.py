"""How good, varied and new images are, how small as files, and what a trained model can do, in such figures."""
