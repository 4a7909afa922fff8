"""Play: environments recorded, dreamt and planned in. Needs gymnasium (extra `[rl]`), as nothing else does."""

try:
    import gymnasium as gymnasium
except ImportError:
    raise ImportError("playing needs `pip install 'image-transformer-pytorch[rl]'`") from None
