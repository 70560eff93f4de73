"""The device's half: what a node does for the clients it hosts."""
