"""The command `image-transformer`: one file for each verb, which holds its flags and what it does."""
