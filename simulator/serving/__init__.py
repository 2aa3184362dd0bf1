"""Requests on a clock: arrivals, continuous batching, paged memory, routers, pools, and what users see of it."""
