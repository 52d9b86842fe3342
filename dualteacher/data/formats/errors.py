"""Errors in image and mask files."""


class Unreadable(ValueError):
    """The file is not an image, is damaged, or has unexpected content; the message says which, in a few words."""


class Colored(Unreadable):
    """A mask holds colours where one index per pixel is expected."""
