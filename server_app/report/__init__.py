"""A run as one HTML page that needs no network: figures, plots and settings, from its folder alone."""
