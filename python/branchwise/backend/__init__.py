"""Where the models run: one `Backend` for each kind of device, the same engine above all of them."""
