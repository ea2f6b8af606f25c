"""``microsnoop evaluate``: labelled sets, every encoder beside its baselines, scores with intervals, a report."""
