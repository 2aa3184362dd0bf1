"""Which plan is best, and why the others lost."""
