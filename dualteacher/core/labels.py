"""Values in label maps: class indices from 0, and IGNORE for pixels that do not count."""

IGNORE = 255  # the usual convention; the largest value of an 8-bit mask
