"""A network's predictions for whole images."""
