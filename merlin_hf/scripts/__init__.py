"""Programs that train, as `merlin-hf` and `accelerate launch -m` start them."""
