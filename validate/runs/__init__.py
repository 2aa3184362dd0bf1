"""Published training runs: a row of a table becomes what the planner takes."""
