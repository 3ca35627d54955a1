"""One file per verb that is more than printing."""
