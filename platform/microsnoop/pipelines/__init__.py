"""Ray Data wiring: which stage runs where, in what order. The maths is in ``ops``, the network in ``models``."""
