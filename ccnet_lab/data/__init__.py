"""Data sets: facts, readers of pictures and masks, transforms, batches, preparing and checking."""
