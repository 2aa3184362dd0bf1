"""What a split makes each rank do: operations, schedules, step programs."""
