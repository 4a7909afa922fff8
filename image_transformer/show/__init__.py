"""What people look at: pictures, charts, progress bars and the page of a run, made of arrays and files."""
