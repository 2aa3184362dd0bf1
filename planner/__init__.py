"""From a plan to its price, and the best plan."""
