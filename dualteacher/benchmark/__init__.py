"""Speed and memory of a training step, against a plain implementation and the bare network passes.

Run it with `python -m dualteacher benchmark`. `programs.Ours` is the training loop's step, `programs.Plain` the
straightforward implementation in `plain.py`, and `programs.Bare` only the network's passes, the lower bound. Their
steps alternate in one process, so that other load on the machine affects all alike. `plain.py` is also the readable
specification of the method.
"""
