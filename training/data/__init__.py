"""Documents to batches: sources, targets, loader, augmentation, tokenizer training."""
