"""Networks as graphs of links, flows that share them fairly, and collectives as flows."""
