"""Losses, mixing, augmentation, class balance, EMA and schedules, as functions of tensors."""
