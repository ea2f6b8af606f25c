"""``microsnoop joint`` with ``simulation``: every method on simulated cells whose images get worse.

Source: the paper's Figure S10; multimodal spec, sections 6 to 8.
"""
