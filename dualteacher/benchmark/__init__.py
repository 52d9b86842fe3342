"""How fast a step is, against the plain formulation and against the bare network; `python -m dualteacher benchmark`.

Three programs do the same training step: `programs.Ours` is the training loop's own, `plain.Plain` writes the
method down in the straightforward way, and `programs.Bare` runs only the network's passes, which no step can
be faster than. They take turns in one run, so that whatever else the machine does meets them all.
"""
