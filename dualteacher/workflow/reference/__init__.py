"""Generate docs/reference from the code: `make reference` (`python -m dualteacher.workflow.reference`)."""
