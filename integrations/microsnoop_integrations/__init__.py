"""Embeddings handed to the AnnData world."""
