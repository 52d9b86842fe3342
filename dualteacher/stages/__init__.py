"""One file a stage: read inputs, call the rooms below, write outputs. No maths here."""
