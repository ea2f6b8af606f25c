"""Batch correction: scikit-learn-style transformers, fitted on control rows, applied to all."""
