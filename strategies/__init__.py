"""The equations of the server, on plain tensors; `shell` alone knows Flower, `build` alone knows which algorithm runs."""
