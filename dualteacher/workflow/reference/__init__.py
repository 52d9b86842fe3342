"""The pages of docs/reference, made from the code: `make reference` (`python -m dualteacher.workflow.reference`)."""
