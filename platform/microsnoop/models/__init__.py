"""Encoders in torch: the published network, its registry, and the embedder. No Ray here."""
