"""Speed and memory of a step against the plain formulation and the bare network: `python -m dualteacher benchmark`.

`programs.Ours` is the training loop's step, `programs.Plain` the method as `plain` writes it down, `programs.Bare` only
the network's passes, the lower bound. They take turns in one run, so that other load on the machine hits all alike.
`plain` is also the readable specification of the method.
"""
