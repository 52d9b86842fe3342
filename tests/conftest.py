"""For all tests."""

from hypothesis import settings

# The same examples every time: a suite that fails once in a hundred runs teaches people to run it twice.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
