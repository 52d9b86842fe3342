"""Which images to label next, and their pseudo-masks in a form that annotation tools take."""
