"""The control: goes on with the labelled images alone, for as many student steps as the others."""

from dualteacher.methods.base import Method

METHOD = Method
