"""The method's mathematics: losses, mixes, views, schedules. Tensors in, tensors out."""
