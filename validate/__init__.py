"""The same step program for real, under torch.distributed."""
