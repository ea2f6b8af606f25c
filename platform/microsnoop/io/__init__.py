"""Files to arrays and rows, and back: images, input lists, the run directory. No torch, no Ray here."""
