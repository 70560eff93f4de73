"""What both ends of the federation share: settings, messages, codec, randomness, grids."""
