"""Pretraining: plain torch steps (pool, views, objective, state, loop), and Ray Train around them (run)."""
