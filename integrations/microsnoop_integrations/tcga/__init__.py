"""From bags of slide tiles to a label of patients: names, manifests, labels, folds, attention MIL, honest ROC curves.

Importing this package is cheap: torch is loaded when ``mil`` is first used.
"""
