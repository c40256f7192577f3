"""Pure functions on tensors: seeds, augmentation, losses, optimization, encodings of labels. No files, no runs."""
