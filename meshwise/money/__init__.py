"""What a job costs: the prices asked for, bills, and the JSON of them."""
