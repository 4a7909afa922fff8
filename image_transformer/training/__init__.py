"""Training: batches (what is seen when), the update, what is due, the loop around them."""
