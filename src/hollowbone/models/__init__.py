"""Networks: a card for every variant, a registry, checkpoints, and the forms in which networks ship."""
