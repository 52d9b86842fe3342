"""One module per pipeline stage: read inputs, call the lower packages, write outputs. No maths here."""
