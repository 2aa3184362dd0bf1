"""What to rent or buy to serve a load that changes by the hour: offers x deployments -> dollars, risk, energy."""
