"""Label maps: class indices from 0, and one value for pixels that belong to no class."""

IGNORE = 255  # the field's convention, and the largest value of an 8-bit mask
