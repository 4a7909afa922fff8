"""What is done with a model: exact scores, samples, completions and enlargements, all on one walk over the steps."""
