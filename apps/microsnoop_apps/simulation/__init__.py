"""Plates with images, made of real cells: known treatments, known batches, known acquisition."""
