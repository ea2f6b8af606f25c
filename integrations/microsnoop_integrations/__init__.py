"""Embeddings handed to the AnnData world: export of runs, and seeded scanpy steps."""
