"""Images as memory-mapped uint8 arrays with fixed splits: names, folders, Parquet, NumPy files, the hub. No torch."""
