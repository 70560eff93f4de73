"""The server's half: the round loop, the roll call, and what a run leaves behind."""
