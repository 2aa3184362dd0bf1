"""The capacity question of a serving job: what to rent or buy for a load that changes by the hour."""
