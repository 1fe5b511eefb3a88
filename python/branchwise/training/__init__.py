"""Value heads learn here: samples, their states, and the fit."""
