"""How one rank runs each parallel axis with torch.distributed: the groups, and the messages on them."""
